"""Two things at once: requests that end while their engine, their runner or the server does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from support.askers import (
    CHAT,
    SLOW,
    Asker,
    at_engines,
    descriptors,
    engine_of,
    frozen,
    read_what_comes,
)
from support.server import DEADLINE, chat_body, events, is_alive, running_server, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.server import Server

ENDLESS = "ai/tiny-random"
ROUNDS = 8


@pytest.fixture
def server(models) -> Iterator[Server]:
    with running_server(models, MODEL_RUNNER_SLOTS="4") as running:
        assert running.chat(ENDLESS, max_tokens=1).status == 200
        running.request("/metrics")
        yield running


def streaming(server: Server, request_id: str) -> Asker:
    body = chat_body(ENDLESS, stream=True, max_tokens=3000, grammar=SLOW)
    return Asker.ask(server, CHAT, body, request_id)


def last_error(told: bytes) -> str:
    """The code of the error event that a stream ends with."""
    assert b"[DONE]" not in told
    code = json.loads(events(told)[-1])["error"]["code"]
    assert isinstance(code, str)
    return code


def at_once(*actions: Callable[[], object]) -> None:
    """Do them in threads that start together."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], object]) -> None:
        barrier.wait(DEADLINE)
        action()

    threads = [threading.Thread(target=act, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)


def post(server: Server, path: str, body: object = None) -> Callable[[], object]:
    return lambda: server.request(path, body, method="POST")


def assert_as_before(server: Server, open_before: int) -> None:
    """It serves, holds nothing, and has one engine at most."""
    assert server.chat(ENDLESS, max_tokens=1).status == 200
    wait_until(lambda: server.metric("model_runner_runner_leases") == 0, "no leases")
    wait_until(lambda: descriptors(server) <= open_before, "its descriptors to be closed")
    wait_until(lambda: len(server.engine_pids()) == 1, "one engine")


def test_an_engine_dies_while_its_requests_are_cancelled(server):
    open_before = descriptors(server)
    for number in range(ROUNDS):
        asker, leaver = streaming(server, f"both-{number}"), streaming(server, f"leaves-{number}")
        responses = [asker.response(), leaver.response()]
        begun = [response.readline() for response in responses]
        pid, _ = engine_of(server, ENDLESS)
        cancel = post(server, f"/engines/requests/both-{number}/cancel")
        at_once(cancel, leaver.reset, lambda pid=pid: os.kill(pid, signal.SIGKILL))
        told = begun[0] + read_what_comes(responses[0])
        assert last_error(told) in {"cancelled", "engine_died"}
        asker.close()
        for response in responses:
            response.close()
        wait_until(lambda pid=pid: not is_alive(pid), "the engine to be dead")
    assert_as_before(server, open_before)
    ends = ("cancelled", "engine_error", "ok")
    total = sum(server.metric("model_runner_requests_total", outcome=end) for end in ends)
    assert total == 2 * ROUNDS + 2, "each is booked once"


def test_a_runner_is_unloaded_while_its_requests_are_cancelled(server):
    open_before = descriptors(server)
    for number in range(ROUNDS):
        asker, leaver = streaming(server, f"both-{number}"), streaming(server, f"leaves-{number}")
        responses = [asker.response(), leaver.response()]
        begun = responses[0].readline() + responses[0].readline()
        cancel = post(server, f"/engines/requests/both-{number}/cancel")
        at_once(cancel, leaver.close, post(server, "/engines/unload", {"all": True}))
        responses[1].close()
        # It was asked to unload what was in use, or was not any more; the request ended well.
        assert last_error(begun + read_what_comes(responses[0])) == "cancelled"
        asker.close()
        responses[0].close()
        assert server.chat(ENDLESS, max_tokens=1).status == 200
    assert_as_before(server, open_before)


@pytest.mark.parametrize("grace", ["0", "60"])
def test_the_server_stops_while_streams_wait(models, grace):
    settings = {
        "MODEL_RUNNER_SLOTS": "1",
        "MODEL_RUNNER_HEARTBEAT": "0.02",
        "MODEL_RUNNER_STOP_GRACE": grace,
    }
    with running_server(models, **settings) as server, contextlib.ExitStack() as stack:
        assert server.chat(ENDLESS, max_tokens=1).status == 200
        (engine,) = server.engine_pids()
        with frozen(server, ENDLESS):
            body = chat_body(ENDLESS, stream=True, max_tokens=1)
            running = Asker.ask(server, CHAT, body)
            stack.callback(running.close)
            wait_until(lambda: len(at_engines(server)) == 1, "the slot to be taken")
            waiting = [Asker.ask(server, CHAT, body) for _ in range(3)]
            responses = [asker.response() for asker in waiting]
            for asker, response in zip(waiting, responses, strict=True):
                stack.callback(asker.close)
                stack.callback(response.close)
                assert response.readline().startswith(b":")
            server.process.send_signal(signal.SIGTERM)
            wait_until(server.refuses, "new connections to be refused")
        told = [read_what_comes(response) for response in responses]
        assert server.process.wait(DEADLINE) == 0
        assert not is_alive(engine)
        if grace != "0":
            assert all(b"[DONE]" in answer for answer in told), "what waited was served"


def test_sigkill_of_the_server_in_mid_stream_takes_the_engines_along(server):
    askers = [streaming(server, "") for _ in range(4)]
    responses = [asker.response() for asker in askers]
    for response in responses:
        response.readline()
    (engine,) = server.engine_pids()
    server.process.kill()
    for asker, response in zip(askers, responses, strict=True):
        assert b"[DONE]" not in read_what_comes(response)
        asker.close()
        response.close()
    wait_until(lambda: not is_alive(engine), "the engine to be gone")
