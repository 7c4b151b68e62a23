"""Leases: the data plane asks for a runner and waits here until one is ready. Not public."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from model_runner.api.bodies import parse_body, read_body
from model_runner.api.disconnect import unless_gone
from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of

router = APIRouter(prefix="/_control", include_in_schema=False)


class LeaseRequest(BaseModel):
    """What a waiting request needs.

    Attributes:
        model: The model as the client spelt it.
        mode: `completion`, `embedding` or `reranking`.
        failed_runner: The runner that the data plane just found dead, if that is why it asks.
    """

    model: str
    mode: str
    failed_runner: str | None = None


@router.post("/leases")
async def lease(request: Request, services: Annotated[Services, Depends(services_of)]) -> Response:
    """Wait until the runner is published; when the caller leaves, only the wait ends."""
    body = await read_body(request)
    wanted = parse_body(LeaseRequest, body, complaint="invalid lease request")
    runner_id = await unless_gone(
        request.receive,
        services.scheduler.lease(wanted.model, wanted.mode, failed_runner=wanted.failed_runner),
    )
    if runner_id is None:
        return Response(status_code=204)  # nobody reads it
    return JSON({"runner_id": runner_id})
