"""Undoes the gzip compression of an archive, if it has one, in pieces of bounded size."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from model_runner.errors import InvalidArchive

if TYPE_CHECKING:
    from collections.abc import Callable

_GZIP = b"\x1f\x8b"
# Which programs undo them.
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
}
_LONGEST = 5
# zlib's word for a gzip header and trailer around the data.
_GZIP_BITS = 31
_PIECE = 1 << 20
# zlib copies what it leaves over. Of more, 100,000 empty files in a row would take 12 s.
_INPUT = 16 << 10


class Unpacked:
    """Passes on what comes, uncompressed.

    Args:
        take: Called with each piece.
    """

    def __init__(self, take: Callable[[bytes | bytearray], None]) -> None:
        self._take = take
        self._first: bytearray | None = bytearray()
        self._gzip: zlib._Decompress | None = None

    def feed(self, data: bytes | bytearray) -> None:
        """The next bytes.

        Raises:
            InvalidArchive: They are compressed in a way that is not supported, or damaged.
        """
        if self._first is not None:
            self._first += data
            if len(self._first) < _LONGEST:
                return
            data = self._recognize()
        self._pass_on(data)

    def finish(self) -> None:
        """There is no more.

        Raises:
            InvalidArchive: But there should be.
        """
        if self._first is not None:
            self._pass_on(self._recognize())
        if self._gzip and not self._gzip.eof:
            raise InvalidArchive("the archive is cut short", hint="send it again")

    def _recognize(self) -> bytearray:
        data, self._first = self._first or bytearray(), None
        if data.startswith(_GZIP):
            self._gzip = zlib.decompressobj(_GZIP_BITS)
        for magic, program in _OTHERS.items():
            if data.startswith(magic):
                raise InvalidArchive(
                    f"the archive is compressed with {program}, which is not supported",
                    hint=f"send it uncompressed (`{program} -d`), or compressed with gzip",
                )
        return data

    def _pass_on(self, data: bytes | bytearray) -> None:
        if self._gzip is None:
            self._take(data)
            return
        for start in range(0, len(data), _INPUT):
            self._gzip = self._decompress(self._gzip, data[start : start + _INPUT])

    def _decompress(self, gzip: zlib._Decompress, rest: bytes | bytearray) -> zlib._Decompress:
        try:
            while rest:
                if gzip.eof:
                    # Several compressed files in a row are one, as pigz and `cat` make them; tapes
                    # are filled up with zeros.
                    if not rest.strip(b"\0"):
                        break
                    gzip = zlib.decompressobj(_GZIP_BITS)
                piece = gzip.decompress(rest, _PIECE)
                if piece:
                    self._take(piece)
                rest = gzip.unused_data or gzip.unconsumed_tail
        except zlib.error as error:
            raise InvalidArchive(f"the archive's compression is damaged: {error}") from error
        return gzip
