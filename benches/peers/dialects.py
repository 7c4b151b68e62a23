"""What a stream costs that is translated into another dialect, beside one that is relayed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loads import Figures, Visitor
    from targets import Target

PATHS = {"anthropic": "/v1/messages", "ollama": "/api/chat", "responses": "/v1/responses"}

# As fast as the engine writes: an event's own cost shows, which wake-ups hide else.
STREAMS = 8
EVENTS = 1000


def translated(visitor: Visitor, target: Target) -> Figures:
    """CPU of an event in each dialect, and how many times that of a relayed one it is."""
    relayed = _cost(visitor, target, "chat")
    figures = {"cpu_us_per_relayed_event": relayed * 1e6}
    for dialect, path in PATHS.items():
        cost = _cost(visitor, replace(target, path=path), dialect)
        figures[f"cpu_us_per_{dialect}_event"] = cost * 1e6
        figures[f"{dialect}_event_ratio"] = cost / relayed
    return figures


def _cost(visitor: Visitor, target: Target, dialect: str) -> float:
    outcome = visitor.run(
        target,
        "sse",
        streams=STREAMS,
        rate=0,
        events=EVENTS,
        duration=visitor.effort.seconds,
        dialect=dialect,
    )
    return outcome.cpu_seconds / outcome.number("events")
