"""Reads a tar archive that is pushed into it piece by piece, and trusts nothing in it.

Only the headers are ever held. The content of each entry goes to whatever takes it.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, Protocol

from model_runner.errors import InvalidArchive
from model_runner.packaging.tar_headers import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

# Names and PAX records have a few hundred bytes.
_MAX_EXTENSION = 1 << 20
# A model of many shards has some hundred files.
_MAX_ENTRIES = 20_000
# tar fills up its last record; with the largest of records that comes to 1 MiB.
_MAX_TRAILER = 2 << 20
# Eight exbibytes are not an archive.
_MAX_SIZE = 1 << 60

_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
# Whatever their headers say, nothing follows them.
_WITHOUT_CONTENT = {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}
_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]+)=")
_DECIMAL = re.compile(rb"[0-9]{1,19}")


class Sink(Protocol):
    """What takes the content of an entry."""

    def write(self, piece: memoryview) -> None:
        """The next bytes."""

    def close(self) -> None:
        """That was all of them."""


class Nowhere:
    """Takes content that nobody wants."""

    def write(self, piece: memoryview) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing was kept."""


class Collected:
    """Takes a small content and keeps it, up to a limit that its maker sees to."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.complete = False

    def write(self, piece: memoryview) -> None:
        """Keep it."""
        self.content += piece

    def close(self) -> None:
        """It is complete."""
        self.complete = True


class TarReader:
    """The state between two pieces.

    Args:
        open_file: Called with the name and the size of each regular file; what it returns takes the
            content. Links, devices and directories are passed over.
    """

    def __init__(self, open_file: Callable[[str, int], Sink]) -> None:
        self._open_file = open_file
        self._block = bytearray()
        self._sink: Sink = Nowhere()
        self._content = 0
        self._padding = 0
        self._entries = 0
        self._extension: tuple[bytes, Collected] | None = None
        # What the headers before the next one say of it.
        self._name: str | None = None
        self._size: int | None = None
        self._zeros = 0
        self._trailer: int | None = None

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next piece.

        Raises:
            InvalidArchive: It is no tar archive, or damaged, or absurd.
        """
        rest = memoryview(data)
        while rest:
            if self._content:
                rest = self._feed_content(rest)
            elif self._padding:
                skipped = min(self._padding, len(rest))
                self._padding -= skipped
                rest = rest[skipped:]
            elif self._trailer is not None:
                self._feed_trailer(rest)
                return
            else:
                missing = BLOCK - len(self._block)
                self._block += rest[:missing]
                rest = rest[missing:]
                if len(self._block) == BLOCK:
                    block, self._block = bytes(self._block), bytearray()
                    self._feed_header(block)

    def finish(self) -> None:
        """There is no more.

        Raises:
            InvalidArchive: But there should be.
        """
        if self._content or self._padding or self._block or self._extension or self._zeros == 1:
            raise InvalidArchive("the archive is cut short", hint="send it again")
        if not self._entries:
            raise InvalidArchive("the archive is empty")

    def _feed_content(self, rest: memoryview) -> memoryview:
        piece = rest[: self._content]
        self._sink.write(piece)
        self._content -= len(piece)
        if not self._content:
            self._close_content()
        return rest[len(piece) :]

    def _close_content(self) -> None:
        self._sink.close()
        if self._extension:
            kind, collected = self._extension
            self._extension = None
            self._extend(kind, bytes(collected.content))

    def _feed_header(self, block: bytes) -> None:
        if not any(block):
            self._zeros += 1
            if self._zeros == 2:
                self._trailer = 0
            return
        if self._zeros:
            raise InvalidArchive("the archive has an empty block where it should go on")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if self._entries:
                raise InvalidArchive(f"the archive is damaged ({error})") from error
            raise _no_archive() from error
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise InvalidArchive(f"the archive has more than {_MAX_ENTRIES} entries")
        if header.type in {tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.SOLARIS_XHDTYPE}:
            self._begin_extension(header)
        else:
            self._begin_entry(header)

    def _begin_extension(self, header: tarfile.TarInfo) -> None:
        if not 0 <= header.size <= _MAX_EXTENSION:
            raise InvalidArchive(f"the archive has a header of {header.size} bytes")
        collected = Collected()
        self._extension = (header.type, collected)
        self._begin_content(collected, header.size)

    def _begin_entry(self, header: tarfile.TarInfo) -> None:
        name, size = header.name, header.size
        if header.type not in {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}:
            name = name if self._name is None else self._name
            size = size if self._size is None else self._size
            self._name = self._size = None
        if header.type in _WITHOUT_CONTENT:
            return
        if not 0 <= size <= _MAX_SIZE:
            raise InvalidArchive(f"the archive has an entry of {size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise InvalidArchive(
                "the archive holds a file with holes", hint="make it without the option --sparse"
            )
        regular = header.type in _FILES
        self._begin_content(self._open_file(name, size) if regular else Nowhere(), size)

    def _begin_content(self, sink: Sink, size: int) -> None:
        self._sink = sink
        self._content = size
        self._padding = -size % BLOCK
        if not size:
            self._close_content()

    def _extend(self, kind: bytes, content: bytes) -> None:
        if kind == tarfile.GNUTYPE_LONGNAME:
            self._name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            return
        for key, value in _records(content):
            if key == b"path":
                self._name = value.decode("utf-8", "surrogateescape")
            elif key == b"size":
                if not _DECIMAL.fullmatch(value):
                    raise InvalidArchive("the archive has an entry without a size")
                self._size = int(value)
            elif key.startswith(b"GNU.sparse"):
                raise InvalidArchive(
                    "the archive holds a file with holes",
                    hint="make it without the option --sparse",
                )

    def _feed_trailer(self, rest: memoryview) -> None:
        self._trailer = (self._trailer or 0) + len(rest)
        if self._trailer > _MAX_TRAILER or any(rest):
            if not self._entries:
                raise _no_archive()
            raise InvalidArchive(
                "the archive goes on behind its end", hint="send one archive at a time"
            )


def _no_archive() -> InvalidArchive:
    hint = "archives of models are made by `model-runner save`"
    return InvalidArchive("this is no tar archive", hint=hint)


def _records(content: bytes) -> list[tuple[bytes, bytes]]:
    """The key and value of each PAX record: its length, a space, `key=value`, a line feed."""
    found: list[tuple[bytes, bytes]] = []
    while content:
        match = _RECORD.match(content)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(content):
            raise InvalidArchive("the archive has a damaged header")
        found.append((match[2], content[match.end() : length - 1]))
        content = content[length:]
    return found
