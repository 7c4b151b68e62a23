"""All kinds of clients at once, for as long as it takes to see memory or descriptors grow."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guests import Guests
from outcome import Outcome
from processes import BenchError, Waiting, open_files, rss_kib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loads import Visitor
    from targets import Engine, Target

# Loads that check every byte, beside the guests.
LOADS: dict[str, tuple[str, dict[str, object]]] = {
    "streams": ("sse", {"streams": 16, "rate": 50, "events": 100}),
    "fast streams": ("sse", {"streams": 4, "rate": 0, "events": 500, "think": 200}),
    "whole answers": ("json", {"connections": 16, "think": 20}),
    "idle gaps": ("json", {"connections": 8, "gap_between": "4.9..5.1", "gap_every": 50}),
}
SETTLING_SECONDS = 15.0
# Pools fill, buffers find their sizes.
WARM_UP_SHARE, WARM_UP_SECONDS = 0.2, 15.0
GROWTH = 1.05
MORE_FILES = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """What the relay holds at one moment."""

    second: float
    rss_kib: int
    files: int


def soak(visitor: Visitor, engine: Engine, target: Target, minutes: float) -> Outcome:
    """Mixed load for some minutes, and whether anything grew."""
    visitor.run(target, "json", connections=4, requests=100)
    idle = Sample(0, rss_kib(target.pid or 0), open_files(target.pid or 0))
    outcome = Outcome()
    outcome.figures["minutes"] = minutes
    samples = asyncio.run(_mixed(visitor, target, minutes * 60, outcome))
    judge(samples, outcome)
    _wait_for_calm(engine, target, idle, outcome)
    outcome.figures["samples"] = [[s.second, s.rss_kib, s.files] for s in samples]
    return outcome


async def _mixed(
    visitor: Visitor, target: Target, seconds: float, outcome: Outcome
) -> list[Sample]:
    end = asyncio.Event()
    guests = Guests(target)
    staying = asyncio.create_task(guests.stay(end))
    loads = {name: asyncio.create_task(_load(visitor, target, name, seconds)) for name in LOADS}
    samples = await _watch(target, seconds)
    end.set()
    await staying
    reports = {name: await load for name, load in loads.items()}
    for name, report in reports.items():
        wrong = report.get("errors") or report.get("missed_events")
        done = report.get("requests") or report.get("streams")
        measured = f"{done} right" if not wrong else f"{report.get('error_samples')}"
        outcome.promise(name, measured, kept=not wrong)
    outcome.promise(
        "guests",
        f"{guests.served}" if not guests.complaints else f"{guests.complaints}",
        kept=not guests.complaints,
    )
    outcome.figures["loads"] = reports
    outcome.figures["guests"] = guests.served
    return samples


async def _load(visitor: Visitor, target: Target, name: str, seconds: float) -> dict[str, object]:
    mode, options = LOADS[name]
    argv = visitor.argv(target, mode, options | {"duration": seconds})
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise BenchError(f"{argv} ended with {process.returncode}")
    report: dict[str, object] = json.loads(output)
    return report


async def _watch(target: Target, seconds: float) -> list[Sample]:
    start = time.monotonic()
    samples: list[Sample] = []
    while (passed := time.monotonic() - start) < seconds:
        sample = Sample(round(passed, 1), rss_kib(target.pid or 0), open_files(target.pid or 0))
        samples.append(sample)
        if len(samples) % 60 == 1:
            text = f"{passed / 60:.0f} min: {sample.rss_kib} KiB, {sample.files} descriptors"
            print(text, file=sys.stderr)
        await asyncio.sleep(1)
    return samples


def judge(samples: Sequence[Sample], outcome: Outcome) -> None:
    """Compare the last third with the first one after the warm-up."""
    whole = samples[-1].second
    warm = [s for s in samples if s.second >= max(WARM_UP_SHARE * whole, WARM_UP_SECONDS)]
    if len(warm) < 9:
        raise BenchError(f"{whole:.0f} s are too short to see anything grow: give it a minute")
    third = len(warm) // 3
    early, late = warm[:third], warm[-third:]
    rss = [statistics.median(s.rss_kib for s in part) for part in (early, late)]
    files = [statistics.median(s.files for s in part) for part in (early, late)]
    outcome.promise(
        f"RSS grows by ≤ {GROWTH - 1:.0%}",
        f"{rss[0]:,.0f} → {rss[1]:,.0f} KiB",
        kept=rss[1] <= rss[0] * GROWTH,
    )
    outcome.promise(
        "descriptors do not grow",
        f"{files[0]:.0f} → {files[1]:.0f}",
        kept=files[1] <= files[0] + MORE_FILES,
    )


def _wait_for_calm(engine: Engine, target: Target, idle: Sample, outcome: Outcome) -> None:
    """When all have left, nothing of them may stay."""
    pid = target.pid or 0
    try:
        for _ in Waiting("the end of all streams and connections", SETTLING_SECONDS).steps():
            if open_files(pid) <= idle.files and not engine.stats()["streams_open"]:
                break
    except BenchError as error:
        print(error, file=sys.stderr)
    files, streams = open_files(pid), engine.stats()["streams_open"]
    outcome.promise("descriptors afterwards", f"{idle.files} → {files}", kept=files <= idle.files)
    outcome.promise("streams left in the engine", f"{streams}", kept=not streams)
    outcome.figures["rss_kib"] = {"idle": idle.rss_kib, "afterwards": rss_kib(pid)}
