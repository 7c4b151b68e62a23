"""Clients that ask and may not wait for an answer, and engines that stand still meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.server import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse

    from support.server import Server

CHAT = "/v1/chat/completions"

# A grammar that is in forty states at once: 5 ms a token instead of 0.2, so that answers take long.
SLOW = "root ::= " + " ".join(["[^x]*"] * 40)


@dataclass
class Asker:
    """One request under an ID of its own, on a connection of its own."""

    server: Server
    request_id: str
    connection: HTTPConnection

    @classmethod
    def ask(cls, server: Server, path: str, body: dict[str, Any], request_id: str = "") -> Asker:
        """Send a request and wait for nothing."""
        connection = server.connect()
        headers = {"Content-Type": "application/json"}
        if request_id:
            headers["X-Request-Id"] = request_id
        connection.request("POST", path, json.dumps(body), headers)
        return cls(server, request_id, connection)

    @property
    def socket(self) -> socket.socket:
        assert isinstance(self.connection.sock, socket.socket)
        return self.connection.sock

    def response(self) -> HTTPResponse:
        return self.connection.getresponse()

    def cancel(self) -> None:
        """Cancel it by its ID, as somebody else."""
        path = f"/engines/requests/{self.request_id}/cancel"
        # The other thread of the server may not have seen it yet.
        answer = wait_until(lambda: _found(self.server.request(path, method="POST")), "it is known")
        assert answer.json() == {"id": self.request_id, "cancelled": 1}

    def close(self) -> None:
        self.connection.close()

    def reset(self) -> None:
        """Leave without a farewell, as a machine that is rebooted."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def finish_sending(self) -> None:
        """Close one half, which counts as leaving, and see the other half end."""
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(65536):
            pass
        self.connection.close()


def _found(answer: Any) -> Any:
    return answer if answer.status == 200 else None


def read_what_comes(response: HTTPResponse) -> bytes:
    """Read a body that may be cut off."""
    received = b""
    with contextlib.suppress(ValueError, OSError, HTTPException):
        while piece := response.read1(65536):
            received += piece
    return received


def engine_of(server: Server, model: str) -> tuple[int, Path]:
    """The process and the socket of a model's engine."""
    for pid in server.engine_pids():
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if model in arguments:
            return pid, Path(arguments[arguments.index("--host") + 1])
    raise AssertionError(f"no engine has {model} loaded")


def at_engines(server: Server) -> set[str]:
    """The IDs of the requests that engines were asked and have not answered."""
    models = server.request("/engines/requests").json()
    records = [record for model in models for record in model["records"]]
    return {record["request_id"] for record in records if record["status_code"] == 0}


@contextlib.contextmanager
def frozen(server: Server, model: str) -> Iterator[Path]:
    """The model's engine stands still; where its socket is."""
    pid, path = engine_of(server, model)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield path
    finally:
        os.kill(pid, signal.SIGCONT)


def descriptors(server: Server) -> int:
    """Files and sockets that the server has open."""
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


def resident(server: Server) -> int:
    """The server's memory in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
