"""Ending a wait when the client that caused it is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

Result = TypeVar("Result")


async def unless_gone(receive: Receive, wait: Coroutine[None, None, Result]) -> Result | None:
    """The result of `wait`, or None when the client hung up first; `wait` is cancelled then.

    The request's body must have been read before.
    """
    waiting = asyncio.ensure_future(wait)
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await waiting if waiting.done() else None
    finally:
        waiting.cancel()
        leaving.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
