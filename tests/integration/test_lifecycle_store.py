"""Runners follow the store: models that are deleted, names that move, whoever moved them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from model_runner.errors import ModelNotFound
from support.lifecycles import Gate, MemoryStore, ScriptedEngine, is_alive, run, scene

_FILE = Path("/dev/null")  # the scripted engine loads nothing


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(one=_FILE, two=_FILE)


def test_who_waits_for_a_load_counts_as_a_request(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        async with scene(tmp_path, store, ScriptedEngine("--gate", gate.name)) as stage:
            model_id = store.get("ai/one").id
            waiting = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            assert stage.scheduler.leases(model_id) == 1
            assert stage.scheduler.leases(store.get("ai/two").id) == 0
            gate.open()
            await waiting
            assert stage.scheduler.leases(model_id) == 0

    run(main())


def test_a_load_that_fails_because_its_model_was_deleted_says_so(tmp_path, store):
    async def main() -> None:
        gate = Gate(tmp_path)
        async with scene(tmp_path, store, ScriptedEngine("--gate", gate.name)) as stage:
            waiting = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            store.remove(store.get("ai/one").id)
            os.kill(stage.pid(stage.scheduler.runners()[0].runner_id), signal.SIGKILL)
            with pytest.raises(ModelNotFound, match="`ai/one`"):
                await waiting

    run(main())


def test_a_deleted_model_drains_before_its_engine_stops(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use("ai/one")
            pid = stage.pid(one)
            stage.plane.hold(one)
            store.remove(store.get("ai/one").id)
            await stage.scheduler.refresh()
            assert not stage.plane.is_routed(one)
            assert [info.state for info in stage.scheduler.runners()] == ["retiring"]
            assert is_alive(pid)
            stage.plane.release(one)
            await stage.plane.until(lambda: not stage.scheduler.runners())
            assert not is_alive(pid)

    run(main())


def test_names_follow_the_store(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use("AI/One")  # a spelling that no table has
            model_id = store.get("ai/one").id
            digits = model_id.removeprefix("sha256:")
            usual = {"one", "ai/one", "ai/one:latest", "docker.io/ai/one:latest"}
            expected = usual | {"AI/One", model_id, digits, digits[:12]}
            assert expected <= set(stage.plane.names(one))
            store.retag(model_id, "docker.io/ai/one:latest", "docker.io/ai/uno:latest")
            await stage.scheduler.refresh()
            assert expected | {"ai/uno"} <= set(stage.plane.names(one))
            store.retag(model_id, "docker.io/ai/one:latest")
            await stage.scheduler.refresh()
            assert "ai/uno" not in stage.plane.names(one)

    run(main())


@pytest.mark.parametrize("tag", ["huggingface.co/org/x:q4", "example.com/x:latest", None])
def test_a_runner_stays_while_its_model_keeps_its_name(tmp_path, store, tag):
    model_id = store.add(tag or "docker.io/ai/x:latest", _FILE).id
    store.retag(model_id, *([tag] if tag else []))

    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use(model_id)
            store.retag(model_id, *([tag] if tag else []), "docker.io/ai/further:latest")
            await stage.scheduler.refresh()
            assert "ai/further" in stage.plane.names(one)

    run(main())


def test_a_runner_under_a_name_that_is_gone_makes_way_for_one_under_another(tmp_path, store):
    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use("AI/One")
            stage.plane.hold(one)
            store.retag(store.get("ai/one").id, "docker.io/ai/uno:latest")
            await stage.scheduler.refresh()
            assert not stage.plane.is_routed(one)  # its request goes on, and no other comes to it
            stage.plane.release(one)
            uno = await stage.use("ai/uno")
            assert [info.model for info in stage.scheduler.runners()] == ["ai/uno"]
            assert [route.model for route in stage.plane.routes] == ["ai/uno"]
            assert not {"ai/one", "AI/One"} & set(stage.plane.names(uno))

    run(main())


def test_a_change_of_the_store_by_another_process_is_noticed(tmp_path, store, monkeypatch):
    monkeypatch.setattr("model_runner.lifecycle.scheduler._LOG_SECONDS", 3600)
    monkeypatch.setattr("model_runner.lifecycle.scheduler._STORE_SECONDS", 0.02)

    async def main() -> None:
        async with scene(tmp_path, store, ScriptedEngine()) as stage:
            one = await stage.use("ai/one")
            model_id = store.get("ai/one").id
            store.retag(model_id, "docker.io/ai/one:latest", "docker.io/ai/uno:latest")
            await stage.plane.until(lambda: "ai/uno" in stage.plane.names(one))

    run(main())


def test_a_change_of_the_store_during_a_load_is_noticed(tmp_path, store, monkeypatch):
    monkeypatch.setattr("model_runner.lifecycle.scheduler._STORE_SECONDS", 0.02)

    async def main() -> None:
        gate = Gate(tmp_path)
        async with scene(tmp_path, store, ScriptedEngine("--gate", gate.name)) as stage:
            waiting = asyncio.create_task(stage.scheduler.lease("ai/one", "completion"))
            await gate.reached()
            model_id = store.get("ai/one").id
            store.retag(model_id, "docker.io/ai/one:latest", "docker.io/ai/uno:latest")
            await stage.scheduler.refresh()
            gate.open()
            one = await waiting
            await stage.plane.until(lambda: "ai/uno" in stage.plane.names(one))

    run(main())
