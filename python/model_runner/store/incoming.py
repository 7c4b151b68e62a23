"""A blob that comes piece by piece, in one pass: what is hashed is what is written."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from model_runner.errors import DigestMismatch
from model_runner.store.files import disk_errors, sync_directory
from model_runner.store.layout import digest_hex

if TYPE_CHECKING:
    from model_runner.store.layout import Layout


class IncomingBlob:
    """A blob on its way into the store. Until it is committed it has a temporary name.

    Raises:
        StoreError: It cannot be written, or the digest is none; DiskFull if there is no room.
    """

    def __init__(self, layout: Layout, digest: str) -> None:
        self._layout = layout
        self._digest = digest
        self._hasher = hashlib.sha256()
        name = f"{digest_hex(digest)}.tmp-{secrets.token_hex(8)}"
        self._temporary = layout.blobs / name
        with disk_errors(layout.root):
            self._file = self._temporary.open("xb", buffering=0)

    def write(self, piece: memoryview) -> None:
        """Add some bytes.

        Raises:
            StoreError: The disk refused; DiskFull if there is no room.
        """
        self._hasher.update(piece)
        with disk_errors(self._layout.root):
            while piece:
                piece = piece[self._file.write(piece) :]

    @property
    def found(self) -> str:
        """The digest of what has come so far."""
        return f"sha256:{self._hasher.hexdigest()}"

    def commit(self) -> None:
        """All bytes are there: make them the blob.

        Raises:
            DigestMismatch: They are others than the digest says; they are gone then.
            StoreError: The disk refused.
        """
        found = self.found
        if found != self._digest:
            self.discard()
            raise DigestMismatch(
                f'blob digest mismatch for "{self._digest}": expected {self._digest}, got {found}'
            )
        with disk_errors(self._layout.root):
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._layout.blobs / digest_hex(self._digest))
            sync_directory(self._layout.blobs)

    def discard(self) -> None:
        """Forget what has come; after a commit there is nothing to forget."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
