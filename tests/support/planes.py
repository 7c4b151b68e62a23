"""A data plane in memory: remembers the routes, and lets a test hold leases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from model_runner.lifecycle import Route


@dataclass
class Activity:
    """What one runner is doing; `idle_since` is monotonic time."""

    runner_id: str
    leases: int = 0
    queued: int = 0
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self.leases else time.monotonic() - self.idle_since


@dataclass
class Totals:
    """Requests that ended under one set of labels."""

    backend: str
    model: str
    mode: str
    requests_ok: int = 0
    requests_client_error: int = 0
    requests_engine_error: int = 0
    requests_cancelled: int = 0
    requests_timed_out: int = 0


@dataclass(frozen=True)
class Snapshot:
    runners: list[Activity]
    models: list[Totals]
    open_connections: int = 0


class RecordingPlane:
    """Behaves like the real one: what is not published any more, or retired, never comes back."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.looks = 0
        self._activities: dict[str, Activity] = {}
        self._totals: dict[tuple[str, str, str], Totals] = {}
        self._totals_of: dict[str, Totals] = {}
        self._retired: set[str] = set()
        self._changed = asyncio.Event()

    # What the lifecycle calls.

    def publish(self, routes: Sequence[Route]) -> None:
        published = {route.runner_id for route in routes}
        for runner_id in set(self._activities) - published:
            self._retire(runner_id)
        self.routes = [route for route in routes if route.runner_id not in self._retired]
        for route in self.routes:
            self._activities.setdefault(route.runner_id, Activity(route.runner_id))
            labels = (route.backend, route.model, route.mode)
            totals = self._totals.setdefault(labels, Totals(*labels))
            self._totals_of.setdefault(route.runner_id, totals)
        self._announce()

    def retire(self, runner_id: str) -> int:
        self._retire(runner_id)
        self.routes = [route for route in self.routes if route.runner_id != runner_id]
        activity = self._activities.get(runner_id)
        self._announce()
        return activity.leases if activity else 0

    def snapshot(self) -> Snapshot:
        self.looks += 1
        self._announce()
        return Snapshot(list(self._activities.values()), list(self._totals.values()))

    # What tests call.

    def hold(self, runner_id: str) -> None:
        """Begin a request."""
        self._activities[runner_id].leases += 1

    def release(self, runner_id: str) -> None:
        """End a request."""
        activity = self._activities[runner_id]
        activity.leases -= 1
        activity.idle_since = time.monotonic()
        self._totals_of[runner_id].requests_ok += 1
        if runner_id in self._retired and not activity.leases:
            del self._activities[runner_id]

    def use(self, runner_id: str) -> None:
        """A request that has just ended."""
        self.hold(runner_id)
        self.release(runner_id)

    def names(self, runner_id: str) -> tuple[str, ...]:
        """The names that lead to a runner; none if it is not routed to."""
        return next((route.names for route in self.routes if route.runner_id == runner_id), ())

    def is_routed(self, runner_id: str) -> bool:
        return any(route.runner_id == runner_id for route in self.routes)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true; looked at whenever the lifecycle touches this plane."""
        while not condition():
            await self._changed.wait()

    async def looked_at(self, times: int = 3) -> None:
        """Wait until the lifecycle has looked at the runners so many times more."""
        goal = self.looks + times
        await self.until(lambda: self.looks >= goal)

    def _retire(self, runner_id: str) -> None:
        self._retired.add(runner_id)
        activity = self._activities.get(runner_id)
        if activity is not None and not activity.leases:
            del self._activities[runner_id]

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
