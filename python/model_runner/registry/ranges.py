"""Fetches ranges of a blob into memory, each over as many connections as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from model_runner.registry.download import part_begins
from model_runner.registry.wire import TRANSPORT_ERRORS, unreachable

if TYPE_CHECKING:
    from model_runner.registry.source import Source


class NoRangesError(Exception):
    """The source does not serve ranges."""


class Ranges:
    """The ranges of one blob.

    Args:
        source: Where it can be had.
        size: Of the whole blob.

    Attributes:
        fetched: Bytes that came, those of ranges that broke off among them.
    """

    def __init__(self, source: Source, size: int) -> None:
        self.fetched = 0
        self._source = source
        self._size = size

    @property
    def host(self) -> str:
        """The server, for messages."""
        return self._source.host

    async def fetch(self, start: int, end: int) -> bytearray:
        """Bytes `start` to `end`.

        Raises:
            NoRangesError: The source serves the whole blob only.
            RegistryError: It refused, or could not be reached.
            RemoteModelNotFound: It does not have the blob.
        """
        found = bytearray()
        patience, failures = self._source.patience, 0
        while len(found) < end - start:
            before = len(found)
            try:
                await self._receive(found, start + before, end)
            except TRANSPORT_ERRORS as error:
                failures = 1 if len(found) > before else failures + 1
                if failures >= patience.tries:
                    raise unreachable(self._source.host, error) from error
                await patience.wait(failures)
            finally:
                self.fetched += len(found) - before
        return found

    async def _receive(self, found: bytearray, start: int, end: int) -> None:
        response = await self._source.open(start, end)
        whole = response.status == 200 and (start, end) == (0, self._size)
        if not whole and part_begins(response, self._size) != start:
            response.close()
            raise NoRangesError
        try:
            async for piece in response.content.iter_any():
                found += piece[: end - start]
                start += len(piece)
                if start >= end:
                    return
        finally:
            response.release()
        raise aiohttp.ClientPayloadError(f"the body ended {end - start} bytes early")
