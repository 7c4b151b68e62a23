"""The relays that know nothing of models: nginx and haproxy, as Debian has them."""

from __future__ import annotations

import getpass
import os
import shutil
from contextlib import contextmanager
from string import Template
from typing import TYPE_CHECKING

from processes import BenchError, free_port, running, wait_for_listener
from targets import HERE, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from targets import Engine


def binary(name: str) -> str | None:
    """A daemon of this machine; Debian keeps those out of a user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _required(name: str) -> str:
    found = binary(name)
    if found is None:
        raise BenchError(f"{name} is not installed")
    return found


@contextmanager
def nginx(engine: Engine) -> Iterator[Target]:
    """One nginx worker, buffering off, a pool of connections to the Unix socket."""
    port = free_port()
    text = Template((HERE / "nginx.conf.in").read_text()).substitute(
        # Started as root, the worker would become `nobody` and could not open the engine's socket.
        user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        directory=engine.directory,
        engine_socket=engine.socket,
        port=port,
    )
    config = engine.directory / f"nginx-{port}.conf"
    config.write_text(text)
    with running([_required("nginx"), "-e", "stderr", "-c", config]) as process:
        wait_for_listener(process, port)
        yield Target("nginx", f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def haproxy(engine: Engine) -> Iterator[Target]:
    """One haproxy thread, connections to the Unix socket shared by all clients."""
    port = free_port()
    text = Template((HERE / "haproxy.cfg.in").read_text()).substitute(
        engine_socket=engine.socket, port=port
    )
    config = engine.directory / f"haproxy-{port}.cfg"
    config.write_text(text)
    # -db: in the foreground, without a second process that watches this one.
    with running([_required("haproxy"), "-db", "-q", "-f", config]) as process:
        wait_for_listener(process, port)
        yield Target("haproxy", f"http://127.0.0.1:{port}", process.pid)
