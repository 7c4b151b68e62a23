"""How much memory an engine takes: of the system, and of its own words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_runner.lifecycle import memory

MIB = 1024 * 1024


def breakdown(*rows):
    """As llama.cpp prints it, one line."""
    event = {"type": "fit_memory_breakdown", "data": {"unit": "MiB", "rows": rows}}
    return json.dumps(event, separators=(",", ":"))


GPU = {"kind": "device", "name": "CUDA0", "total": 24080, "free": 9436, "self": 14193}
HOST = {"kind": "host", "name": "Host", "self": 72}
REPACKED = {"kind": "buffer_type", "name": "CPU_REPACK", "self": 5}


def test_memory_of_a_process_follows_what_it_takes():
    script = "import sys; print(flush=True); sys.stdin.read(1); b = b'x' * (64 << 20); " + (
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        before = memory.resident(process.pid)
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.readline()
        after = memory.resident(process.pid)
        process.stdin.close()
    assert before > MIB
    assert 60 * MIB < after - before < 80 * MIB
    assert memory.resident(process.pid) == 0
    assert memory.resident(None) == 0


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="no ps")
def test_the_same_where_there_is_no_proc():
    told, counted = memory._told_by_ps(os.getpid()), memory.resident(os.getpid())
    assert told == pytest.approx(counted, rel=0.2)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], 0),
        (["not JSON", '{"type":"log","msg":"x"}'], 0),
        ([breakdown(HOST, REPACKED)], 0),
        ([breakdown(GPU, {**GPU, "name": "CUDA1", "self": 7}, HOST, REPACKED)], 14200 * MIB),
        # What does not fit is made smaller, and told again.
        ([breakdown({**GPU, "self": 99999}), "x", breakdown(GPU, HOST)], 14193 * MIB),
        (['{"type":"fit_memory_breakdown","data":{"rows":[{"kind":"device"}]}}'], 0),
        (['{"type":"fit_memory_breakdown","da'], 0),
    ],
)
def test_what_is_on_devices_is_in_the_log(tmp_path, lines, expected):
    log = tmp_path / "engine.log"
    log.write_text("\n".join(lines))
    assert memory.on_devices(log) == expected


def test_without_a_log_nothing_is_known(tmp_path):
    assert memory.on_devices(tmp_path / "gone.log") == 0
