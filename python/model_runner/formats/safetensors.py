"""What is said about a safetensors model: parameters, types, size, architecture, context.

The texts are those that Docker Model Runner makes, but of all files together, where it looks at the
first of several, and with the architecture of `config.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.formats.safetensors_header import SafetensorsHeader, parse_header, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "SafetensorsHeader",
    "SafetensorsMetadata",
    "decimal_size",
    "describe",
    "describe_headers",
    "parse_header",
    "read_config",
    "read_header",
]

_INT32_MAX = 2**31 - 1
# Real ones have some kilobytes, at most a few hundred where every layer is listed.
_MAX_CONFIG = 4 << 20
# What the makers of models call the longest context, the best of them first.
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_sequence_length",
    "model_max_length",
)
_PARAMETER_UNITS = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True, slots=True)
class SafetensorsMetadata:
    """What a package says about a safetensors model.

    Attributes:
        architecture: Such as `qwen3`; empty if nobody says.
        parameters: Such as `1.50B`.
        quantization: The type of all tensors, such as `BF16`; `mixed`, or `unknown`.
        size: Of the files, such as `3.00GB`.
        context_size: Tokens that the model was trained for, None if `config.json` does not say.
        safetensors: The writer's notes, and the number of tensors.
    """

    architecture: str
    parameters: str
    quantization: str
    size: str
    context_size: int | None
    safetensors: Mapping[str, str]


def describe(paths: Sequence[Path], config: Path | None = None) -> SafetensorsMetadata:
    """Describe the model that safetensors files hold together.

    Args:
        paths: All of them.
        config: The model's `config.json`, if it has one.

    Raises:
        UnsupportedModel: A file cannot be read, is no safetensors file, or is cut short.
    """
    settings = read_config(config) if config else b""
    return describe_headers([read_header(path) for path in paths], settings)


def describe_headers(
    headers: Sequence[SafetensorsHeader], config: bytes = b""
) -> SafetensorsMetadata:
    """As `describe`, of headers and a `config.json` that have been read.

    Raises:
        UnsupportedModel: There are none.
    """
    if not headers:
        raise UnsupportedModel("a model needs at least one safetensors file")
    metadata: dict[str, str] = {}
    for header in headers:
        metadata.update(header.metadata)
    settings = _settings(config)
    # A model for several media has the settings of its language model one level below.
    places = [
        settings,
        *(settings[key] for key in ("text_config", "llm_config") if key in settings),
    ]
    sections = [place for place in places if isinstance(place, dict)]
    return SafetensorsMetadata(
        architecture=metadata.get("architecture") or _architecture(settings),
        parameters=_parameters(sum(header.parameters for header in headers)),
        quantization=_quantization(headers),
        size=decimal_size(sum(header.file_size for header in headers)),
        context_size=next(filter(None, map(_context_size, sections)), None),
        safetensors={
            **metadata,
            "tensor_count": str(sum(header.tensor_count for header in headers)),
        },
    )


def decimal_size(count: int) -> str:
    """Bytes as Docker shows the size of images: `3.00GB`."""
    if not count:
        return "n/a"
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_SIZE_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.2f}{_SIZE_UNITS[unit]}"


def _parameters(count: int) -> str:
    for unit, factor in _PARAMETER_UNITS:
        if count >= factor:
            return f"{count / factor:.2f}{unit}"
    return f"{count:.2f}"


def _quantization(headers: Sequence[SafetensorsHeader]) -> str:
    types = frozenset[str]().union(*(header.dtypes for header in headers))
    if len(types) == 1:
        return next(iter(types))
    return "mixed" if types else "unknown"


def read_config(path: Path) -> bytes:
    """A `config.json`; one that cannot be read says nothing: it may be that of something else."""
    try:
        return path.read_bytes() if path.stat().st_size <= _MAX_CONFIG else b""
    except OSError:
        return b""


def _settings(config: bytes) -> Mapping[str, object]:
    try:
        content = json.loads(config) if len(config) <= _MAX_CONFIG else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _architecture(settings: Mapping[str, object]) -> str:
    """The short name that GGUF files have, too, such as `llama`; else that of the first class."""
    kind, classes = settings.get("model_type"), settings.get("architectures")
    if isinstance(kind, str) and kind:
        return kind
    first = classes[0] if isinstance(classes, list) and classes else ""
    return first if isinstance(first, str) else ""


def _context_size(settings: Mapping[str, object]) -> int | None:
    for key in _CONTEXT_KEYS:
        length = settings.get(key)
        if type(length) is int and 0 < length <= _INT32_MAX:
            return length
    return None
