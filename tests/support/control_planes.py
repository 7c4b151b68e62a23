"""The control plane's application on a real socket, with doubles for parts not under test."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from model_runner.api import Services, create_app
from model_runner.api.server import ControlServer
from model_runner.config import Settings
from model_runner.errors import NotFound
from model_runner.registry import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime


@dataclass
class FakeRunner:
    """A runner as the scheduler tells of it."""

    runner_id: str = "r1"
    backend: str = "llama.cpp"
    model: str = "ai/tiny-script"
    model_id: str = "sha256:0"
    mode: str = "completion"
    state: str = "ready"
    last_used: datetime | None = None
    in_use: bool = False
    keep_alive: float = 300.0
    pid: int | None = None
    log: Path | None = None
    socket_path: Path = Path("/nonexistent.sock")
    api_key: str = "secret"
    context_size: int = 4096
    capabilities: tuple[str, ...] = ("completion",)


@dataclass
class FakeScheduler:
    """Remembers what it was told; leases answer with whatever `answer` is."""

    loaded: list[FakeRunner] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    answer: Callable[[str, str, str | None], object] = lambda *_: "r1"
    events: list[tuple[str, ...]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def runners(self):
        return self.loaded

    def leases(self, model_id):
        return self.in_flight.get(model_id, 0)

    async def lease(self, model, mode, *, failed_runner=None, context_size=0):
        self.asked.set()
        self.events.append(("lease", model, str(context_size)))
        result = self.answer(model, mode, failed_runner)
        if not isinstance(result, asyncio.Event):
            return result
        try:
            await result.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return "r1"

    async def unload(self, model_id=None, *, force=False):
        self.events.append(("unload", str(model_id), str(force)))
        gone = [runner for runner in self.loaded if model_id in {None, runner.model_id}]
        self.loaded = [runner for runner in self.loaded if runner not in gone]
        return len(gone)

    def set_keep_alive(self, runner_id, seconds):
        if runner_id not in {runner.runner_id for runner in self.loaded}:
            raise NotFound(f"there is no runner `{runner_id}`")
        self.events.append(("keep_alive", runner_id, str(seconds)))

    def retire(self, model_id):
        self.events.append(("retire", model_id))
        return sum(runner.model_id == model_id for runner in self.loaded)

    async def refresh(self):
        self.events.append(("refresh",))


@dataclass
class FakeRegistry:
    """A registry whose pull is a script of progress messages, events to wait for, and errors."""

    script: list[object] = field(default_factory=list)
    pulled: list[tuple[str, str | None]] = field(default_factory=list)
    insecure: list[bool] = field(default_factory=list)
    inspected: list[str] = field(default_factory=list)
    pushed: list[tuple[str, str | None]] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def pull(self, reference, *, token=None, insecure=False, report):
        self.insecure.append(insecure)
        self.pulled.append((reference, token))
        await self._play(report)

    async def push(self, reference, *, token=None, insecure=False, report):
        self.insecure.append(insecure)
        self.pushed.append((reference, token))
        await self._play(report)

    async def inspect(self, reference):
        self.inspected.append(reference)
        (found,) = self.script
        if isinstance(found, Exception):
            raise found
        return found

    async def _play(self, report):
        self.began.set()
        try:
            for step in self.script:
                if isinstance(step, Progress):
                    report(step)
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class FakeEngine:
    """An engine that is there."""

    name = "llama.cpp"

    def status(self):
        return "Running: llama.cpp b1234"

    def disk_usage(self):
        return 4321


@dataclass
class Answer:
    """A response, read to its end."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """Sends paths exactly as they are written."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    def open(self, method: str, path: str, **options):
        """The response as a stream, to be used with `async with`."""
        url = URL("http://localhost" + path, encoded=True)
        return self.session.request(method, url, allow_redirects=False, **options)

    async def send(self, method: str, path: str, **options) -> Answer:
        async with self.open(method, path, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, await response.read(), headers)

    async def get(self, path: str, **options) -> Answer:
        return await self.send("GET", path, **options)


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, **parts) -> AsyncIterator[Client]:
    """Serve the application with these parts of `Services`; what is missing is a double or None."""
    given = {
        "settings": Settings(),
        "store": None,
        "registry": FakeRegistry(),
        "scheduler": FakeScheduler(),
        "engine": FakeEngine(),
        "media": None,
        "responses": None,
        "exporter": None,
    }
    services = Services(**{**given, **parts})
    path = tmp_path / "control.sock"
    server = ControlServer(path)
    await server.start(create_app(services))
    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(path)), skip_auto_headers=["Accept"]
        ) as session:
            yield Client(session)
    finally:
        await server.stop()
