"""Packages GGUF files of this machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.formats.gguf import GGUFHeader, ModelMetadata, describe_headers, read_header
from model_runner.packaging.build import NO_EXTRAS, Weights, package_weights
from model_runner.packaging.layers import SourceFile
from model_runner.store import ModelConfig, manifests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model_runner.packaging.extras import Extras
    from model_runner.store import Model, Store

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
# What llama.cpp cannot run by itself, and where it goes instead.
_PARTS = {"adapter": "an adapter", "mmproj": "a multimodal projector"}


def package_gguf(store: Store, path: Path, tag: str, extras: Extras = NO_EXTRAS) -> Model:
    """Make a model of a GGUF file, or of all shards of which `path` is one.

    Args:
        store: Where the model goes.
        path: The file; `…-00001-of-00003.gguf` stands for all three.
        tag: The model's name, in any spelling.
        extras: What goes along.

    Raises:
        InvalidReference: The name is outside the grammar.
        InvalidRequest: Something in `extras` cannot be.
        UnsupportedModel: A file or shard is missing, is no GGUF file, or is cut short.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    files = shards(path)
    weights = Weights(
        config=describe_gguf(files),
        files=[SourceFile(file, manifests.GGUF, file.name) for file in files],
    )
    return package_weights(store, weights, tag, extras)


def shards(path: Path) -> list[Path]:
    """All files of the model that `path` is, or is one shard of, in order.

    Raises:
        UnsupportedModel: A shard is missing, or its number cannot be.
    """
    family = [path.with_name(name) for name in shard_names(path.name)]
    if len(family) == 1:
        return family
    missing = [file.name for file in family if not file.exists()]
    if missing:
        raise UnsupportedModel(
            f"`{path.name}` is one of {len(family)} shards, and {len(missing)} of them are missing",
            hint=f"put `{missing[0]}` beside it",
        )
    return family


def shard_names(name: str) -> list[str]:
    """The names of all shards of which this is one, in order; the name itself if it is none.

    Raises:
        UnsupportedModel: Its number cannot be.
    """
    match = _SHARD.fullmatch(name)
    if not match:
        return [name]
    stem, number, count = match.groups()
    if not 0 < int(number) <= int(count):
        raise UnsupportedModel(
            f"`{name}` says that it is shard {int(number)} of {int(count)}", hint="rename it"
        )
    return [f"{stem}-{n:05d}-of-{count}.gguf" for n in range(1, int(count) + 1)]


def describe_gguf(files: Sequence[Path]) -> ModelConfig:
    """What a package says about the model that is in these files, which must be whole.

    Raises:
        UnsupportedModel: One of them is no GGUF file, is cut short, or is no model.
    """
    return gguf_config([(file.name, read_header(file)) for file in files])


def gguf_config(headers: Sequence[tuple[str, GGUFHeader]]) -> ModelConfig:
    """The same of files whose headers have been read.

    Raises:
        UnsupportedModel: As of `describe_gguf`.
    """
    for name, header in headers:
        if header.missing:
            raise UnsupportedModel(
                f"`{name}` is truncated: its last {header.missing} bytes are missing",
                hint="download it again",
            )
        _check_family(name, header, len(headers))
    metadata = describe_headers([header for _, header in headers])
    _check_is_model(headers[0][0], metadata)
    if not any(header.tensors for _, header in headers):
        raise UnsupportedModel(f"`{headers[0][0]}` holds no weights, only what describes a model")
    return ModelConfig(
        format="gguf",
        quantization=metadata.quantization,
        parameters=metadata.parameters,
        architecture=metadata.architecture,
        size=metadata.size,
        gguf=metadata.gguf,
        context_size=metadata.context_size,
    )


def _check_family(name: str, header: GGUFHeader, count: int) -> None:
    """Refuse a shard that stands alone under another name: no engine would load it."""
    told = header.metadata.get("split.count")
    if isinstance(told, int) and told > 1 and told != count:
        raise UnsupportedModel(
            f"`{name}` is one of {told} shards, as it says itself, and there are {count} files",
            hint=f"put all of them together, called like `name-00001-of-{told:05d}.gguf`",
        )


def _check_is_model(name: str, metadata: ModelMetadata) -> None:
    kind = metadata.gguf.get("general.type", "")
    if metadata.architecture == "clip":
        kind = "mmproj"
    if kind in _PARTS:
        raise UnsupportedModel(
            f"`{name}` is {_PARTS[kind]}, which only works together with its model",
            hint="package the model, and this along with it (--lora or --mmproj)",
        )
