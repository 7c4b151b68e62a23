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
    async with aclosing(named_events(response)) as received:
        async for _, data in received:
            yield data


async def named_events(response: aiohttp.ClientResponse) -> AsyncGenerator[tuple[str, str], None]:
    """The name and the data of each server-sent event; without a name it is a `message`."""
    name, data = "", list[str]()
    async with aclosing(lines(response)) as received:
        async for line in received:
            field, _, value = line.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
            elif field == "event":
                name = value.removeprefix(" ")
            elif not line:
                if data:
                    yield name or "message", "\n".join(data)
                name, data = "", []
    if data:
        yield name or "message", "\n".join(data)
