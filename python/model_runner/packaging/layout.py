"""Where files go in packages that are laid out by paths, and what replaces what in a package."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from model_runner.errors import InvalidRequest
from model_runner.store import manifests
from model_runner.store.placement import ADAPTERS, role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.packaging.artifact import Package
    from model_runner.store.manifests import Descriptor

_LICENSES = ("license", "licence", "copying", "notice")
_WEIGHTS = {
    ".gguf": manifests.GGUF,
    ".safetensors": manifests.SAFETENSORS,
    ".dduf": manifests.DDUF,
}


def path_in_directory(media_type: str, path: str) -> str:
    """The path of a file where only the path tells what it is.

    There a projector is called mmproj, a template ends in .jinja at the top, and an adapter lies
    below lora/.
    """
    name = posixpath.basename(path)
    stem = name.removesuffix(".gguf")
    if media_type in manifests.PROJECTORS and role(path) != "projector":
        return f"mmproj-{stem}.gguf"
    if media_type == manifests.CHAT_TEMPLATE and (role(path) != "template" or "/" in path):
        return name if role(name) == "template" else f"{posixpath.splitext(name)[0]}.jinja"
    if media_type == manifests.LORA and role(path) != "adapter":
        return f"{ADAPTERS}/{stem}.gguf"
    return path


def docker_type(path: str) -> str:
    """The media type of a file in a directory."""
    name = posixpath.basename(path).lower()
    by_role = {
        "projector": manifests.PROJECTORS[0],
        "adapter": manifests.LORA,
        "template": manifests.CHAT_TEMPLATE,
        "weights": _WEIGHTS.get(posixpath.splitext(name)[1], manifests.MODEL_FILE),
    }
    if kind := by_role.get(role(path)):
        return kind
    return manifests.LICENSE if any(word in name for word in _LICENSES) else manifests.MODEL_FILE


def with_layers(
    package: Package, added: Sequence[Descriptor], *, by_path: bool
) -> tuple[Descriptor, ...]:
    """The layers of a package and further ones.

    A template or a projector takes the place of the one that was there, for an engine takes only
    one; any other file that of the one with its name, where names tell files apart, else of the
    one of its kind with its name.

    Args:
        package: The package.
        added: What is added to its layers.
        by_path: Whether files keep their paths.

    Raises:
        InvalidRequest: It would take the place of weights.
    """
    kinds = {kind for layer in added if (kind := _single(layer))}
    names = {_identity(layer, by_path=by_path) for layer in added if layer.filepath}
    kept = []
    for layer in package.layers:
        same = bool(layer.filepath) and _identity(layer, by_path=by_path) in names
        if same and _are_weights(layer):
            raise InvalidRequest(
                f"the weights of the model are called `{layer.filepath}`, too",
                hint="rename the other file",
            )
        if not same and _single(layer) not in kinds:
            kept.append(layer)
    return (*kept, *added)


def _identity(layer: Descriptor, *, by_path: bool) -> tuple[str | None, str]:
    return layer.filepath, "" if by_path else layer.media_type


def _are_weights(layer: Descriptor) -> bool:
    known = layer.media_type in manifests.CNCF_WEIGHTS and role(layer.filepath or "") == "weights"
    return known or layer.media_type in _WEIGHTS.values()


def _single(layer: Descriptor) -> str | None:
    """What kind of file a layer is, if an engine takes only one of the kind."""
    path = layer.filepath or ""
    if layer.media_type in manifests.PROJECTORS or role(path) == "projector":
        return "projector"
    is_template = layer.media_type == manifests.CHAT_TEMPLATE or role(path) == "template"
    return "template" if is_template and "/" not in path else None
