"""The store as Anthropic's API lists models; its messages are the data plane's."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from model_runner.store import Model, Store

router = APIRouter(tags=["anthropic"])

Used = Annotated[Services, Depends(services_of)]


class AnthropicModelView(BaseModel):
    """A model as Anthropic's API lists it."""

    type: str = "model"
    id: str
    display_name: str
    created_at: str


class AnthropicModelPage(BaseModel):
    """All models as Anthropic's API lists them, on one page."""

    data: list[AnthropicModelView]
    has_more: bool = False
    first_id: str = ""
    last_id: str = ""


def is_asked(request: Request) -> bool:
    """Whether a client of Anthropic asks, where OpenAI's do as well: its SDKs name a version."""
    return "anthropic-version" in request.headers


async def listed(store: Store) -> Response:
    """All models, one entry for each, under its first name."""
    views = [_view(model) for model in await asyncio.to_thread(store.list)]
    if not views:
        return JSON(AnthropicModelPage(data=[]))
    return JSON(AnthropicModelPage(data=views, first_id=views[0].id, last_id=views[-1].id))


async def shown(store: Store, name: str) -> Response:
    """One model, by any of its names or IDs.

    Raises:
        ModelNotFound: There is none.
    """
    return JSON(_view(await asyncio.to_thread(store.get, name)))


def _view(model: Model) -> AnthropicModelView:
    name = model.tags[0] if model.tags else model.id
    created = datetime.fromtimestamp(model.created, timezone.utc)
    return AnthropicModelView(
        id=name, display_name=name, created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ")
    )


@router.get("/anthropic/v1/models", response_model=AnthropicModelPage)
async def list_models(services: Used) -> Response:
    """All models, for clients with a base address of their own."""
    return await listed(services.store)


@router.get("/anthropic/v1/models/{name:path}", response_model=AnthropicModelView)
async def get_model(name: str, services: Used) -> Response:
    """One model, the same way."""
    return await shown(services.store, name)
