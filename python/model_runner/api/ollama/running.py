"""`/api/ps`: the models that are loaded, what memory they take, and until when."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from model_runner.api.ollama import naming
from model_runner.api.ollama.facts import Details, brief, details
from model_runner.api.ollama.messages import Answer, timestamp
from model_runner.api.services import Services, services_of
from model_runner.errors import ModelRunnerError
from model_runner.lifecycle import memory

if TYPE_CHECKING:
    from model_runner.lifecycle import RunnerInfo
    from model_runner.store import Store

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]

# The CLI says `Forever` of what lies this far ahead; Go counts no more than 292 years.
_FOR_EVER_SECONDS = 290 * 365.25 * 86400


class RunningView(BaseModel):
    """A model that is loaded, or being loaded."""

    name: str
    model: str
    size: int = Field(description="Bytes of memory that its engine takes, on all devices.")
    digest: str = Field(description="Its ID, 64 hex digits.")
    details: Details
    expires_at: str = Field(description="RFC 3339: when it is unloaded if nobody uses it.")
    size_vram: int = Field(description="Of the memory, what is on GPUs.")
    context_length: int = Field(description="Tokens of context that each request has.")


class RunningList(BaseModel):
    """What is loaded, what stays longest first."""

    models: list[RunningView]


@router.get("/ps", response_model=RunningList)
async def list_running(services: Used) -> Response:
    """The models that are loaded. One that serves two modes is there twice."""
    runners = services.scheduler.runners()
    return await asyncio.to_thread(_listed, services.store, runners)


def _listed(store: Store, runners: list[RunnerInfo]) -> Answer:
    dated = [(_expiry(runner), _view(store, runner)) for runner in runners]
    dated.sort(key=lambda pair: pair[0], reverse=True)
    return Answer(RunningList(models=[view for _, view in dated]))


def _view(store: Store, runner: RunnerInfo) -> RunningView:
    name = naming.shown(store, runner.model)
    on_devices = 0 if runner.log is None else memory.on_devices(runner.log)
    return RunningView(
        name=name,
        model=name,
        size=memory.resident(runner.pid) + on_devices,
        digest=runner.model_id.removeprefix("sha256:"),
        details=_details(store, runner.model_id),
        expires_at=timestamp(_expiry(runner)),
        size_vram=on_devices,
        context_length=runner.context_size,
    )


def _expiry(runner: RunnerInfo) -> float:
    """When a runner goes if nobody uses it, in Unix seconds; in the past if it is going."""
    now = time.time()
    if runner.state == "retiring":
        return now - 1
    if runner.keep_alive < 0:
        return now + _FOR_EVER_SECONDS
    since = now if runner.last_used is None else runner.last_used.timestamp()
    return since + min(runner.keep_alive, _FOR_EVER_SECONDS)


def _details(store: Store, model_id: str) -> Details:
    try:
        return brief(details(store, store.get(model_id)))
    except ModelRunnerError:
        return Details()  # it was deleted while it answers
