"""Real file systems of some MiB, for programs that are to meet the end of one."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def on_disk_of(mebibytes: int, place: Path) -> Sequence[str]:
    """What to put before a command that shall find a disk of that size at a directory.

    The mount is in a namespace of its own, which ends with the command.
    """
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    inside += [f'mount -t tmpfs -o size={mebibytes}m none "$0"; exec "$@"', str(place)]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    return inside
