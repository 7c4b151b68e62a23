"""The tables of responses, within one transaction: rows, chains, and room for new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import StateError
from model_runner.state.items import Link

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

# What one step may remove and give back: some milliseconds, so that nobody waits long for a turn.
_STEP_ROWS = 32
_STEP_BYTES = 8 * 1024 * 1024
_STEP_PAGES = 256

# Free pages that stay in the file, for the next responses: 4 MiB.
_SPARE_PAGES = 1024

# What a row takes besides its bodies, with its places in the indices: 264 bytes were measured.
_ROW_BYTES = 256

_COLUMNS = "responses.id, responses.previous_id, responses.status, responses.owner, responses.size"

# One in progress is not too old, however long it takes. What was deleted only keeps its place.
_LIVE = (
    "(responses.status <> 'deleted'"
    " AND (responses.owner IS NOT NULL OR responses.used_at > :cutoff))"
)

# UNION drops what it has seen, so that a chain that bites its tail ends.
_CHAIN = f"""
    WITH RECURSIVE chain (id, previous_id, status, owner, size) AS (
        SELECT {_COLUMNS} FROM responses WHERE responses.id = :id AND {_LIVE}
        UNION
        SELECT {_COLUMNS} FROM chain JOIN responses ON responses.id = chain.previous_id
        WHERE {_LIVE}
    )
    SELECT * FROM chain
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept of responses.

    Attributes:
        seconds: For how long after they were last used.
        count: How many at most.
        bytes: How much room they may take, compressed.
    """

    seconds: float
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a response without reading it.

    Attributes:
        id: Its ID.
        previous_id: The response that it continues, or None.
        status: As in the response object, or `deleted` for one that must not come back.
        owner: The server that is working on it, or None if it is finished.
        size: Bytes of JSON, before compression.
    """

    id: str
    previous_id: str | None
    status: str
    owner: str | None
    size: int


class Table:
    """Stored responses as one transaction sees and changes them."""

    def __init__(self, connection: sqlite3.Connection, bounds: Bounds, now: float) -> None:
        self._connection = connection
        self._bounds = bounds
        self._now = now

    @property
    def _cutoff(self) -> float:
        return self._now - self._bounds.seconds

    def find(self, response_id: str) -> Row | None:
        """The row of that ID, whatever it is."""
        return self._row(f"SELECT {_COLUMNS} FROM responses WHERE id = :id", response_id)  # noqa: S608

    def live(self, response_id: str) -> Row | None:
        """The row of that ID, unless it is too old or deleted."""
        query = f"SELECT {_COLUMNS} FROM responses WHERE id = :id AND {_LIVE}"  # noqa: S608
        return self._row(query, response_id)

    def _row(self, query: str, response_id: str) -> Row | None:
        values = {"id": response_id, "cutoff": self._cutoff}
        found = self._connection.execute(query, values).fetchone()
        return None if found is None else Row(*found)

    def body(self, row: Row) -> Link:
        """What was said, packed.

        Raises:
            StateError: The row has no body, which only a damaged file can be the reason for.
        """
        query = (
            "SELECT response, input FROM response_bodies JOIN responses USING (number) WHERE id = ?"
        )
        found = self._connection.execute(query, (row.id,)).fetchone()
        if found is None:
            raise StateError(f"the state database is damaged: response '{row.id}' has no body")
        return Link(row.id, *found)

    def put(self, row: Row, link: Link) -> None:
        """Write a response, new or in the place of the one of its ID."""
        stored = link.bytes + _ROW_BYTES
        values = (row.previous_id, row.status, row.owner, self._now, row.size, stored, row.id)
        execute = self._connection.execute
        changed = execute(
            "UPDATE responses SET previous_id = ?, status = ?, owner = ?, used_at = ?, size = ?,"
            " bytes = ? WHERE id = ?",
            values,
        )
        if not changed.rowcount:
            execute(
                "INSERT INTO responses (previous_id, status, owner, used_at, size, bytes, id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        execute(
            "INSERT OR REPLACE INTO response_bodies"
            " SELECT number, ?, ? FROM responses WHERE id = ?",
            (link.response, link.input, row.id),
        )

    def remove(self, row: Row) -> None:
        """Remove a response."""
        self._connection.execute("DELETE FROM responses WHERE id = ?", (row.id,))

    def touch(self, ids: Sequence[str]) -> None:
        """Note that these have been used now."""
        self._connection.executemany(
            "UPDATE responses SET used_at = ? WHERE id = ?", [(self._now, one) for one in ids]
        )

    def chain(self, response_id: str) -> tuple[list[Row], str | None]:
        """A response and what it goes back to, the oldest first; the first one that is missing."""
        values = {"id": response_id, "cutoff": self._cutoff}
        rows = {row[0]: Row(*row) for row in self._connection.execute(_CHAIN, values)}
        walked: list[Row] = []
        wanted: str | None = response_id
        while wanted is not None and wanted in rows:
            row = rows.pop(wanted)
            walked.append(row)
            wanted = row.previous_id
        walked.reverse()
        return walked, wanted

    def owners(self) -> list[str]:
        """The servers that are working on a response, or were when they ended."""
        query = "SELECT DISTINCT owner FROM responses WHERE owner IS NOT NULL"
        return [owner for (owner,) in self._connection.execute(query)]

    def owned(self, owner: str) -> list[Row]:
        """What a server is working on."""
        query = f"SELECT {_COLUMNS} FROM responses WHERE owner = ?"  # noqa: S608
        return [Row(*found) for found in self._connection.execute(query, (owner,))]

    def make_room(self) -> bool:
        """Remove some of what is too old or too much, the oldest first; whether there is more."""
        execute = self._connection.execute
        count, stored = execute("SELECT count, bytes FROM response_totals").fetchone()
        oldest = execute(
            "SELECT number, bytes, used_at FROM responses WHERE owner IS NULL"
            " ORDER BY used_at, number LIMIT ?",
            (_STEP_ROWS,),
        ).fetchall()
        removed = 0
        for number, size, used_at in oldest:
            fits = count <= self._bounds.count and stored <= self._bounds.bytes
            if fits and used_at > self._cutoff:
                return False
            if removed > _STEP_BYTES:
                return True
            execute("DELETE FROM responses WHERE number = ?", (number,))
            count, stored, removed = count - 1, stored - size, removed + size
        return len(oldest) == _STEP_ROWS

    def give_back(self) -> bool:
        """Make the file smaller by some of the pages that nothing is on; whether there are more."""
        free = self._free_pages()
        pages = min(free - _SPARE_PAGES, _STEP_PAGES)
        if pages <= 0:
            return False
        # A page is freed with every step of the statement.
        self._connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        # A file that somebody else has made may be unable to shrink.
        return _SPARE_PAGES < self._free_pages() < free

    def _free_pages(self) -> int:
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(free)
