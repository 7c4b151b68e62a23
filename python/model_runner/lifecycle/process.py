"""One engine process: started so that it cannot outlive us, watched, stopped, reaped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.engines import launch

if TYPE_CHECKING:
    from model_runner.engines import LaunchPlan
    from model_runner.lifecycle.log import EngineLog

_LAUNCHER = str(Path(launch.__file__))


class EngineProcess:
    """A started process. It must be stopped or waited for, so that it does not stay as a zombie."""

    def __init__(self, process: asyncio.subprocess.Process, log: EngineLog) -> None:
        self.pid = process.pid
        self.log = log
        self._process = process
        self._exit = asyncio.create_task(process.wait())

    @classmethod
    async def spawn(cls, plan: LaunchPlan, log: EngineLog, directory: Path) -> EngineProcess:
        """Start a process with nothing of ours but its log.

        Args:
            plan: The command line and the environment.
            log: What its standard output and standard error are appended to.
            directory: Its working directory.

        Raises:
            OSError: The log cannot be written, or there is no memory or process left.
        """
        # Our own interpreter becomes the engine: what that buys is told in `engines/launch.py`.
        launcher = [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), "--"]
        output = log.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *launcher,
                *plan.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=plan.environment,
                cwd=directory,
            )
        finally:
            os.close(output)
        return cls(process, log)

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self._exit.done()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; say whether it has come."""
        await asyncio.wait({self._exit}, timeout=timeout)
        return self._exit.done()

    async def stop(self, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL; return when it is gone."""
        self._signal(signal.SIGTERM)
        if not await self.wait(grace):
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL; return when it is gone."""
        self._signal(signal.SIGKILL)
        await self.wait()

    def ending(self) -> str:
        """How it ended, for people: `exit status 1`, `killed by SIGKILL`."""
        if not self._exit.done():
            return "still running"
        status = self._exit.result()
        if status >= 0:
            return f"exit status {status}"
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"

    def failure(self, *, served: bool = False) -> str:
        """Why it ended, in its own words if it had any.

        Args:
            served: It was ready before, so what it printed last may be about anything.
        """
        killed = self._exit.done() and self._exit.result() < 0
        reason = self.log.last_error() if served or killed else self.log.reason()
        return f"{reason} ({self.ending()})" if reason else self.ending()

    def _signal(self, number: signal.Signals) -> None:
        # Not Popen.send_signal: it reaps a child that has just ended, and asyncio's watcher then
        # cannot say with which status.
        if self._exit.done():
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return  # reaped, and the loop hears of it in a moment
