"""From rounds of figures to medians, differences and verdicts."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from targets import BARE, OURS, YARDSTICK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loads import Figures

Rounds = list[dict[str, "Figures"]]
"""Of each round, the figures of each target."""

DIFFERENCES = (
    "latency_p50_us",
    "ttft_p50_us",
    "ttft_p99_us",
    "gap_p99_us",
    "prompt_p50_us",
    "tiny_ttft_p50_us",
    "demo_ttft_p50_us",
    "tiny_freed_stream_p50_us",
)
SPEEDS = ("tiny_tokens_per_second", "demo_tokens_per_second")


@dataclass(frozen=True, slots=True)
class Gate:
    """A promise about our figures.

    Attributes:
        text: The promise.
        figure: What it is about.
        limit: The largest value that keeps it.
        digits: Of the values, after the point.
        relative: The limit is a multiple of the yardstick's figure of the same round.
        never: It speaks of every round, not of the typical one.
        least: The limit is the smallest value that keeps it.
    """

    text: str
    figure: str
    limit: float
    digits: int = 0
    relative: bool = False
    never: bool = False
    least: bool = False

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
        sign = -1 if self.least else 1
        excesses = [sign * (value - self.limit) for value in values]
        if (max(excesses) if self.never else statistics.median(excesses)) <= 0:
            return "kept"
        if self.never:
            return self._company(rounds)
        return "broken" if lower_quartile(excesses) > 0 else "missed"

    def _company(self, rounds: Rounds) -> str:
        """Whether others missed it in the same run, in which case it is the machine's doing."""
        worst = {
            name: max(series(rounds, name, self.figure), default=0.0) for name in (BARE, YARDSTICK)
        }
        others = [f"{name} ({value:,.0f})" for name, value in worst.items() if value > self.limit]
        return f"missed, as by {' and '.join(others)}" if others else "broken"


GATES = (
    Gate("CPU/request ≤ 1.5 x nginx", "cpu_us_per_request", 1.5, 2, relative=True),
    Gate("CPU/event, paced, ≤ 1.1 x nginx", "cpu_us_per_event", 1.1, 2, relative=True),
    Gate("CPU/event, saturated, ≤ 2.0 µs", "cpu_us_per_saturated_event", 2.0, 2),
    Gate("CPU/event, Anthropic's, ≤ 3.0 x relayed", "anthropic_event_ratio", 3.0, 2),
    Gate("CPU/event, Ollama's, ≤ 3.0 x relayed", "ollama_event_ratio", 3.0, 2),
    Gate("CPU/event, Responses', ≤ 3.0 x relayed", "responses_event_ratio", 3.0, 2),
    Gate("added latency p50 ≤ 70 µs", "added_latency_p50_us", 70),
    Gate("added TTFT p50 ≤ 100 µs", "added_ttft_p50_us", 100),
    Gate("added TTFT p99 ≤ 400 µs", "added_ttft_p99_us", 400),
    # Not the added one: a hiccup of the machine in the bare engine's turn would hide ours.
    Gate("TTFT never ≥ 5 ms (µs, maximum)", "ttft_max_us", 4999, never=True),
    Gate("system calls/request ≤ 4.5", "syscalls_per_request", 4.5, 2),
    Gate("system calls/event ≤ 3.2", "syscalls_per_event", 3.2, 2),
    # Now and then a thread may wake another; an event must not.
    Gate("no futex per event", "futex_per_event", 0.01, 3),
    Gate("memory/stream at 1000 ≤ 16 KiB", "kib_per_stream", 16, 1),
    Gate("RSS after the burst ≤ 1.10 x before", "rss_after_burst", 1.10, 2),
    Gate("400 KB prompt, `model` last: ≤ 300 µs added", "added_prompt_p50_us", 300),
    Gate("GIL held 5 s: p99 ≤ 1.05 x without, no error", "held_gil_p99", 1.05, 2),
    Gate(
        "a stream is left: engine's connection closed ≤ 5 ms (µs, p99)", "left_stream_p99_us", 5000
    ),
    Gate("a whole answer is left: ≤ 100 ms (µs, p99)", "left_whole_p99_us", 100_000),
    Gate(
        "64 stuck readers: others' events/s ≥ 0.99 x beside 64 that read",
        "stuck_events_per_second_ratio",
        0.99,
        3,
        least=True,
    ),
    Gate("64 stuck readers: others' gap p99 ≤ 1.1 x", "stuck_gap_p99_us_ratio", 1.1, 2),
    Gate("64 stuck readers: ≤ 128 KiB each", "kib_per_stuck_reader", 128, 1),
    Gate("llama-server: slot of a stream free ≤ 5 ms (µs, p50)", "tiny_freed_stream_p50_us", 5000),
    Gate("llama-server: slot of a whole answer free ≤ 100 ms", "tiny_freed_whole_max_us", 100_000),
    Gate("tiny model: tokens/s ≥ 0.995 x direct", "tiny_speed", 0.995, 3, least=True),
    Gate("270M model: tokens/s ≥ 0.995 x direct", "demo_speed", 0.995, 3, least=True),
)


def lower_quartile(values: Sequence[float]) -> float:
    """What three quarters of the values exceed."""
    return statistics.quantiles(values, n=4, method="inclusive")[0] if values[1:] else values[0]


def add_differences(figures: dict[str, Figures]) -> None:
    """Complete one round: what each relay adds to the bare engine, and leaves of its speed."""
    bare = figures.get(BARE, {})
    for name, of_target in figures.items():
        if name == BARE:
            continue
        for figure in DIFFERENCES:
            if figure in of_target and figure in bare:
                of_target[f"added_{figure}"] = of_target[figure] - bare[figure]
        for figure in SPEEDS:
            if figure in of_target and figure in bare:
                label = figure.partition("_")[0]
                of_target[f"{label}_speed"] = of_target[figure] / bare[figure]


def medians(rounds: Rounds, target: str) -> Figures:
    """The median of every figure of one target."""
    found = {name for figures in rounds for name in figures.get(target, {})}
    return {name: statistics.median(series(rounds, target, name)) for name in sorted(found)}


def series(rounds: Rounds, target: str, figure: str) -> list[float]:
    """One figure of one target, round by round."""
    return [r[target][figure] for r in rounds if figure in r.get(target, {})]
