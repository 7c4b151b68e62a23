"""Lines and server-sent events out of a body that is still arriving."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import aiohttp


async def lines(response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
    """The lines of a body as they arrive; `StreamReader.readline` would give up at 64 KiB."""
    waiting = bytearray()
    async for received in response.content.iter_any():
        waiting += received
        *complete, rest = waiting.split(b"\n")
        waiting = bytearray(rest)
        for line in complete:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if waiting:
        yield waiting.decode("utf-8", "replace")


async def events(response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
    """The data of each server-sent event."""
    data: list[str] = []
    async with aclosing(lines(response)) as received:
        async for line in received:
            field, _, value = line.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []
    if data:
        yield "\n".join(data)
