"""The scheduler with processes that do as they are told: loads, leases, eviction, crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from model_runner.errors import (
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NoCapacity,
    ShuttingDown,
    UnsupportedModel,
)
from model_runner.lifecycle import log, policy, runner
from support.lifecycles import (
    Config,
    Gate,
    MemoryStore,
    ScriptedEngine,
    is_alive,
    run,
    scene,
    wait_gone,
)

_FILE = Path("/dev/null")  # the scripted engine loads nothing


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(one=_FILE, two=_FILE, three=_FILE)


def test_twenty_first_requests_start_one_process(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            leases = (stage.scheduler.lease("ai/one", "completion") for _ in range(20))
            assert len(set(await asyncio.gather(*leases))) == 1
            assert len(engine.launched) == 1
            assert len(stage.scheduler.runners()) == 1

    run(main())


def test_each_mode_has_a_process_of_its_own(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            chat = await stage.use("ai/one", "completion")
            vectors = await stage.use("ai/one", "embedding")
            assert chat != vectors
            assert {route.mode for route in stage.plane.routes} == {"completion", "embedding"}

    run(main())


def test_a_load_survives_the_caller_that_caused_it(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        async with scene(tmp_path, store, ScriptedEngine("--gate", gate.name)) as stage:
            caller = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert [info.state for info in stage.scheduler.runners()] == ["loading"]
            gate.open()
            await stage.plane.until(lambda: len(stage.plane.routes) == 1)

    run(main())


def test_a_killed_engine_is_noticed_and_replaced(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            first = await stage.use("ai/one")
            pid = stage.pid(first)
            os.kill(pid, signal.SIGKILL)
            await stage.plane.until(lambda: not stage.plane.is_routed(first))
            assert stage.scheduler.runners() == []
            second = await stage.use("ai/one")
            assert second != first
            assert stage.pid(second) != pid
            assert stage.scheduler.totals()[0].crashes == 1

    run(main())


def test_what_a_killed_engine_printed_last_is_not_taken_for_the_reason(tmp_path, store, caplog):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine("--flood", "4096")) as stage:
            first = await stage.use("ai/one")
            os.kill(stage.pid(first), signal.SIGKILL)
            await stage.use("ai/two")
            await stage.plane.until(lambda: "`ai/one` ended" in caplog.text)

    run(main())
    assert "the engine of model `ai/one` ended: killed by SIGKILL" in caplog.text


def test_a_lease_after_a_failure_gets_another_process(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            first = await stage.use("ai/one")
            os.kill(stage.pid(first), signal.SIGKILL)
            second = await stage.scheduler.lease("ai/one", "completion", failed_runner=first)
            assert second != first
            assert stage.plane.is_routed(second)

    run(main())


def test_an_engine_that_hangs_is_stopped_and_replaced(tmp_path, store, monkeypatch):
    monkeypatch.setattr(runner, "_STOP_SECONDS", 0.2)

    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            first = await stage.use("ai/one")
            pid = stage.pid(first)
            os.kill(pid, signal.SIGSTOP)
            second = await stage.scheduler.lease("ai/one", "completion", failed_runner=first)
            assert second != first
            assert not is_alive(pid)

    run(main())


def test_a_healthy_engine_is_not_stopped_because_one_caller_failed(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            first = await stage.use("ai/one")
            again = await stage.scheduler.lease("ai/one", "completion", failed_runner=first)
            assert again == first

    run(main())


def test_all_waiters_get_the_reason_of_one_failed_load(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine("--fail", "error: out of bananas")
        async with scene(tmp_path, store, engine) as stage:
            leases = [stage.scheduler.lease("ai/one", "completion") for _ in range(5)]
            failures = await asyncio.gather(*leases, return_exceptions=True)
            assert all(isinstance(failure, EngineFailed) for failure in failures)
            assert "scripted could not load `ai/one`: error: out of bananas" in str(failures[0])
            assert "exit status 1" in str(failures[0])
            assert len(engine.launched) == 1
            # A failure is not remembered: whoever asks again may have mended the cause.
            engine.options = ()
            await stage.use("ai/one")

    run(main())


def test_an_engine_without_progress_is_given_up(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        engine = ScriptedEngine("--gate", gate.name)
        async with scene(tmp_path, store, engine, load_stall_timeout=0.6) as stage:
            caller = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            pid = stage.pid(stage.scheduler.runners()[0].runner_id)
            with pytest.raises(EngineFailed, match="no progress"):
                await caller
            assert not is_alive(pid)

    run(main())


def test_a_flood_of_output_does_not_block_the_engine_and_is_cut(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine("--flood", str(20 << 20))
        async with scene(tmp_path, store, engine) as stage:
            await stage.use("ai/one")
            (path,) = (tmp_path / "state" / "logs").iterdir()
            log.EngineLog(path).bound()
            assert path.stat().st_size <= log.FILE_BYTES
            assert set(log.EngineLog(path).tail()) == {"x" * 1023}

    run(main())


def test_without_a_place_for_logs_models_are_served_all_the_same(tmp_path, store):
    (tmp_path / "file").touch()

    async def main() -> None:
        engine = ScriptedEngine("--fail", "error: out of bananas")
        async with scene(tmp_path, store, engine, log_dir=tmp_path / "file" / "logs") as stage:
            with pytest.raises(EngineFailed, match="out of bananas"):
                await stage.scheduler.lease("ai/one", "completion")
            engine.options = ()
            await stage.use("ai/one")

    run(main())


def test_an_idle_runner_is_unloaded_by_itself(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), keep_alive=0.05) as stage:
            runner_id = await stage.scheduler.lease("ai/one", "completion")
            pidfd = os.pidfd_open(stage.pid(runner_id))
            stage.plane.use(runner_id)
            assert await asyncio.to_thread(wait_gone, pidfd)
            await stage.plane.until(lambda: not stage.scheduler.runners())
            assert stage.scheduler.totals()[0].idle_unloads == 1

    run(main())


def test_a_busy_runner_does_not_expire(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), keep_alive=0.0) as stage:
            runner_id = await stage.scheduler.lease("ai/one", "completion")
            stage.plane.hold(runner_id)
            await stage.plane.looked_at()
            assert stage.plane.is_routed(runner_id)
            stage.plane.release(runner_id)
            await stage.plane.until(lambda: not stage.plane.is_routed(runner_id))

    run(main())


def test_the_least_recently_used_idle_runner_makes_room(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), max_runners=2) as stage:
            one = await stage.use("ai/one")
            two = await stage.use("ai/two")
            stage.plane.use(one)
            await stage.use("ai/three")
            assert stage.plane.is_routed(one)
            assert not stage.plane.is_routed(two)
            assert {info.model for info in stage.scheduler.runners()} == {"ai/one", "ai/three"}

    run(main())


def test_a_runner_makes_room_as_soon_as_the_request_it_was_named_to_has_ended(
    tmp_path, store, monkeypatch
):
    monkeypatch.setattr(policy, "HANDOVER_SECONDS", 3600.0)

    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine, max_runners=1) as stage:
            one = await stage.scheduler.lease("ai/one", "completion")
            waiting = asyncio.create_task(stage.scheduler.lease("ai/two", "completion"))
            await stage.plane.looked_at()
            assert stage.plane.is_routed(one)  # whoever it was named to is on the way
            stage.plane.use(one)  # in less time than any clock shows
            assert stage.plane.is_routed(await waiting)

    run(main())


def test_a_runner_with_leases_is_never_evicted(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine, max_runners=1) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            waiting = asyncio.create_task(stage.scheduler.lease("ai/two", "completion"))
            await stage.plane.looked_at()
            assert stage.plane.is_routed(one)
            assert not waiting.done()
            stage.plane.release(one)
            two = await waiting
            assert stage.plane.is_routed(two)
            assert not stage.plane.is_routed(one)

    run(main())


def test_who_leaves_while_waiting_for_room_evicts_nobody(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine, max_runners=1) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            waiting = asyncio.create_task(stage.scheduler.lease("ai/two", "completion"))
            await stage.plane.looked_at()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            stage.plane.release(one)
            assert await stage.use("ai/one") == one
            assert [info.model for info in stage.scheduler.runners()] == ["ai/one"]

    run(main())


def test_room_is_given_first_come_first_served(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), max_runners=1) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            order: list[str] = []

            async def ask(model: str) -> None:
                await stage.use(model)
                order.append(model)

            first = asyncio.create_task(ask("ai/two"))
            await stage.plane.looked_at()
            second = asyncio.create_task(ask("ai/three"))
            await stage.plane.looked_at()
            stage.plane.release(one)
            await asyncio.gather(first, second)
            assert order == ["ai/two", "ai/three"]

    run(main())


def test_as_many_may_wait_for_a_load_as_the_runner_will_take(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        engine = ScriptedEngine("--gate", gate.name)
        async with scene(tmp_path, store, engine, slots=2, queue_limit=1) as stage:
            lease = stage.scheduler.lease
            waiting = [asyncio.create_task(lease("ai/one", "completion")) for _ in range(3)]
            await gate.reached()
            with pytest.raises(NoCapacity, match="`ai/one` is being loaded, and 3 requests") as no:
                await lease("ai/one", "completion")
            assert "MODEL_RUNNER_QUEUE_LIMIT" in str(no.value)
            # A place is free again as soon as one of them leaves.
            waiting[2].cancel()
            await asyncio.wait({waiting.pop()})
            waiting.append(asyncio.create_task(lease("ai/one", "completion")))
            # Another model has room of its own: the gate is for the first engine only.
            engine.options = ()
            await stage.use("ai/two")
            gate.open()
            assert len(set(await asyncio.gather(*waiting))) == 1

    run(main())


def test_as_many_may_wait_for_room_in_all_as_a_runner_takes(tmp_path, store):
    async def main() -> None:
        limits = {"max_runners": 1, "slots": 1, "queue_limit": 1}
        async with scene(tmp_path, store, ScriptedEngine(), **limits) as stage:
            lease = stage.scheduler.lease
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            second = asyncio.create_task(lease("ai/two", "completion"))
            third = asyncio.create_task(lease("ai/three", "completion"))
            await stage.plane.looked_at()
            for model, mode in (("ai/one", "embedding"), ("ai/two", "completion")):
                with pytest.raises(NoCapacity, match=r"busy \(`ai/one`\), and 2 requests") as no:
                    await lease(model, mode)
                assert "MODEL_RUNNER_MAX_RUNNERS" in str(no.value)
            # What is loaded is served all the same.
            assert await lease("ai/one", "completion") == one
            stage.plane.use(one)
            third.cancel()
            stage.plane.release(one)
            assert stage.plane.is_routed(await second)

    run(main())


def test_who_waits_for_a_retiring_runner_is_counted_too(tmp_path, store):
    async def main() -> None:
        limits = {"slots": 1, "queue_limit": 0}
        async with scene(tmp_path, store, ScriptedEngine(), **limits) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            model = store.get("ai/one")
            store.remove(model.id)
            await stage.scheduler.refresh()
            store.add(model.tags[0], _FILE)
            leases = [stage.scheduler.lease("ai/one", "completion") for _ in range(2)]
            (refused,), (waiting,) = await asyncio.wait(
                map(asyncio.ensure_future, leases), return_when=asyncio.FIRST_COMPLETED
            )
            assert isinstance(refused.exception(), NoCapacity)
            stage.plane.release(one)
            again = await waiting
            assert again != one
            assert stage.plane.is_routed(again)

    run(main())


def test_the_time_of_a_load_is_without_the_wait_for_room(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), max_runners=1) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            waiting = asyncio.create_task(stage.scheduler.lease("ai/two", "completion"))
            await stage.plane.looked_at(10)
            stage.plane.release(one)
            released = time.monotonic()
            await waiting
            (totals,) = (one for one in stage.scheduler.totals() if one.model == "ai/two")
            assert 0 < totals.load_seconds < time.monotonic() - released

    run(main())


def test_unload_leaves_busy_runners_alone_unless_forced(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use("ai/one")
            two = await stage.use("ai/two")
            pid = stage.pid(one)
            stage.plane.hold(one)
            assert stage.scheduler.leases(store.get("ai/one").id) == 1
            assert await stage.scheduler.unload() == 1
            assert stage.plane.is_routed(one)
            assert not stage.plane.is_routed(two)
            assert await stage.scheduler.unload(store.get("ai/one").id, force=True) == 1
            assert not is_alive(pid)
            assert stage.scheduler.runners() == []

    run(main())


def test_a_load_can_be_ended_by_force(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        engine = ScriptedEngine("--gate", gate.name)
        async with scene(tmp_path, store, engine) as stage:
            caller = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            pid = stage.pid(stage.scheduler.runners()[0].runner_id)
            assert await stage.scheduler.unload() == 0
            assert await stage.scheduler.unload(force=True) == 1
            assert not is_alive(pid)
            with pytest.raises(EngineFailed, match="unloaded by force"):
                await caller

    run(main())


def test_a_lease_for_a_retiring_model_waits_and_loads_anew(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), max_runners=1) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            unloading = asyncio.create_task(
                stage.scheduler.unload(store.get("ai/one").id, force=True)
            )
            await stage.plane.until(lambda: not stage.plane.is_routed(one))
            again = await stage.scheduler.lease("ai/one", "completion")
            assert again != one
            assert await unloading == 1

    run(main())


def test_stopping_ends_ready_loading_and_waiting(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine, max_runners=2) as stage:
            ready = await stage.use("ai/one")
            stage.plane.hold(ready)
            gate = Gate(tmp_path)
            engine.options = ("--gate", gate.name)
            loading = asyncio.create_task(stage.scheduler.lease("ai/two", "completion"))
            await gate.reached()
            waiting = asyncio.create_task(stage.scheduler.lease("ai/three", "completion"))
            await stage.plane.looked_at()
            pids = [info.pid for info in stage.scheduler.runners()]
            await stage.scheduler.stop()
            assert not any(is_alive(pid) for pid in pids if pid)
            assert list(stage.directory.glob("*.sock")) == []
            for caller in (loading, waiting):
                with pytest.raises(ShuttingDown):
                    await caller
            with pytest.raises(ShuttingDown):
                await stage.scheduler.lease("ai/one", "completion")

    run(main())


def test_an_engine_that_ignores_sigterm_is_killed(tmp_path, store, monkeypatch):
    monkeypatch.setattr(runner, "_STOP_SECONDS", 0.1)

    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine("--deaf")) as stage:
            pid = stage.pid(await stage.use("ai/one"))
            assert await stage.scheduler.unload() == 1
            assert not is_alive(pid)

    run(main())


def test_what_cannot_be_run_is_refused(tmp_path, store):
    store.add("docker.io/ai/tensors:latest", _FILE, Config(format="safetensors"))
    store.add("docker.io/ai/weightless:latest", None)

    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            with pytest.raises(ModelNotFound, match="ai/nothing"):
                await stage.scheduler.lease("ai/nothing", "completion")
            with pytest.raises(InvalidRequest, match="unknown mode `dreaming`"):
                await stage.scheduler.lease("ai/one", "dreaming")
            with pytest.raises(UnsupportedModel, match=r"safetensors weights.*needs a GGUF"):
                await stage.scheduler.lease("ai/tensors", "completion")
            with pytest.raises(UnsupportedModel, match=r"no weights.*needs a GGUF"):
                await stage.scheduler.lease("ai/weightless", "completion")
            assert engine.launched == []

    run(main())
