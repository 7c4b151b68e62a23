"""System calls of a relay, counted by strace: what a request costs, and an event."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from processes import BenchError, stop, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loads import Figures, Visitor
    from targets import Target

Calls = dict[str, int]


def strace() -> str | None:
    """Debian: `apt-get install strace`."""
    return shutil.which("strace")


def syscalls(visitor: Visitor, target: Target) -> Figures:
    """Whole answers 32 at a time, then 8 streams of 100 events a second."""
    if target.pid is None:
        return {}
    effort = visitor.effort
    with traced(target.pid) as calls:
        outcome = visitor.run(
            target, "json", connections=32, requests=effort.traced_requests, duration=30
        )
    figures = {"syscalls_per_request": sum(calls.values()) / outcome.number("requests")}
    with traced(target.pid) as calls:
        outcome = visitor.run(
            target,
            "sse",
            streams=8,
            requests=8,
            rate=100,
            events=effort.traced_events,
            duration=30,
        )
    events = outcome.number("events")
    figures["syscalls_per_event"] = sum(calls.values()) / events
    figures["futex_per_event"] = calls.get("futex", 0) / events
    return figures


@contextmanager
def traced(pid: int) -> Iterator[Calls]:
    """Count the calls of a process tree; the counts are there when the block has ended.

    Raises:
        BenchError: It may not be traced.
    """
    calls: Calls = {}
    with tempfile.NamedTemporaryFile(prefix="strace-") as file:
        argv = [strace() or "strace", "-f", "-c", "-o", file.name]
        members = tree(pid)
        argv += [part for member in members for part in ("-p", str(member))]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE)
        try:
            for _ in members:  # it says for each that it is attached
                line = process.stderr.readline().decode() if process.stderr else ""
                if "attached" not in line:
                    raise BenchError(f"cannot trace: {line.strip()}")
            yield calls
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)
        finally:
            stop(process)
            if process.stderr:
                process.stderr.close()
        calls.update(counted(Path(file.name).read_text()))


def counted(table: str) -> Calls:
    """What `strace -c` counted: columns `% time seconds usecs/call calls [errors] syscall`."""
    calls: Calls = {}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) in (5, 6) and fields[3].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = calls.get(fields[-1], 0) + int(fields[3])
    return calls
