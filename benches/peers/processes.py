"""Child processes and what they cost: started, watched through /proc, stopped."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Process = subprocess.Popen[bytes]

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0


class BenchError(Exception):
    """The measurement cannot go on, or would be worth nothing."""


@contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    talks: bool = False,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Process]:
    """Run a process for the length of a block.

    Args:
        argv: The command.
        talks: It is talked with over its stdin and stdout.
        environment: All of its environment; by default it has ours.
        log: Where its stderr goes (without `talks` its stdout, too).
    """
    pipe = subprocess.PIPE if talks else subprocess.DEVNULL
    with log.open("wb") if log else nullcontext() as file:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=pipe,
            stdout=pipe if talks else file or subprocess.DEVNULL,
            stderr=file,
            env=environment,
            cwd=log.parent if log else None,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: Process) -> None:
    """End a process, by force if it takes its time."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def said(process: Process, seconds: float = START_TIMEOUT_SECONDS) -> object:
    """The next line of a process that talks, which is JSON.

    Raises:
        BenchError: It says nothing.
    """
    stream = process.stdout
    if stream is None or not select.select([stream], [], [], seconds)[0]:
        raise BenchError(f"{process.args!r} says nothing")
    line = stream.readline()
    if not line:
        raise BenchError(f"{process.args!r} ended with status {process.wait()}")
    answer: object = json.loads(line)
    return answer


def addresses(process: Process) -> list[str]:
    """Where a process listens that says so in its first line.

    Raises:
        BenchError: It says something else.
    """
    line = said(process)
    if not isinstance(line, list):
        raise BenchError(f"{process.args!r} said {line!r} instead of its addresses")
    return [str(address) for address in line]


def tell(process: Process, command: str) -> None:
    """Give a process that talks a command."""
    if process.stdin is None:
        raise BenchError(f"{process.args!r} takes no commands")
    process.stdin.write(f"{command}\n".encode())
    process.stdin.flush()


def free_port() -> int:
    """A TCP port of this machine that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_listener(
    process: Process, port: int, seconds: float = START_TIMEOUT_SECONDS, log: Path | None = None
) -> None:
    """Wait until a process listens on a port.

    Raises:
        BenchError: It ended, or took too long.
    """
    for _ in Waiting(f"a listener on port {port}", seconds).steps():
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with {process.returncode}{tail(log)}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return


def tail(log: Path | None) -> str:
    """The end of a log, to be put behind a message."""
    text = log.read_text(errors="replace").strip() if log and log.exists() else ""
    return f": …{text[-400:]}" if text else ""


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


def open_files(pid: int) -> int:
    """Descriptors that a process and its descendants hold."""
    return sum(len(list(Path(f"/proc/{member}/fd").iterdir())) for member in tree(pid))


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
