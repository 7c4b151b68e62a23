"""`/v1/models` and its aliases: the store as OpenAI's API lists models."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from model_runner.api import anthropic
from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of
from model_runner.api.views import OpenAIModelList, OpenAIModelView, openai_view

router = APIRouter(tags=["openai"])

Used = Annotated[Services, Depends(services_of)]

# Which backend the path names makes no difference, an unknown one neither: the store is one.


@router.get("/engines/{backend}/v1/models", include_in_schema=False)
@router.get("/engines/v1/models", include_in_schema=False)
@router.get("/v1/models", response_model=OpenAIModelList)
async def list_models(request: Request, services: Used) -> Response:
    """All models, one entry for each, under its first name; in Anthropic's shape to its clients."""
    if anthropic.is_asked(request):
        return await anthropic.listed(services.store)
    models = await asyncio.to_thread(services.store.list)
    return JSON(OpenAIModelList(data=[openai_view(model) for model in models]))


@router.get("/engines/{backend}/v1/models/{name:path}", include_in_schema=False)
@router.get("/engines/v1/models/{name:path}", include_in_schema=False)
@router.get("/v1/models/{name:path}", response_model=OpenAIModelView)
async def get_model(name: str, request: Request, services: Used) -> Response:
    """One model, by any of its names or IDs."""
    if anthropic.is_asked(request):
        return await anthropic.shown(services.store, name)
    return JSON(openai_view(await asyncio.to_thread(services.store.get, name)))
