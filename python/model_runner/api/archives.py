"""Models as tar archives: export and load, for machines without a network."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from model_runner import names
from model_runner.api.errors import Worded
from model_runner.api.responses import wants_json
from model_runner.api.sending import ArchiveResponse
from model_runner.api.services import Services, services_of
from model_runner.api.views import LoadedView
from model_runner.errors import ModelNotFound, ModelRunnerError
from model_runner.packaging import Archive, Loading, check_tag
from model_runner.store import gojson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from model_runner.store import Model, Store

router = APIRouter(tags=["models"])

Used = Annotated[Services, Depends(services_of)]

# A thread is called for no less: a call costs some 0.1 ms, in which 64 KiB are hashed and written.
_BATCH_BYTES = 2 << 20

_TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/models/{name:path}/export", responses={200: {"content": _TAR}}, response_class=Response
)
async def export_model(name: str, request: Request, services: Used) -> Response:
    """A model as a tar archive, which `POST /models/load` takes here and in Docker Model Runner.

    Its length is known from the start, and it can be asked for from any byte on (`Range`). If a tag
    was asked for, the archive says so in the entry `model-runner.json`, which Docker passes over;
    asked for by ID, it is Docker's to the byte.
    """
    try:
        model = await asyncio.to_thread(services.store.get, name)
        tags = _asked_tags(services.store, model, name)
        archive = await asyncio.to_thread(Archive, services.store, model, tags)
    except ModelNotFound as error:
        # The quotes are Docker's.
        raise Worded(error, f"get model '\"{name}\"': model not found") from error
    etag = f'"{sha256("".join([model.id, *tags]).encode()).hexdigest()}"'
    return ArchiveResponse(request, archive, filename=f"{name}.tar", etag=etag)


@router.post(
    "/models/load",
    response_model=LoadedView,
    openapi_extra={"requestBody": {"required": True, "content": _TAR}},
)
async def load_model(
    request: Request,
    services: Used,
    tag: Annotated[
        list[str] | None,
        Query(
            description="Names for the model, instead of those that the archive says; "
            "empty for none."
        ),
    ] = None,
) -> Response:
    """Add the model of a tar archive: of an export, or of an OCI layout with one model.

    The archive may be compressed with gzip. Files that are whole are kept even if the rest does not
    come; sent again, they are not written again.
    """
    tags = None if tag is None else [name for name in tag if name]
    for name in tags or ():
        check_tag(name)
    try:
        model = await _load(request, services.store, tags)
    except ModelRunnerError as error:
        error.status = HTTPStatus.INTERNAL_SERVER_ERROR  # Docker's, whatever it was
        raise Worded(error, f"error while loading model: {error}") from error
    await services.scheduler.refresh()
    media_type = "application/json" if wants_json(request) else "text/plain"
    return Response(gojson.encode(_loaded(model)) + b"\n", media_type=media_type)


def _loaded(model: Model) -> dict[str, object]:
    """The last line of a pull as Docker Model Runner writes it, and which model it was."""
    return {
        "type": "success",
        "message": "Model loaded successfully",
        "total": 0,
        "layer": {"size": 0, "current": 0},
        "mode": "pull",
        "model": {"id": model.id, "tags": list(model.tags)},
    }


def _asked_tags(store: Store, model: Model, name: str) -> list[str]:
    """The tag that was asked for, if it was one and not an ID or a digest."""
    canonical = names.normalize(name, default_registry=store.default_registry)
    return [tag for tag in model.tags if tag == canonical]


async def _load(request: Request, store: Store, tags: list[str] | None) -> Model:
    loading = await asyncio.to_thread(Loading, store, tags)
    try:
        await feed(request, loading.feed)
        return await asyncio.to_thread(loading.finish)
    finally:
        await asyncio.to_thread(loading.close)


async def feed(request: Request, take: Callable[[bytearray], None]) -> None:
    """Give a body away in pieces, each in a thread, where it is hashed and written.

    Meanwhile the next one arrives. When this ends, no thread is at work any more.
    """
    feeding: asyncio.Future[None] | None = None
    try:
        async for batch in _batches(request):
            if feeding:
                await feeding
            feeding = asyncio.ensure_future(asyncio.to_thread(take, batch))
        if feeding:
            await feeding
    finally:
        if feeding:
            await asyncio.gather(feeding, return_exceptions=True)


async def _batches(request: Request) -> AsyncIterator[bytearray]:
    batch = bytearray()
    async for chunk in request.stream():
        batch += chunk
        if len(batch) >= _BATCH_BYTES:
            yield batch
            batch = bytearray()
    if batch:
        yield batch
