"""Packages GGUF files of this machine into the model store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import UnsupportedModel
from model_runner.formats.gguf import ModelMetadata, describe_headers, read_header
from model_runner.packaging.artifact import add_layer, config_v01, manifest_v01
from model_runner.store import manifests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model_runner.store import Model, Store

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class Extras:
    """What goes into a package beside its weights.

    Attributes:
        licenses: Texts that travel with the model.
        chat_template: A Jinja template to use instead of the one in the file.
        context_size: Tokens of context to run it with; what the file says if not given.
        created: When the package was made; now if not given.
    """

    licenses: Sequence[Path] = ()
    chat_template: Path | None = None
    context_size: int | None = None
    created: datetime | None = None


_NONE = Extras()


def package_gguf(
    store: Store,
    path: Path,
    tag: str,
    extras: Extras = _NONE,
) -> Model:
    """Make a model of a GGUF file, or of all shards of which `path` is one.

    Args:
        store: Where the model goes.
        path: The file; `…-00001-of-00003.gguf` stands for all three.
        tag: The model's name, in any spelling.
        extras: What goes along.

    Raises:
        InvalidReference: The name is outside the grammar.
        UnsupportedModel: A file or shard is missing, is no GGUF file, or is cut short.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    names.parse(tag)  # before gigabytes are copied
    files = shards(path)
    metadata = _describe(files)
    templates = [] if extras.chat_template is None else [extras.chat_template]
    _check_readable([*extras.licenses, *templates])
    layers = [(file, manifests.GGUF) for file in files]
    layers += [(file, manifests.LICENSE) for file in extras.licenses]
    layers += [(file, manifests.CHAT_TEMPLATE) for file in templates]
    return package_layers(store, layers, metadata, tag, extras)


def package_layers(
    store: Store,
    files: Sequence[tuple[Path, str]],
    metadata: ModelMetadata,
    tag: str,
    extras: Extras = _NONE,
) -> Model:
    """Make a model of files that have been looked at.

    Args:
        store: Where the model goes.
        files: Files and their media types, in the order of the layers.
        metadata: What the package says about the model.
        tag: The model's name, in any spelling.
        extras: When the package was made, and the context to run it with.

    Raises:
        InvalidReference: The name is outside the grammar.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    layers = [add_layer(store, file, media_type) for file, media_type in files]
    moment = extras.created or datetime.now(timezone.utc)
    context_size = metadata.context_size if extras.context_size is None else extras.context_size
    config = config_v01(metadata, layers, moment, context_size)
    store.blobs.put_bytes(config)
    return store.write(manifest_v01(config, layers), tags=[tag])


def shards(path: Path) -> list[Path]:
    """All files of the model that `path` is, or is one shard of, in order.

    Raises:
        UnsupportedModel: A shard is missing.
    """
    match = _SHARD.fullmatch(path.name)
    if not match:
        return [path]
    stem, _, count = match.groups()
    family = [path.with_name(f"{stem}-{n:05d}-of-{count}.gguf") for n in range(1, int(count) + 1)]
    missing = [file.name for file in family if not file.exists()]
    if missing or not family:
        raise UnsupportedModel(
            f"`{path.name}` is one of {int(count)} shards, and {len(missing)} of them are missing",
            hint=f"put `{missing[0]}` beside it" if missing else None,
        )
    return family


def _describe(files: Sequence[Path]) -> ModelMetadata:
    headers = [read_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        if header.missing:
            raise UnsupportedModel(
                f"`{file.name}` is truncated: its last {header.missing} bytes are missing",
                hint="download it again",
            )
    return describe_headers(headers)


def _check_readable(licenses: Sequence[Path]) -> None:
    for file in licenses:
        if not file.is_file():
            raise UnsupportedModel(f"the licence `{file}` is not a file")
