"""Whether an engine answers yet, and if not, whether it still gets anywhere."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.errors import EngineFailed

if TYPE_CHECKING:
    from model_runner.lifecycle.process import EngineProcess

# A small model is up in 30 ms; a longer step would be seen in the time to its first token.
_POLL_SECONDS = 0.005
_ANSWER_SECONDS = 1.0
# `/health` needs no key: refused, then 503 while the model loads, then 200.
_REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Answering our polls costs the engine about 2 % of a core; only more than this is work of its own.
_WORKING_CPU_SHARE = 0.2
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


async def healthy(socket_path: Path) -> bool:
    """Whether `/health` on a Unix socket answers 200 within a second."""
    # Not asyncio.wait_for: before Python 3.12 it can swallow the cancellation of a load.
    asking = asyncio.create_task(_ask(socket_path))
    try:
        done, _ = await asyncio.wait({asking}, timeout=_ANSWER_SECONDS)
        return bool(done) and asking.result()
    finally:
        asking.cancel()


async def _ask(socket_path: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError:
        return False
    try:
        writer.write(_REQUEST)
        status_line = await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
    return status_line.split(b" ")[1:2] == [b"200"]


async def wait_ready(process: EngineProcess, socket_path: Path, stall_timeout: float) -> None:
    """Wait until an engine answers, for as long as it makes progress.

    Args:
        process: The engine.
        socket_path: Where it will listen.
        stall_timeout: Seconds without any sign of work after which it is given up.

    Raises:
        EngineFailed: It ended, or stalled; the message has its own reason.
    """
    progress = _Progress(process, min(1.0, stall_timeout / 4))
    while not process.exited:
        if await healthy(socket_path):
            return
        if progress.stalled_seconds() > stall_timeout:
            raise EngineFailed(
                f"it made no progress for {stall_timeout:.0f} seconds while loading",
                hint="set MODEL_RUNNER_LOAD_STALL_TIMEOUT if this machine needs longer",
            )
        await process.wait(_POLL_SECONDS)
    raise EngineFailed(await asyncio.to_thread(process.failure))


@dataclass(frozen=True, slots=True)
class _Sample:
    """Signs of work so far: seconds of CPU, bytes read, bytes printed."""

    cpu_seconds: float
    read_bytes: int
    log_bytes: int


class _Progress:
    """Tells for how long a loading process has shown no sign of work."""

    def __init__(self, process: EngineProcess, interval: float) -> None:
        self._process = process
        self._interval = interval
        self._sampled = self._advanced = time.monotonic()
        self._sample = self._take()

    def stalled_seconds(self) -> float:
        """Seconds since the last sign of work; 0 where the system cannot tell."""
        now = time.monotonic()
        elapsed = now - self._sampled
        if elapsed >= self._interval:
            before, self._sample = self._sample, self._take()
            self._sampled = now
            if _worked(before, self._sample, elapsed):
                self._advanced = now
        return now - self._advanced

    def _take(self) -> _Sample | None:
        directory = Path("/proc") / str(self._process.pid)
        try:
            # After the name in parentheses, which may hold anything: fields 3 and up of proc(5).
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
            counters = (directory / "io").read_text().split()
        except OSError:  # it has just ended, or this system has no /proc
            return None
        cpu = (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
        # rchar counts read(2), read_bytes what page faults of a mapped file bring in.
        read = int(counters[counters.index("rchar:") + 1])
        faulted = int(counters[counters.index("read_bytes:") + 1])
        return _Sample(cpu, read + faulted, self._process.log.size())


def _worked(before: _Sample | None, now: _Sample | None, elapsed: float) -> bool:
    if before is None or now is None:
        return True
    return (
        now.log_bytes != before.log_bytes
        or now.read_bytes > before.read_bytes
        or now.cpu_seconds - before.cpu_seconds > elapsed * _WORKING_CPU_SHARE
    )
