"""The benchmark: the bare engine, nginx and model-runner side by side, visited in turns."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import report
import targets
from processes import BenchError
from visits import FULL, QUICK, Figures, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from targets import Engine, Target

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "benches" / "README.md"
RESULTS = ROOT / "benches" / "results" / "latest.json"

# A thousand streams are two thousand sockets in a relay.
OPEN_FILES = 16384


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 1")
    parser.add_argument(
        "--relays",
        default=",".join(targets.RELAYS),
        help="what to compare with the bare engine (default: %(default)s)",
    )
    parser.add_argument("--load", type=Path, default=_load_binary(), help="the load generator")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.relative_to(ROOT)}")
    return parser.parse_args()


def _load_binary() -> Path:
    target_directory = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target_directory / "release" / "model-runner-load"


def main() -> int:
    """Run it. Returns 1 if a promise is broken, 2 if nothing could be measured."""
    chosen = options()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    try:
        rounds = measure(chosen)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.render(rounds))
    if not chosen.quick:
        report.update_readme(rounds, README)
    if chosen.output or not chosen.quick:
        report.write(rounds, chosen.output or RESULTS)
    return int(any(gate.verdict(rounds) == "broken" for gate in report.GATES))


def measure(chosen: argparse.Namespace) -> report.Rounds:
    """All rounds, one after the other."""
    if not chosen.load.exists():
        raise BenchError(f"{chosen.load} is missing: cargo build --release -p model-runner-load")
    relays = present_relays(chosen.relays.split(","))
    count = chosen.rounds or (1 if chosen.quick else 5)
    visitor = Visitor(chosen.load, QUICK if chosen.quick else FULL)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        engine = stack.enter_context(targets.engine(chosen.load, Path(name)))
        standing = [stack.enter_context(targets.direct(engine))]
        standing += [stack.enter_context(targets.RELAYS[relay](engine)) for relay in relays]
        warm_up(visitor, standing)
        start = time.monotonic()
        rounds: report.Rounds = []
        for number in range(count):
            print(
                f"round {number + 1} of {count} ({time.monotonic() - start:.0f} s)", file=sys.stderr
            )
            rounds.append(one_round(visitor, engine, standing, relays))
            # Nobody is always the first, or always after the same neighbour.
            standing = standing[1:] + standing[:1]
        return rounds


def present_relays(wanted: list[str]) -> list[str]:
    """Those that can be measured here. Ours must be among them if it was asked for."""
    for name in wanted:
        if name not in targets.RELAYS:
            raise BenchError(f"`{name}` is none of {', '.join(targets.RELAYS)}")
    if "nginx" in wanted and targets.nginx_binary() is None:
        print("nginx is not installed (Debian: nginx-light): no ratios", file=sys.stderr)
        wanted = [name for name in wanted if name != "nginx"]
    return wanted


def warm_up(visitor: Visitor, standing: list[Target]) -> None:
    """Fill pools and caches, and fail early."""
    for target in standing:
        visitor.run(target, "json", connections=32, duration=0.3)
        visitor.run(target, "sse", streams=8, rate=0, events=100, duration=0.2)


def one_round(
    visitor: Visitor, engine: Engine, standing: list[Target], relays: list[str]
) -> dict[str, Figures]:
    """Every figure of every target; for each figure, all targets one right after the other."""
    figures: dict[str, Figures] = {target.name: {} for target in sorted(standing, key=_column)}
    visits: tuple[Callable[[Target], Figures], ...] = (
        visitor.requests,
        visitor.latency,
        visitor.paced,
        visitor.saturated,
        visitor.first_event,
    )
    for visit in visits:
        for target in standing:
            figures[target.name] |= visit(target)
    for relay in relays:
        # Memory needs a process that nobody has used: what a burst took is not given back.
        with targets.RELAYS[relay](engine) as fresh:
            figures[fresh.name] |= visitor.memory(fresh, engine)
    report.add_differences(figures)
    return figures


def _column(target: Target) -> int:
    return ["direct", "nginx", "model-runner"].index(target.name)


if __name__ == "__main__":
    sys.exit(main())
