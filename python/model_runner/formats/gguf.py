"""What is said about a GGUF model: architecture, parameters, quantization, size, context.

The texts are, letter for letter, those that Docker Model Runner makes, since they become part of a
package and so of its digest.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.formats.gguf_header import (
    MAX_ELEMENTS,
    Array,
    GGUFHeader,
    Value,
    parse_header,
    read_header,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "GGUFHeader",
    "ModelMetadata",
    "describe",
    "describe_headers",
    "parse_header",
    "read_header",
    "tensor_type",
]

_INT32_MAX = 2**31 - 1

# Names of `general.file_type` by number (llama.h), as Docker's parser spells them.
_FILE_TYPES = (
    "F32 F16 Q4_0 Q4_1 Q4_1_SOME_F16 Q4_2 Q4_3 Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S "
    "Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S "
    "IQ2_M IQ4_XS IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 MXFP4"
)
_NAMES = tuple(f"MOSTLY_{name}" for name in _FILE_TYPES.split(" "))
_UNKNOWN = "Unknown"

# Names of tensor types by number, where one of them says what the whole file is.
_F32 = 0
# fmt: off
_TENSOR_TYPES = {
    _F32: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}
# Those that a whole file never is.
_OTHER_TENSOR_TYPES = {
    9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
}
# fmt: on

_PARAMETER_UNITS = (("Q", 10**15), ("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
# Both families of units in one ladder: between 1 GB and 1 GiB a size is told in GB.
_SIZE_UNITS = (
    *(("Pi", 2**50), ("P", 10**15), ("Ti", 2**40), ("T", 10**12), ("Gi", 2**30), ("G", 10**9)),
    *(("Mi", 2**20), ("M", 10**6), ("Ki", 2**10), ("K", 10**3)),
)
_DIFFUSION_TENSORS = re.compile(r"model\.diffusion_model\.|double_blocks\.")
_DIFFUSION_ARCHITECTURE = re.compile(r"flux|sd([0-9x].*)?|stable-diffusion")


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a package says about a GGUF model.

    Attributes:
        architecture: Such as `llama`.
        parameters: Such as `361.82M`.
        quantization: Such as `MOSTLY_Q4_K_M`, or `Unknown`.
        size: Of the weights, such as `256.35MiB`.
        context_size: Tokens that the model was trained for, None if the file does not say.
        gguf: All short metadata as text, sorted by key.
    """

    architecture: str
    parameters: str
    quantization: str
    size: str
    context_size: int | None
    gguf: Mapping[str, str]


def tensor_type(number: int) -> str:
    """What a type of tensors is called; its number, if it came after this program.

    >>> tensor_type(12), tensor_type(26), tensor_type(99)
    ('Q4_K', 'I32', '99')
    """
    return _TENSOR_TYPES.get(number) or _OTHER_TENSOR_TYPES.get(number) or str(number)


def describe(paths: Sequence[Path]) -> ModelMetadata:
    """Describe the model that a GGUF file, or all of its shards in order, holds.

    Raises:
        UnsupportedModel: A file cannot be read, is no GGUF file, or is cut short in its header.
    """
    return describe_headers([read_header(path) for path in paths])


def describe_headers(headers: Sequence[GGUFHeader]) -> ModelMetadata:
    """As `describe`, of headers that have been read.

    Raises:
        UnsupportedModel: There are none.
    """
    if not headers:
        raise UnsupportedModel("a model needs at least one GGUF file")
    merged: dict[str, Value] = {}
    for header in headers:
        merged.update(header.metadata)
    merged.pop("split.no", None)  # the one key in which shards differ
    architecture = _architecture(merged, headers)
    texts = {key: _text(value) for key, value in sorted(merged.items(), key=_by_bytes)}
    return ModelMetadata(
        architecture=architecture,
        parameters=_format(_sum_of_elements(headers), _PARAMETER_UNITS),
        quantization=_quantization(merged, architecture, headers),
        size=_format(sum(map(_data_size, headers)), _SIZE_UNITS) + "B",
        context_size=_context_size(merged),
        gguf={key: text for key, text in texts.items() if text is not None},
    )


def _by_bytes(item: tuple[str, Value]) -> bytes:
    return item[0].encode()


def _sum_of_elements(headers: Sequence[GGUFHeader]) -> int:
    return sum(tensor.elements for header in headers for tensor in header.tensors)


def _data_size(header: GGUFHeader) -> int:
    """Bytes after the header and its padding; a whole unit of padding where none is needed."""
    return header.file_size - header.end - (header.alignment - header.end % header.alignment)


def _format(value: int, units: Sequence[tuple[str, int]]) -> str:
    """Two decimals of the largest unit that is not above the value, `.00` left out."""
    for unit, factor in units:
        if value >= factor:
            return f"{value / factor:.2f}".removesuffix(".00") + unit
    return str(value)


def _architecture(metadata: Mapping[str, Value], headers: Sequence[GGUFHeader]) -> str:
    hint = metadata.get("controlvector.model_hint")
    if isinstance(hint, str):
        return hint
    if metadata.get("general.type") == "imatrix":
        return "imatrix"
    named = metadata.get("general.architecture")
    if isinstance(named, str) and not _DIFFUSION_ARCHITECTURE.fullmatch(named):
        return named
    names = (tensor.name for header in headers for tensor in header.tensors)
    return "diffusion" if any(map(_DIFFUSION_TENSORS.match, names)) else "llama"


def _quantization(
    metadata: Mapping[str, Value], architecture: str, headers: Sequence[GGUFHeader]
) -> str:
    number = metadata.get("general.file_type")
    if not isinstance(number, int):
        return _guess_quantization(architecture, headers)
    if 0 <= number < len(_NAMES):
        return _NAMES[number]
    return _UNKNOWN if number == len(_NAMES) else f"GGUFFileType({number})"


def _guess_quantization(architecture: str, headers: Sequence[GGUFHeader]) -> str:
    """The type of most tensors in the blocks. F32 (norms, biases) only counts when alone."""
    is_diffusion = architecture == "diffusion"
    counts = Counter(
        tensor.kind
        for header in headers
        for tensor in header.tensors
        if (tensor.name.endswith(".weight") if is_diffusion else tensor.name.startswith("blk."))
    )
    ranked = [kind for kind, _ in counts.most_common()]
    if len(ranked) > 1 and ranked[0] == _F32:
        ranked.pop(0)
    name = _TENSOR_TYPES.get(ranked[0], "") if ranked else ""
    if not name:
        return _UNKNOWN
    others = {_TENSOR_TYPES.get(kind) for kind in ranked[1:]}
    if name in ("Q4_K", "Q5_K"):
        name += "_M" if "Q6_K" in others else "_S"
    elif name == "Q3_K":
        name += "_L" if "Q5_K" in others else "_M" if "Q4_K" in others else "_S"
    return f"MOSTLY_{name}"


def _context_size(metadata: Mapping[str, Value]) -> int | None:
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return length if isinstance(length, int) and 0 < length <= _INT32_MAX else None


def _text(value: Value) -> str | None:
    """A value as Docker shows it; None for what it leaves out."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:f}"
    if isinstance(value, Array):
        if value.elements is None or value.length > MAX_ELEMENTS:
            return None
        texts = [_text(element) for element in value.elements if not isinstance(element, Array)]
        return ", ".join(text for text in texts if text is not None)
    return str(value)
