"""Reading a model's files again, and taking those aside whose bytes are not the ones they were.

What is damaged goes to `.quarantine/`, so that nothing loads it, a pull fetches it anew, and a
repair can use what is good of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import filelock

from model_runner.errors import ModelNotFound, StoreError, UnsupportedModel
from model_runner.store.files import (
    disk_errors,
    is_read_only,
    suppress_read_only,
    sync_directory,
)
from model_runner.store.layout import digest_hex, is_digest
from model_runner.store.manifests import parse_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from model_runner.store.blobs import BlobStore
    from model_runner.store.bundles import BundleStore
    from model_runner.store.index import Entry, Index
    from model_runner.store.layout import Layout
    from model_runner.store.manifests import Descriptor, Manifest

_READ = 1 << 20
# How much is read in a step, which takes about 50 ms: for so long a verification that nobody wants
# any more goes on.
_STEP = 64 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """A file of a model that is not as it should be.

    Attributes:
        digest: Its name: a blob's digest, or the model's ID for its manifest.
        state: What is wrong with it. An `unpacked` copy is removed, for the next load makes it
            anew; that is no damage to the model.
        descriptor: What the manifest says of it; None of the manifest itself, and where that is
            damaged.
        path: Where the damaged file is now, which is where it was if this user may only read the
            store; None if there is none, or it is being fetched anew. Of a missing file, what an
            earlier verification took out of its place.
    """

    digest: str
    state: Literal["missing", "damaged", "unpacked"]
    descriptor: Descriptor | None = None
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """How far the reading of one file is."""

    digest: str
    size: int
    current: int
    total: int


@dataclass(frozen=True, slots=True)
class _File:
    """A blob to read, with what the manifest says about it."""

    digest: str
    path: Path
    size: int
    descriptor: Descriptor | None


class Verification:
    """Verifies one model, a step at a time; it may be given up between steps.

    Args:
        layout: Where things are.
        index: Which other models share a file.
        blobs: The blobs, and their locks.
        bundles: Where copies and links of the files are: in the store, and beside one that may only
            be read.
        entry: The model.

    Attributes:
        findings: What was found so far.
        files: How many files were read.
        bytes: How many bytes they have.
        manifest: The model's, once it was read and found whole.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        blobs: BlobStore,
        bundles: Sequence[BundleStore],
        entry: Entry,
    ) -> None:
        self.entry = entry
        self.findings: list[Finding] = []
        self.files = 0
        self.bytes = 0
        self.manifest: Manifest | None = None
        self._layout = layout
        self._index = index
        self._blobs = blobs
        self._bundles = bundles
        self._steps = self._run()

    @property
    def damaged(self) -> list[Finding]:
        """Those findings that leave the model unusable."""
        return [finding for finding in self.findings if finding.state != "unpacked"]

    def step(self) -> Step | None:
        """Read on; None at the end.

        Raises:
            ModelNotFound: The model was removed meanwhile.
            StoreError: The disk refused.
        """
        with disk_errors(self._layout.root):
            return next(self._steps, None)

    def _run(self) -> Iterator[Step]:
        manifest = self.manifest = self._manifest()
        files = [file for file in self._expected(manifest) if self._is_there(file)]
        total = sum(file.size for file in files)
        for file in files:
            yield from self._check(file, total)
        if manifest:
            yield from self._check_copies(manifest, total)

    def _manifest(self) -> Manifest | None:
        if not is_digest(self.entry.id):
            return None
        path = self._layout.manifests / digest_hex(self.entry.id)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            self._miss(Finding(self.entry.id, "missing"))
            return None
        self.files += 1
        self.bytes += len(raw)
        if hashlib.sha256(raw).hexdigest() != path.name:
            self.findings.append(
                Finding(self.entry.id, "damaged", None, self._set_aside_or_left(path))
            )
            return None
        try:
            return parse_manifest(raw)
        except UnsupportedModel:
            return None  # its bytes are what they were; the index knows its files

    def _expected(self, manifest: Manifest | None) -> Sequence[_File]:
        """Each blob once."""
        described = {blob.digest: blob for blob in (manifest.blobs if manifest else ())}
        digests = dict.fromkeys([*described, *filter(is_digest, self.entry.files)])
        found: list[_File] = []
        for digest in digests:
            path, size = self._blobs.path(digest), 0
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
            found.append(_File(digest, path, size, described.get(digest)))
        return found

    def _is_there(self, file: _File) -> bool:
        if file.path.exists():
            return True
        # What an earlier verification took out, a repair can use.
        aside = self._layout.quarantine.glob(f"{file.path.name}-*")
        self._miss(Finding(file.digest, "missing", file.descriptor, next(aside, None)))
        return False

    def _miss(self, finding: Finding) -> None:
        """Note that a file is missing.

        Raises:
            ModelNotFound: Of course it is, for the model has been removed.
        """
        if self.entry.id not in self._index.snapshot().by_id:
            raise ModelNotFound(self.entry.tags[0] if self.entry.tags else self.entry.id)
        self.findings.append(finding)

    def _check(self, file: _File, total: int) -> Iterator[Step]:
        try:
            opened = file.path.open("rb")
        except FileNotFoundError:
            self._miss(Finding(file.digest, "missing", file.descriptor))
            return
        with opened:
            reading = _Reading(opened.fileno())
            while reading.step():
                yield Step(file.digest, file.size, reading.size, total)
            self.files += 1
            self.bytes += reading.size
            if reading.digest != file.digest:
                self._quarantine(file, os.fstat(opened.fileno()))
        yield Step(file.digest, file.size, file.size, total)

    def _quarantine(self, file: _File, read: os.stat_result) -> None:
        try:
            self._take_out(file, read)
        except StoreError as error:
            if not is_read_only(error):
                raise
            # To know it matters, also where this user can do nothing about it.
            self._forget_copies(file.digest, self._index.snapshot().entries)
            self.findings.append(Finding(file.digest, "damaged", file.descriptor, file.path))

    def _take_out(self, file: _File, read: os.stat_result) -> None:
        path: Path | None = None
        lock = self._blobs.lock(file.digest)
        # Who holds the lock is about to bring a better one.
        with (
            disk_errors(self._layout.root),
            contextlib.suppress(filelock.Timeout),
            lock.acquire(timeout=0),
        ):
            if not _is(file.path, read):
                return  # somebody has brought another one
            with self._index.change() as entries:
                path = self._set_aside(file.path)
                self._forget_copies(file.digest, entries)
        self.findings.append(Finding(file.digest, "damaged", file.descriptor, path))

    def _forget_copies(self, digest: str, entries: Sequence[Entry]) -> None:
        """Remove the bundles that hold a damaged file under another name."""
        for entry in entries:
            if digest in entry.files and is_digest(entry.id):
                self._remove_bundles(entry.id)

    def _remove_bundles(self, model_id: str) -> None:
        for bundles in self._bundles:
            with suppress_read_only():
                bundles.remove(model_id)

    def _set_aside_or_left(self, path: Path) -> Path:
        """As below; where it is, if this user may not move it."""
        try:
            with disk_errors(self._layout.root):
                return self._set_aside(path)
        except StoreError as error:
            if not is_read_only(error):
                raise
            return path

    def _set_aside(self, path: Path) -> Path:
        """Move a damaged file to where it harms nobody, and make it writable for a repair."""
        self._layout.quarantine.mkdir(exist_ok=True)
        target = self._layout.quarantine / f"{path.name}-{secrets.token_hex(4)}"
        path.rename(target)
        sync_directory(path.parent)
        sync_directory(self._layout.quarantine)
        with contextlib.suppress(OSError):
            target.chmod(0o644)
        os.utime(target)  # its grace period begins now
        return target

    def _check_copies(self, manifest: Manifest, total: int) -> Iterator[Step]:
        """Read the bundle's files that are not the blobs themselves under another name."""
        copies = [copy for bundles in self._bundles for copy in bundles.copies(manifest)]
        for digest, copy in copies:
            try:
                with copy.open("rb") as opened:
                    size = os.fstat(opened.fileno()).st_size
                    reading = _Reading(opened.fileno())
                    while reading.step():
                        yield Step(digest, size, reading.size, total)
            except FileNotFoundError:
                continue
            if reading.digest != digest:
                self.findings.append(Finding(digest, "unpacked"))
                self._remove_bundles(self.entry.id)
                return


def _is(path: Path, read: os.stat_result) -> bool:
    """Whether what is at a path is still what was read."""
    try:
        return os.path.samestat(path.stat(), read)
    except FileNotFoundError:
        return False


class _Reading:
    """Hashes an open file in steps."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def step(self) -> bool:
        """Read a step; False if there was nothing left to read."""
        before = self.size
        while self.size - before < _STEP and (piece := os.read(self._descriptor, _READ)):
            self._hash.update(piece)
            self.size += len(piece)
        return self.size > before
