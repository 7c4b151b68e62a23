"""160,000 requests with idle gaps about as long as an engine keeps a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outcome import Outcome
from processes import BenchError, said, tell

if TYPE_CHECKING:
    from loads import Visitor
    from targets import Engine, Target

REUSE = 0.98

# llama-server closes at 5 s. 200 requests and then a gap: two of its hundreds for each connection.
BURSTS: dict[str, object] = {
    "connections": 32,
    "requests": 100_000,
    "gap_between": "4.9..5.1",
    "gap_every": 200,
}
# The relay itself gives up connections after 4 s.
NEAR_OUR_LIMIT: dict[str, object] = {
    "connections": 16,
    "requests": 10_000,
    "gap_between": "3.9..4.1",
    "gap_every": 100,
}
LONGEST_SECONDS = 600.0


def endurance(visitor: Visitor, engine: Engine, target: Target) -> Outcome:
    """Bursts whose gaps all connections share, then gaps that each has for itself."""
    outcome = Outcome()
    loads = {
        "gaps of 4.9 to 5.1 s, together": BURSTS | {"gap_together": True},
        "gaps of 4.9 to 5.1 s, each its own": BURSTS | {"requests": 50_000},
        "gaps of 3.9 to 4.1 s, together": NEAR_OUR_LIMIT | {"gap_together": True},
    }
    for name, options in loads.items():
        before = _connections(target)
        try:
            report = visitor.run(target, "json", duration=LONGEST_SECONDS, **options)
        except BenchError as error:
            outcome.promise(f"no error, {name}", str(error), kept=False)
            continue
        after = _connections(target)
        opened, reused = (after[key] - before[key] for key in ("opened", "reused"))
        requests = report.number("requests")
        outcome.figures[name] = {"requests": requests, "opened": opened, "reused": reused}
        outcome.promise(f"no error, {name}", f"{requests:,.0f} requests", kept=True)
        share = reused / (opened + reused)
        outcome.promise(f"reuse ≥ {REUSE:.0%}, {name}", f"{share:.2%}", kept=share >= REUSE)
    outcome.figures["engine"] = engine.stats()
    return outcome


def _connections(target: Target) -> dict[str, int]:
    if target.process is None:
        raise BenchError(f"{target.name} takes no commands")
    tell(target.process, "snapshot")
    answer = said(target.process)
    if not isinstance(answer, dict):
        raise BenchError(f"{target.name} said {answer!r}")
    return {str(key): int(value) for key, value in answer.items()}
