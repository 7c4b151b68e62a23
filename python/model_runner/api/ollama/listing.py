"""`/api/tags`: the models of the store, a line for each name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from model_runner.api.ollama import naming
from model_runner.api.ollama.facts import SizedDetails, details
from model_runner.api.ollama.messages import Answer, timestamp
from model_runner.api.services import Services, services_of
from model_runner.lifecycle import capabilities

if TYPE_CHECKING:
    from model_runner.store import Model, Store

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]


class ModelView(BaseModel):
    """A model under one of its names."""

    name: str
    model: str
    modified_at: str = Field(description="RFC 3339: when it came here.")
    size: int = Field(description="Bytes of its files.")
    digest: str = Field(description="Its ID, 64 hex digits.")
    details: SizedDetails
    capabilities: list[str]


class ModelList(BaseModel):
    """The models, the newest first."""

    models: list[ModelView]


@router.head("/tags", include_in_schema=False)
@router.get("/tags", response_model=ModelList)
async def list_models(services: Used) -> Response:
    """The models of the store, each as often as it has names."""
    return await asyncio.to_thread(_listed, services.store)


def _listed(store: Store) -> Answer:
    dated = [(int(store.modified(model.id)), model) for model in store.list()]
    dated.sort(key=lambda pair: pair[0], reverse=True)
    return Answer(ModelList(models=[view for _, model in dated for view in _views(store, model)]))


def _views(store: Store, model: Model) -> list[ModelView]:
    registry = store.default_registry
    shared = ModelView(
        name="",
        model="",
        modified_at=timestamp(store.modified(model.id)),
        size=sum(blob.size for blob in model.manifest.blobs),
        digest=model.id.removeprefix("sha256:"),
        details=details(store, model),
        capabilities=list(capabilities.of(store, model)),
    )
    shown = [naming.listed(tag, default_registry=registry) for tag in model.tags or (model.id,)]
    return [shared.model_copy(update={"name": name, "model": name}) for name in shown]
