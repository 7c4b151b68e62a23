"""One visit of a target: a short load, measured by its client and through /proc."""

from __future__ import annotations

import http.client
import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from processes import BenchError, Waiting, cpu_seconds, rss_kib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from targets import Engine, Target

LOAD_TIMEOUT_SECONDS = 60.0

# Handed on as they come. Of a chat that is not streamed the data plane asks a stream of the engine,
# and puts the answer together, so a comparison with a relay that hands it on would mean nothing.
WHOLE_ANSWERS = "/v1/embeddings"

Figures = dict[str, float]
"""Figure by name; see `report.FIGURES` for units."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long visits are: CPU needs hundreds of ms to be exact, a p99 hundreds of requests."""

    seconds: float
    paced_streams_each: int


FULL = Effort(seconds=2.0, paced_streams_each=2)
QUICK = Effort(seconds=0.7, paced_streams_each=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The client's own report, and what the target's processes burnt meanwhile."""

    report: dict[str, object]
    cpu_seconds: float

    def number(self, *keys: str) -> float:
        """A number of the report.

        Raises:
            BenchError: It was not measured.
        """
        value: object = self.report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, (int, float)):
            raise BenchError(f"the load did not measure {'.'.join(keys)}: {self.report}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Puts load on targets."""

    load: Path
    effort: Effort

    def _argv(self, target: Target, mode: str, options: dict[str, object]) -> list[str]:
        path = WHOLE_ANSWERS if mode == "json" else target.path
        argv = [str(self.load), mode, "--target", target.address, "--path", path]
        for name, value in options.items():
            argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return argv

    def run(self, target: Target, mode: str, **options: object) -> Outcome:
        """One load from its start to its end.

        Raises:
            BenchError: An answer was wrong, late or missing; figures of such a load mean nothing.
        """
        argv = self._argv(target, mode, {name.replace("_", "-"): v for name, v in options.items()})
        before = cpu_seconds(target.pid) if target.pid else 0.0
        done = subprocess.run(argv, capture_output=True, timeout=LOAD_TIMEOUT_SECONDS, check=False)
        burnt = cpu_seconds(target.pid) - before if target.pid else 0.0
        if done.returncode != 0:
            raise BenchError(f"{argv} failed: {done.stderr.decode(errors='replace').strip()}")
        report = json.loads(done.stdout)
        if report["errors"] or report.get("missed_events"):
            raise BenchError(
                f"{target.name}: {report['errors']} of {report.get('requests', 'all')} failed, "
                f"for example {report['error_samples']}"
            )
        return Outcome(report, burnt)

    def requests(self, target: Target) -> Figures:
        """Whole answers, 32 at a time: what a request costs."""
        outcome = self.run(target, "json", connections=32, duration=self.effort.seconds)
        figures = {"requests_per_second": outcome.number("requests_per_second")}
        if target.pid:
            cost = outcome.cpu_seconds / outcome.number("requests")
            figures["cpu_us_per_request"] = cost * 1e6
        return figures

    def latency(self, target: Target) -> Figures:
        """Whole answers, one at a time: how long a request takes."""
        outcome = self.run(target, "json", connections=1, duration=self.effort.seconds / 2)
        return {"latency_p50_us": outcome.number("latency_us", "p50")}

    def paced(self, target: Target) -> Figures:
        """64 streams of 100 events a second: what an event costs, and when it comes."""
        streams = 64
        requests = streams * self.effort.paced_streams_each
        outcome = self.run(
            target, "sse", streams=streams, rate=100, events=200, requests=requests, duration=30
        )
        figures = {"gap_p99_us": outcome.number("gap_us", "p99")}
        if target.pid:
            cost = outcome.cpu_seconds / outcome.number("events")
            figures["cpu_us_per_event"] = cost * 1e6
        return figures

    def saturated(self, target: Target) -> Figures:
        """8 streams as fast as they can be written: what an event costs that shares its wake-up."""
        outcome = self.run(
            target, "sse", streams=8, rate=0, events=1000, duration=self.effort.seconds
        )
        figures = {"saturated_events_per_second": outcome.number("events_per_second")}
        if target.pid:
            cost = outcome.cpu_seconds / outcome.number("events")
            figures["cpu_us_per_saturated_event"] = cost * 1e6
        return figures

    def first_event(self, target: Target) -> Figures:
        """Short streams, one at a time: the first event on a connection that was used before.

        A fresh connection would hide what Nagle's algorithm does to the others.
        """
        outcome = self.run(
            target,
            "sse",
            streams=1,
            rate=1000,
            events=4,
            duration=self.effort.seconds,
            # llama-server closes after each stream. The bare engine must not, here: it would be
            # compared with connections that a relay keeps open.
            **({} if target.pid else {"engine_keep_alive": True}),
        )
        kept = outcome.number("ttft_us", "count") / outcome.number("streams")
        if kept < 0.9:  # the bare engine closes at its hundredth answer
            raise BenchError(f"{target.name} kept its connection in {kept:.0%} of the requests")
        return {f"ttft_{p}_us": outcome.number("ttft_us", p) for p in ("p50", "p99", "max")}

    def memory(self, target: Target, engine: Engine) -> Figures:
        """RSS of a process that has just started, and what each further stream adds to it."""
        if target.pid is None:
            return {}
        self.run(target, "json", connections=1, requests=10)
        idle = rss_kib(target.pid)
        few, many = 64, 1000
        held = [self._rss_with_streams(target, engine, streams) for streams in (few, many)]
        return {"rss_idle_mib": idle / 1024, "kib_per_stream": (held[1] - held[0]) / (many - few)}

    def _rss_with_streams(self, target: Target, engine: Engine, streams: int) -> int:
        pid = target.pid or 0
        options: dict[str, object] = {"rate": 4, "events": 6, "duration": 30}
        with self._background(target, {"streams": streams, "requests": streams} | options):
            for _ in Waiting(f"{streams} streams through {target.name}").steps():
                if _engine_stats(engine)["streams_open"] >= streams:
                    break
            return rss_kib(pid)

    @contextmanager
    def _background(self, target: Target, options: dict[str, object]) -> Iterator[None]:
        argv = self._argv(target, "sse", options)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        try:
            yield
            output, _ = process.communicate(timeout=LOAD_TIMEOUT_SECONDS)
        finally:
            process.kill()
            process.wait()
        report = json.loads(output)
        if report["errors"]:
            raise BenchError(f"{target.name}: {report['error_samples']}")


def _engine_stats(engine: Engine) -> dict[str, int]:
    connection = http.client.HTTPConnection(urlsplit(engine.address).netloc, timeout=5)
    try:
        connection.request("GET", "/x_stats")
        return {str(k): int(v) for k, v in json.load(connection.getresponse()).items()}
    finally:
        connection.close()
