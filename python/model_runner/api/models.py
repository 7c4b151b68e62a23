"""`/models`: list, pull, inspect and delete models of the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from model_runner.api.bodies import flag, parse_body, read_body
from model_runner.api.errors import Worded
from model_runner.api.filters import Filters, filters_of
from model_runner.api.progress import ProgressResponse
from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of
from model_runner.api.views import LINES, DeletedView, ProgressView
from model_runner.errors import (
    ModelInUse,
    ModelNotFound,
    ModelRunnerError,
    NotFound,
    RemoteModelNotFound,
)
from model_runner.store import ModelDescription

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_runner.registry import Progress
    from model_runner.store import Model, Store

router = APIRouter(tags=["models"])

Used = Annotated[Services, Depends(services_of)]


class PullRequest(BaseModel):
    """What to pull, and with which credentials."""

    source: str = Field("", alias="from", description="The model's reference.")
    token: str | None = Field(
        None, alias="bearer-token", description="Token for the registry.", repr=False
    )


_PULL_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": PullRequest.model_json_schema()}},
    }
}


@router.get("/models", response_model=list[ModelDescription])
async def list_models(services: Used, filters: Annotated[Filters, Depends(filters_of)]) -> Response:
    """The models of the store, in the order in which they came: all, or those that are wanted."""
    return await asyncio.to_thread(_listed, services.store, filters)


@router.post(
    "/models/create",
    response_model=ProgressView,
    response_description=LINES,
    openapi_extra=_PULL_BODY,
)
async def pull_model(request: Request, services: Used) -> Response:
    """Pull a model from its registry, and stream the progress, a JSON object a line."""
    body = await read_body(request)
    wanted = parse_body(PullRequest, body, complaint="invalid request body")

    async def pull(report: Callable[[Progress], None]) -> None:
        await services.registry.pull(wanted.source, token=wanted.token, report=report)
        await services.scheduler.refresh()

    return ProgressResponse(request, pull)


@router.get("/models/{name:path}", response_model=ModelDescription)
async def inspect_model(
    name: str, services: Used, remote: Annotated[str | None, Query()] = None
) -> Response:
    """One model, by any of its names or IDs, or by the last part of a name; or in its registry.

    There its weights are not fetched. At Hugging Face their headers are, to tell what a pull makes.

    404 `model not found` of the store; errors of a registry begin with `error while getting remote
    model: `, and have the status that a pull would have.
    """
    if not name:
        raise Worded(ModelNotFound(name), "model not found")
    if flag(remote):
        return JSON((await _inspect_remote(services, name)).describe())
    try:
        return JSON(await asyncio.to_thread(_found, services.store, name))
    except ModelNotFound as error:
        raise Worded(error, "model not found") from error


@router.delete("/models/{name:path}", response_model=list[DeletedView])
async def delete_model(
    name: str, services: Used, force: Annotated[str | None, Query()] = None
) -> Response:
    """Take a name off a model; with its last name, or by its ID, delete the model."""
    forced = flag(force)
    try:
        await _refuse_in_use(services, name, forced=forced)
        effects = await asyncio.to_thread(services.store.delete, name, force=forced)
    except ModelNotFound as error:
        # The usual hint would be to pull what was to be deleted.
        unknown = ModelNotFound(name, hint="see `model-runner list`")
        raise Worded(unknown, "error while deleting model: model not found") from error
    except ModelRunnerError as error:
        raise Worded(error, f"error while deleting model: {error}") from error
    # The store comes first, so that who is turned away by the runner does not load the model anew;
    # an engine keeps the files that it has open.
    for effect in effects:
        if "Deleted" in effect:
            await services.scheduler.unload(effect["Deleted"], force=forced)
    await services.scheduler.refresh()
    return JSON(effects)


@router.post("/models/{name:path}", include_in_schema=False)
async def unknown_action(name: str) -> Response:
    """Whatever else is posted below `/models`."""
    action = name.rstrip("/").rpartition("/")[2]
    raise NotFound(f'unknown action "{action}"')


def _listed(store: Store, filters: Filters) -> Response:
    """The answer, down to its bytes: those of hundreds of models take tens of milliseconds."""
    registry = store.default_registry
    return JSON([model for model in store.describe() if filters.match(model, registry)])


def _found(store: Store, name: str) -> ModelDescription:
    return store.describe_model(store.find(name))


async def _inspect_remote(services: Services, name: str) -> Model:
    told = "error while getting remote model: "
    try:
        return await services.registry.inspect(name)
    except RemoteModelNotFound as error:
        # The words of Docker Model Runner, which its clients know.
        cause = f'failed to pull model "{name}": MANIFEST_UNKNOWN - Model not found'
        raise Worded(error, told + cause) from error
    except ModelRunnerError as error:
        raise Worded(error, f"{told}{error}") from error


async def _refuse_in_use(services: Services, name: str, *, forced: bool) -> None:
    """Refuse the deletion of a model that is answering requests, unless that is to be ended.

    Raises:
        ModelInUse: It is.
        ModelNotFound: There is none.
    """
    if not name:
        raise ModelNotFound(name)
    model = await asyncio.to_thread(services.store.resolve, name)
    if forced or len(model.tags) > 1:
        return  # of several names it loses one, or the store refuses
    leases = services.scheduler.leases(model.id)
    if leases:
        raise ModelInUse(name, leases)
