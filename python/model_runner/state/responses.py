"""Stored responses: kept for a time and within bounds, chained to what they answer to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_runner.errors import (
    CannotCancel,
    ItemNotFound,
    PreviousResponseNotFound,
    PreviousResponseUnfinished,
    RequestTooLarge,
    ResponseNotFound,
    StateError,
    StateFull,
)
from model_runner.state import items, packing
from model_runner.state.items import Link, Page
from model_runner.state.owner import Owner
from model_runner.state.table import Bounds, Row, Table

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from model_runner.state.database import Database

__all__ = ["Bounds", "Page", "Responses", "Submission"]

log = logging.getLogger(__name__)

UNFINISHED = ("queued", "in_progress")

# Whoever keeps nothing for longer than a day expects it gone within the hour, not at the next use.
_SWEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Submission:
    """A response as it is stored.

    Attributes:
        id: Its ID.
        response: The response object, as clients are to get it.
        input: What it was asked, item by item.
        previous_id: The response that it continues, or None.
    """

    id: str
    response: dict[str, Any]
    input: list[Any]
    previous_id: str | None = None


class Responses:
    """The stored responses of a state directory.

    Args:
        database: Where they are.
        bounds: How many are kept, and for how long.
        clock: The time in seconds.
    """

    def __init__(
        self, database: Database, bounds: Bounds, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._owner = Owner(database.directory)
        self._due = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Remove from now on what is too old or too much, and end what dead servers began."""
        self._sweeping = asyncio.create_task(self._keep_sweeping())

    async def close(self) -> None:
        """Let go of the database."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        await self._database.close(first=self._owner.release)

    async def put(self, submission: Submission) -> None:
        """Store a response, also in the place of what was stored of it before.

        One that was cancelled stays so, and one that was deleted while it was made stays away.

        Raises:
            StateError: It could not be stored.
        """
        size, link = await asyncio.to_thread(_packed, submission)
        if link.bytes > self._bounds.bytes:
            raise StateFull(
                f"the response takes {link.bytes} bytes, and all may take {self._bounds.bytes}",
                hint="raise MODEL_RUNNER_RESPONSES_BYTES, or send `store: false`",
            )
        status = str(submission.response.get("status") or "completed")
        unfinished = status in UNFINISHED

        def work(connection: sqlite3.Connection) -> bool:
            if unfinished:
                self._owner.hold()
            table = self._table(connection)
            row = table.find(submission.id)
            if row is not None and row.status in {"cancelled", "deleted"}:
                return False
            owner = self._owner.name if unfinished else None
            table.put(Row(submission.id, submission.previous_id, status, owner, size), link)
            return table.make_room()

        if await self._database.write(work):
            self._due.set()

    async def get(self, response_id: str) -> bytes:
        """A response, as JSON.

        Raises:
            ResponseNotFound: There is none of that ID.
            StateError: It could not be looked up.
        """
        row, link = await self._fetch(response_id)
        if row.owner not in {None, self._owner.name}:
            await self._database.write(self._end_orphans)
            row, link = await self._fetch(response_id)
        return packing.unpack(link.response)

    async def delete(self, response_id: str) -> None:
        """Remove a response.

        Raises:
            ResponseNotFound: There is none of that ID.
            StateError: It could not be removed.
        """

        def work(connection: sqlite3.Connection) -> None:
            table = self._table(connection)
            row = _there(table.live(response_id), response_id)
            if row.owner is None:
                table.remove(row)
            else:
                # Whoever works on it will store it once more: this keeps its place until then.
                gone = Row(row.id, row.previous_id, "deleted", None, 0)
                table.put(gone, Link(row.id, b"{}", b"[]"))

        await self._database.write(work)

    async def cancel(self, response_id: str) -> bytes:
        """Mark a response that is made in the background as cancelled; the response, as JSON.

        Raises:
            ResponseNotFound: There is none of that ID.
            CannotCancel: It is not made in the background, or no longer.
            StateError: The change could not be stored.
        """

        def work(connection: sqlite3.Connection) -> bytes:
            table = self._table(connection)
            row = _there(table.live(response_id), response_id)
            link = table.body(row)
            response = packing.load(link.response)
            if not response.get("background"):
                raise CannotCancel("synchronous")
            if row.status == "cancelled":
                return packing.unpack(link.response)
            if row.status not in UNFINISHED:
                raise CannotCancel(row.status)
            return _end(table, row, link, {**response, "status": "cancelled"})

        return await self._database.write(work)

    async def history(self, response_id: str, *, limit: int) -> list[items.Item]:
        """All items of the chain that ends with a response, the oldest first.

        The chain counts as used: it is kept, or goes, as one.

        Args:
            response_id: The last one of the chain.
            limit: How many bytes of JSON it may be.

        Raises:
            PreviousResponseNotFound: One of the chain is missing.
            PreviousResponseUnfinished: The last one is still being made.
            RequestTooLarge: It is more than the limit.
            StateError: It could not be looked up.
        """

        def work(connection: sqlite3.Connection) -> list[Link]:
            table = self._table(connection)
            chain, missing = table.chain(response_id)
            if missing is not None:
                raise PreviousResponseNotFound(missing, asked=response_id)
            if chain[-1].status in UNFINISHED:
                raise PreviousResponseUnfinished(response_id)
            if sum(row.size for row in chain) > limit:
                raise RequestTooLarge(
                    f"the conversation that ends with '{response_id}' is larger than {limit} bytes",
                    hint="raise MODEL_RUNNER_BODY_LIMIT, or begin a new conversation",
                )
            return [table.body(row) for row in chain]

        links = await self._database.read(work)
        with contextlib.suppress(StateError):  # a disk that is full can still be read
            await self._database.write(
                lambda connection: self._table(connection).touch([link.id for link in links])
            )
        return await asyncio.to_thread(items.conversation, links)

    async def named_items(self, item_ids: list[str]) -> list[items.Item]:
        """Items of stored responses, in the order of their IDs, each of which names its response.

        Raises:
            ItemNotFound: There is none of that ID.
            StateError: It could not be looked up.
        """
        said: dict[str, dict[str, items.Item]] = {}
        found = []
        for item_id in item_ids:
            response_id = items.response_of(item_id)
            if response_id is None:
                raise ItemNotFound(item_id)
            if response_id not in said:
                said[response_id] = await self._said(response_id)
            if item_id not in said[response_id]:
                raise ItemNotFound(item_id)
            found.append(said[response_id][item_id])
        return found

    async def _said(self, response_id: str) -> dict[str, items.Item]:
        try:
            _, link = await self._fetch(response_id)
        except ResponseNotFound:
            return {}
        said = await asyncio.to_thread(items.conversation, [link])
        return {item["id"]: item for item in said if isinstance(item.get("id"), str)}

    async def input_items(self, response_id: str, page: Page) -> dict[str, Any]:
        """A page of what a response was made from, earlier turns included.

        Raises:
            ResponseNotFound: There is none of that ID.
            InvalidParameter: There is no such page.
            StateError: It could not be looked up.
        """

        def work(connection: sqlite3.Connection) -> list[Link]:
            table = self._table(connection)
            _there(table.live(response_id), response_id)
            chain, _ = table.chain(response_id)
            return [table.body(row) for row in chain]

        links = await self._database.read(work)
        return await asyncio.to_thread(items.input_items, links, page)

    async def sweep(self) -> None:
        """Remove what is too old or too much, in steps between which others get their turn.

        Raises:
            StateError: The database cannot be used.
        """
        if not await self._database.exists():
            return
        await self._database.write(self._end_orphans)
        while await self._database.write(lambda connection: self._table(connection).make_room()):
            pass
        while await self._database.write(lambda connection: self._table(connection).give_back()):
            pass

    async def _keep_sweeping(self) -> None:
        while True:
            self._due.clear()
            try:
                await self.sweep()
            except StateError as error:
                log.warning("responses are not stored: %s", error)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._due.wait(), _SWEEP_SECONDS)

    def _table(self, connection: sqlite3.Connection) -> Table:
        return Table(connection, self._bounds, self._clock())

    async def _fetch(self, response_id: str) -> tuple[Row, Link]:
        def work(connection: sqlite3.Connection) -> tuple[Row, Link]:
            table = self._table(connection)
            row = _there(table.live(response_id), response_id)
            return row, table.body(row)

        return await self._database.read(work)

    def _end_orphans(self, connection: sqlite3.Connection) -> None:
        """What a server that is dead was working on has failed."""
        table = self._table(connection)
        for owner in table.owners():
            if self._owner.lives(owner):
                continue
            for row in table.owned(owner):
                link = table.body(row)
                said = "the server ended before the response was complete"
                failed = {"status": "failed", "error": {"code": "server_error", "message": said}}
                _end(table, row, link, {**packing.load(link.response), **failed})


def _packed(submission: Submission) -> tuple[int, Link]:
    """How large a response is as JSON, and what is stored of it."""
    response, asked = packing.encode(submission.response), packing.encode(submission.input)
    link = Link(submission.id, packing.pack(response), packing.pack(asked))
    return len(response) + len(asked), link


def _there(row: Row | None, response_id: str) -> Row:
    if row is None:
        raise ResponseNotFound(response_id)
    return row


def _end(table: Table, row: Row, link: Link, response: dict[str, Any]) -> bytes:
    """Store that an unfinished response has ended; what it had begun to say stays, incomplete."""
    response["output"] = [
        {**item, "status": "incomplete"}
        if isinstance(item, dict) and item.get("status") == "in_progress"
        else item
        for item in response.get("output") or []
    ]
    body = packing.encode(response)
    ended = Row(row.id, row.previous_id, str(response["status"]), None, row.size)
    table.put(ended, Link(row.id, packing.pack(body), link.input))
    return body
