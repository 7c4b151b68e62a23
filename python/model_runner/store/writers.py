"""Who is bringing files into the store at the moment, here and in other processes.

What a writer has brought is in no model until its last step, and looks like rubbish to whoever
cleans up; what it has found may belong to a model that is removed meanwhile. So each writer holds a
lock file of its own for as long as it works. Beside it lies what it needs (`.needs`), and whoever
empties the store asks it to stop (`.stop`).
"""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from model_runner.errors import Conflict
from model_runner.store.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from model_runner.store.layout import Layout

_PREFIX = "writer-"
# Between two looks whether those who were asked to stop have stopped.
_LOOK_SECONDS = 0.05


class Writer:
    """One who brings files into a store. Methods block for moments.

    Args:
        writers: All of its store.
        lock: Its lock file.
    """

    def __init__(self, writers: Writers, lock: Path) -> None:
        self._writers = writers
        self._lock = lock

    def needs(
        self, blobs: Mapping[str, int], admit: Callable[[Mapping[str, int]], None] | None = None
    ) -> None:
        """Until this writer is done, these blobs outlive the models that have them.

        Say so first and look then whether a blob is here: what was found is still there later.

        Args:
            blobs: By digest the bytes that room is kept for, if they are to come; else 0.
            admit: Given the same of all others, it may refuse. Two that ask it do so one after
                the other.

        Raises:
            StoreError: The disk refused; DiskFull if there is no room.
            ModelRunnerError: What `admit` raised.
        """
        with disk_errors(self._lock.parent.parent), self._writers.door():
            if admit:
                admit(self._writers.needed(but=self._lock))
            with _needs_of(self._lock).open("a") as file:
                file.writelines(f"{digest} {size}\n" for digest, size in blobs.items())

    def check(self) -> None:
        """See whether it may go on. Costs two `stat`.

        Raises:
            Conflict: The store was emptied, or is about to be.
        """
        # Docker's tools empty a store without a word, and its locks along with it.
        if _stop_of(self._lock).exists() or not self._lock.exists():
            raise Conflict(
                "the model store is being emptied: somebody has forced a purge",
                hint="try again when it is done",
            )


class Writers:
    """The writers of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Be a writer: until the end of this nothing is pruned that is in no model.

        Raises:
            OSError: The store cannot be written.
        """
        lock = self._layout.lock(f"{_PREFIX}{secrets.token_hex(8)}")
        path = Path(lock.lock_file)
        with self.door():
            lock.acquire()
        try:
            yield Writer(self, path)
        finally:
            # It is gone before it is released, so that nobody takes it for a crashed writer's.
            _remove(path)
            lock.release()

    @contextlib.contextmanager
    def kept_out(self) -> Iterator[bool]:
        """Let no writer begin meanwhile; says whether there are none.

        Raises:
            OSError: The store cannot be written.
        """
        with self.door():
            yield not self._alive()

    @contextlib.contextmanager
    def sent_away(self, patience: float) -> Iterator[None]:
        """Let no writer begin meanwhile; those that there are stop first.

        Args:
            patience: Seconds to wait for them. One that has not stopped by then is told all the
                same, and finds out with its next step.

        Raises:
            OSError: The store cannot be written.
        """
        deadline = time.monotonic() + patience
        while True:
            with self.door():
                alive = self._alive()
                for path in alive:
                    with contextlib.suppress(OSError):  # a purge of a full disk goes on without
                        _stop_of(path).touch()
                if not alive or time.monotonic() > deadline:
                    yield
                    return
            time.sleep(_LOOK_SECONDS)

    @contextlib.contextmanager
    def letting_go(self) -> Iterator[Collection[str]]:
        """Let nobody begin to need a blob meanwhile; gives those that are needed.

        Raises:
            OSError: The store cannot be written.
        """
        with self.door():
            yield self.needed().keys()

    def needed(self, but: Path | None = None) -> dict[str, int]:
        """What writers need, but for one of them. The caller holds the door."""
        found: dict[str, int] = {}
        for path in self._alive():
            for digest, size in _read_needs(path) if path != but else ():
                found[digest] = max(size, found.get(digest, 0))
        return found

    def door(self) -> filelock.FileLock:
        """Held for moments: by who begins to write, and by who removes a file.

        Who also takes the lock of the index takes this one first.
        """
        return self._layout.lock("writers")

    def _alive(self) -> list[Path]:
        """The lock files of those that are at work; what killed ones left is removed."""
        for lock in self._layout.locks.glob(f"{_PREFIX}*.stop"):
            if not lock.with_suffix(".lock").exists():
                lock.unlink(missing_ok=True)
        return [path for path in self._layout.locks.glob(f"{_PREFIX}*.lock") if self._lives(path)]

    def _lives(self, path: Path) -> bool:
        try:
            with self._layout.lock(path.stem).acquire(timeout=0):
                _remove(path)
        except filelock.Timeout:
            return True
        return False


def _needs_of(lock: Path) -> Path:
    return lock.with_suffix(".needs")


def _stop_of(lock: Path) -> Path:
    return lock.with_suffix(".stop")


def _remove(lock: Path) -> None:
    """Remove what a writer has; last what it is found by."""
    for path in (_needs_of(lock), _stop_of(lock), lock):
        path.unlink(missing_ok=True)


def _read_needs(lock: Path) -> Iterator[tuple[str, int]]:
    try:
        lines = _needs_of(lock).read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        digest, _, size = line.partition(" ")
        # A line that was cut short, by a full disk, was never relied on.
        if size.isdecimal():
            yield digest, int(size)
