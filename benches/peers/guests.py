"""Clients as life has them: they leave, read nothing, want it whole, and lose their engine."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from targets import Target

    Visit = Callable[[], Awaitable[str | None]]

ANSWER_SECONDS = 30.0
STUCK_SECONDS = 10.0


@dataclass(slots=True)
class Guests:
    """Some of each kind, until they are told to stop.

    Attributes:
        target: Whom they visit.
        served: How often each kind was.
        complaints: What went wrong for one, the first few.
    """

    target: Target
    served: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    async def stay(self, end: asyncio.Event) -> None:
        """Until `end`."""
        kinds = [
            *[self._leaving] * 4,
            *[self._losing_the_engine] * 2,
            *[self._wanting_it_whole] * 2,
            *[self._stuck] * 4,
        ]
        await asyncio.gather(*(self._repeat(kind.__name__.strip("_"), kind, end) for kind in kinds))

    async def _repeat(self, name: str, kind: Visit, end: asyncio.Event) -> None:
        while not end.is_set():
            try:
                complaint = await asyncio.wait_for(kind(), ANSWER_SECONDS)
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                complaint = repr(error)
            self.served[name] = self.served.get(name, 0) + 1
            if complaint and len(self.complaints) < 10:
                self.complaints.append(f"{name}: {complaint}")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(end.wait(), random.uniform(0.02, 0.2))

    def _message(self, **wishes: object) -> bytes:
        messages = [{"role": "user", "content": "Tell me of your day."}]
        return wire.request(self.target.path, {"model": "bench", "messages": messages, **wishes})

    async def _leaving(self) -> str | None:
        """Somewhere in a stream."""
        reader, writer = await asyncio.open_connection(*wire.place(self.target.address))
        try:
            writer.write(self._message(stream=True, x_events=500, x_rate=50))
            for _ in range(random.randint(0, 8)):
                await reader.readuntil(b"\n\n")
        finally:
            writer.transport.abort()
        return None

    async def _losing_the_engine(self) -> str | None:
        """In the middle of a stream; it must be said so, and not look like an end."""
        events = random.randint(1, 8)
        answer = await self._answer(
            self._message(stream=True, x_events=20, x_rate=200, x_die_after=events)
        )
        told = b"engine_died" in answer and b"[DONE]" not in answer
        return None if told else f"an engine's death looked like {answer[-300:]!r}"

    async def _wanting_it_whole(self) -> str | None:
        """An answer that the relay puts together."""
        answer = await self._answer(self._message(x_events=50, x_rate=200, x_seed=12345678))
        right = answer.startswith(b"HTTP/1.1 200") and b" 12345678-00000049 " in answer
        return None if right else f"a whole answer was {answer[:300]!r}"

    async def _answer(self, message: bytes) -> bytes:
        """All that comes on a connection of its own."""
        reader, writer = await asyncio.open_connection(*wire.place(self.target.address))
        try:
            # The connection is to end with the answer.
            writer.write(message.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            return await reader.read(-1)
        finally:
            writer.close()

    async def _stuck(self) -> str | None:
        """Asks for megabytes and reads none of them."""
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(connection, wire.place(self.target.address))
            message = self._message(stream=True, x_events=1_000_000, x_rate=0)
            await loop.sock_sendall(connection, message)
            await asyncio.sleep(random.uniform(0.5, 1.0) * STUCK_SECONDS)
        return None
