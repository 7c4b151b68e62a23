"""The data plane as the lifecycle sees it: routes go in, activity comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner._core import Snapshot


@dataclass(frozen=True, slots=True)
class Route:
    """A ready runner, and the names under which requests reach it.

    What `_core.Route` is made of, which cannot be read back: a test reads this one.

    Attributes:
        runner_id: Identifies the runner for as long as its process lives; never used twice.
        socket_path: The engine's Unix socket.
        api_key: What the engine wants as a bearer token.
        slots: Requests that the engine answers at the same time.
        context_size: Tokens of context for each slot.
        context_limit: The most that the model can be loaded with.
        capabilities: What the model can do: `completion`, `tools`, `thinking`, `vision`, `audio`,
            `embedding`, `insert`.
        has_stops: Whether its engine ends texts at strings that no request has named.
        backend: `llama.cpp`.
        model: The model's display name.
        model_id: The model's ID, `sha256:…`.
        mode: `completion`, `embedding` or `reranking`.
        names: Every spelling of `model` in a request that means this runner.
    """

    runner_id: str
    socket_path: str
    api_key: str = field(repr=False)
    slots: int
    context_size: int
    context_limit: int
    capabilities: tuple[str, ...]
    has_stops: bool
    backend: str
    model: str
    model_id: str
    mode: str
    names: tuple[str, ...]


class DataPlane(Protocol):
    """Relays requests to runners."""

    def publish(self, routes: Sequence[Route]) -> None:
        """Replace the whole route table."""

    def retire(self, runner_id: str) -> int:
        """Take a runner off the route table for good; say how many leases it still holds."""

    def snapshot(self) -> Snapshot:
        """Everything at this moment."""
