"""A TCP proxy that breaks on purpose, and counts what it delivers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIECE = 16 * 1024


class FaultProxy:
    """Stands between a client and a server on this machine.

    Attributes:
        port: Where clients connect to, on 127.0.0.1.
        delivered: Bytes that went from the server to clients, over all connections.
        cuts: After so many further bytes to clients the connection that carries them is reset; then
            the next number counts. Empty: never.
        stall_after: After so many further bytes nothing is delivered until `released` is set.
        stalled: Set once that happened.
        released: Ends the stall.
        received: Bytes that went from clients to the server.
        upward_cuts: As `cuts`, of what a client sends; of one connection, not over all of them.
        rate: Bytes a second that a connection carries to its client at most; None: all there are.
        flip_at: After so many further bytes to clients one bit is turned over. None: never.
        open: Connections that are open.
        most: The most that were open at the same time.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.delivered = 0
        self.cuts: list[int] = []
        self.stall_after: int | None = None
        self.stalled = asyncio.Event()
        self.released = asyncio.Event()
        self.received = 0
        self.upward_cuts: list[int] = []
        self.rate: float | None = None
        self.flip_at: int | None = None
        self.open = 0
        self.most = 0
        self._upstream_port = upstream_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()

    @property
    def address(self) -> str:
        """Where clients connect to, by the name that registries take for plain http."""
        return f"localhost:{self.port}"

    async def serve(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        """One connection, in the task that asyncio made for it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            client_writer.transport.abort()
            return
        upwards = asyncio.create_task(self._collect(client_reader, writer, client_writer))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            # Cancelled by close() alone; asyncio logs a connection's task that ends so as an error.
            with suppress(OSError, asyncio.CancelledError):
                await self._deliver(reader, client_writer)
        finally:
            self.open -= 1
            upwards.cancel()
            await asyncio.gather(upwards, return_exceptions=True)
            writer.transport.abort()
            client_writer.transport.abort()

    async def has_delivered(self, more: int) -> None:
        """Wait until so many further bytes went to clients."""
        enough = self.delivered + more
        while self.delivered < enough:
            self._progress.clear()
            await self._progress.wait()

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if self.stall_after is not None and len(piece) > self.stall_after:
                head, piece = piece[: self.stall_after], piece[self.stall_after :]
                await self._write(writer, head)
                self.stalled.set()
                await self.released.wait()
                self.stall_after = None
            if self.cuts and len(piece) > self.cuts[0]:
                # FIN after the last byte, as a server does that dies: what was sent arrives.
                await self._write(writer, piece[: self.cuts.pop(0)])
                writer.close()
                await writer.wait_closed()
                return
            await self._write(writer, piece)

    async def _collect(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client_writer: asyncio.StreamWriter,
    ) -> None:
        sent = 0
        while piece := await reader.read(_PIECE):
            sent += len(piece)
            self.received += len(piece)
            if self.upward_cuts and sent > self.upward_cuts[0]:
                self.upward_cuts.pop(0)
                writer.transport.abort()
                client_writer.transport.abort()
                return
            writer.write(piece)
            await writer.drain()

    async def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        self.delivered += len(piece)
        self._progress.set()
        if self.flip_at is not None:
            if self.flip_at < len(piece):
                turned = bytearray(piece)
                turned[self.flip_at] ^= 1
                piece, self.flip_at = bytes(turned), None
            else:
                self.flip_at -= len(piece)
        if self.cuts:
            self.cuts[0] -= min(len(piece), self.cuts[0])
        if self.stall_after is not None:
            self.stall_after -= min(len(piece), self.stall_after)
        writer.write(piece)
        await writer.drain()
        if self.rate is not None:
            await asyncio.sleep(len(piece) / self.rate)


@asynccontextmanager
async def fault_proxy(upstream_port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy before a server on 127.0.0.1."""
    proxy = FaultProxy(upstream_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
