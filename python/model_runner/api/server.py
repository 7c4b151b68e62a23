"""The HTTP server of the control plane, on a private Unix socket that only the data plane knows."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

# At the end the data plane has closed its connections; this is for the case that it has not.
_SHUTDOWN_SECONDS = 2

_BACKLOG = 1024


class _Uvicorn(uvicorn.Server):
    """Uvicorn as a part of a larger program: signals are not its business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class ControlServer:
    """Serves an application on `path`.

    The socket listens from the constructor on, so whoever connects before `start` waits a moment
    instead of being refused.

    Args:
        path: Where the socket is made, in a directory that nobody else may enter.

    Raises:
        OSError: The socket cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(str(path))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, application: FastAPI) -> None:
        """Begin to answer; returns once it does."""
        config = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        self._server = _Uvicorn(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        ready = asyncio.create_task(self._server.ready.wait())
        try:
            await asyncio.wait({ready, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._serving.done():
            await self._serving

    async def wait_closed(self) -> None:
        """Wait until it serves no longer, by `stop` or because it failed."""
        if self._serving is not None:
            await asyncio.wait({self._serving})

    async def stop(self) -> None:
        """Let requests end within two seconds, then close."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._socket.close()
        self._path.unlink(missing_ok=True)
