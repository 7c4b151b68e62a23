"""Child processes and what they cost: started, watched through /proc, stopped."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0


class BenchError(Exception):
    """The measurement cannot go on, or would be worth nothing."""


@contextmanager
def running(
    argv: Sequence[str | Path], *, reads_addresses: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """Run a process for the length of a block.

    Args:
        argv: The command.
        reads_addresses: Wait for a line of JSON on its stdout, the list of its addresses.

    Yields:
        The process, and the addresses (empty if not asked for).
    """
    stdout = subprocess.PIPE if reads_addresses else subprocess.DEVNULL
    process = subprocess.Popen([str(part) for part in argv], stdout=stdout)
    try:
        yield process, _addresses(process) if reads_addresses else []
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _addresses(process: subprocess.Popen[bytes]) -> list[str]:
    stream = process.stdout
    if stream is None or not select.select([stream], [], [], START_TIMEOUT_SECONDS)[0]:
        raise BenchError(f"{process.args!r} did not say where it listens")
    line = stream.readline()
    if not line:
        raise BenchError(f"{process.args!r} ended with status {process.wait()}")
    return [str(address) for address in json.loads(line)]


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process, its threads and its descendants.

    `schedstat` counts nanoseconds of the same clock that `stat` shows in ticks of 10 ms, which
    would be up to 5 % of a short visit. Threads that have ended are only in `stat`; nothing that
    is measured here ends threads.
    """
    total = 0.0
    for member in tree(pid):
        tasks = list(Path(f"/proc/{member}/task").iterdir())
        try:
            total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
        except FileNotFoundError:
            # After the command's closing parenthesis: field 14 and 15 of proc(5).
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rss_kib(pid: int) -> int:
    """Resident memory of a process and its descendants, shared pages counted for each."""
    total = 0
    for member in tree(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


@dataclass(slots=True)
class Waiting:
    """A deadline for something that can only be polled."""

    what: str
    seconds: float = START_TIMEOUT_SECONDS

    def steps(self) -> Iterator[None]:
        """One step each 10 ms.

        Raises:
            BenchError: The time is over.
        """
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            yield
            time.sleep(0.01)
        raise BenchError(f"waited {self.seconds:.0f} s for {self.what}")
