"""Makes the package of a repository's files. Nothing in it comes from this machine.

So a commit has one ID everywhere, whenever it is pulled or looked at.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.packaging import (
    Package,
    annotations_of_file,
    describe_dduf,
    describe_gguf,
    describe_safetensors,
    docker_config,
)
from model_runner.store import Descriptor, manifests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from model_runner.registry.huggingface.selection import Kind
    from model_runner.store import ModelConfig, Store

# What files have on most machines; the hub knows of none.
_MODE = 0o644
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file whose digest is known: the blob, and its path in the package."""

    blob: Descriptor
    path: str


def describe(store: Store, kind: Kind, files: Sequence[Fetched]) -> ModelConfig:
    """What the package says about the model, out of its weights in the store. Blocks.

    Raises:
        UnsupportedModel: They are not what their names say.
    """
    types = {
        "gguf": manifests.GGUF,
        "safetensors": manifests.SAFETENSORS,
        "dduf": manifests.DDUF,
    }
    weights = [file for file in files if file.blob.media_type == types[kind]]
    paths = [store.blobs.path(file.blob.digest) for file in weights]
    try:
        if kind == "gguf":
            return describe_gguf(paths)
        if kind == "safetensors":
            return describe_safetensors(paths, _settings(store, files))
        config = describe_dduf(paths[0])
        return replace(config, diffusers={**config.diffusers, "dduf_file": weights[0].path})
    except UnsupportedModel as error:
        # Here the files are called by their digests.
        message = error.message
        for file, path in zip(weights, paths, strict=True):
            message = message.replace(str(path), file.path).replace(path.name, file.path)
        raise UnsupportedModel(message, hint="tell the owner of the repository") from error


def package_of(config: ModelConfig, files: Sequence[Fetched], modified: datetime) -> Package:
    """The package.

    Args:
        config: What it says about the model.
        files: In the order of the layers.
        modified: The time of the commit, which everything gets.
    """
    nanoseconds = calendar.timegm(modified.utctimetuple()) * _NANOSECONDS
    nanoseconds += modified.microsecond * 1000
    layers = [
        replace(
            file.blob,
            annotations=annotations_of_file(
                file.path, size=file.blob.size, mode=_MODE, modified=nanoseconds
            ),
        )
        for file in files
    ]
    by_path = config.format == "safetensors"
    return Package(
        manifests.CONFIG_V02 if by_path else manifests.CONFIG_V01,
        docker_config(config, modified),
        tuple(layers),
    )


def template_file(data: bytes) -> Fetched:
    """A chat template that was found in another file, as a file of its own."""
    blob = Descriptor(manifests.CHAT_TEMPLATE, len(data), manifests.sha256(data))
    return Fetched(blob, "chat_template.jinja")


def settings_among(paths: Iterable[str]) -> str | None:
    """The model's `config.json`, the topmost one."""
    found = [path for path in paths if path.rpartition("/")[2] == "config.json"]
    return min(found, key=lambda path: (path.count("/"), path), default=None)


def _settings(store: Store, files: Sequence[Fetched]) -> Path | None:
    blobs = {file.path: file.blob for file in files}
    path = settings_among(blobs)
    return store.blobs.path(blobs[path].digest) if path else None
