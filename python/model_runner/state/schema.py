"""The tables of the state database, as the steps that lead to them from an empty file.

A step that has been released is never changed: `user_version` counts those that a file has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_runner.errors import StateError

if TYPE_CHECKING:
    import sqlite3

# Bodies lie apart: a chain is walked, and its rows are touched, without reading what was said.
_RESPONSES = (
    """
    CREATE TABLE responses (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        previous_id TEXT,
        status TEXT NOT NULL,
        owner TEXT,
        used_at REAL NOT NULL,
        size INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE response_bodies (
        number INTEGER PRIMARY KEY,
        response BLOB NOT NULL,
        input BLOB NOT NULL
    )
    """,
    "CREATE INDEX responses_by_use ON responses (used_at, number) WHERE owner IS NULL",
    "CREATE INDEX responses_by_owner ON responses (owner) WHERE owner IS NOT NULL",
    # Counting 100,000 rows with every put would take longer than the put.
    "CREATE TABLE response_totals (count INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT INTO response_totals VALUES (0, 0)",
    """
    CREATE TRIGGER response_added AFTER INSERT ON responses BEGIN
        UPDATE response_totals SET count = count + 1, bytes = bytes + NEW.bytes;
    END
    """,
    """
    CREATE TRIGGER response_resized AFTER UPDATE OF bytes ON responses BEGIN
        UPDATE response_totals SET bytes = bytes + NEW.bytes - OLD.bytes;
    END
    """,
    """
    CREATE TRIGGER response_removed AFTER DELETE ON responses BEGIN
        UPDATE response_totals SET count = count - 1, bytes = bytes - OLD.bytes;
        DELETE FROM response_bodies WHERE number = OLD.number;
    END
    """,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_RESPONSES,)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to what this program knows, each step whole or not at all.

    Raises:
        StateError: A newer program has been there.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StateError(
            f"the state database is of version {version}, and this program knows {len(MIGRATIONS)}",
            hint="use the newer program that wrote it, or another MODEL_RUNNER_STATE_DIR",
        )
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in step:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
