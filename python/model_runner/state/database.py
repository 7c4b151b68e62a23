"""The state database: one SQLite file, used by one thread, so that the loop never waits for a disk.

The file is opened when it is first needed. What is wrong with it fails the call that needs it, and
no other: after an error it is opened anew, so that whatever was repaired is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from model_runner.errors import StateError, StateFull
from model_runner.state.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Work = Callable[[sqlite3.Connection], "Result"]

Result = TypeVar("Result")

FILE_NAME = "state.db"

# How long another server on the same file is waited for.
_BUSY_SECONDS = 5.0

# What SQLite says, and what that means to whoever runs the server.
_REASONS = (
    (("not a database", "malformed"), "is damaged", "move it away: the server makes a new one"),
    (("readonly", "read-only"), "cannot be written to", "see the rights of its directory"),
    (("locked", "busy"), "is in use by another program", "try again"),
    (("unable to open",), "cannot be opened", "see the rights of its directory"),
)

_PRAGMAS = (
    # Only of use before there is any table: gives room back in steps, see `Responses`.
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    # What is committed survives a killed process. Losing power may cost the last commits.
    "PRAGMA synchronous = NORMAL",
    # A burst must not leave a log of its size behind for ever.
    f"PRAGMA journal_size_limit = {16 * 1024 * 1024}",
)


class Database:
    """The database in a state directory, for one server; others may use it at the same time.

    Args:
        directory: The state directory, which is made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / FILE_NAME
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def read(self, work: Work[Result]) -> Result:
        """The result of `work`, which sees one state of the tables and changes nothing.

        Raises:
            StateError: The file cannot be used.
        """
        return await self._run("BEGIN", work)

    async def write(self, work: Work[Result]) -> Result:
        """The result of `work`, all of whose changes are kept, or none if it raises.

        Raises:
            StateError: The file cannot be used.
        """
        return await self._run("BEGIN IMMEDIATE", work)

    async def exists(self) -> bool:
        """Whether there is a file: looking something up need not make one."""
        return await self._in_thread(self.path.exists)

    async def close(self, *, first: Callable[[], None] = lambda: None) -> None:
        """Close the file after what was asked for before, and after doing `first` in the thread."""
        await self._in_thread(first)
        await self._in_thread(self._close)
        self._thread.shutdown()

    async def _run(self, begin: str, work: Work[Result]) -> Result:
        return await self._in_thread(lambda: self._transact(begin, work))

    async def _in_thread(self, job: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    # What follows runs in the thread.

    def _transact(self, begin: str, work: Work[Result]) -> Result:
        try:
            connection = self._opened()
            connection.execute(begin)
            try:
                result = work(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise self._explained(error) from error
        return result

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that is there now: the one before may have been removed."""
        if self._connection is not None and self._file == self._identity():
            return self._connection
        self._close()
        self.directory.mkdir(parents=True, exist_ok=True)
        # Two servers that make the file at the same time would refuse each other the log.
        with FileLock(self.directory / "state.lock", timeout=_BUSY_SECONDS):
            # It holds what users wrote; SQLite gives its other files the same rights.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                for pragma in _PRAGMAS:
                    connection.execute(pragma).fetchall()
                migrate(connection)
            except BaseException:
                connection.close()
                raise
        self._connection, self._file = connection, self._identity()
        return connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _explained(self, error: sqlite3.Error | OSError) -> StateError:
        said = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if "disk is full" in said or "No space left" in said:
            return StateFull(
                f"the disk of `{self.path}` is full: {said}",
                hint="make room, or send `store: false`",
            )
        for words, what, hint in _REASONS:
            if any(word in said for word in words):
                return StateError(f"`{self.path}` {what}: {said}", hint=hint)
        return StateError(f"`{self.path}` cannot be used: {said}")
