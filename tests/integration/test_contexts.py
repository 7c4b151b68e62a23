"""Requests that want more context, keep-alives of their own, and unloading: what runners become."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model_runner.engines import discover
from model_runner.errors import NotFound
from model_runner.store.modelfile import Modelfile
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
from support.tiny_gguf import tiny_script
from support.unix_http import ask

if TYPE_CHECKING:
    from support.lifecycles import Scene

_FILE = Path("/dev/null")  # the scripted engine loads nothing
_TRAINED = Config(gguf={"general.architecture": "llama", "llama.context_length": "4096"})


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(two=_FILE)
    store.add("docker.io/ai/one:latest", _FILE, _TRAINED)
    return store


def sizes(engine) -> list[int]:
    return [request.context_size for request in engine.launched]


def test_a_wish_for_more_context_loads_the_model_anew(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            first = await stage.use("ai/one")
            second = await stage.scheduler.lease("ai/one", "completion", context_size=1024)
            assert second != first
            assert not stage.plane.is_routed(first)
            (route,) = stage.plane.routes
            assert (route.context_size, route.context_limit) == (2048, 4096)
            (info,) = stage.scheduler.runners()
            assert info.context_size == 2048
            assert sizes(engine) == [512, 2048]
            # A conversation that grows has the model loaded anew now and then, not each time.
            for wanted in (1100, 1900, 2048, 2049, 2500):
                await stage.scheduler.lease("ai/one", "completion", context_size=wanted)
            assert sizes(engine) == [512, 2048, 4096]

    run(main())


def test_a_wish_that_changes_nothing_loads_nothing(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            # More than the model was trained for is cut to that.
            first = await stage.scheduler.lease("ai/one", "completion", context_size=100_000)
            for wanted in (0, 100, 512, 4096, 4097, 2**31):
                again = await stage.scheduler.lease("ai/one", "completion", context_size=wanted)
                assert again == first
            assert sizes(engine) == [4096]

    run(main())


def test_less_than_the_usual_is_the_usual(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            await stage.scheduler.lease("ai/one", "completion", context_size=100)
            assert sizes(engine) == [512]

    run(main())


def test_requests_in_flight_end_before_the_model_is_loaded_anew(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            first = await stage.use("ai/one")
            stage.plane.hold(first)
            pid = stage.pid(first)
            wish = asyncio.create_task(
                stage.scheduler.lease("ai/one", "completion", context_size=1024)
            )
            await stage.plane.until(lambda: not stage.plane.is_routed(first))
            assert [info.state for info in stage.scheduler.runners()] == ["retiring"]
            assert is_alive(pid)
            stage.plane.release(first)
            assert await wish != first
            assert sizes(engine)[-1] == 2048

    run(main())


def test_two_wishes_at_once_end_with_the_larger_one(tmp_path, store):
    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine) as stage:
            first = await stage.use("ai/one")
            stage.plane.hold(first)
            lease = stage.scheduler.lease
            wishes = [
                asyncio.create_task(lease("ai/one", "completion", context_size=wanted))
                for wanted in (1024, 3000, 1500)
            ]
            await stage.plane.until(lambda: not stage.plane.is_routed(first))
            await stage.plane.looked_at(1)
            stage.plane.release(first)
            assert len(set(await asyncio.gather(*wishes))) == 1
            (route,) = stage.plane.routes
            assert route.context_size == 4096
            # And whoever wanted less is content.
            assert await lease("ai/one", "completion", context_size=1024) == route.runner_id

    run(main())


def test_a_wish_that_comes_while_an_engine_loads_is_granted_after_it(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        engine = ScriptedEngine("--gate", gate.name)
        async with scene(tmp_path, store, engine) as stage:
            usual = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            engine.options = ()
            wish = asyncio.create_task(
                stage.scheduler.lease("ai/one", "completion", context_size=1024)
            )
            await asyncio.sleep(0)
            gate.open()
            first, second = await asyncio.gather(usual, wish)
            assert first != second
            assert sizes(engine) == [512, 2048]
            assert [route.runner_id for route in stage.plane.routes] == [second]

    run(main())


def test_what_a_modelfile_sets_is_the_usual_context(tmp_path, store):
    wide = Config(gguf=_TRAINED.gguf, modelfile=Modelfile(parameters={"num_ctx": 3000}))
    vast = Config(gguf=_TRAINED.gguf, modelfile=Modelfile(parameters={"num_ctx": 30000}))
    store.add("docker.io/ai/wide:latest", _FILE, wide)
    store.add("docker.io/ai/vast:latest", _FILE, vast)

    async def main() -> None:
        engine = ScriptedEngine()
        async with scene(tmp_path, store, engine, context_size=None) as stage:
            await stage.use("ai/wide")
            await stage.use("ai/vast")
        assert sizes(engine) == [3000, 4096]

    run(main())


def test_a_keep_alive_holds_for_its_runner_alone(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), keep_alive=3600) as stage:
            one = await stage.use("ai/one")
            two = await stage.use("ai/two")
            pidfd = os.pidfd_open(stage.pid(one))
            stage.scheduler.set_keep_alive(one, 0.0)
            assert await asyncio.to_thread(wait_gone, pidfd)
            await stage.plane.until(lambda: len(stage.scheduler.runners()) == 1)
            assert stage.plane.is_routed(two)
            with pytest.raises(NotFound):
                stage.scheduler.set_keep_alive(one, 5.0)
            # A new load has the setting's again.
            again = await stage.use("ai/one")
            lives = {info.runner_id: info.keep_alive for info in stage.scheduler.runners()}
            assert lives == {two: 3600.0, again: 3600.0}

    run(main())


def test_a_keep_alive_of_zero_lets_requests_end(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            stage.scheduler.set_keep_alive(one, 0.0)
            await stage.plane.looked_at()
            assert stage.plane.is_routed(one)
            stage.plane.release(one)
            await stage.plane.until(lambda: not stage.plane.is_routed(one))

    run(main())


def test_a_keep_alive_for_ever_outlives_the_setting(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine(), keep_alive=0.2) as stage:
            one = await stage.scheduler.lease("ai/one", "completion")
            stage.plane.hold(one)
            stage.scheduler.set_keep_alive(one, -1.0)
            two = await stage.use("ai/two")
            stage.plane.release(one)
            await stage.plane.until(lambda: not stage.plane.is_routed(two))
            assert stage.plane.is_routed(one)

    run(main())


def test_a_model_that_is_retired_answers_what_it_has_begun(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            model_id = store.get("ai/one").id
            one = await stage.use("ai/one")
            stage.plane.hold(one)
            assert stage.scheduler.retire(model_id) == 1
            assert stage.scheduler.retire(model_id) == 0  # it is going already
            assert [info.state for info in stage.scheduler.runners()] == ["retiring"]
            stage.plane.release(one)
            await stage.plane.until(lambda: not stage.scheduler.runners())
            assert stage.scheduler.retire(model_id) == 0

    run(main())


def test_a_model_that_is_retired_while_it_loads_goes_after_its_first_request(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        async with scene(tmp_path, store, ScriptedEngine("--gate", gate.name)) as stage:
            asking = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            assert stage.scheduler.retire(store.get("ai/one").id) == 1
            gate.open()
            one = await asking
            assert stage.plane.is_routed(one)
            stage.plane.use(one)
            await stage.plane.until(lambda: not stage.plane.is_routed(one))

    run(main())


def test_a_real_engine_gets_the_context_and_goes_with_its_keep_alive(tmp_path, engine):
    memory = MemoryStore()
    memory.add("docker.io/ai/one:latest", tiny_script(tmp_path / "script.gguf"), _TRAINED)

    async def main() -> None:
        async with scene(tmp_path, memory, discover, **engine) as stage:
            first = await stage.use("ai/one")
            assert await _context(stage) == 512
            second = await stage.scheduler.lease("ai/one", "completion", context_size=100_000)
            assert second != first
            assert await _context(stage) == 4096
            pidfd = os.pidfd_open(stage.pid(second))
            stage.plane.use(second)
            stage.scheduler.set_keep_alive(second, 0.0)
            assert await asyncio.to_thread(wait_gone, pidfd)
            third = await stage.use("ai/one")
            assert await _context(stage) == 512
            pidfd = os.pidfd_open(stage.pid(third))
            assert stage.scheduler.retire(memory.get("ai/one").id) == 1
            assert await asyncio.to_thread(wait_gone, pidfd)

    run(main())


async def _context(stage: Scene) -> int:
    """Tokens that the only engine has for each slot, as it says itself."""
    (runner,) = stage.scheduler.runners()
    _, answer = await asyncio.to_thread(ask, runner.socket_path, "/props", key=runner.api_key)
    context: int = answer["default_generation_settings"]["n_ctx"]
    return context
