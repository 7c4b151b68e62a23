"""Makes a damaged blob whole: fetches what is wrong with it, and writes nothing else.

Where the blob was hashed range by range when it came (`marks`), only damaged ranges are fetched.
Else all are, and compared. A source that serves no ranges is asked for the whole blob.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import DigestMismatch
from model_runner.registry import marks
from model_runner.registry.ranges import NoRangesError, Ranges
from model_runner.registry.threads import in_thread, locked
from model_runner.store.files import disk_errors, sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from model_runner.registry.source import Source
    from model_runner.registry.transfer import Transfers
    from model_runner.store import BlobStore
    from model_runner.store.manifests import Descriptor

_READ = 1024 * 1024


@dataclass(slots=True)
class Repaired:
    """What a repair took.

    Attributes:
        fetched: Bytes that came from the source.
        written: Bytes that were wrong, or missing, and are written anew.
    """

    fetched: int = 0
    written: int = 0


async def repair(
    transfers: Transfers,
    blob: Descriptor,
    source: Source,
    damaged: Path,
    watch: Callable[[int], None],
) -> Repaired:
    """Make a damaged blob whole, and bring it back to its place.

    Args:
        transfers: Of the store that the blob belongs to.
        blob: Which one.
        source: Where it can be had.
        damaged: The file, somewhere on the store's file system but not in its place. It is gone
            afterwards; if the repair fails it stays, no more damaged than before.
        watch: Called with the number of bytes that are known to be right, on the event loop.

    Returns:
        What it took.

    Raises:
        DigestMismatch: The source has other bytes.
        RegistryError: The source refused, or could not be reached.
        RemoteModelNotFound: The source does not have the blob.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    ranges = Ranges(source, blob.size)
    work = _Repair(transfers.blobs, blob, ranges, damaged, watch)
    try:
        await work.run()
    except NoRangesError:
        await transfers.fetch(blob, source, watch)
        await in_thread(_remove, damaged)
        return Repaired(ranges.fetched + blob.size, blob.size)
    return Repaired(ranges.fetched, work.written)


class _Repair:
    def __init__(
        self,
        blobs: BlobStore,
        blob: Descriptor,
        ranges: Ranges,
        damaged: Path,
        watch: Callable[[int], None],
    ) -> None:
        self.written = 0
        self._blobs = blobs
        self._blob = blob
        self._ranges = ranges
        self._damaged = damaged
        self._watch = watch

    async def run(self) -> None:
        blob = self._blob
        async with locked(self._blobs.lock(blob.digest), _nothing):
            if await in_thread(self._blobs.has, blob.digest, blob.size):
                await in_thread(_remove, self._damaged)
                return
            known = await in_thread(marks.load, self._blobs, blob.digest, blob.size)
            if known is None or not await self._by_marks(known):
                await self._by_comparison()
            await in_thread(self._put_back)

    async def _by_marks(self, known: Sequence[bytes]) -> bool:
        """Hash range by range; fetch what is not as it was when the blob came.

        Returns:
            Whether the marks are this blob's; if not, it is not yet whole.
        """
        whole = hashlib.sha256()
        last = bytes.fromhex(self._blob.digest.removeprefix("sha256:"))
        ends = [*known, last] if self._blob.size % marks.RANGE or not known else known
        if ends[-1] != last:
            return False
        for number, mark in enumerate(ends):
            start = number * marks.RANGE
            end = min(start + marks.RANGE, self._blob.size)
            hashed = await in_thread(_hash_range, self._damaged, whole, start, end)
            if hashed.digest() != mark:
                right = await self._ranges.fetch(start, end)
                hashed = whole.copy()
                await in_thread(hashed.update, right)
                if hashed.digest() != mark:
                    return False
                await in_thread(self._write, self._damaged, right, start)
                self.written += len(right)
            whole = hashed
            self._watch(end)
        return True

    async def _by_comparison(self) -> None:
        """Fetch range by range; keep what differs until all of it is known to be right."""
        differing: list[tuple[int, int]] = []
        whole = hashlib.sha256()
        patch = self._damaged.with_name(f"{self._damaged.name}.tmp-repair")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(in_thread, _remove, patch)
            for start in range(0, self._blob.size, marks.RANGE):
                end = min(start + marks.RANGE, self._blob.size)
                right = await self._ranges.fetch(start, end)
                await in_thread(whole.update, right)
                if await in_thread(_read, self._damaged, start, end) != right:
                    await in_thread(self._write, patch, right, start)
                    differing.append((start, end))
                self._watch(end)
            if f"sha256:{whole.hexdigest()}" != self._blob.digest:
                raise DigestMismatch(
                    f"`{self._ranges.host}` has other bytes than {self._blob.digest}",
                    hint="the registry or something before it changed the bytes; try again",
                )
            for start, end in differing:
                piece = await in_thread(_read, patch, start, end)
                await in_thread(self._write, self._damaged, piece, start)
                self.written += end - start

    def _write(self, path: Path, piece: bytes, offset: int) -> None:
        with disk_errors(path.parent):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.lseek(descriptor, offset, os.SEEK_SET)
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)

    def _put_back(self) -> None:
        with disk_errors(self._damaged.parent):
            with self._damaged.open("rb+") as file:
                file.truncate(self._blob.size)
                os.fsync(file.fileno())
            target = self._blobs.path(self._blob.digest)
            self._damaged.replace(target)
            sync_directory(target.parent)
            sync_directory(self._damaged.parent)


def _hash_range(path: Path, before: hashlib._Hash, start: int, end: int) -> hashlib._Hash:
    """The hash of what was hashed before and of a range of a file, as far as there is one."""
    hashed = before.copy()
    with disk_errors(path.parent), path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < end and (piece := file.read(min(_READ, end - start))):
            hashed.update(piece)
            start += len(piece)
    return hashed


def _read(path: Path, start: int, end: int) -> bytes:
    with disk_errors(path.parent), path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


async def _nothing() -> None:
    """While another process fetches the blob, there is nothing to be told."""


def _remove(path: Path) -> None:
    with disk_errors(path.parent):
        path.unlink(missing_ok=True)
