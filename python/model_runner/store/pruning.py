"""Cleaning up: what no model needs is removed, and nothing that somebody is making or using."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import filelock

from model_runner.store.files import disk_errors
from model_runner.store.inventory import Leftover, freed_by, leftovers
from model_runner.store.layout import digest_hex, is_digest, is_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from model_runner.store.index import Entry, Index
    from model_runner.store.inventory import Kind, References
    from model_runner.store.layout import Layout
    from model_runner.store.writers import Writers

logger = logging.getLogger(__name__)

# Locks that belong to no single blob or bundle.
_LASTING_LOCKS = {"index", "writers"}
_WRITING = "it is being written"
# For so long others wait for the index. To remove one file may take the disk a second.
_HOLD_SECONDS = 0.2
# Longer than filelock's 50 ms between two looks, so that they get their turn.
_PAUSE_SECONDS = 0.06


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What may be removed.

    Attributes:
        dangling: Also models that have no name.
        grace: Seconds; what was written more recently is kept. Docker's tools take no locks, so
            this alone protects what one of them is writing.
        dry_run: Only find out.
        in_use: IDs of models that are loaded.
        only: Digests of blobs, if nothing else may go.
    """

    dangling: bool = False
    grace: float = 3600.0
    dry_run: bool = False
    in_use: Collection[str] = ()
    only: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """Something that was removed, or kept for a reason.

    Attributes:
        kind: What it is.
        name: A model's ID, a blob's digest, or a path below the store.
        bytes: What its removal gives back.
        kept: Why it is still there; empty if it is not.
    """

    kind: Kind
    name: str
    bytes: int
    kept: str = ""


Known: TypeAlias = "Callable[[Sequence[Entry]], References]"


