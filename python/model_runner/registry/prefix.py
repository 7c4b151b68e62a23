"""The part of a blob that is on disk: appended to and hashed in one pass, or emptied."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from model_runner.store.files import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

# A step of hashing what an earlier pull left, about 50 ms: how long a cancelled pull may linger.
_HASH_STEP = 64 * 1024 * 1024
_HASH_READ = 1024 * 1024


class Prefix:
    """The part of a blob that is on disk, and its hash so far. Methods block.

    Args:
        path: The `.incomplete` file; made if it is not there.
        limit: Bytes of the whole blob; a longer file cannot be its prefix and is emptied.

    Raises:
        StoreError: The file cannot be opened or emptied.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._folder = path.parent
        with disk_errors(self._folder):
            path.touch()
            self._file = path.open("r+b", buffering=0)
            self._found = os.fstat(self._file.fileno()).st_size
        self._hash = hashlib.sha256()
        self.size = 0
        self.resumed = False
        if self._found > limit:
            self.empty()

    @property
    def digest(self) -> str:
        """Of the bytes up to `size`."""
        return f"sha256:{self._hash.hexdigest()}"

    def absorb(self) -> bool:
        """Hash a step of what was found on disk; call again while it answers True."""
        end = min(self.size + _HASH_STEP, self._found)
        with disk_errors(self._folder):
            while self.size < end:
                piece = self._file.read(min(_HASH_READ, end - self.size))
                if not piece:
                    self._found = self.size
                    break
                self._hash.update(piece)
                self.size += len(piece)
        self.resumed = self.size > 0
        return self.size < self._found

    def append(self, piece: bytes) -> None:
        """Write and hash.

        Raises:
            DiskFull: No room; what was written before stays.
            StoreError: The disk refuses for another reason.
        """
        rest = memoryview(piece)
        with disk_errors(self._folder):
            while rest:
                written = self._file.write(rest) or 0
                self._hash.update(rest[:written])
                self.size += written
                rest = rest[written:]

    def empty(self) -> None:
        """Throw everything away and start anew."""
        if not self._found and not self.size:
            return
        with disk_errors(self._folder):
            self._file.seek(0)
            self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = self._found = 0
        self.resumed = False

    def close(self) -> None:
        """Close the file. It is unbuffered, so there is nothing left to write."""
        self._file.close()
