"""What the exporter reads: the data plane's snapshot, and what the lifecycle tells."""

# ruff: noqa: D102 - the scheduler says what each field means

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from model_runner._core import Snapshot


class Labelled(Protocol):
    """Whatever is about one model in one mode."""

    @property
    def backend(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def mode(self) -> str: ...


class Runner(Labelled, Protocol):
    """A runner, as the scheduler tells of it."""

    @property
    def runner_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def socket_path(self) -> Path: ...
    @property
    def api_key(self) -> str: ...


class LifecycleTotals(Labelled, Protocol):
    """What happened to the runners of one model in one mode since the start."""

    @property
    def loads(self) -> int: ...
    @property
    def load_failures(self) -> int: ...
    @property
    def load_seconds(self) -> float: ...
    @property
    def evictions(self) -> int: ...
    @property
    def idle_unloads(self) -> int: ...
    @property
    def crashes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers are.

    Attributes:
        snapshot: All that the data plane has counted so far.
        runners: All runners that exist now.
        totals: What happened to runners since the start.
    """

    snapshot: Callable[[], Snapshot]
    runners: Callable[[], Sequence[Runner]]
    totals: Callable[[], Iterable[LifecycleTotals]]
