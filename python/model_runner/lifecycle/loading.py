"""How runners begin: one load for each model and mode, however many wait for it.

A load belongs to nobody who waits for it. When a caller leaves, the load goes on, unless it was
still waiting for room and nobody else wants it. How many may wait is bounded: each of them holds a
client's connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model_runner.errors import EngineFailed, ModelRunnerError, NoCapacity
from model_runner.lifecycle.runner import Runner, RunnerKey, State
from model_runner.lifecycle.tasks import Tasks

if TYPE_CHECKING:
    from model_runner.config import Settings
    from model_runner.lifecycle.endings import Endings
    from model_runner.lifecycle.preparation import Preparation, Prepared
    from model_runner.lifecycle.roster import Roster
    from model_runner.lifecycle.totals import Ledger
    from model_runner.store import Model

_logger = logging.getLogger(__name__)

# The data plane tells nobody when a lease ends. While a load waits for room it is asked this often.
_ROOM_SECONDS = 0.05


@dataclass(slots=True)
class _Load:
    """A runner on its way, and who waits for it.

    Attributes:
        model: What is being loaded.
        key: The same as a key.
        name: The same for people.
        outcome: The runner's ID, or why there is none.
        context_size: The most context that any of its callers wants.
        waiters: Callers that wait for it.
        placed_at: When it got a place among the runners, as monotonic time; until then it can be
            given up.
        task: What does it.
    """

    model: Model
    key: RunnerKey
    name: str
    outcome: asyncio.Future[str]
    context_size: int = 0
    waiters: int = 0
    placed_at: float | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def end(self, outcome: str | ModelRunnerError) -> None:
        """Tell those who wait how it ended, unless they know already."""
        if self.outcome.done():
            return
        if isinstance(outcome, str):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)

    def abandon(self, reason: ModelRunnerError) -> None:
        """Give it up; its process, if there is one, is killed before its task ends."""
        self.end(reason)
        if self.task is not None:
            self.task.cancel()


class Loads:
    """The loads that are under way.

    Args:
        settings: How many runners there may be, how many may wait, when a load counts as stuck.
        preparation: Makes ready what an engine needs.
        roster: The runners.
        ledger: Where loads are counted.
        endings: Makes room, and watches over what was loaded.
    """

    def __init__(
        self,
        settings: Settings,
        preparation: Preparation,
        roster: Roster,
        ledger: Ledger,
        endings: Endings,
    ) -> None:
        self._settings = settings
        self._preparation = preparation
        self._roster = roster
        self._ledger = ledger
        self._endings = endings
        # All that a runner which has just become ready can take: in its slots and in its queue.
        self._limit = settings.slots + settings.queue_limit
        self._tasks = Tasks()
        self._loads: dict[RunnerKey, _Load] = {}
        self._room = asyncio.Lock()

    async def join(self, key: RunnerKey, model: Model, context_size: int = 0) -> str:
        """Wait for the load of a model, which is begun if there is none; the runner's ID.

        Args:
            key: What is to be loaded.
            model: The same.
            context_size: Tokens of context for each slot that the caller wants at least. A load
                that starts its engine already may end with less.

        Raises:
            NoCapacity: Too many wait already, for this load or for room.
            ModelRunnerError: It failed; all who wait get the same reason.
        """
        load = self._loads.get(key)
        self._refuse_crowd(load)
        if load is None:
            load = self._begin(key, model)
        load.waiters += 1
        load.context_size = max(load.context_size, context_size)
        try:
            return await asyncio.shield(load.outcome)
        finally:
            load.waiters -= 1
            if not load.waiters and load.placed_at is None and not load.outcome.done():
                # Out of the way at once: whoever comes next begins a load of its own.
                self._loads.pop(key, None)
                load.abandon(EngineFailed("nobody waits for it any more"))

    def model_ids(self) -> set[str]:
        """The models that are being loaded."""
        return {key.model_id for key in self._loads}

    def waiters(self, model_id: str) -> int:
        """Callers that wait for the loads of a model."""
        return sum(load.waiters for load in self._loads.values() if load.key.model_id == model_id)

    def abandon(
        self, reason: ModelRunnerError, model_id: str | None = None
    ) -> set[asyncio.Task[None]]:
        """Give up the loads of a model, or all.

        Args:
            reason: What those who wait are told.
            model_id: Which model's; None for those of all models.

        Returns:
            What ends when their processes are gone.
        """
        ends: set[asyncio.Task[None]] = set()
        for load in self._loads.values():
            if model_id in (None, load.key.model_id) and load.task is not None:
                load.abandon(reason)
                ends.add(load.task)
        return ends

    async def finished(self) -> None:
        """Wait until no load is under way any more."""
        await self._tasks.finished()

    def _refuse_crowd(self, load: _Load | None) -> None:
        """Refuse one more caller for a load, or for one that is to be begun, if they are too many.

        Raises:
            NoCapacity: What they wait for, and what to do about it.
        """
        if load is not None and load.waiters >= self._limit:
            raise NoCapacity(
                f"model `{load.name}` is being loaded, and {load.waiters} requests wait for it",
                hint="try again in a moment; the limit is set by `MODEL_RUNNER_QUEUE_LIMIT`",
            )
        if load is not None and load.placed_at is not None:
            return
        roomless = [other for other in self._loads.values() if other.placed_at is None]
        places = len(self._roster) + len(roomless) + (load is None)
        waiters = sum(other.waiters for other in roomless)
        limit = self._settings.max_runners
        if places > limit and waiters >= self._limit:
            busy = {runner.model for runner in self._roster.of()} or {one.name for one in roomless}
            shown = ", ".join(f"`{name}`" for name in sorted(busy))
            raise NoCapacity(
                f"every runner is busy ({shown}), and {waiters} requests wait for one already",
                hint="try again in a moment; raise `MODEL_RUNNER_MAX_RUNNERS` if there is memory"
                f" for more than {limit}",
            )

    def _begin(self, key: RunnerKey, model: Model) -> _Load:
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Read here, so that asyncio does not complain of a failure that no caller has waited for.
        outcome.add_done_callback(lambda done: done.exception())
        load = _Load(model, key, self._preparation.display(model), outcome)
        load.task = self._tasks.start(self._carry_out(load))
        # Not in the task: one that is cancelled before its first step runs no line of its code.
        load.task.add_done_callback(lambda _: self._forget(load))
        self._loads[key] = load
        return load

    def _forget(self, load: _Load) -> None:
        if self._loads.get(load.key) is load:
            del self._loads[load.key]
        self._roster.announce()

    async def _carry_out(self, load: _Load) -> None:
        """Load a model, count it, and tell those who wait how that ended."""
        totals = self._ledger.of(load.name, load.key.mode)
        try:
            runner, began = await self._load(load)
        except ModelRunnerError as error:
            totals.load_failures += 1
            _logger.warning("model `%s` was not loaded: %s", load.name, error)
            load.end(error)
        except Exception:  # the edge of a task: an error of ours must not leave callers waiting
            totals.load_failures += 1
            _logger.exception("model `%s` was not loaded", load.name)
            reason = f"model `{load.name}` was not loaded because of an error of ours"
            load.end(EngineFailed(reason, hint="the server's log has it"))
        else:
            seconds = time.monotonic() - began
            totals.loads += 1
            totals.load_seconds += seconds
            _logger.info("model `%s` was loaded in %.2f s", load.name, seconds)
            load.end(runner.runner_id)

    async def _load(self, load: _Load) -> tuple[Runner, float]:
        """A ready runner, and when it got its place: what came before was not loading."""
        preparation, mode = self._preparation, load.key.mode
        wanted = load.context_size
        runner = Runner(
            load.key,
            await self._prepare(load),
            model=load.name,
            tags=load.model.tags,
            keep_alive=self._settings.keep_alive,
        )
        began = await self._take_room(load, runner)
        try:
            if load.context_size > wanted:  # others came while it waited for room
                runner.prepared = await self._prepare(load)
            log = await asyncio.to_thread(
                preparation.open_log, load.name, mode, in_use=self._roster.logs()
            )
            await runner.start(log, self._settings.load_stall_timeout)
        except EngineFailed as error:
            # An engine whose files were deleted under it only says that it cannot open them.
            await asyncio.to_thread(preparation.refuse_deleted, load.model)
            raise EngineFailed(
                f"{preparation.engine_name} could not load `{load.name}`: {error.message}",
                hint=error.hint or f"all it printed is in the log file {log.path.name}",
            ) from error
        finally:
            if runner.state is not State.READY:
                self._roster.drop(runner)
        self._endings.watch(runner)
        self._roster.publish()
        self._roster.name_to_caller(runner)
        return runner, began

    async def _prepare(self, load: _Load) -> Prepared:
        prepare = self._preparation.prepare
        wanted = load.context_size
        return await asyncio.to_thread(prepare, load.model, load.key.mode, context_size=wanted)

    async def _take_room(self, load: _Load, runner: Runner) -> float:
        """Wait for a place among the runners, and take it; first come, first served.

        Returns:
            When that was.
        """
        while self._roster.get(load.key) is not None:  # the one before is on its way out
            await self._roster.next_change()
        async with self._room:
            while len(self._roster) >= self._settings.max_runners:
                self._endings.evict()
                await self._roster.next_change(_ROOM_SECONDS)
            load.placed_at = time.monotonic()
            self._roster.add(runner)
            return load.placed_at
