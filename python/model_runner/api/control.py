"""What the data plane asks of the lifecycle: runners, and how long they stay. Not public."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from model_runner.api.bodies import parse_body, read_body
from model_runner.api.disconnect import unless_gone
from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of

router = APIRouter(prefix="/_control", include_in_schema=False)

Used = Annotated[Services, Depends(services_of)]


class LeaseRequest(BaseModel):
    """What a waiting request needs.

    Attributes:
        model: The model as the client spelt it.
        mode: `completion`, `embedding` or `reranking`.
        failed_runner: The runner that the data plane just found dead, if that is why it asks.
        context_size: Tokens of context that the request wants at least.
    """

    model: str
    mode: str
    failed_runner: str | None = None
    context_size: int | None = Field(None, ge=1)


class KeepAliveRequest(BaseModel):
    """How long a runner is to stay when it is idle.

    Attributes:
        runner_id: Which one.
        keep_alive: Seconds; 0: not at all; negative: for ever.
    """

    runner_id: str
    keep_alive: float = Field(allow_inf_nan=False)


class UnloadRequest(BaseModel):
    """What is to be unloaded.

    Attributes:
        model: The model as the client spelt it.
    """

    model: str


@router.post("/leases")
async def lease(request: Request, services: Used) -> Response:
    """Wait until the runner is published; when the caller leaves, only the wait ends."""
    body = await read_body(request)
    wanted = parse_body(LeaseRequest, body, complaint="invalid lease request")
    runner_id = await unless_gone(
        request.receive,
        services.scheduler.lease(
            wanted.model,
            wanted.mode,
            failed_runner=wanted.failed_runner,
            context_size=wanted.context_size or 0,
        ),
    )
    if runner_id is None:
        return Response(status_code=204)  # nobody reads it
    return JSON({"runner_id": runner_id})


@router.post("/keep_alive")
async def keep_alive(request: Request, services: Used) -> Response:
    """Change how long an idle runner stays; a model that is loaded anew has the setting's again."""
    body = await read_body(request)
    wanted = parse_body(KeepAliveRequest, body, complaint="invalid keep-alive request")
    services.scheduler.set_keep_alive(wanted.runner_id, wanted.keep_alive)
    return JSON({})


@router.post("/unload")
async def unload(request: Request, services: Used) -> Response:
    """Begin to unload a model: what it is answering may end, and is not waited for."""
    body = await read_body(request)
    wanted = parse_body(UnloadRequest, body, complaint="invalid unload request")
    model = await asyncio.to_thread(services.store.get, wanted.model)
    return JSON({"unloaded": services.scheduler.retire(model.id)})
