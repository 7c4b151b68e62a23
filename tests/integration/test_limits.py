"""Limits on clients, as their settings say: each is set low, and reached."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.server import DEADLINE, MODEL_RUNNER, running_server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Server

_LOW = {
    "MODEL_RUNNER_HEAD_TIMEOUT": "0.3",
    "MODEL_RUNNER_IDLE_TIMEOUT": "0.6",
    "MODEL_RUNNER_BODY_TIMEOUT": "0.4",
    "MODEL_RUNNER_HEAD_LIMIT": "9000",
    "MODEL_RUNNER_BODY_LIMIT": "2000",
    "MODEL_RUNNER_MAX_CONNECTIONS": "3",
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with every limit low."""
    with running_server(tmp_path_factory.mktemp("narrow"), **_LOW) as server:
        yield server


def answer(server: Server, request: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    with socket.create_connection(server.host_and_port, timeout=DEADLINE) as client:
        client.sendall(request)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                received += piece
        return received


_POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "


@pytest.mark.parametrize(
    ("request_", "status", "setting"),
    [
        (b"GET /models HTTP/1.1\r\nHost: loc", b"408", b"MODEL_RUNNER_HEAD_TIMEOUT"),
        (_POST + b"1000\r\n\r\n{", b"408", b"MODEL_RUNNER_BODY_TIMEOUT"),
        (_POST + b"9999\r\n\r\n{", b"413", b"MODEL_RUNNER_BODY_LIMIT"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9999, b"431", b"MODEL_RUNNER_HEAD_LIMIT"),
        (b"GET / HTTP/1.1\r\nbroken\r\n\r\n", b"400", b"invalid HTTP header"),
    ],
)
def test_who_goes_too_far_is_told_and_how_to_change_it(narrow, request_, status, setting):
    received = answer(narrow, request_)
    assert received.startswith(b"HTTP/1.1 " + status), received
    assert setting in received


def test_an_idle_connection_is_closed_without_a_word(narrow):
    assert answer(narrow, b"") == b""


def test_connections_beyond_the_limit_are_told_so(narrow):
    address = narrow.host_and_port
    with contextlib.ExitStack() as clients:
        # Each thread takes some of them, in whatever order.
        connections = [
            clients.enter_context(socket.create_connection(address, timeout=DEADLINE))
            for _ in range(8)
        ]
        answers = [connection.makefile("rb").read() for connection in connections]
    refused = [answer for answer in answers if answer]
    assert 3 <= len(refused) <= 5
    for refusal in refused:
        assert refusal.startswith(b"HTTP/1.1 503")
        assert b"MODEL_RUNNER_MAX_CONNECTIONS" in refusal


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit")
@pytest.mark.parametrize("given", [{}, {"MODEL_RUNNER_MAX_CONNECTIONS": "100000"}])
def test_a_server_without_file_descriptors_to_spare_stays_calm(tmp_path, given):
    limited = ("prlimit", "--nofile=400:400", *MODEL_RUNNER)
    with running_server(tmp_path, command=limited, **given) as server:
        clients = [socket.create_connection(server.host_and_port) for _ in range(500)]
        if not given:  # so the limit is what there are files for
            clients[-1].settimeout(DEADLINE)
            assert b"MODEL_RUNNER_MAX_CONNECTIONS" in clients[-1].recv(4096)
        before, begun = cpu_seconds(server.process.pid), time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 1, "a second passes")
        assert cpu_seconds(server.process.pid) - before < 0.5
        for client in clients:
            client.close()
        wait_until(lambda: server.request("/models").status == 200, "it serves again")


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
