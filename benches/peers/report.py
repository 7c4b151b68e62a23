"""From rounds of figures to JSON, a table and a picture, and the last section of the README."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cache import Package
from judging import GATES, Gate, Rounds, medians, series
from machine import machine
from processes import BenchError
from targets import HERE, OURS, YARDSTICK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"

MATPLOTLIB = Package("matplotlib", "3.10.8")

# Name, what the table calls it, digits after the point.
FIGURES = (
    ("cpu_us_per_request", "CPU µs/request, c=32", 1),
    ("requests_per_second", "requests/s, c=32", 0),
    ("latency_p50_us", "p50 µs, c=1", 0),
    ("added_latency_p50_us", "added p50 µs, c=1", 0),
    ("cpu_us_per_event", "CPU µs/event, 64 x 100/s", 1),
    ("gap_p99_us", "gap p99 µs, 64 x 100/s", 0),
    ("cpu_us_per_saturated_event", "CPU µs/event, saturated", 2),
    ("saturated_events_per_second", "events/s, saturated", 0),
    ("cpu_us_per_relayed_event", "CPU µs/event, saturated, beside translated ones", 2),
    ("cpu_us_per_anthropic_event", "… as Anthropic's", 2),
    ("anthropic_event_ratio", "… ÷ relayed", 2),
    ("cpu_us_per_ollama_event", "… as Ollama's", 2),
    ("ollama_event_ratio", "… ÷ relayed", 2),
    ("cpu_us_per_responses_event", "… as Responses'", 2),
    ("responses_event_ratio", "… ÷ relayed", 2),
    ("ttft_p50_us", "TTFT p50 µs", 0),
    ("added_ttft_p50_us", "added TTFT p50 µs", 0),
    ("added_ttft_p99_us", "added TTFT p99 µs", 0),
    ("ttft_max_us", "TTFT max µs", 0),
    ("syscalls_per_request", "system calls/request, c=32", 2),
    ("syscalls_per_event", "system calls/event, 8 x 100/s", 2),
    ("futex_per_event", "futex/event", 2),
    ("rss_idle_mib", "RSS idle MiB", 1),
    ("kib_per_stream", "KiB/stream at 1000", 1),
    ("rss_after_burst", "RSS after the burst ÷ before", 2),
    ("added_prompt_p50_us", "400 KB prompt, added µs", 0),
    ("left_stream_p50_us", "stream left → engine's connection closed, p50 µs", 0),
    ("left_stream_p99_us", "… p99 µs", 0),
    ("left_stream_max_us", "… max µs", 0),
    ("left_whole_p50_us", "whole answer left → engine's connection closed, p50 µs", 0),
    ("left_whole_p99_us", "… p99 µs", 0),
    ("left_whole_max_us", "… max µs", 0),
    ("reading_events_per_second", "16 streams beside 64 that are read, events/s", 0),
    ("stuck_events_per_second", "16 streams beside 64 stuck, events/s", 0),
    ("stuck_events_per_second_ratio", "… ÷ beside 64 that are read", 3),
    ("reading_gap_p99_us", "16 streams beside 64 that are read, gap p99 µs", 0),
    ("stuck_gap_p99_us", "16 streams beside 64 stuck, gap p99 µs", 0),
    ("stuck_gap_p99_us_ratio", "… ÷ beside 64 that are read", 2),
    ("kib_per_reading_reader", "KiB/stream, 64 that are read", 1),
    ("kib_per_stuck_reader", "KiB/stream, 64 stuck", 1),
)
REAL_FIGURES = (
    ("tiny_tokens_per_second", "tiny model: tokens/s", 0),
    ("tiny_speed", "÷ direct", 3),
    ("added_tiny_ttft_p50_us", "added TTFT p50 µs", 0),
    ("demo_tokens_per_second", "270M model: tokens/s", 1),
    ("demo_speed", "÷ direct", 3),
    ("added_demo_ttft_p50_us", "added TTFT p50 µs", 0),
    ("tiny_freed_stream_p50_us", "tiny model: stream left → slot free, p50 µs", 0),
    ("added_tiny_freed_stream_p50_us", "added p50 µs", 0),
    ("tiny_freed_stream_max_us", "max µs", 0),
    ("tiny_freed_whole_p50_us", "tiny model: whole answer left → slot free, p50 µs", 0),
    ("tiny_freed_whole_max_us", "max µs", 0),
)
RATIOS = (
    "cpu_us_per_request",
    "cpu_us_per_event",
    "cpu_us_per_saturated_event",
    "syscalls_per_request",
    "syscalls_per_event",
    "kib_per_stream",
)


@dataclass(slots=True)
class Run:
    """All that one run has to tell.

    Attributes:
        rounds: The figures.
        versions: Of the peers that were measured.
        absent: Peers that were not measured, and why.
        failures: Visits that a peer failed.
    """

    versions: dict[str, str]
    absent: dict[str, str]
    rounds: Rounds = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Of all that was measured, in the order of the tables."""
        return list(dict.fromkeys(name for figures in self.rounds for name in figures))

    def document(self) -> dict[str, object]:
        """For results/*.json."""
        return {
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine() | self.versions,
            "absent": self.absent,
            "failures": self.failures,
            "medians": {name: medians(self.rounds, name) for name in self.names()},
            "gates": [
                {"gate": g.text, "values": g.values(self.rounds), "verdict": g.verdict(self.rounds)}
                for g in GATES
            ],
            "rounds": self.rounds,
        }

    def broken(self) -> bool:
        """Whether a promise is."""
        return any(gate.verdict(self.rounds) == "broken" for gate in GATES)


