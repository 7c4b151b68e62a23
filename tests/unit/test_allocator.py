"""Memory that goes back to the system after a burst."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_runner import allocator
from support.server import wait_until

TESTS = Path(__file__).parents[1]


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


MIB = 1024 * 1024


def test_a_burst_is_over_when_most_of_its_connections_have_ended():
    tide = allocator.Tide(14 * MIB)
    during = [(10, 14), (1000, 28), (900, 28), (501, 28)]
    assert not any(tide.has_gone_out(open_now, held * MIB) for open_now, held in during)
    assert tide.has_gone_out(500, 28 * MIB)
    tide.settle(500, 22 * MIB)
    assert not tide.has_gone_out(499, 22 * MIB)
    assert not tide.has_gone_out(5, 22 * MIB), "what is left is needed"


def test_a_burst_between_two_looks_shows_in_memory():
    tide = allocator.Tide(14 * MIB)
    assert not tide.has_gone_out(3, 15 * MIB)
    assert tide.has_gone_out(3, 28 * MIB)


def test_memory_that_others_gave_back_is_the_new_low():
    tide = allocator.Tide(40 * MIB)
    assert not tide.has_gone_out(3, 20 * MIB)
    assert tide.has_gone_out(3, 24 * MIB)


def test_freed_memory_goes_back():
    if allocator.trim() is None:
        pytest.skip("this C library has no malloc_trim")
    # In a process of its own: here others may have left free memory, which would be used first.
    code = "import test_allocator; test_allocator.free_much()"
    path = os.pathsep.join([str(TESTS), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=TESTS / "unit", env=environment, timeout=60
    )


def free_much():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = libc.free.argtypes = None
    allocator._LOOK_SECONDS = 0.001
    tide = allocator.Tide
    before = resident_bytes()
    allocator.Tide = lambda _: tide(before)
    blocks = [libc.malloc(ctypes.c_size_t(4000)) for _ in range(10_000)]
    for block in blocks:
        ctypes.memset(block, 1, 4000)
    # The last one stays, so that nothing returns by itself.
    for block in blocks[:-1]:
        libc.free(ctypes.c_void_p(block))
    held = resident_bytes()
    assert held - before > 30e6

    async def burst():
        async with allocator.after_bursts(lambda: 0):
            await asyncio.to_thread(
                wait_until, lambda: resident_bytes() < held - 30e6, "what was freed to go back"
            )

    try:
        asyncio.run(burst())
    finally:
        libc.free(ctypes.c_void_p(blocks[-1]))
