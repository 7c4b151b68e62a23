"""Reads the header of safetensors files: what the tensors come to, but none of them.

The file is mapped, and its header is walked entry by entry, so that memory does not grow with it: a
JSON parser would make objects of 20 times its size out of a hostile one.

The format is eight bytes of length, that much JSON, and the bytes of the tensors.
"""

from __future__ import annotations

import json
import mmap
import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NoReturn

from model_runner.errors import UnsupportedModel
from model_runner.formats.beginnings import HeaderGoesOn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from model_runner.formats.beginnings import Beginning

# The limit of the reference implementation.
_MAX_HEADER = 100_000_000
# Trainers of adapters note some 100 kB. What is kept becomes part of a package.
_MAX_METADATA, _MAX_TEXT = 4 << 20, 1 << 20
_NOTE_COST = 64
# The largest models have 92 000, and those in 163 files.
_MAX_TENSORS = 200_000
# What a size or an offset can be on any system.
_MAX_NUMBER = 2**63 - 1
_METADATA = b"__metadata__"

# Bits of an element; of a type that came after this program only the name is known.
# fmt: off
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "I64": 64, "U64": 64, "F64": 64,
}
# fmt: on

# All repetition is bounded: the matcher goes back through it, and keeps a state for each group.
_NAME = rb'[^"\\]{0,4000}(?:\\.[^"\\]{0,4000}){0,1000}'
_LONG = rb'[^"\\]{0,%d}(?:\\.[^"\\]{0,%d}){0,10000}' % (_MAX_TEXT, _MAX_TEXT)


def _pattern(*tokens: bytes) -> re.Pattern[bytes]:
    """Tokens of JSON with any space around them."""
    space = rb"[ \t\r\n]*"
    return re.compile(space + space.join(tokens) + space, re.DOTALL)


_OPEN, _CLOSE, _COMMA, _REST = _pattern(rb"\{"), _pattern(rb"\}"), _pattern(b","), _pattern(b"")
_KEY = _pattern(b'"(' + _NAME + b')"', b":")
_TEXT = _pattern(b'"(' + _LONG + b')"')
# A tensor as every known writer puts it.
_TENSOR = _pattern(
    *(b'"' + _NAME + b'"', b":"),
    *(rb"\{", b'"dtype"', b":", rb'"(\w{1,16})"', b","),
    *(b'"shape"', b":", rb"\[", rb"((?:\d{1,20}(?: ?, ?\d{1,20}){0,15})?)", rb"\]", b","),
    *(b'"data_offsets"', b":", rb"\[", rb"(\d{1,20})", b",", rb"(\d{1,20})", rb"\]", rb"\}"),
)
# The same in any other order.
_OBJECT = _pattern(rb"(\{[^{}]{0,2000}\})")


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What the header of one file comes to.

    Attributes:
        parameters: Elements of all tensors.
        tensor_count: Number of tensors.
        dtypes: The types that they have.
        metadata: What the writer noted.
        missing: Bytes that the file is too short for its tensors; 0 if it is whole.
        file_size: Bytes of the whole file.
    """

    parameters: int
    tensor_count: int
    dtypes: frozenset[str]
    metadata: Mapping[str, str]
    missing: int
    file_size: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read the header of a safetensors file.

    Raises:
        UnsupportedModel: It cannot be read, is no safetensors file, or is cut short within its
            header.
    """
    try:
        if path.stat().st_size == 0:
            raise UnsupportedModel(f"`{path.name}` is empty")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return parse_header(content, path.name, len(content))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnsupportedModel(f"`{path}` cannot be read: {reason}") from error


def parse_header(content: Beginning, name: str, size: int) -> SafetensorsHeader:
    """Read the header out of the first bytes of a file.

    Args:
        content: These bytes.
        name: Of the file, for messages.
        size: Of the whole file.

    Raises:
        HeaderGoesOn: It takes more of the file.
        UnsupportedModel: As of `read_header`.
    """
    return _Walk(content, name, size).header()


