"""Which servers live: each holds a lock as long as its process, which the system lets go with it.

A process ID would not do: two containers that share a state directory may both be process 1.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from pathlib import Path


class Owner:
    """This server, as the owner of what is in progress. All of it is for one thread.

    Args:
        directory: The state directory.
    """

    def __init__(self, directory: Path) -> None:
        self.name = uuid.uuid4().hex
        self._directory = directory / "servers"
        self._lock = FileLock(self._path(self.name))

    def hold(self) -> None:
        """Be known as living from now on."""
        if not self._lock.is_locked:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Be known as living no longer."""
        if self._lock.is_locked:
            self._path(self.name).unlink(missing_ok=True)
            self._lock.release()

    def lives(self, name: str) -> bool:
        """Whether the server of that name lives; if not, what it left is removed."""
        if name == self.name:
            return True
        path = self._path(name)
        if not path.exists():
            return False
        try:
            with FileLock(path, blocking=False):
                path.unlink(missing_ok=True)
        except Timeout:
            return True
        return False

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.lock"
