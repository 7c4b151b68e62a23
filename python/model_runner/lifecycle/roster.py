"""The runners that there are: how busy they are, which names lead to them, what changes."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from model_runner.lifecycle import policy
from model_runner.lifecycle.plane import Route
from model_runner.lifecycle.runner import Runner, RunnerInfo, RunnerKey, State
from model_runner.lifecycle.spellings import Spellings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_runner._core import RunnerSnapshot, Snapshot
    from model_runner.config import Settings
    from model_runner.lifecycle.plane import DataPlane


class Roster:
    """At most one runner for each key. Whatever changes here is published and announced.

    Args:
        plane: Where routes are published.
        settings: Slots, as others are told of them.
        backend: The engine's name.
        usual_names: The usual spellings of a model, from its tags and its ID.
    """

    def __init__(
        self,
        plane: DataPlane,
        settings: Settings,
        backend: str,
        usual_names: Callable[[tuple[str, ...], str], list[str]],
    ) -> None:
        self.spellings = Spellings()
        self._plane = plane
        self._settings = settings
        self._backend = backend
        self._usual_names = usual_names
        self._runners: dict[RunnerKey, Runner] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        """How many places are taken."""
        return len(self._runners)

    def get(self, key: RunnerKey) -> Runner | None:
        """The runner for a key, if there is one."""
        return self._runners.get(key)

    def add(self, runner: Runner) -> None:
        """Take in a runner whose engine is about to be started."""
        self._runners[runner.key] = runner

    def drop(self, runner: Runner) -> None:
        """Forget a runner whose process is gone."""
        if self._runners.get(runner.key) is runner:
            del self._runners[runner.key]
        self.publish()

    def of(self, model_id: str | None = None) -> list[Runner]:
        """The runners of a model, or all."""
        return [run for run in self._runners.values() if model_id in (None, run.key.model_id)]

    def ready(self) -> list[Runner]:
        """The runners that requests are sent to."""
        return self._in(State.READY)

    def retiring(self) -> list[Runner]:
        """The runners that are on their way out."""
        return self._in(State.RETIRING)

    def logs(self) -> set[Path]:
        """The log files that engines are writing."""
        return {runner.process.log.path for runner in self.of() if runner.process is not None}

    def activities(self) -> list[policy.Activity]:
        """How busy the ready runners are."""
        now = time.monotonic()
        snapshot = self._plane.snapshot()
        by_id = {item.runner_id: item for item in snapshot.runners}
        return [
            policy.Activity(
                runner_id=runner.runner_id,
                busy=bool(item.leases or item.queued),
                idle_seconds=item.idle_seconds,
                named_seconds=now - runner.named_at,
                used=self._requests(runner, snapshot) != runner.named_requests,
            )
            for runner in self.ready()
            if (item := by_id.get(runner.runner_id)) is not None
        ]

    def name_to_caller(self, runner: Runner) -> None:
        """Note that a lease call is answered with this runner, which is about to be used."""
        runner.named_at = time.monotonic()
        runner.named_requests = self._requests(runner, self._plane.snapshot())

    def leases(self, model_id: str) -> int:
        """Requests in flight on a model's runners, those that wait for a slot included."""
        mine = {runner.runner_id for runner in self.of(model_id)}
        activities = self._plane.snapshot().runners
        return sum(item.leases + item.queued for item in activities if item.runner_id in mine)

    def infos(self) -> list[RunnerInfo]:
        """All runners, as others see them."""
        by_id = {item.runner_id: item for item in self._plane.snapshot().runners}
        return [self._info(runner, by_id.get(runner.runner_id)) for runner in self.of()]

    def publish(self) -> None:
        """Show the data plane the ready runners under all their names, and announce a change."""
        self._plane.publish([self._route(runner) for runner in self.ready()])
        self.announce()

    def announce(self) -> None:
        """Wake those who wait for anything about runners to change."""
        for waiter in self._waiting:
            _wake(waiter)

    async def next_change(self, timeout: float | None = None) -> None:
        """Wait for the next change, at most `timeout` seconds."""
        # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that coincides with
        # the change, and stopping causes changes.
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, _wake, waiter)
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
            if timer is not None:
                timer.cancel()

    def _requests(self, runner: Runner, snapshot: Snapshot) -> int:
        """Requests that were answered under a runner's labels so far, however they ended."""
        labels = (self._backend, runner.model, runner.key.mode)
        return sum(
            totals.requests_ok
            + totals.requests_client_error
            + totals.requests_engine_error
            + totals.requests_cancelled
            + totals.requests_timed_out
            for totals in snapshot.models
            if (totals.backend, totals.model, totals.mode) == labels
        )

    def _in(self, state: State) -> list[Runner]:
        return [runner for runner in self._runners.values() if runner.state is state]

    def _route(self, runner: Runner) -> Route:
        usual = self._usual_names(runner.tags, runner.key.model_id)
        learned = self.spellings.learned(runner.key.model_id)
        return Route(
            runner_id=runner.runner_id,
            socket_path=str(runner.socket_path),
            api_key=runner.prepared.api_key,
            slots=self._settings.slots,
            context_size=runner.prepared.context_size,
            context_limit=runner.prepared.context_limit,
            capabilities=runner.prepared.capabilities,
            has_stops=runner.prepared.has_stops,
            backend=self._backend,
            model=runner.model,
            model_id=runner.key.model_id,
            mode=runner.key.mode,
            names=tuple(dict.fromkeys([*usual, *learned])),
        )

    def _info(self, runner: Runner, activity: RunnerSnapshot | None) -> RunnerInfo:
        in_use = activity is not None and bool(activity.leases or activity.queued)
        last_used = None
        if activity is not None and not in_use:
            last_used = datetime.now(timezone.utc) - timedelta(seconds=activity.idle_seconds)
        return RunnerInfo(
            runner_id=runner.runner_id,
            backend=self._backend,
            model=runner.model,
            model_id=runner.key.model_id,
            mode=runner.key.mode,
            state=runner.state.value,
            last_used=last_used,
            in_use=in_use,
            keep_alive=runner.keep_alive,
            pid=runner.process.pid if runner.process else None,
            log=runner.process.log.path if runner.process else None,
            socket_path=runner.socket_path,
            api_key=runner.prepared.api_key,
            context_size=runner.prepared.context_size,
            capabilities=runner.prepared.capabilities,
        )


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
