"""How runners end: evicted, expired, retired, crashed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from model_runner.lifecycle import policy
from model_runner.lifecycle.runner import Runner, State
from model_runner.lifecycle.tasks import Tasks

if TYPE_CHECKING:
    from model_runner.config import Settings
    from model_runner.lifecycle.plane import DataPlane
    from model_runner.lifecycle.roster import Roster
    from model_runner.lifecycle.totals import Ledger, Totals

_logger = logging.getLogger(__name__)

# Not to spin on a keep-alive of zero.
_EXPIRY_FLOOR_SECONDS = 0.05


class Endings:
    """Ends runners, and takes note of those that end by themselves.

    Args:
        settings: How many runners there may be.
        plane: Whose leases are waited for.
        roster: The runners.
        ledger: Where evictions, idle unloads and crashes are counted.
    """

    def __init__(
        self, settings: Settings, plane: DataPlane, roster: Roster, ledger: Ledger
    ) -> None:
        self._settings = settings
        self._plane = plane
        self._roster = roster
        self._ledger = ledger
        self._tasks = Tasks()
        self._retirements: dict[str, asyncio.Task[None]] = {}

    def retire(self, runner: Runner) -> None:
        """Begin to stop a runner if it is ready: no new request, drain, SIGTERM, SIGKILL."""
        if runner.state is State.READY:
            runner.move(State.RETIRING)
            task = self._tasks.start(self._carry_out(runner))
            self._retirements[runner.runner_id] = task
            self._roster.publish()

    def retirement(self, runner: Runner) -> asyncio.Task[None]:
        """What ends when a runner that is being retired is gone."""
        return self._retirements[runner.runner_id]

    def evict(self) -> None:
        """Retire the idle runner that was used least recently, unless one is going already."""
        staying = len(self._roster) - len(self._roster.retiring())
        if staying < self._settings.max_runners:
            return
        runner = self._ready(policy.eviction_victim(self._roster.activities()))
        if runner is not None:
            _logger.info("model `%s` makes room for another one", runner.model)
            self._totals(runner).evictions += 1
            self.retire(runner)

    def expire(self) -> float | None:
        """Retire the runners that nobody has used for the time of their keep-alive.

        Returns:
            Seconds after which to look again; None: not before something changes.
        """
        pauses: list[float] = []
        for activity in self._roster.activities():
            runner = self._ready(activity.runner_id)
            if runner is None:
                continue
            left = policy.seconds_to_expiry(activity, runner.keep_alive)
            if left is None:
                continue
            if left > 0 or not activity.idle:
                pauses.append(max(left, _EXPIRY_FLOOR_SECONDS))
                continue
            _logger.info("model `%s` was idle and is unloaded", runner.model)
            self._totals(runner).idle_unloads += 1
            self.retire(runner)
        return min(pauses, default=None)

    def watch(self, runner: Runner) -> None:
        """From now on take note at once when this ready runner's engine ends by itself."""
        self._tasks.start(self._watch(runner))

    async def finished(self) -> None:
        """Wait until all runners are gone."""
        await self._tasks.finished()

    async def _watch(self, runner: Runner) -> None:
        await runner.ended()
        if runner.state is not State.READY:
            return
        runner.move(State.FAILED)
        self._totals(runner).crashes += 1
        self._roster.drop(runner)
        reason = await asyncio.to_thread(runner.failure)
        _logger.error("the engine of model `%s` ended: %s", runner.model, reason)

    async def _carry_out(self, runner: Runner) -> None:
        try:
            await runner.retire(self._plane)
        finally:
            del self._retirements[runner.runner_id]
            self._roster.drop(runner)

    def _ready(self, runner_id: str | None) -> Runner | None:
        return next((run for run in self._roster.ready() if run.runner_id == runner_id), None)

    def _totals(self, runner: Runner) -> Totals:
        return self._ledger.of(runner.model, runner.key.mode)
