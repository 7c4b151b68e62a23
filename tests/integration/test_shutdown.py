"""How a server ends: what is in flight completes, what is new is refused, nothing stays behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from support.server import DEADLINE, chat_body, is_alive, running_server, wait_until

ENDLESS = "ai/tiny-random"
SCRIPTED = "ai/tiny-script"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stream_in_flight_completes_within_the_grace(server, number):
    connection = server.connect()
    body = json.dumps(chat_body(ENDLESS, stream=True, max_tokens=1500))
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    response.readline()
    engines = server.engine_pids()
    server.process.send_signal(number)
    wait_until(server.refuses, "new connections to be refused")
    assert response.read().rstrip().endswith(b"data: [DONE]")
    connection.close()
    assert server.process.wait(DEADLINE) == 0
    assert not any(is_alive(engine) for engine in engines)


def test_what_outlasts_the_grace_is_cut_and_no_engine_stays(models):
    with running_server(models, MODEL_RUNNER_STOP_GRACE="0") as server:
        connection = server.connect()
        body = json.dumps(chat_body(ENDLESS, stream=True, max_tokens=3900))
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        response.readline()
        engines = server.engine_pids()
        assert server.stop() == 0
        connection.close()
        assert not any(is_alive(engine) for engine in engines)


def test_a_second_signal_ends_it_at_once_and_takes_the_engines_along(server):
    connection = server.connect()
    body = json.dumps(chat_body(ENDLESS, stream=True, max_tokens=3900))
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    response.readline()
    engines = server.engine_pids()
    server.process.send_signal(signal.SIGTERM)
    wait_until(server.refuses, "the first signal to be heeded")
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(DEADLINE)
    connection.close()
    for engine in engines:
        wait_until(lambda pid=engine: not is_alive(pid), "the engine to be gone")


def test_nothing_is_left_in_the_temporary_directory(models):
    with running_server(models) as server:
        assert server.chat(SCRIPTED, max_tokens=1).status == 200
        (runtime,) = Path(server.environment["TMPDIR"]).glob("model-runner-*")
        assert runtime.stat().st_mode & 0o777 == 0o700
        server.stop()
        assert not runtime.exists()


def test_it_serves_on_a_unix_socket_and_cleans_it_up(models):
    socket = models / "m.sock"
    with running_server(models, "--socket", str(socket)) as server:
        assert server.addresses == [f"unix://{socket}"]
        answered = server.cli("run", SCRIPTED, "Hello")
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.startswith(("Hello", " Hello"))
        server.stop()
    assert not socket.exists()
