"""The script that becomes an engine: what the engine inherits, and when nothing is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model_runner.engines import launch

_REPORT = """
import os, signal, sys
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(os.getsid(0) == os.getpid(), blocked == set(), hex(int(status["SigIgn"], 16)), sys.argv[1:])
"""
# Signals 32 and 33 are glibc's own: no program can set them, and some parents have them ignored.
_SETTABLE = (1 << 31) - 1
_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")


def launched(parent: int, *command: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(parent), "--", *command]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@_LINUX
def test_the_command_gets_a_session_and_clean_signals():
    # A Python that starts ignores two signals by itself; a shell shows what it was given.
    python_ignores = (1 << (signal.SIGPIPE - 1)) | (1 << (signal.SIGXFSZ - 1))
    done = launched(os.getpid(), sys.executable, "-c", _REPORT, "a b", "--c")
    session, mask, ignored, *arguments = done.stdout.split(maxsplit=3)
    assert (session, mask, arguments) == ("True", "True", ["['a b', '--c']\n"])
    assert int(ignored, 16) & _SETTABLE == python_ignores
    done = launched(os.getpid(), "/bin/sh", "-c", "grep SigIgn /proc/self/status")
    assert int(done.stdout.split()[1], 16) & _SETTABLE == 0


@_LINUX
def test_nothing_starts_for_a_parent_that_is_gone():
    done = launched(os.getpid() + 1, "/bin/echo", "started")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_command_that_cannot_be_run_is_named():
    done = launched(os.getpid(), "/nonexistent/llama-server")
    assert done.returncode == 127
    assert "cannot start `/nonexistent/llama-server`: No such file" in done.stderr


def test_wrong_usage():
    done = subprocess.run(
        [sys.executable, str(Path(launch.__file__))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr
