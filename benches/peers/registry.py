"""Who can be compared, which of them are here, and how to get the others."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import proxies
import routers
import targets
from processes import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from cache import Package
    from targets import Engine, Target

LLAMA_ROUTER = "llama-server"


@dataclass(frozen=True, slots=True)
class Peer:
    """A relay that can be started.

    Attributes:
        start: Starts it in front of the synthetic engine.
        program: A program of the machine that it is.
        debian: The package that has the program.
        package: What it is on PyPI.
        often: Visited in each round, and not in every other one.
    """

    start: Callable[[Engine], AbstractContextManager[Target]]
    program: str | None = None
    debian: str | None = None
    package: Package | None = None
    often: bool = False

    def missing(self) -> str | None:
        """What to do to have it here, or None if it is."""
        if self.program and proxies.binary(self.program) is None:
            return f"apt-get install {self.debian}"
        if self.package and not self.package.present():
            return f"name it in --peers, and it is fetched from PyPI ({self.package.version})"
        return None

    def version(self) -> str | None:
        """As it says itself."""
        if self.package:
            return self.package.version
        path = proxies.binary(self.program) if self.program else None
        if path is None:
            return None
        done = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
        number = re.search(r"\d+\.\d[\w.]*", done.stdout or done.stderr)
        return number[0] if number else "unknown"


PEERS = {
    "nginx": Peer(proxies.nginx, program="nginx", debian="nginx-light", often=True),
    "haproxy": Peer(proxies.haproxy, program="haproxy", debian="haproxy", often=True),
    targets.OURS: Peer(targets.plane, often=True),
    "vllm-router": Peer(routers.vllm_router, package=routers.VLLM_ROUTER),
    "sglang-router": Peer(routers.sglang_router, package=routers.SGLANG_ROUTER),
    "litellm": Peer(routers.litellm, package=routers.LITELLM),
}


def present(wanted: str) -> tuple[list[str], dict[str, str]]:
    """Who is to be compared, in the order of the tables, and who is left out for which reason.

    Args:
        wanted: `here` for all that need not be fetched, `all`, or names with commas between.

    Raises:
        BenchError: There is no such peer.
    """
    names = list(PEERS) if wanted in ("here", "all") else wanted.split(",")
    for name in names:
        if name not in PEERS:
            raise BenchError(f"`{name}` is none of here, all, {', '.join(PEERS)}")
    absent: dict[str, str] = {}
    for name in names:
        peer = PEERS[name]
        try:
            if peer.package and wanted != "here":
                peer.package.install()
        except BenchError as error:
            absent[name] = str(error)
            continue
        if remedy := peer.missing():
            absent[name] = f"not here: {remedy}"
    for name, reason in absent.items():
        print(f"without {name}: {reason}", file=sys.stderr)
    return [name for name in PEERS if name in names and name not in absent], absent


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of those that have one."""
    found = {name: PEERS[name].version() for name in names if name in PEERS}
    return {name: version for name, version in found.items() if version}