def table(rounds: Rounds, names: Sequence[str], figures: Sequence[tuple[str, str, int]]) -> str:
    """Markdown: a row for each figure, a column for each target, ours with its range."""
    ratios = YARDSTICK in names and OURS in names and any(f in RATIOS for f, _, _ in figures)
    heads = [*names, "ours ÷ nginx"] if ratios else list(names)
    lines = [f"| figure | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for figure, title, digits in figures:
        values = {name: series(rounds, name, figure) for name in names}
        if not any(values.values()):
            continue
        cells = [_cell(values[name], digits, ranged=name == OURS) for name in names]
        if ratios:
            known = Gate("", figure, 0, relative=True).values(rounds) if figure in RATIOS else []
            cells.append(_cell(known, 2))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_some_of(
    rounds: Rounds, names: Sequence[str], figures: Sequence[tuple[str, str, int]]
) -> list[str]:
    return [n for n in names if any(series(rounds, n, figure) for figure, _, _ in figures)]


def _cell(values: Sequence[float], digits: int, *, ranged: bool = True) -> str:
    if not values:
        return "-"
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}…{high})" if values[1:] and ranged else middle


def gates_table(rounds: Rounds) -> str:
    """Markdown: what was promised, and whether it holds."""
    lines = ["| promise | measured | |", "|---|--:|---|"]
    for gate in GATES:
        measured = _cell(gate.values(rounds), gate.digits)
        lines.append(f"| {gate.text} | {measured} | {gate.verdict(rounds)} |")
    return "\n".join(lines)


def render(run: Run) -> str:
    """The whole section, in Markdown."""
    rounds, names = run.rounds, run.names()
    head = (
        f"Medians of {len(rounds)} rounds (routers: of every other one), ours with the least and "
        "the greatest in brackets."
    )
    synthetic, real = (_with_some_of(rounds, names, part) for part in (FIGURES, REAL_FIGURES))
    parts = [head]
    if synthetic:
        parts.append(table(rounds, synthetic, FIGURES))
    if real:
        parts += [
            "With a real llama-server, one stream at a time; slots while the other one generates:",
            table(rounds, real, REAL_FIGURES),
        ]
    parts.append(gates_table(rounds))
    left_out = [f"- without {name}: {reason}" for name, reason in run.absent.items()]
    left_out += [f"- {visit} failed: {reason}" for visit, reason in run.failures.items()]
    if left_out:
        parts.append("\n".join(left_out))
    about = machine() | run.versions
    parts.append("\n".join(f"- {name}: {value}" for name, value in about.items()))
    return "\n\n".join(parts)


def write(document: dict[str, object], results: Path) -> None:
    """Write the figures as JSON. Whoever is interrupted leaves the earlier ones as they were."""
    results.parent.mkdir(parents=True, exist_ok=True)
    _replace(results, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def draw(results: Path, picture: Path) -> None:
    """Draw the figures; without matplotlib there is no picture, but everything else."""
    try:
        MATPLOTLIB.install()
    except BenchError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return
    argv = [MATPLOTLIB.program("python"), HERE / "plot.py", results, picture]
    if subprocess.run(argv, check=False).returncode != 0:
        print(f"no picture: {HERE / 'plot.py'} failed", file=sys.stderr)


def alone(results: Path) -> str:
    """Markdown: what our relay went through alone, whenever that was."""
    parts = []
    for path in (results / "endurance.json", results / "soak.json"):
        if path.exists():
            found = json.loads(path.read_text())
            head = f"{path.stem.capitalize()} of {found['machine']['model-runner']}:"
            parts.append("\n".join([head, "", *found["promises"]]))
    return "\n\n".join(parts)


def update_readme(text: str, readme: Path) -> None:
    """Replace what is between the markers of the README."""
    head, begin, rest = readme.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if begin and end:
        _replace(readme, f"{head}{BEGIN}\n{text}\n{END}{tail}")
