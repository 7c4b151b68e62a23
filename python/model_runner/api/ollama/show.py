"""`/api/show`: all that is known of one model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from model_runner.api.ollama import header, naming
from model_runner.api.ollama.facts import Details, brief, details
from model_runner.api.ollama.messages import Answer, described, read, timestamp
from model_runner.api.ollama.written import modelfile, parameter_lines
from model_runner.api.services import Services, services_of
from model_runner.errors import InvalidReference, ModelNotFound, StoreError
from model_runner.lifecycle import capabilities
from model_runner.packaging import bare
from model_runner.store import manifests

if TYPE_CHECKING:
    from model_runner.store import Model, Store

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]

_REFUSED = "remote model details are unavailable"
# Clients, by how they name themselves: one takes `general.basename` for what it has to call the
# model, the other is Ollama's command.
_COPILOT, _COMMAND = "GitHubCopilotChat/", "ollama/"


class ShowRequest(BaseModel):
    """Which model; `name` is the old spelling of `model`."""

    model: str = ""
    name: str = ""
    verbose: bool = Field(default=False, description="Show long lists of the header, too.")
    system: str = Field(default="", description="Shown as if it were the model's.")
    options: dict[str, object] = Field(default={}, description="Shown as if they were the model's.")


class MessageView(BaseModel):
    """A message that comes before those of each request."""

    role: str
    content: str


class ShowView(BaseModel):
    """A model."""

    license: str | None = None
    modelfile: str
    parameters: str | None = None
    template: str | None = None
    system: str | None = None
    details: Details
    messages: list[MessageView] | None = None
    model_info: dict[str, object] = Field(description="The header of its file.")
    projector_info: dict[str, object] | None = None
    tensors: list[header.TensorView]
    capabilities: list[str]
    modified_at: str = Field(description="RFC 3339: when it came here.")


class _Shown(Answer):
    """A view whose `model_info` may have nulls, which stand for lists that are left out."""

    def render(self, content: BaseModel) -> bytes:
        """Encode `content`."""
        fields = content.model_dump(mode="json")
        kept = {key: value for key, value in fields.items() if value is not None}
        return header.encode(kept)


@router.post("/show", response_model=ShowView, openapi_extra=described(ShowRequest))
async def show_model(request: Request, services: Used) -> Response:
    """One model: what it is made of, what it can do, and how it was configured."""
    wanted = await read(request, ShowRequest)
    typed = wanted.model or wanted.name
    if not typed:
        raise naming.required()
    name = naming.local(typed, refused=_REFUSED)
    try:
        found = await asyncio.to_thread(naming.find, services.store, name)
        agent = request.headers.get("user-agent", "")
        return await asyncio.to_thread(_view, services.store, found, wanted, agent)
    except InvalidReference as error:
        raise naming.invalid(error) from error
    except ModelNotFound as error:
        complete = naming.shown(services.store, name)
        raise naming.unknown(name, f"model '{complete}' not found") from error


def _view(store: Store, found: naming.Found, wanted: ShowRequest, agent: str) -> Answer:
    model = store.get(found.entry.id)
    said = replace(
        model.config.modelfile,
        system=wanted.system or model.config.modelfile.system,
        parameters={**model.config.modelfile.parameters, **wanted.options},
        license=tuple(dict.fromkeys(_licenses(store, model))),
    )
    name = naming.listed(found.name, default_registry=store.default_registry)
    whole = header.read(store, model, verbose=wanted.verbose)
    if agent.startswith(_COPILOT):
        whole.info["general.basename"] = wanted.model or wanted.name
    return _Shown(
        ShowView(
            license="\n".join(said.license) or None,
            modelfile=modelfile(name, said),
            parameters="\n".join(parameter_lines(said.parameters)) or None,
            template=said.template or _template(store, model) or whole.template or None,
            system=said.system or None,
            details=_details(store, model, agent),
            messages=[MessageView(role=item.role, content=item.content) for item in said.messages]
            or None,
            model_info=whole.info,
            projector_info=whole.projector,
            tensors=whole.tensors,
            capabilities=list(capabilities.of(store, model)),
            modified_at=timestamp(store.modified(model.id)),
        )
    )


def _details(store: Store, model: Model, agent: str) -> Details:
    """What a model is made of; for Ollama's command without the parent that it has more than.

    Of the parent that it finds here, the command makes the model that `/save` asks for: it would
    be without the template, the parameters and the system prompt.
    """
    found, said = brief(details(store, model)), model.config.modelfile
    has_more = said.template or said.system or said.parameters or said.messages
    if has_more and agent.startswith(_COMMAND):
        found.parent_model = ""
    return found


def _licenses(store: Store, model: Model) -> list[str]:
    layers = [layer for layer in model.manifest.layers if layer.media_type == manifests.LICENSE]
    return [text for layer in layers if (text := _text(store, layer.digest))]


def _template(store: Store, model: Model) -> str:
    """The package's own chat template, without the system prompt that was put before it."""
    for layer in model.manifest.layers:
        if layer.media_type == manifests.CHAT_TEMPLATE:
            return bare(_text(store, layer.digest))
    return ""


def _text(store: Store, digest: str) -> str:
    try:
        return store.blobs.read(digest).decode("utf-8", "replace")
    except (OSError, StoreError):
        return ""  # `model-runner list` tells that it is missing
