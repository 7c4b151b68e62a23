"""What came of something that our relay was put through alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from machine import machine


@dataclass(slots=True)
class Outcome:
    """Promises and whether they hold, with the figures behind them."""

    kept: bool = True
    lines: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def promise(self, text: str, measured: str, *, kept: bool) -> None:
        """Note one."""
        self.kept &= kept
        self.lines.append(f"- {text}: {measured}, {'kept' if kept else 'broken'}")

    def document(self) -> dict[str, object]:
        """For results/*.json."""
        return {
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "kept": self.kept,
            "promises": self.lines,
            "figures": self.figures,
        }
