"""What `/api/show` tells of the headers of a model's files."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel

from model_runner.api.ollama import facts
from model_runner.errors import UnsupportedModel
from model_runner.formats.gguf import read_header, tensor_type
from model_runner.formats.gguf_header import Array
from model_runner.store import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from model_runner.formats.gguf import GGUFHeader
    from model_runner.formats.gguf_header import Value
    from model_runner.store import Model, Store

_TEMPLATE = "tokenizer.chat_template"
# The one has a place of its own, the other is what strangers called the model.
_LEFT_OUT = {_TEMPLATE, "general.name"}


class TensorView(BaseModel):
    """A tensor of the weights."""

    name: str
    type: str
    shape: list[int]


@dataclass(slots=True)
class Headers:
    """What the headers say; nothing for files that are not here, or are no GGUF.

    Attributes:
        info: The metadata of the weights; lists are None unless all was asked for.
        tensors: Those of all shards.
        template: The chat template in the weights.
        projector: The metadata of the multimodal projector; None if there is none.
    """

    info: dict[str, object] = field(default_factory=dict)
    tensors: list[TensorView] = field(default_factory=list)
    template: str = ""
    projector: dict[str, object] | None = None


def read(store: Store, model: Model, *, verbose: bool) -> Headers:
    """Read the headers of a model's files, with all lists if it is to be verbose."""
    shards = [_header(path, verbose=verbose) for path in facts.weights(store, model)]
    found = [shard for shard in shards if shard is not None]
    projector = facts.projector(store, model)
    projected = _projected(projector, verbose=verbose) if projector else None
    if not found:
        return Headers(projector=projected)
    tensors = [tensor for shard in found for tensor in shard.tensors]
    template = found[0].metadata.get(_TEMPLATE)
    info = _plain(found[0].metadata, verbose=verbose)
    info["general.parameter_count"] = sum(tensor.elements for tensor in tensors)
    return Headers(
        info=dict(sorted(info.items())),
        tensors=[
            TensorView(name=t.name, type=tensor_type(t.kind), shape=list(t.shape)) for t in tensors
        ],
        template=template if isinstance(template, str) else "",
        projector=projected,
    )


def encode(content: object) -> bytes:
    """JSON of what was read."""
    return gojson.encode(content)


def _header(path: Path, *, verbose: bool) -> GGUFHeader | None:
    try:
        return read_header(path, whole=verbose)
    except UnsupportedModel:
        return None


def _projected(path: Path, *, verbose: bool) -> dict[str, object] | None:
    header = _header(path, verbose=verbose)
    return None if header is None else _plain(header.metadata, verbose=verbose)


def _plain(metadata: Mapping[str, Value], *, verbose: bool) -> dict[str, object]:
    return {
        key: _json(value, verbose=verbose)
        for key, value in metadata.items()
        if key not in _LEFT_OUT
    }


def _json(value: Value, *, verbose: bool) -> object:
    if isinstance(value, Array):
        if not verbose or value.elements is None:
            return None
        return [_json(element, verbose=verbose) for element in value.elements]
    return _shortest(value) if isinstance(value, float) else value


def _shortest(value: float) -> float | None:
    """A number as it was written: 1e-06, which 32 bits make 9.999999974752427e-07 of.

    >>> _shortest(9.999999974752427e-07)
    1e-06
    """
    if not math.isfinite(value):
        return None  # JSON has no such numbers
    single = struct.Struct("f")
    try:
        if single.unpack(single.pack(value))[0] != value:
            return value
    except OverflowError:
        return value
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if single.unpack(single.pack(short))[0] == value:
            return short
    return value
