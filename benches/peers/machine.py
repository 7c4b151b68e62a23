"""What the figures depend on: the machine, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path


def machine() -> dict[str, str]:
    """The machine and our own version."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rustc": _output(["rustc", "--version"]).removeprefix("rustc "),
        "model-runner": f"{_own_version()} ({_output(['git', 'describe', '--always', '--dirty'])})",
    }


def _own_version() -> str:
    try:
        return metadata.version("model-runner")
    except metadata.PackageNotFoundError:
        return "not installed"


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout or done.stderr).strip()
