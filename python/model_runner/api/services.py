"""What the HTTP API needs from the rest of the control plane, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request  # noqa: TC002 - FastAPI reads the annotation of `services_of`

if TYPE_CHECKING:
    from model_runner.config import Settings
    from model_runner.engines import Engine
    from model_runner.lifecycle import Scheduler
    from model_runner.media import Media
    from model_runner.registry import Registry
    from model_runner.state import Responses
    from model_runner.store import Store
    from model_runner.telemetry import Exporter


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that the routers talk to.

    Attributes:
        settings: What the server was started with.
        store: The model store; its methods block, so they are called in threads.
        registry: Pulls models into the store.
        scheduler: Owns the runners.
        engine: The engine that runners are made of.
        media: Fetches images that requests name by their addresses.
        responses: What is stored of OpenAI's Responses API.
        exporter: Renders `/metrics`; None when metrics are disabled.
    """

    settings: Settings
    store: Store
    registry: Registry
    scheduler: Scheduler
    engine: Engine
    media: Media
    responses: Responses
    exporter: Exporter | None


async def services_of(request: Request) -> Services:
    """The services of the application that got `request`.

    Asynchronous because FastAPI calls plain functions in threads of their own, up to 40 of them.
    """
    return cast("Services", request.app.state.services)
