"""Reads the header of GGUF files: metadata and tensors, but no weights.

The file is mapped, not read: only the pages of the header are touched, and long arrays (such as a
vocabulary of 256k tokens) are stepped over without building their elements. Of a file that is
elsewhere its first bytes will do.

The format is ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from model_runner.errors import UnsupportedModel
from model_runner.formats.beginnings import HeaderGoesOn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from model_runner.formats.beginnings import Beginning

# Arrays longer than this are stepped over; nothing that we say about a model needs them.
MAX_ELEMENTS = 50
# Real files nest no arrays at all; a limit keeps hostile ones from recursing.
_MAX_NESTING = 3
_MAX_DIMENSIONS = 8
# Of elements; ggml counts them so.
_MAX_NUMBER = 2**63 - 1
# Hostile files claim counts and sizes that would fill the memory. Real headers are far below each
# of these: some 50 keys, up to 70 000 tensors (experts one by one), 20 MB with a large vocabulary,
# and as texts chat templates of 20 kB, at most a whole tokenizer.json.
_MAX_KEYS = 10_000
_MAX_TENSORS = 200_000
_MAX_TEXT = 16 << 20
_MAX_HEADER = 256 << 20
# Bytes of what is kept, as Python objects: about so much for each, and the texts. Whole
# vocabularies, with their merges, scores and types, are a million objects.
_MAX_KEPT, _MAX_KEPT_WHOLE = 64 << 20, 512 << 20
_VALUE_COST, _TENSOR_COST = 64, 256
_DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
# Scalar types of metadata as `struct` knows them.
# fmt: off
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?",
    10: "Q", 11: "q", 12: "d",
}
# Elements and bytes of a block, by tensor type (ggml.h and ggml-common.h).
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176),
    14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98),
    19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56),
    30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}
# fmt: on
# How `surrogateescape` marks bytes that are no UTF-8, and what is shown in their place.
_UNDECODABLE = dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd")

Value: TypeAlias = Union[int, float, bool, str, "Array"]


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata.

    Attributes:
        length: Number of elements.
        elements: The elements, or None when there are more than was asked for: MAX_ELEMENTS.
    """

    length: int
    elements: tuple[Value, ...] | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the header lists it.

    Attributes:
        name: Such as `blk.0.attn_q.weight`.
        shape: Elements of each dimension, the fastest first.
        kind: Number of the type, such as 12 for Q4_K.
        offset: Bytes from the start of the tensor data.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes; 0 for a type that came after this program."""
        elements, size = _BLOCKS.get(self.kind, (1, 0))
        return -(-self.elements // elements) * size


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The header of one GGUF file.

    Attributes:
        version: Of the format.
        metadata: Key-values in the order of the file.
        tensors: In the order of the file.
        end: Where the header ends, in bytes from the start.
        file_size: Bytes of the whole file.
    """

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    end: int
    file_size: int

    @property
    def alignment(self) -> int:
        """Tensor data starts at a multiple of this many bytes."""
        given = self.metadata.get("general.alignment")
        return given if isinstance(given, int) and given > 0 else _DEFAULT_ALIGNMENT

    @property
    def missing(self) -> int:
        """Bytes that the file is too short for its tensors; 0 if it is whole."""
        start = -(-self.end // self.alignment) * self.alignment
        needed = max((tensor.offset + tensor.size for tensor in self.tensors), default=0)
        return max(0, start + needed - self.file_size) if needed else 0


def read_header(path: Path, *, whole: bool = False) -> GGUFHeader:
    """Read the header of a GGUF file.

    Args:
        path: The file.
        whole: Keep long arrays, too, vocabularies among them: some seconds and 100 MB.

    Raises:
        UnsupportedModel: It cannot be read, is no GGUF file, is of another version, or is cut short
            within its header.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise UnsupportedModel(f"`{path.name}` is empty")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return parse_header(content, path.name, len(content), whole=whole)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnsupportedModel(f"`{path}` cannot be read: {reason}") from error


def parse_header(content: Beginning, name: str, size: int, *, whole: bool = False) -> GGUFHeader:
    """Read the header out of the first bytes of a file.

    Args:
        content: These bytes.
        name: Of the file, for messages.
        size: Of the whole file.
        whole: Keep long lists of numbers and texts, too.

    Raises:
        HeaderGoesOn: It takes more of the file.
        UnsupportedModel: As of `read_header`.
    """
    if content[:4] != b"GGUF":
        raise UnsupportedModel(f"`{name}` is not a GGUF file")
    cursor = _Cursor(content, name, size, whole=whole)
    version = cursor.version()
    tensor_count = cursor.count(_MAX_TENSORS, "tensors")
    value_count = cursor.count(_MAX_KEYS, "keys")
    metadata = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("I"))
    tensors = tuple(cursor.tensor() for _ in range(tensor_count))
    return GGUFHeader(version, metadata, tensors, cursor.offset, size)


class _Cursor:
    """Walks through a header. Sizes come from the file, so each is checked before it is used."""

    def __init__(self, content: Beginning, name: str, size: int, *, whole: bool) -> None:
        self.offset = 4
        self._kept = 0
        self._max_kept = _MAX_KEPT_WHOLE if whole else _MAX_KEPT
        # What would be more than all that is kept is not begun.
        self._max_elements = self._max_kept // _VALUE_COST if whole else MAX_ELEMENTS
        self._content = content
        self._end = min(len(content), _MAX_HEADER)
        self._name = name
        self._size = size
        self._order = "<"

    def version(self) -> int:
        """The version, which also tells the byte order."""
        version: int = self.scalar("I")
        if version & 0xFFFF == 0:  # a small number seen from the wrong end
            self._order = ">"
            self.offset -= 4
            version = self.scalar("I")
        if version not in (2, 3):
            raise UnsupportedModel(
                f"`{self._name}` has GGUF version {version}, this program reads 2 and 3",
                hint="convert the model again" if version < 2 else "upgrade model-runner",
            )
        return version

    def count(self, limit: int, what: str) -> int:
        """A number of things that are to be kept."""
        count: int = self.scalar("Q")
        if count > limit:
            raise UnsupportedModel(f"`{self._name}` claims {count} {what}, real models have fewer")
        return count

    def scalar(self, code: str) -> Any:  # noqa: ANN401 - what `struct` makes of the code
        layout = struct.Struct(self._order + code)
        self._expect(layout.size)
        (value,) = layout.unpack_from(self._content, self.offset)
        self.offset += layout.size
        return value

    def text(self) -> str:
        """A string. As in Go, each byte that is no UTF-8 becomes U+FFFD."""
        length = self.scalar("Q")
        self._expect(length)
        if length > _MAX_TEXT:
            raise UnsupportedModel(f"`{self._name}` has a text of {length} bytes in its header")
        self._keep(length)
        raw = self._content[self.offset : self.offset + length]
        self.offset += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("utf-8", "surrogateescape").translate(_UNDECODABLE)

    def value(self, kind: int, nesting: int = 0) -> Value:
        self._keep(_VALUE_COST)
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(nesting)
        if kind not in _SCALARS:
            raise UnsupportedModel(f"`{self._name}` has metadata of the unknown type {kind}")
        scalar: int | float | bool = self.scalar(_SCALARS[kind])
        return scalar

    def tensor(self) -> Tensor:
        name, dimensions = self.text(), self.scalar("I")
        if dimensions > _MAX_DIMENSIONS:
            raise UnsupportedModel(f"`{self._name}` has a tensor of {dimensions} dimensions")
        self._keep(_TENSOR_COST)
        shape = tuple(self.scalar("Q") for _ in range(dimensions))
        tensor = Tensor(name, shape, self.scalar("I"), self.scalar("Q"))
        if tensor.elements > _MAX_NUMBER:
            raise UnsupportedModel(f"`{self._name}` has a tensor that no disk could hold")
        return tensor

    def _array(self, nesting: int) -> Array:
        kind, length = self.scalar("I"), self.scalar("Q")
        if nesting >= _MAX_NESTING:
            raise UnsupportedModel(f"`{self._name}` has arrays in arrays in arrays")
        if kind in _SCALARS and length > self._max_elements:
            self._skip(struct.calcsize("<" + _SCALARS[kind]) * length)
        elif kind == _STRING and length > self._max_elements:
            self._skip_texts(length)
        elif length > self._max_elements:
            self._expect(length)
            for _ in range(length):
                self.value(kind, nesting + 1)
        elif kind in _SCALARS:
            return Array(length, self._scalars(_SCALARS[kind], length))
        else:
            return Array(length, tuple(self.value(kind, nesting + 1) for _ in range(length)))
        return Array(length, None)

    def _scalars(self, code: str, count: int) -> tuple[Value, ...]:
        """Many at once, which is 30 times as fast as one by one."""
        self._keep(_VALUE_COST * count)
        layout = struct.Struct(f"{self._order}{count}{code}")
        self._expect(layout.size)
        values: tuple[Value, ...] = layout.unpack_from(self._content, self.offset)
        self.offset += layout.size
        return values

    def _expect(self, size: int) -> None:
        """Make sure that the header may go on for so many bytes."""
        needed = self.offset + size
        if needed <= self._end:
            return
        if needed <= min(self._size, _MAX_HEADER):
            raise HeaderGoesOn(needed)
        if self._size <= _MAX_HEADER:
            raise UnsupportedModel(
                f"`{self._name}` is truncated: its header goes on beyond its {self._size} bytes",
                hint="download it again",
            )
        raise UnsupportedModel(f"`{self._name}` has a header of more than {_MAX_HEADER} bytes")

    def _keep(self, size: int) -> None:
        """Count what becomes Python objects."""
        self._kept += size
        if self._kept > self._max_kept:
            raise UnsupportedModel(
                f"`{self._name}` has more than {self._max_kept} bytes of metadata"
            )

    def _skip(self, size: int) -> None:
        self._expect(size)
        self.offset += size

    def _skip_texts(self, count: int) -> None:
        """The loop that a large vocabulary goes through: 256k strings take about 40 ms."""
        self._expect(8 * count)
        unpack = struct.Struct(self._order + "Q").unpack_from
        content, offset = self._content, self.offset
        try:
            for _ in range(count):
                offset += 8 + unpack(content, offset)[0]
        except (struct.error, OverflowError):
            self.offset = offset
            self._expect(8)  # which are not there
            raise
        self.offset = offset
        self._skip(0)
