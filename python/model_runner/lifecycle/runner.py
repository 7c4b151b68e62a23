"""A runner: one engine process that serves one model in one mode, from its start to its end."""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model_runner.errors import EngineFailed
from model_runner.lifecycle import readiness
from model_runner.lifecycle.process import EngineProcess

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from model_runner.lifecycle.log import EngineLog
    from model_runner.lifecycle.plane import DataPlane
    from model_runner.lifecycle.preparation import Prepared

# How often a draining runner is asked for its leases.
_DRAIN_SECONDS = 0.02
# llama-server ends within 110 ms of SIGTERM when idle; with requests in flight it waits until their
# clients have closed, so a runner that still holds leases need not be given much time.
_STOP_SECONDS = 10.0
_STOP_SECONDS_WITH_LEASES = 1.0


class State(enum.Enum):
    """Where a runner is in its life."""

    STARTING = "loading"
    READY = "ready"
    RETIRING = "retiring"
    STOPPED = "stopped"
    FAILED = "failed"


_TRANSITIONS = {
    State.STARTING: {State.READY, State.FAILED, State.STOPPED},
    State.READY: {State.RETIRING, State.FAILED},
    State.RETIRING: {State.STOPPED},
    State.STOPPED: set(),
    State.FAILED: set(),
}


@dataclass(frozen=True, slots=True)
class RunnerKey:
    """What there is one runner of: a model, by its ID, in a mode."""

    model_id: str
    mode: str


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """A runner as others see it.

    Attributes:
        runner_id: Identifies it for as long as its process lives.
        backend: The engine's name.
        model: The model's display name.
        model_id: `sha256:…`.
        mode: `completion`, `embedding` or `reranking`.
        state: `loading`, `ready` or `retiring`.
        last_used: When it became idle; None while it is in use or loading.
        in_use: Whether requests are being answered or wait for a slot.
        keep_alive: Seconds that it stays loaded when idle; negative: for ever.
        pid: The engine's process; None before it was started.
        log: What that has printed.
        socket_path: Where the engine listens.
        api_key: What the engine wants as a bearer token.
        context_size: Tokens of context for each slot.
        capabilities: What the model can do.
    """

    runner_id: str
    backend: str
    model: str
    model_id: str
    mode: str
    state: str
    last_used: datetime | None
    in_use: bool
    keep_alive: float
    pid: int | None
    log: Path | None
    socket_path: Path
    api_key: str = field(repr=False)
    context_size: int
    capabilities: tuple[str, ...]


class Runner:
    """One engine process and its state. All methods are called from the loop's thread.

    Args:
        key: What it serves.
        prepared: The process to start.
        model: The model's display name, under which the engine answers and requests are counted.
        tags: The model's tags; they change when it is tagged anew.
        keep_alive: Seconds that it stays when idle, negative for ever; requests may change it.
    """

    def __init__(
        self,
        key: RunnerKey,
        prepared: Prepared,
        *,
        model: str,
        tags: tuple[str, ...],
        keep_alive: float,
    ) -> None:
        self.key = key
        self.prepared = prepared
        self.model = model
        self.tags = tags
        self.keep_alive = keep_alive
        self.state = State.STARTING
        self.process: EngineProcess | None = None
        # When a lease call was last answered with it, and how many requests had ended by then.
        self.named_at = time.monotonic()
        self.named_requests = 0
        self._hurry = asyncio.Event()

    @property
    def runner_id(self) -> str:
        """Never used twice."""
        return self.prepared.runner_id

    @property
    def socket_path(self) -> Path:
        """Where its engine listens."""
        return self.prepared.socket_path

    def has_context(self, wanted: int) -> bool:
        """Whether it has so many tokens for a request, or as many as the model can have."""
        return min(wanted, self.prepared.context_limit) <= self.prepared.context_size

    def move(self, state: State) -> None:
        """Go over to another state.

        Raises:
            RuntimeError: There is no way from the present state to that one: an error of ours.
        """
        if state not in _TRANSITIONS[self.state]:
            raise RuntimeError(f"runner {self.runner_id} cannot go from {self.state} to {state}")
        self.state = state

    async def start(self, log: EngineLog, stall_timeout: float) -> None:
        """Start the engine and wait until it answers; whatever goes wrong, no process is left.

        Raises:
            EngineFailed: It could not be started, ended, or made no progress.
        """
        try:
            self.process = await EngineProcess.spawn(
                self.prepared.plan, log, self.socket_path.parent
            )
            await readiness.wait_ready(self.process, self.socket_path, stall_timeout)
        except BaseException as error:
            self.move(State.STOPPED if isinstance(error, asyncio.CancelledError) else State.FAILED)
            await self._reap(grace=0)
            if isinstance(error, OSError):
                raise EngineFailed(f"the engine could not be started: {error}") from error
            raise
        self.move(State.READY)

    def hurry(self) -> None:
        """Do not wait for leases any longer."""
        self._hurry.set()

    async def retire(self, plane: DataPlane) -> None:
        """Leave the route table, let the leases end, stop the engine; from RETIRING to STOPPED.

        Leases are waited for without limit, unless `hurry` is called or the engine ends by itself.
        """
        leases = plane.retire(self.runner_id)
        while leases and self._worth_waiting():
            await self._wait_for_hurry(_DRAIN_SECONDS)
            leases = plane.retire(self.runner_id)
        await self._reap(_STOP_SECONDS_WITH_LEASES if leases else _STOP_SECONDS)
        self.move(State.STOPPED)

    async def ended(self) -> None:
        """Wait until the process has ended, and clean up behind it."""
        if self.process is not None:
            await self.process.wait()
            self.socket_path.unlink(missing_ok=True)

    def failure(self) -> str:
        """Why the process of a runner that was ready ended, in its own words if it had any."""
        return self.process.failure(served=True) if self.process is not None else ""

    def _worth_waiting(self) -> bool:
        return not self._hurry.is_set() and self.process is not None and not self.process.exited

    async def _wait_for_hurry(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._hurry.wait(), timeout)
        except asyncio.TimeoutError:
            return

    async def _reap(self, grace: float) -> None:
        if self.process is not None:
            if grace:
                await self.process.stop(grace)
            else:
                await self.process.kill()
        self.socket_path.unlink(missing_ok=True)