class _Walk:
    """Goes through a header once, from entry to entry."""

    def __init__(self, content: Beginning, name: str, size: int) -> None:
        self._content = content
        self._name = name
        self._size = size
        self._position = 8
        self._end = 8 + self._length()
        self._parameters = 0
        self._count = 0
        self._data = 0
        self._described_bytes = 0
        self._kept = 0
        self._dtypes: set[str] = set()
        self._metadata: dict[str, str] = {}

    def header(self) -> SafetensorsHeader:
        """What the header comes to."""
        self._members(self._member)
        self._take(_REST)
        if self._position != self._end:
            self._refuse("it goes on after its end")
        if self._described_bytes != self._data:
            self._refuse("its tensors overlap, or there are holes between them")
        return SafetensorsHeader(
            parameters=self._parameters,
            tensor_count=self._count,
            dtypes=frozenset(self._dtypes),
            metadata=self._metadata,
            missing=max(0, self._end + self._data - self._size),
            file_size=self._size,
        )

    def _length(self) -> int:
        length = int.from_bytes(self._content[:8], "little")
        if length > _MAX_HEADER or self._content[8:9] != b"{":
            raise UnsupportedModel(f"`{self._name}` is not a safetensors file")
        if 8 + length > self._size:
            raise UnsupportedModel(
                f"`{self._name}` is truncated: its header goes on beyond its {self._size} bytes",
                hint="download it again",
            )
        if 8 + length > len(self._content):
            raise HeaderGoesOn(8 + length)
        return length

    def _members(self, read: Callable[[], None]) -> None:
        """Read a JSON object, whose members `read` takes one by one."""
        self._take(_OPEN)
        if self._match(_CLOSE):
            return
        read()
        while self._match(_COMMA):
            read()
        self._take(_CLOSE)

    def _member(self) -> None:
        tensor = self._match(_TENSOR)
        if tensor:
            dtype, shape, begin, end = tensor.groups()
            elements = prod(map(int, shape.split(b","))) if shape else 1
            self._add(dtype.decode(), elements, int(begin), int(end))
            return
        key = self._take(_KEY)
        if key.end(1) - key.start(1) == len(_METADATA) and key[1] == _METADATA:
            self._members(self._note)
        else:
            self._add(*self._described(self._take(_OBJECT)[1]))

    def _described(self, entry: bytes) -> tuple[str, int, int, int]:
        """A tensor in any other order of its members."""
        try:
            tensor = json.loads(entry)
            dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse("it has an entry that describes no tensor")
        numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
        if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in numbers):
            self._refuse("it has an entry that describes no tensor")
        return dtype, prod(shape), begin, end

    def _add(self, dtype: str, elements: int, begin: int, end: int) -> None:
        bits = _BITS.get(dtype)
        if max(elements, end) > _MAX_NUMBER:
            self._refuse("it has a tensor that no disk could hold")
        if end < begin or (bits is not None and -(-elements * bits // 8) != end - begin):
            self._refuse("it has a tensor of another size than its shape")
        self._count += 1
        if self._count > _MAX_TENSORS:
            self._refuse(f"it has more than {_MAX_TENSORS} tensors")
        self._parameters += elements
        self._data = max(self._data, end)
        self._described_bytes += end - begin
        self._dtypes.add(dtype)

    def _note(self) -> None:
        """One of the writer's notes."""
        spans = self._take(_KEY).span(1), self._take(_TEXT).span(1)
        self._kept += _NOTE_COST + sum(end - start for start, end in spans)
        if self._kept > _MAX_METADATA:
            self._refuse(f"it has more than {_MAX_METADATA} bytes of metadata")
        key, text = (self._content[start - 1 : end + 1] for start, end in spans)
        try:
            self._metadata[json.loads(key)] = json.loads(text)
        except ValueError:
            self._refuse("it has metadata that are no text")

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Go beyond what matches here, if anything does."""
        match = pattern.match(self._content, self._position, self._end)
        if match:
            self._position = match.end()
        return match

    def _take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        return self._match(pattern) or self._refuse(f"byte {self._position} is not as it should be")

    def _refuse(self, reason: str) -> NoReturn:
        raise UnsupportedModel(f"`{self._name}` has a damaged header: {reason}")
