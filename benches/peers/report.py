"""From rounds of figures to medians, verdicts, a table and the last section of the README."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from targets import nginx_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from visits import Figures

OURS, YARDSTICK, BARE = "model-runner", "nginx", "direct"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"

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
    ("ttft_p50_us", "TTFT p50 µs", 0),
    ("added_ttft_p50_us", "added TTFT p50 µs", 0),
    ("ttft_p99_us", "TTFT p99 µs", 0),
    ("ttft_max_us", "TTFT max µs", 0),
    ("rss_idle_mib", "RSS idle MiB", 1),
    ("kib_per_stream", "KiB/stream", 1),
)
RATIOS = ("cpu_us_per_request", "cpu_us_per_event", "cpu_us_per_saturated_event")

Rounds = list[dict[str, "Figures"]]
"""Of each round, the figures of each target."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A promise about our figures.

    Attributes:
        text: The promise.
        figure: What it is about.
        limit: The largest value that keeps it.
        relative: The limit is a multiple of the yardstick's figure of the same round.
        never: It speaks of every round, not of the typical one.
    """

    text: str
    figure: str
    limit: float
    relative: bool = False
    never: bool = False

    def values(self, rounds: Rounds) -> list[float]:
        """What is compared with the limit, one a round. Empty if it was not measured."""
        pairs = [(r.get(OURS, {}), r.get(YARDSTICK, {})) for r in rounds]
        if not self.relative:
            return [ours[self.figure] for ours, _ in pairs if self.figure in ours]
        return [
            ours[self.figure] / theirs[self.figure]
            for ours, theirs in pairs
            if self.figure in ours and self.figure in theirs
        ]

    def verdict(self, rounds: Rounds) -> str:
        """`kept`, `missed`, `broken` or `not measured`.

        Broken only if three quarters of the rounds miss it: a noisy neighbour proves nothing.
        """
        values = self.values(rounds)
        if not values:
            return "not measured"
        if (max(values) if self.never else statistics.median(values)) <= self.limit:
            return "kept"
        if self.never:
            return self._company(rounds)
        return "broken" if lower_quartile(values) > self.limit else "missed"

    def _company(self, rounds: Rounds) -> str:
        """Whether others missed it in the same run, in which case it is the machine's doing."""
        worst = {
            name: max(series(rounds, name, self.figure), default=0.0) for name in (BARE, YARDSTICK)
        }
        others = [f"{name} ({value:,.0f})" for name, value in worst.items() if value > self.limit]
        return f"missed, as by {' and '.join(others)}" if others else "broken"


GATES = (
    Gate("CPU/request ≤ 2.0 x nginx", "cpu_us_per_request", 2.0, relative=True),
    Gate("CPU/event ≤ 1.6 x nginx", "cpu_us_per_event", 1.6, relative=True),
    Gate("added TTFT p50 ≤ 200 µs", "added_ttft_p50_us", 200),
    # Not the added one: a hiccup of the machine in the bare engine's turn would hide ours.
    Gate("TTFT p99 < 5 ms", "ttft_p99_us", 4999),
    Gate("TTFT never ≥ 5 ms (µs, maximum)", "ttft_max_us", 4999, never=True),
)


def lower_quartile(values: Sequence[float]) -> float:
    """What three quarters of the values exceed."""
    return statistics.quantiles(values, n=4, method="inclusive")[0] if values[1:] else values[0]


def add_differences(figures: dict[str, Figures]) -> None:
    """Complete one round: what each relay adds to the bare engine."""
    bare = figures.get(BARE, {})
    for name, of_target in figures.items():
        if name == BARE:
            continue
        for figure in ("latency_p50_us", "ttft_p50_us", "ttft_p99_us", "gap_p99_us"):
            if figure in of_target and figure in bare:
                of_target[f"added_{figure}"] = of_target[figure] - bare[figure]


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "nginx": _output([nginx_binary() or "nginx", "-v"]).rpartition("/")[2],
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


def document(rounds: Rounds) -> dict[str, object]:
    """All that was measured, for results/*.json."""
    names = list(rounds[0])
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "medians": {name: medians(rounds, name) for name in names},
        "gates": [
            {"gate": g.text, "values": g.values(rounds), "verdict": g.verdict(rounds)}
            for g in GATES
        ],
        "rounds": rounds,
    }


def medians(rounds: Rounds, target: str) -> Figures:
    """The median of every figure of one target."""
    found = {name for figures in rounds for name in figures.get(target, {})}
    return {name: statistics.median(series(rounds, target, name)) for name in sorted(found)}


def series(rounds: Rounds, target: str, figure: str) -> list[float]:
    """One figure of one target, round by round."""
    return [r[target][figure] for r in rounds if figure in r.get(target, {})]


def figures_table(rounds: Rounds) -> list[str]:
    """Markdown: a row for each figure, a column for each target, ours as a multiple of nginx."""
    names = list(rounds[0])
    lines = [
        f"| figure | {' | '.join(names)} | ours ÷ nginx |",
        f"|---|{'--:|' * (len(names) + 1)}",
    ]
    for figure, title, digits in FIGURES:
        cells = [_cell(series(rounds, name, figure), digits) for name in names]
        ratios = Gate("", figure, 0, relative=True).values(rounds) if figure in RATIOS else []
        lines.append(f"| {title} | {' | '.join(cells)} | {_cell(ratios, 2)} |")
    return lines


def _cell(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}…{high})" if values[1:] else middle


def gates_table(rounds: Rounds) -> list[str]:
    """Markdown: what was promised, and whether it holds."""
    lines = ["| promise | measured | |", "|---|--:|---|"]
    for gate in GATES:
        digits = 2 if gate.relative else 0
        measured = _cell(gate.values(rounds), digits)
        lines.append(f"| {gate.text} | {measured} | {gate.verdict(rounds)} |")
    return lines


def render(rounds: Rounds) -> str:
    """The whole section, in Markdown."""
    about = [f"- {name}: {value}" for name, value in machine().items()]
    head = f"Medians of {len(rounds)} rounds, with the least and the greatest in brackets."
    parts = [[head], figures_table(rounds), gates_table(rounds), about]
    return "\n\n".join("\n".join(part) for part in parts)


def write(rounds: Rounds, results: Path) -> None:
    """Write the figures as JSON."""
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(document(rounds), indent=1, ensure_ascii=False) + "\n")


def update_readme(rounds: Rounds, readme: Path) -> None:
    """Replace what is between the markers of the README."""
    head, begin, rest = readme.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if begin and end:
        readme.write_text(f"{head}{BEGIN}\n{render(rounds)}\n{END}{tail}")
