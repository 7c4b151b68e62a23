"""What happened to the runners of each model since the start: numbers for the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Totals:
    """What happened to the runners of one model in one mode. Counters only grow.

    Attributes:
        backend: The engine's name.
        model: The model's display name.
        mode: `completion`, `embedding` or `reranking`.
        loads: Runners that became ready.
        load_failures: Runners that did not.
        load_seconds: Time that successful loads took, all together.
        evictions: Idle runners that were stopped to make room for another one.
        idle_unloads: Runners that were stopped because nobody used them.
        crashes: Ready runners whose engine ended by itself.
    """

    backend: str
    model: str
    mode: str
    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    idle_unloads: int = 0
    crashes: int = 0


class Ledger:
    """Totals by model and mode."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._totals: dict[tuple[str, str], Totals] = {}

    def of(self, model: str, mode: str) -> Totals:
        """The totals of a model in a mode, to be counted up."""
        return self._totals.setdefault((model, mode), Totals(self._backend, model, mode))

    def all(self) -> list[Totals]:
        """All totals."""
        return list(self._totals.values())
