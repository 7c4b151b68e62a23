"""Clients that stop reading in the middle of a stream, and keep their connection."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from support.askers import CHAT, Asker, descriptors, read_what_comes, resident
from support.server import chat_body, running_server, wait_until

if TYPE_CHECKING:
    from support.server import Server

ENDLESS = "ai/tiny-random"
READERS = 12
# What a stream may hold of its client's answer, its connections included.
MEMORY = 128 * 1024


def stuck_reader(server: Server) -> socket.socket:
    """A client that has asked for far more than its buffers take, and reads nothing."""
    # Twenty probabilities with each token make 3 kB of it.
    fields = {"max_tokens": 3900, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(chat_body(ENDLESS, stream=True, **fields)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(server.host_and_port)
    client.sendall(head.encode() + body)
    return client


def until_given_up(server: Server, stuck: list[socket.socket]) -> int:
    """Wait until the server has given up these readers; the most memory that it had meanwhile."""
    timed_out = {"name": "model_runner_requests_total", "outcome": "timed_out"}
    expected = server.metric(**timed_out) + len(stuck)
    most = 0

    def given_up() -> bool:
        nonlocal most
        most = max(most, resident(server))
        return server.metric(**timed_out) == expected

    wait_until(given_up, "all of them to be given up")
    for client in stuck:
        client.close()
    return most


def test_stuck_readers_cost_little_and_are_given_up(models):
    settings = {
        "MODEL_RUNNER_SLOTS": str(READERS + 1),
        "MODEL_RUNNER_WRITE_TIMEOUT": "2",
        # What is kept to be read again has a bound of its own, for all requests together.
        "MODEL_RUNNER_RECORDER": "off",
    }
    with running_server(models, **settings) as server:
        assert server.chat(ENDLESS, max_tokens=1).status == 200
        server.request("/metrics")
        open_before, before = descriptors(server), resident(server)
        stuck = [stuck_reader(server) for _ in range(READERS)]
        # Somebody else is served meanwhile.
        other = Asker.ask(server, CHAT, chat_body(ENDLESS, stream=True, max_tokens=50))
        assert b"[DONE]" in read_what_comes(other.response())
        other.close()
        most = until_given_up(server, stuck)
        assert (most - before) // READERS < MEMORY
        wait_until(lambda: server.metric("llamacpp:requests_processing") == 0, "an idle engine")
        assert server.metric("model_runner_runner_leases") == 0
        wait_until(lambda: descriptors(server) <= open_before, "its descriptors to be closed")
        assert server.chat(ENDLESS, max_tokens=1).status == 200
