"""`/api/copy` and `/api/delete`: names given to models and taken from them."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from model_runner import names
from model_runner.api.ollama import naming
from model_runner.api.ollama.messages import described, read
from model_runner.api.services import Services, services_of
from model_runner.errors import InvalidReference, ModelNotFound

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]


class CopyRequest(BaseModel):
    """Which model gets a further name."""

    source: str = ""
    destination: str = ""


class DeleteRequest(BaseModel):
    """Which name is taken away; `name` is the old spelling of `model`."""

    model: str = ""
    name: str = ""


@router.post("/copy", openapi_extra=described(CopyRequest))
async def copy_model(request: Request, services: Used) -> Response:
    """Give a model a further name, which moves to it from whichever model had it."""
    wanted = await read(request, CopyRequest)
    store = services.store
    try:
        source = await asyncio.to_thread(naming.find, store, wanted.source)
    except InvalidReference as error:
        raise naming.invalid(error, f'source "{wanted.source}" is invalid') from error
    except ModelNotFound as error:
        _check_destination(services, wanted.destination)
        raise naming.unknown(wanted.source, f'model "{wanted.source}" not found') from error
    _check_destination(services, wanted.destination)
    target = await asyncio.to_thread(naming.canonical, store, wanted.destination)
    await asyncio.to_thread(store.add_tag, source.entry.id, target)
    await services.scheduler.refresh()
    return Response(status_code=200)


@router.delete("/delete", openapi_extra=described(DeleteRequest))
async def delete_model(request: Request, services: Used) -> Response:
    """Take a name off a model; with its last name, delete the model.

    What runs of it ends as soon as the requests that it is answering have ended.
    """
    wanted = await read(request, DeleteRequest)
    name = wanted.model or wanted.name
    if not name:
        raise naming.required()
    try:
        found = await asyncio.to_thread(naming.find, services.store, name)
        await asyncio.to_thread(services.store.delete, found.name)
    except InvalidReference as error:
        raise naming.invalid(error, f'name "{name}" is invalid') from error
    except ModelNotFound as error:
        raise naming.unknown(name, f"model '{name}' not found") from error
    # Only now: who is turned away by a runner that goes must not load the model anew.
    await services.scheduler.refresh()
    return Response(status_code=200)


def _check_destination(services: Services, destination: str) -> None:
    """Refuse what cannot be a name; IDs and digests are none.

    Raises:
        Worded: It is not.
    """
    try:
        parsed = names.parse(destination, default_registry=services.store.default_registry)
    except InvalidReference as error:
        raise naming.invalid(error, f'destination "{destination}" is invalid') from error
    if parsed.tag is None:
        digest = InvalidReference(destination, "a digest is no tag")
        raise naming.invalid(digest, f'destination "{destination}" is invalid')
