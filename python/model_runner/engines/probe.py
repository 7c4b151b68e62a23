"""What one build of llama.cpp's server can do: asked of the build, and kept until it changes."""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.engines import environment
from model_runner.engines.discovery import HINT
from model_runner.errors import EngineNotInstalled

if TYPE_CHECKING:
    from model_runner.engines.discovery import Command

# `--list-devices` starts the drivers, which takes seconds on a machine with several GPUs.
_HELP_SECONDS = 30
_DEVICES_SECONDS = 120
# A device line: `  CUDA0: NVIDIA H100 (81079 MiB, 80559 MiB free)`.
_DEVICE = re.compile(r"^\s+\S.*:.*\d+ MiB", re.MULTILINE)
_VERSION = re.compile(r"^version:\s*(.+)$", re.MULTILINE)
# Where no configuration can be: probing must not depend on a user's files.
_NO_CONFIG = Path("/nonexistent")


@dataclass(frozen=True, slots=True)
class Build:
    """One build of the server.

    Attributes:
        flags: Every spelling of every flag it has.
        version: What `--version` says.
        has_devices: Whether it sees a device other than the CPU; True if it could not be asked.
    """

    flags: frozenset[str]
    version: str
    has_devices: bool


def parse_flags(help_text: str) -> frozenset[str]:
    """The flags in the output of `--help`, whose entries start in the first column with a dash."""
    flags: set[str] = set()
    for line in help_text.splitlines():
        if not line.startswith("-") or line.startswith("---"):  # the latter begins a heading
            continue
        for word in line.split():
            if not word.startswith("-"):
                break
            flags.add(word.rstrip(","))
    return frozenset(flags)


class Probe:
    """Asks builds what they can do; each build once."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, ...], int, int], Build] = {}
        self._lock = threading.Lock()

    def build(self, command: Command) -> Build:
        """What the build behind a command can do.

        Raises:
            EngineNotInstalled: It cannot be run, or is not llama.cpp's server.
        """
        try:
            stat = command.changes_with.stat()
        except OSError as error:
            reason = f"`{command}` cannot be run: {error.strerror}"
            raise EngineNotInstalled(reason, hint=HINT) from error
        key = (command.argv, stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if key not in self._known:
                self._known[key] = _ask(command)
            return self._known[key]


def _ask(command: Command) -> Build:
    status, text = _output(command, "--help", _HELP_SECONDS)
    flags = parse_flags(text)
    if status != 0 or not {"--model", "--host"} <= flags:
        last = next(
            (line for line in reversed(text.splitlines()) if line.strip()), f"exit status {status}"
        )
        reason = last.strip() if status != 0 else "its --help is not that of llama.cpp's server"
        raise EngineNotInstalled(f"`{command}` cannot be used: {reason}", hint=HINT)
    version = _VERSION.search(_output(command, "--version", _HELP_SECONDS)[1])
    has_devices = True
    if "--list-devices" in flags:
        status, text = _output(command, "--list-devices", _DEVICES_SECONDS)
        has_devices = status != 0 or _DEVICE.search(text) is not None
    return Build(flags, version.group(1).strip() if version else "of unknown version", has_devices)


def _output(command: Command, flag: str, seconds: float) -> tuple[int, str]:
    """The exit status and everything printed; builds differ in which stream they print to."""
    try:
        done = subprocess.run(
            [*command.argv, flag],
            env={**environment.scrubbed(_NO_CONFIG), **dict(command.variables)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        return -1, f"`{flag}` gave no answer within {seconds:.0f} seconds"
    except OSError as error:
        return -1, error.strerror or str(error)
    return done.returncode, done.stdout.decode(errors="replace")
