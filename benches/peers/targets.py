"""What is measured: the synthetic engine itself, and the relays between it and the load."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from processes import BenchError, Waiting, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Engine:
    """A running synthetic engine."""

    socket: Path
    address: str
    directory: Path
    """For whatever a relay needs to write."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that the load can be put on.

    Attributes:
        name: As the tables show it.
        address: As the load generator reads it.
        path: Of the chat endpoint.
        pid: Root of the process tree whose cost is measured; None for the bare engine.
    """

    name: str
    address: str
    path: str
    pid: int | None


@contextmanager
def engine(load: Path, directory: Path) -> Iterator[Engine]:
    """Start the synthetic engine on a Unix socket and on TCP."""
    path = directory / "engine.sock"
    argv: list[str | Path] = [load, "engine", "--socket", path, "--listen", "127.0.0.1:0"]
    with running(argv, reads_addresses=True) as (_, addresses):
        yield Engine(path, addresses[1], directory)


@contextmanager
def direct(engine: Engine) -> Iterator[Target]:
    """No relay, over TCP as the relays' clients use it: what is subtracted from all others."""
    yield Target("direct", engine.address, "/v1/chat/completions", None)


def nginx_binary() -> str | None:
    """The nginx of this machine; Debian keeps it out of a user's PATH."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(engine: Engine) -> Iterator[Target]:
    """One nginx worker, buffering off, a pool of connections to the Unix socket."""
    binary = nginx_binary()
    if binary is None:
        raise BenchError("nginx is not installed")
    port = _free_port()
    text = Template((HERE / "nginx.conf.in").read_text()).substitute(
        # Started as root, the worker would become `nobody` and could not open the engine's socket.
        user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        directory=engine.directory,
        engine_socket=engine.socket,
        port=port,
    )
    config = engine.directory / f"nginx-{port}.conf"
    config.write_text(text)
    with running([binary, "-e", "stderr", "-c", config]) as (process, _):
        _wait_for_listener(process, port)
        yield Target("nginx", f"http://127.0.0.1:{port}", "/v1/chat/completions", process.pid)


@contextmanager
def plane(engine: Engine) -> Iterator[Target]:
    """The data plane of model-runner with one relaying thread, in a Python process of its own."""
    argv: list[str | Path] = [sys.executable, HERE / "plane.py", "--threads", "1"]
    argv += ["--engine-socket", engine.socket]
    with running(argv, reads_addresses=True) as (process, addresses):
        path = "/engines/llama.cpp/v1/chat/completions"
        yield Target("model-runner", addresses[0], path, process.pid)


RELAYS: dict[str, Callable[[Engine], AbstractContextManager[Target]]] = {
    "nginx": nginx,
    "model-runner": plane,
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_listener(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in Waiting(f"a listener on port {port}").steps():
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with status {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
