"""How much memory an engine takes, here and on its devices."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

_MIB = 1024 * 1024
_PS_SECONDS = 5.0

# What llama.cpp says of each device before it loads a model, in MiB; `self` is its own part.
_BREAKDOWN = b'{"type":"fit_memory_breakdown"'
# All of it is printed while the model is loaded, before the first request.
_HEAD_BYTES = 512 * 1024


def resident(pid: int | None) -> int:
    """Bytes that a process has in memory, those of mapped files included; 0 if it is gone."""
    if pid is None:
        return 0
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return 0 if Path("/proc/self").is_dir() else _told_by_ps(pid)
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def on_devices(log: Path) -> int:
    """Bytes that an engine took on GPUs, as its log has it; 0 if it says nothing of any.

    The last word before the load counts: what is said first may be made smaller, to fit.
    """
    try:
        with log.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return 0
    told = [line for line in head.splitlines() if line.startswith(_BREAKDOWN)]
    return _sum_of_devices(told[-1]) * _MIB if told else 0


def _sum_of_devices(line: bytes) -> int:
    try:
        rows = json.loads(line)["data"]["rows"]
        return sum(int(row["self"]) for row in rows if row["kind"] == "device")
    except (ValueError, LookupError, TypeError):
        return 0


def _told_by_ps(pid: int) -> int:
    """The same on systems without /proc."""
    try:
        told = subprocess.run(
            ["/bin/ps", "-o", "rss=", "-p", str(pid)],
            capture_output=True,
            text=True,
            timeout=_PS_SECONDS,
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(told) * 1024 if told.isdigit() else 0
