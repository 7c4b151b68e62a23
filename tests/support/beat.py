"""Something that happens again and again, to be waited for on an event loop."""

from __future__ import annotations

import asyncio


class Beat:
    """Whoever waits for the next one goes on when it strikes."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def strike(self) -> None:
        """It happens."""
        self._next.set()
        self._next = asyncio.Event()

    async def next(self) -> None:
        """Wait until it happens."""
        await self._next.wait()
