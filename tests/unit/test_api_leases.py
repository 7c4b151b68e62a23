"""The lease call: it waits, it words errors for the data plane, and it ends with its caller."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from model_runner.errors import EngineFailed, EngineNotInstalled, ModelNotFound, NoCapacity
from support.control_planes import FakeRunner, FakeScheduler, serving
from support.lifecycles import MemoryStore

BODY = {"model": "ai/x", "mode": "completion", "failed_runner": None}


def lease(tmp_path, answer, body=BODY):
    scheduler = FakeScheduler(answer=answer)

    async def main():
        async with serving(tmp_path, scheduler=scheduler) as client:
            return await client.send("POST", "/_control/leases", json=body)

    result = asyncio.run(main())
    return result.status, json.loads(result.body)


def refusing(error):
    def answer(*_):
        raise error

    return answer


def test_a_lease_names_its_runner(tmp_path):
    seen = []

    def answer(*request):
        seen.append(request)
        return "runner-7"

    body = {**BODY, "failed_runner": "runner-6"}
    assert lease(tmp_path, answer, body) == (200, {"runner_id": "runner-7"})
    assert seen == [("ai/x", "completion", "runner-6")]


def told(tmp_path, path, body, *, loaded=(), store=None):
    """What a call was answered, and what the lifecycle was told."""
    scheduler = FakeScheduler(loaded=list(loaded))

    async def main():
        async with serving(tmp_path, scheduler=scheduler, store=store) as client:
            return await client.send("POST", path, json=body)

    result = asyncio.run(main())
    return result.status, json.loads(result.body), scheduler.events


def test_a_lease_says_how_much_context_is_wanted(tmp_path):
    status, _, events = told(tmp_path, "/_control/leases", {**BODY, "context_size": 16384})
    assert (status, events) == (200, [("lease", "ai/x", "16384")])
    status, body, events = told(tmp_path, "/_control/leases", {**BODY, "context_size": 0})
    assert (status, body["code"], events) == (400, "invalid_request", [])


@pytest.mark.parametrize("seconds", [0, 1.5, -1])
def test_a_keep_alive_reaches_its_runner(tmp_path, seconds):
    body = {"runner_id": "r1", "keep_alive": seconds}
    answer = told(tmp_path, "/_control/keep_alive", body, loaded=[FakeRunner()])
    assert answer == (200, {}, [("keep_alive", "r1", str(float(seconds)))])


def test_a_keep_alive_of_a_runner_that_is_gone(tmp_path):
    body = {"runner_id": "r1", "keep_alive": 5}
    status, answer, events = told(tmp_path, "/_control/keep_alive", body)
    assert (status, answer["code"], events) == (404, "not_found", [])


def test_a_keep_alive_that_is_no_number(tmp_path):
    body = {"runner_id": "r1", "keep_alive": "soon"}
    status, answer, events = told(tmp_path, "/_control/keep_alive", body, loaded=[FakeRunner()])
    assert (status, answer["code"], events) == (400, "invalid_request", [])


def test_an_unload_says_how_many_runners_go(tmp_path):
    store = MemoryStore(x=None)
    model_id = store.get("ai/x").id
    runners = [FakeRunner(model_id=model_id), FakeRunner("r2", model_id="sha256:1")]
    answer = told(tmp_path, "/_control/unload", {"model": "x"}, loaded=runners, store=store)
    assert answer == (200, {"unloaded": 1}, [("retire", model_id)])


def test_an_unload_of_an_unknown_model(tmp_path):
    body = {"model": "ai/nothing"}
    status, answer, events = told(tmp_path, "/_control/unload", body, store=MemoryStore())
    assert (status, answer["code"], events) == (404, "model_not_found", [])


def test_an_unknown_model(tmp_path):
    status, body = lease(tmp_path, refusing(ModelNotFound("ai/x")))
    assert status == 404
    assert body["code"] == "model_not_found"
    assert body["kind"] == "invalid_request_error"
    assert "model-runner pull ai/x" in body["hint"]
    assert body["retry_after"] is None


def test_an_engine_that_fails(tmp_path):
    status, body = lease(tmp_path, refusing(EngineFailed("out of memory")))
    assert (status, body["message"], body["kind"]) == (500, "out of memory", "server_error")


def test_a_full_server_says_when_to_come_back(tmp_path):
    status, body = lease(tmp_path, refusing(NoCapacity("all runners are busy")))
    assert status == 503
    assert body["retry_after"] > 0


def test_a_missing_engine_is_nothing_to_wait_for(tmp_path):
    status, body = lease(tmp_path, refusing(EngineNotInstalled("no engine", hint="install one")))
    assert (status, body["code"], body["retry_after"]) == (503, "engine_not_installed", None)


SHAPE = {"code", "kind", "message", "hint", "param", "retry_after", "reference"}


def test_an_error_of_ours_is_in_the_shape_that_the_data_plane_reads(tmp_path):
    status, body = lease(tmp_path, refusing(ZeroDivisionError("a bug")))
    assert (status, body["code"], body["kind"]) == (500, "internal_error", "server_error")
    assert "log" in body["hint"]
    assert set(body) == SHAPE


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/_control/nothing"), ("GET", "/_control/leases")]
)
def test_what_is_not_there_is_in_that_shape_too(tmp_path, method, path):
    async def main():
        async with serving(tmp_path) as client:
            return await client.send(method, path)

    answer = asyncio.run(main())
    body = json.loads(answer.body)
    assert (answer.status, body["code"]) == (404, "not_found")
    assert set(body) == SHAPE


def test_a_body_that_is_none(tmp_path):
    status, body = lease(tmp_path, lambda *_: "r", body={"model": 1})
    assert (status, body["code"]) == (400, "invalid_request")


def test_a_caller_that_leaves_within_its_body_is_no_error(tmp_path, caplog):
    async def main():
        async with serving(tmp_path):
            _, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
            writer.write(
                b"POST /_control/leases HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
            )
            await writer.drain()
            writer.close()

    asyncio.run(main())
    assert caplog.text == ""


def test_calls_take_no_threads_of_their_own(tmp_path):
    async def main():
        async with serving(tmp_path) as client:
            await asyncio.gather(*(client.get("/engines/ps") for _ in range(20)))
            return [thread.name for thread in threading.enumerate()]

    assert not [name for name in asyncio.run(main()) if name.startswith("AnyIO")]


def test_when_the_caller_leaves_the_wait_ends(tmp_path):
    async def main():
        scheduler = FakeScheduler(answer=lambda *_: asyncio.Event())
        async with serving(tmp_path, scheduler=scheduler) as client:
            call = asyncio.ensure_future(client.send("POST", "/_control/leases", json=BODY))
            await scheduler.asked.wait()
            call.cancel()
            await asyncio.wait_for(scheduler.left.wait(), 10)

    asyncio.run(main())
