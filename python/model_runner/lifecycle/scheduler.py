"""Decides which engine processes exist: one for each model and mode in use, at most so many."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from model_runner.errors import (
    EngineFailed,
    ModelRunnerError,
    NotFound,
    ShuttingDown,
    StoreError,
    UnsupportedModel,
)
from model_runner.lifecycle import readiness
from model_runner.lifecycle.endings import Endings
from model_runner.lifecycle.loading import Loads
from model_runner.lifecycle.log import EngineLog
from model_runner.lifecycle.preparation import Preparation
from model_runner.lifecycle.roster import Roster
from model_runner.lifecycle.runner import Runner, RunnerInfo, RunnerKey, State
from model_runner.lifecycle.totals import Ledger, Totals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from model_runner.config import Settings
    from model_runner.engines import Engine
    from model_runner.lifecycle.plane import DataPlane
    from model_runner.store import Model, Store

_logger = logging.getLogger(__name__)

# How long a runner that the data plane calls dead gets to prove it by ending.
_FAILURE_SECONDS = 1.0
# How often logs are measured.
_LOG_SECONDS = 2.0
# How often the store is asked whether another process changed it, which costs 7 µs. For so long a
# name that has moved may lead to the model that had it before.
_STORE_SECONDS = 0.25


class Scheduler:
    """Owns the runners. Its methods are called from the loop that `start` was called in.

    Args:
        store: Where models are.
        engine: What runs them.
        plane: Where routes are published.
        settings: How many, for how long, with how many slots.
        runtime_dir: A private directory for the engines' sockets.
    """

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        plane: DataPlane,
        settings: Settings,
        runtime_dir: Path,
    ) -> None:
        self._store = store
        self._preparation = Preparation(store, engine, settings, runtime_dir)
        self._roster = Roster(plane, settings, engine.name, self._preparation.spellings)
        self._ledger = Ledger(engine.name)
        self._endings = Endings(settings, plane, self._roster, self._ledger)
        self._loads = Loads(settings, self._preparation, self._roster, self._ledger, self._endings)
        self._upkeep: list[asyncio.Task[None]] = []
        self._generation: int | None = None
        # The runners whose names were compared with the store since it changed.
        self._compared: set[str] = set()
        self._stopping = False

    async def start(self) -> None:
        """Begin to look after runners."""
        self._generation = await asyncio.to_thread(self._store.generation)
        self._upkeep = [
            asyncio.create_task(self._expire_idle()),
            asyncio.create_task(self._every(_LOG_SECONDS, self._bound_logs)),
            asyncio.create_task(self._every(_STORE_SECONDS, self._follow_store)),
        ]

    async def stop(self) -> None:
        """Stop every engine, all at once.

        Requests in flight are not waited for: whoever stops the scheduler has drained them before.
        """
        self._stopping = True
        for task in self._upkeep:
            task.cancel()
        self._loads.abandon(ShuttingDown("the server is stopping"))
        for runner in self._roster.of():
            runner.hurry()
            self._endings.retire(runner)
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self._loads.finished()
        await self._endings.finished()

    async def lease(
        self, model: str, mode: str, *, failed_runner: str | None = None, context_size: int = 0
    ) -> str:
        """Wait until a runner serves a model in a mode, and its route is published.

        When all places are taken by busy runners this waits, first come first served, for as long
        as the caller does. As many may wait as a runner takes, in its slots and in its queue.

        Args:
            model: The model as a client spelt it.
            mode: `completion`, `embedding` or `reranking`.
            failed_runner: A runner that the caller could not reach.
            context_size: Tokens of context that the request wants at least. A runner with less is
                retired, and the model loaded anew with that much, or with what it was trained for
                if that is less. No runner is loaded anew because it has more.

        Returns:
            The runner's ID.

        Raises:
            ModelNotFound: It is not in the store.
            InvalidRequest: It is no name of a model, nothing that the engine can run, or there is
                no such mode.
            EngineNotInstalled: There is no engine.
            EngineFailed: The engine did not start; all who wait for the same load get its reason.
            NoCapacity: Too many wait already, for the same load or for room.
            ShuttingDown: The scheduler is stopping.
        """
        self._refuse_when_stopping()
        found = await asyncio.to_thread(self._store.get, model)
        self._preparation.check(found, mode)
        key = RunnerKey(found.id, mode)
        if failed_runner is not None:
            await self._settle_failure(key, failed_runner)
        self._refuse_when_stopping()
        is_news = self._learn(found.id, model)
        while (runner := self._ready(key, context_size)) is None:
            runner_id = await self._loads.join(key, found, context_size)
            # A load that had begun when this caller came may be of a runner with less context.
            loaded = self._roster.get(key)
            if loaded is None or loaded.runner_id != runner_id or loaded.has_context(context_size):
                return runner_id
            self._refuse_when_stopping()
        if is_news:
            self._roster.publish()
        self._roster.name_to_caller(runner)
        return runner.runner_id

    def set_keep_alive(self, runner_id: str, seconds: float) -> None:
        """Change how long a runner stays loaded when it is idle.

        Args:
            runner_id: Which one.
            seconds: From the end of its last request; 0: not at all; negative: for ever.

        Raises:
            NotFound: It is gone.
        """
        runner = next((run for run in self._roster.of() if run.runner_id == runner_id), None)
        if runner is None:
            raise NotFound(f"there is no runner `{runner_id}`", hint="it was unloaded meanwhile")
        runner.keep_alive = seconds
        self._roster.announce()

    def retire(self, model_id: str) -> int:
        """Begin to unload a model: requests in flight may end, and are not waited for.

        Returns:
            How many runners go. Those that are being loaded go when who waits for them is served.
        """
        going = 0
        for runner in self._roster.of(model_id):
            going += runner.state is not State.RETIRING
            runner.keep_alive = 0.0
            self._endings.retire(runner)
        return going

    def runners(self) -> list[RunnerInfo]:
        """All runners that are loading, ready or being retired."""
        return self._roster.infos()

    def totals(self) -> list[Totals]:
        """What happened to runners since the start."""
        return self._ledger.all()

    def leases(self, model_id: str) -> int:
        """Requests in flight on a model, those that wait for a load or for a slot included."""
        return self._roster.leases(model_id) + self._loads.waiters(model_id)

    async def unload(self, model_id: str | None = None, *, force: bool = False) -> int:
        """Stop the runners of a model, or all, and wait until they are gone.

        Args:
            model_id: Which model's; None for those of all models.
            force: Also those that are in use, which ends their requests, and those that are
                loading.

        Returns:
            How many were stopped.
        """
        idle = {activity.runner_id for activity in self._roster.activities() if activity.idle}
        ends: set[asyncio.Task[None]] = set()
        for runner in self._roster.of(model_id):
            if force:
                runner.hurry()
            if force or runner.runner_id in idle:
                self._endings.retire(runner)
            if runner.state is State.RETIRING and (force or runner.runner_id in idle):
                ends.add(self._endings.retirement(runner))
        if force:
            reason = EngineFailed("the model was unloaded by force before it was ready")
            ends |= self._loads.abandon(reason, model_id)
        if ends:
            await asyncio.wait(ends)
        return len(ends)

    async def refresh(self) -> None:
        """Take note of a changed store: names that moved, models that are gone."""
        generation = await asyncio.to_thread(self._store.generation)
        # What is loading is looked at again when it is ready: it cannot be retired before.
        ready = {runner.runner_id for runner in self._roster.ready()}
        running = {runner.key.model_id for runner in self._roster.of()}
        for model_id in self._loads.model_ids() | running:
            await self._refresh_model(model_id)
        self._generation, self._compared = generation, ready
        self._roster.publish()

    async def _refresh_model(self, model_id: str) -> None:
        spellings = self._roster.spellings
        learned = spellings.learned(model_id)
        try:
            model, moved = await asyncio.to_thread(self._look_up, model_id, learned)
        except (StoreError, UnsupportedModel) as error:
            # Its files are damaged; what runs of it has read them before.
            _logger.warning("a loaded model cannot be looked up: %s", error)
            return
        for spelling in moved:
            spellings.forget(model_id, spelling)
        for runner in self._roster.of(model_id):
            if model is not None and runner.model in self._preparation.display_names(model):
                runner.tags = model.tags
            else:
                # Its engine's answers and its metrics carry a name that is gone; the next request
                # loads the model under a present one.
                self._endings.retire(runner)

    def _look_up(self, model_id: str, learned: tuple[str, ...]) -> tuple[Model | None, list[str]]:
        """A model as the store has it now, and those spellings that no longer mean it."""
        moved = [spelling for spelling in learned if self._resolve(spelling) != model_id]
        try:
            return self._store.get(model_id), moved
        except NotFound:
            return None, moved

    def _resolve(self, spelling: str) -> str | None:
        try:
            return self._store.get(spelling).id
        except ModelRunnerError:
            return None

    def _learn(self, model_id: str, spelling: str) -> bool:
        """Note what a model was called; say whether that is news."""
        if not self._roster.of(model_id) and model_id not in self._loads.model_ids():
            # While nothing served the model, nobody looked whether its names have moved.
            self._roster.spellings.forget(model_id)
        return self._roster.spellings.learn(model_id, spelling)

    def _ready(self, key: RunnerKey, context_size: int) -> Runner | None:
        """The runner that can serve a request now; one with too little context is retired."""
        runner = self._roster.get(key)
        if runner is None or runner.state is not State.READY:
            return None
        if runner.has_context(context_size):
            return runner
        _logger.info(
            "model `%s` is loaded anew: a request wants %d tokens of context, it has %d",
            runner.model,
            context_size,
            runner.prepared.context_size,
        )
        self._endings.retire(runner)
        return None

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise ShuttingDown("the server is stopping")

    async def _settle_failure(self, key: RunnerKey, runner_id: str) -> None:
        """Find out whether a runner is really dead, and if so have it out of the way.

        One that answers its health check is kept: other requests are being answered by it.
        """
        runner = self._roster.get(key)
        if runner is None or runner.runner_id != runner_id or runner.process is None:
            return
        if runner.state is not State.READY or await readiness.healthy(runner.socket_path):
            return
        if await runner.process.wait(_FAILURE_SECONDS):
            while self._roster.get(key) is runner:  # until its watch has taken note
                await self._roster.next_change()
        else:
            _logger.warning("the engine of model `%s` does not answer; it is stopped", runner.model)
            runner.hurry()
            self._endings.retire(runner)

    async def _expire_idle(self) -> None:
        while True:
            await self._roster.next_change(self._endings.expire())

    async def _every(self, seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
        """Do a chore every so often while there are runners."""
        while True:
            if not len(self._roster):
                await self._roster.next_change()
                continue
            await asyncio.sleep(seconds)
            try:
                await chore()
            except (ModelRunnerError, OSError) as error:
                _logger.warning("looking after the runners: %s", error)

    async def _bound_logs(self) -> None:
        for log in self._roster.logs():
            await asyncio.to_thread(EngineLog(log).bound)

    async def _follow_store(self) -> None:
        generation = await asyncio.to_thread(self._store.generation)
        ready = {runner.runner_id for runner in self._roster.ready()}
        if generation != self._generation or not ready <= self._compared:
            await self.refresh()
