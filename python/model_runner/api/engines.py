"""`/engines`: what is installed, what is loaded, and unloading it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from model_runner.api.bodies import parse_body, read_body
from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of
from model_runner.api.views import RunnerView, UnloadView
from model_runner.errors import ModelRunnerError
from model_runner.store import gojson

if TYPE_CHECKING:
    from model_runner.lifecycle import RunnerInfo

router = APIRouter(prefix="/engines", tags=["engines"])

Used = Annotated[Services, Depends(services_of)]

# What Go prints for a time that was never set; clients read it as "in use".
_NEVER = "0001-01-01T00:00:00Z"
# Go counts durations in nanoseconds in 63 bits: 292 years.
_GO_MAXIMUM = 9_223_372_036.0


class UnloadRequest(BaseModel):
    """What to unload: everything, or these models, optionally of one backend only."""

    everything: bool = Field(False, alias="all")
    backend: str = ""
    models: list[str] = []


@router.get("/status", response_model=dict[str, str])
async def engine_status(services: Used) -> Response:
    """Each backend and its state: `Running: …`, `Not Installed: …`."""
    status = await asyncio.to_thread(services.engine.status)
    body = gojson.encode({services.engine.name: str(status)})
    # The one JSON body without a newline: the stock client prints it as it is.
    return Response(body, media_type="application/json")


@router.get("/ps", response_model=list[RunnerView])
async def list_runners(services: Used) -> Response:
    """The runners that are loaded or loading."""
    return JSON([runner_view(runner) for runner in services.scheduler.runners()])


@router.post("/unload", response_model=UnloadView)
async def unload(request: Request, services: Used) -> Response:
    """Unload idle runners; those that are answering or loading are left alone."""
    body = await read_body(request)
    wanted = parse_body(UnloadRequest, body, complaint="invalid request", strict=True)
    if wanted.backend not in {"", services.engine.name}:
        return JSON(UnloadView(unloaded_runners=0))
    if wanted.everything:
        count = await services.scheduler.unload()
        return JSON(UnloadView(unloaded_runners=count))
    count = 0
    for name in wanted.models:
        count += await services.scheduler.unload(await _model_id(services, name))
    return JSON(UnloadView(unloaded_runners=count))


async def _model_id(services: Services, name: str) -> str:
    """The ID, or the name itself: a model that is gone may still have a runner."""
    try:
        model = await asyncio.to_thread(services.store.get, name)
    except ModelRunnerError:
        return name
    return model.id


def runner_view(runner: RunnerInfo) -> RunnerView:
    """A runner as `/engines/ps` shows it."""
    loading = runner.state == "loading"
    idle_since = None if runner.in_use or loading else runner.last_used
    return RunnerView(
        backend_name=runner.backend,
        model_name=runner.model,
        mode=runner.mode,
        last_used=_rfc3339(idle_since),
        in_use=runner.in_use or None,
        loading=loading or None,
        keep_alive=go_duration(runner.keep_alive),
    )


def _rfc3339(moment: datetime | None) -> str:
    if moment is None:
        return _NEVER
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def go_duration(seconds: float) -> str:
    """Seconds as Go prints durations: `5m0s`, `1h0m0s`, `1.5s`; `-1` stands for ever.

    >>> go_duration(300), go_duration(-1), go_duration(0.25)
    ('5m0s', '-1', '0.25s')
    """
    if seconds < 0:
        return "-1"
    seconds = min(seconds, _GO_MAXIMUM)
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.9f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
