"""Parts for tests of the lifecycle: a store in memory, a scripted engine, a started scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.config import Settings
from model_runner.engines import EngineStatus, LaunchPlan, LaunchRequest
from model_runner.errors import ModelNotFound
from model_runner.lifecycle import Scheduler
from model_runner.store.modelfile import Modelfile
from support.planes import RecordingPlane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from model_runner.engines import Engine

_SCRIPT = Path(__file__).with_name("scripted_engine.py")
_LIMIT_SECONDS = 60


def run(main: Awaitable[None]) -> None:
    """Run the asynchronous part of a test."""

    async def limited() -> None:
        await asyncio.wait_for(main, _LIMIT_SECONDS)

    asyncio.run(limited())


@dataclass(frozen=True)
class Config:
    format: str = "gguf"
    context_size: int | None = None
    context_is_chosen: bool = False
    gguf: Mapping[str, str] = field(default_factory=lambda: {"general.architecture": "llama"})
    modelfile: Modelfile = field(default_factory=Modelfile)


@dataclass(frozen=True)
class Model:
    id: str
    tags: tuple[str, ...]
    config: Config = field(default_factory=Config)


@dataclass(frozen=True)
class Bundle:
    gguf: Path | None
    projector: Path | None = None
    chat_template: Path | None = None
    adapters: tuple[Path, ...] = ()


class MemoryStore:
    """Models by name, each with a file."""

    def __init__(self, **files: Path | None) -> None:
        self._models: dict[str, Model] = {}
        self._files: dict[str, Path | None] = {}
        self._generation = 0
        for name, path in files.items():
            self.add(f"docker.io/ai/{name}:latest", path)

    def add(self, tag: str, path: Path | None, config: Config | None = None) -> Model:
        model_id = "sha256:" + hashlib.sha256(tag.encode()).hexdigest()
        model = Model(model_id, (tag,), config or Config())
        self._models[model_id] = model
        self._files[model_id] = path
        self._generation += 1
        return model

    def retag(self, model_id: str, *tags: str) -> None:
        self._models[model_id] = replace(self._models[model_id], tags=tags)
        self._generation += 1

    def remove(self, model_id: str) -> None:
        del self._models[model_id]
        self._generation += 1

    def list(self) -> list[Model]:
        return list(self._models.values())

    def get(self, reference: str) -> Model:
        wanted = names.normalize(reference)
        for model in self._models.values():
            if wanted in (*model.tags, model.id):
                return model
        raise ModelNotFound(reference)

    def generation(self) -> int:
        return self._generation

    def bundle(self, model: Model) -> Bundle:
        return Bundle(self._files[model.id])


class ScriptedEngine:
    """Launches `scripted_engine.py`, with the options that a test sets."""

    name = "scripted"

    def __init__(self, *options: str) -> None:
        self.options = options
        self.launched: list[LaunchRequest] = []

    def status(self) -> EngineStatus:
        return EngineStatus("Running")

    def plan(self, request: LaunchRequest) -> LaunchPlan:
        self.launched.append(request)
        argv = [sys.executable, "-I", "-S", str(_SCRIPT), str(request.socket_path), *self.options]
        return LaunchPlan(argv, {"PATH": "/usr/bin:/bin"})


class Gate:
    """Where a scripted engine waits while it loads: a named pipe, which it reads to the end."""

    def __init__(self, directory: Path) -> None:
        path = directory / "gate"
        os.mkfifo(path)
        self.name = str(path)
        self._pipe: int | None = None

    async def reached(self) -> None:
        """Wait until the engine is there: opening a pipe waits for its reader."""
        self._pipe = await asyncio.to_thread(os.open, self.name, os.O_WRONLY)

    def open(self) -> None:
        """Let it go on."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def __del__(self) -> None:
        self.open()


@dataclass
class Scene:
    """A scheduler and what surrounds it."""

    scheduler: Scheduler
    plane: RecordingPlane
    store: MemoryStore
    engine: Engine
    directory: Path

    def pid(self, runner_id: str) -> int:
        pids = {info.runner_id: info.pid for info in self.scheduler.runners()}
        pid = pids[runner_id]
        assert pid is not None
        return pid

    async def use(self, model: str, mode: str = "completion") -> str:
        """One short request; the runner's ID."""
        runner_id = await self.scheduler.lease(model, mode)
        self.plane.use(runner_id)
        return runner_id


def settings(directory: Path, **changes: object) -> Settings:
    """Settings that touch nothing outside a directory."""
    return Settings(
        **{
            "state_dir": directory / "state",
            "engine_threads": 1,
            "slots": 2,
            "context_size": 512,
            "max_runners": 4,
            **changes,
        }
    )


@asynccontextmanager
async def scene(
    directory: Path,
    store: MemoryStore,
    engine: Engine | Callable[[Settings], Engine],
    **changes: object,
) -> AsyncIterator[Scene]:
    """A started scheduler, which is stopped at the end."""
    plane = RecordingPlane()
    chosen = settings(directory, **changes)
    built = engine(chosen) if callable(engine) else engine
    # Not below pytest's directory, whose path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="model-runner-") as runtime:
        scheduler = Scheduler(
            store=store, engine=built, plane=plane, settings=chosen, runtime_dir=Path(runtime)
        )
        await scheduler.start()
        try:
            yield Scene(scheduler, plane, store, built, Path(runtime))
        finally:
            await scheduler.stop()


def is_alive(pid: int) -> bool:
    """Whether a process exists, zombies not counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_gone(pidfd: int, seconds: float = 10) -> bool:
    """Wait until the process behind a pidfd has ended; it need not be a child."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)