class Pruning:
    """One clean-up of a store.

    Args:
        layout: Where things are.
        index: Which models there are.
        writers: Who must not be disturbed.
        known: What the models of an index need.
        delete: Removes a model by its ID, and says whether it had no name.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        writers: Writers,
        known: Known,
        delete: Callable[[str], bool],
    ) -> None:
        self._layout = layout
        self._index = index
        self._writers = writers
        self._known = known
        self._delete = delete

    def run(self, options: PruneOptions) -> list[Pruned]:
        """Remove what may be removed; what was, and what was kept and why.

        Raises:
            StoreError: The store cannot be read or written.
        """
        with disk_errors(self._layout.root):
            kept: list[tuple[Leftover, str]] = []
            doomed: list[Leftover] = []
            for leftover in self._candidates(options):
                reason = self._spared(leftover, options)
                if reason:
                    kept.append((leftover, reason))
                else:
                    doomed.append(leftover)
            freed = freed_by(doomed)
            reasons = [""] * len(doomed) if options.dry_run else self._remove_all(doomed)
            results = [
                Pruned(leftover.kind, leftover.name, size, reason)
                for leftover, size, reason in zip(doomed, freed, reasons, strict=True)
            ]
            sizes = freed_by([leftover for leftover, _ in kept])
            results += [
                Pruned(leftover.kind, leftover.name, size, reason)
                for (leftover, reason), size in zip(kept, sizes, strict=True)
            ]
            if not options.dry_run and options.only is None:
                self._remove_idle_locks()
                self._remove_idle_ranges()
            return results

    def _candidates(self, options: PruneOptions) -> Iterator[Leftover]:
        entries = self._index.snapshot().entries
        if options.dangling:
            yield from self._dangling(entries)
        for leftover in leftovers(self._layout, self._known(entries)):
            chosen = leftover.kind == "blob" and leftover.name in (options.only or ())
            if options.only is None or chosen:
                yield leftover

    def _dangling(self, entries: Sequence[Entry]) -> Iterator[Leftover]:
        named = [entry for entry in entries if entry.tags]
        elsewhere = self._known(named).blobs
        for entry in entries:
            if entry.tags or not is_digest(entry.id):
                continue
            digits = digest_hex(entry.id)
            manifest = self._layout.manifests / digits
            own = sorted(filter(is_digest, self._known([entry]).blobs - elsewhere))
            blobs = [self._layout.blobs / digest_hex(digest) for digest in own]
            paths = (manifest, self._layout.bundles / digits, *blobs)
            yield Leftover("model", entry.id, paths, None, _modified(manifest))

    def _spared(self, leftover: Leftover, options: PruneOptions) -> str:
        """Why something is kept without a closer look; empty if it may go."""
        if leftover.name in options.in_use:
            return "it is loaded"
        # What a wrong clock has dated into the future has no age: without a grace period it goes.
        if max(0.0, time.time() - leftover.modified) < options.grace:
            return "it is younger than the grace period"
        return ""

    def _remove_all(self, doomed: Sequence[Leftover]) -> list[str]:
        """Remove each unless somebody holds it or began to need it; why it was kept."""
        reasons: list[str] = []
        while len(reasons) < len(doomed):
            if reasons:
                time.sleep(_PAUSE_SECONDS)
            reasons += self._remove_some(doomed[len(reasons) :])
        return reasons

    def _remove_some(self, doomed: Sequence[Leftover]) -> list[str]:
        """The same for as many as can be removed before others have waited for long."""
        if doomed[0].kind == "model":
            return [self._remove_model(doomed[0])]
        reasons: list[str] = []
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(self._writers.kept_out()):
                return [_WRITING] * len(doomed)
            known = self._known(stack.enter_context(self._index.change()))
            until = time.monotonic() + _HOLD_SECONDS
            for leftover in doomed:
                reasons.append(self._remove(leftover, known))
                if time.monotonic() > until:
                    break
        return reasons

    def _remove(self, leftover: Leftover, known: References) -> str:
        with contextlib.ExitStack() as stack:
            if leftover.lock:
                try:
                    stack.enter_context(self._layout.lock(leftover.lock).acquire(timeout=0))
                except filelock.Timeout:
                    return _WRITING
            needed = known.blobs if leftover.kind == "blob" else known.models
            name = leftover.name if leftover.kind == "blob" else _as_id(leftover)
            if leftover.kind in ("blob", "manifest", "bundle") and name in needed:
                return "a model needs it now"
            if leftover.kind == "blob" and not known.complete:
                return "a model's manifest cannot be read, which may name it"
            return _remove_paths(leftover.paths)

    def _remove_model(self, leftover: Leftover) -> str:
        return "" if self._delete(leftover.name) else "it has a name now"

    def _remove_idle_locks(self) -> None:
        """Remove the lock files of killed writers, and of blobs and bundles that are gone."""
        with self._writers.kept_out():
            pass
        models = self._index.snapshot().by_id
        blobs = self._digits_of_blobs()
        for path in self._layout.locks.glob("*.lock"):
            name = path.stem
            digits = name.removeprefix("bundle-")
            if name in _LASTING_LOCKS or not is_hex(digits):
                continue
            is_bundle = name.startswith("bundle-")
            if not (f"sha256:{digits}" in models if is_bundle else digits in blobs):
                self._remove_lock(path)

    def _remove_idle_ranges(self) -> None:
        """Remove what is known of blobs that are gone and that no model lacks."""
        needed = self._known(self._index.snapshot().entries)
        blobs = self._digits_of_blobs()
        for path in self._layout.ranges.glob("*"):
            gone = path.name not in blobs
            if gone and needed.complete and f"sha256:{path.name}" not in needed.blobs:
                path.unlink(missing_ok=True)

    def _digits_of_blobs(self) -> set[str]:
        """Of those that are here, and of those of which a part is."""
        return {path.name[:64] for path in self._layout.blobs.glob("*")}

    def _remove_lock(self, path: Path) -> None:
        lock = self._layout.lock(path.stem)
        with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=0):
            path.unlink(missing_ok=True)


def _as_id(leftover: Leftover) -> str:
    return f"sha256:{leftover.paths[0].name}"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove_paths(paths: Sequence[Path]) -> str:
    """Remove files and directories; why one could not be removed."""
    try:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("could not remove `%s`: %s", error.filename, error)
        return f"it cannot be removed: {(error.strerror or str(error)).lower()}"
    return ""
