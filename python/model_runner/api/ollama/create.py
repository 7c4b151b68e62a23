"""`/api/create`: models made of others, or of files that were sent, as a Modelfile says."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from model_runner.api.disconnect import unless_gone
from model_runner.api.errors import Worded
from model_runner.api.ollama import naming
from model_runner.api.ollama.blobs import checked
from model_runner.api.ollama.messages import described, read
from model_runner.api.ollama.steps import StepView, steps_response
from model_runner.api.ollama.transfers import fetch, pull_word
from model_runner.api.services import Services, services_of
from model_runner.errors import (
    InvalidReference,
    InvalidRequest,
    InvalidTemplate,
    ModelNotFound,
    ModelRunnerError,
    RegistryError,
    RemoteModelNotFound,
)
from model_runner.packaging import Order, check_tag, create_from_files, create_from_model
from model_runner.store.modelfile import Message, Modelfile

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from model_runner.api.ollama.steps import Report
    from model_runner.store import Model, Store

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]

_REFUSED = "remote model is unavailable"
_LINES = "A `StepView` a line; without `stream`, the last one alone."


class MessageView(BaseModel):
    """A message that comes before those of each request."""

    role: str = ""
    content: str = ""
    images: list[str] | None = None
    tool_calls: list[object] | None = None


class CreateRequest(BaseModel):
    """What a model is to be; what is left out stays as it is in the model that it is made of."""

    model: str = ""
    name: str = Field("", description="The old spelling of `model`.")
    source: str = Field("", alias="from", description="A model; it is pulled if it is not here.")
    files: dict[str, str] | None = Field(
        None, description="Names of files, and the digests under which they were sent."
    )
    adapters: dict[str, str] = Field({}, description="LoRA adapters in GGUF, likewise.")
    template: str = Field("", description="In Go's template language, or in Jinja.")
    system: str = ""
    license: str | list[str] = Field([], description="Added to those that are there.")
    parameters: dict[str, object] = Field({}, description="Added to those that are there.")
    messages: list[MessageView] = []
    quantize: str = Field("", description="Refused, unless the weights have that type.")
    requires: str = Field("", description="The least version of Ollama; not looked at.")
    stream: bool = Field(default=True, description="Tell each step, a JSON object a line.")
    # Of Ollama's own engine and servers.
    renderer: object = None
    parser: object = None
    draft_files: object = None
    remote_host: object = None
    info: object = None


_FOREIGN = ("renderer", "parser", "draft_files", "remote_host", "info")


@router.post(
    "/create",
    response_model=StepView,
    response_description=_LINES,
    openapi_extra=described(CreateRequest),
)
async def create_model(request: Request, services: Used) -> Response:
    """Make a model. One that has the name already is replaced."""
    wanted = await read(request, CreateRequest)
    creation = _Creation(services, wanted)
    if wanted.stream:
        return await steps_response(request, creation.run, stream=True, word=creation.word)
    try:
        done = await unless_gone(request.receive, _whole(creation))
    except ModelRunnerError as error:
        raise Worded(error, creation.word(error)) from error
    return Response(status_code=204) if done is None else done


async def _whole(creation: _Creation) -> Response:
    await creation.run(lambda _: None)
    return Response(b'{"status":"success"}', media_type="application/json")


class _Creation:
    """One model in the making. What cannot be is refused at once.

    Raises:
        InvalidRequest: It cannot.
        Worded: The name is none.
    """

    def __init__(self, services: Services, wanted: CreateRequest) -> None:
        self._services = services
        self._store = services.store
        self._wanted = wanted
        self._tag = _tag(services.store, wanted.model or wanted.name)
        self._source = naming.local(wanted.source, refused=_REFUSED)
        self._order = _order(wanted)
        self._pulling = False
        if self._source and wanted.files:
            raise InvalidRequest("both 'from' and 'files' were specified: a model has one origin")
        if not self._source and wanted.files is None:
            raise InvalidRequest("neither 'from' or 'files' was specified")

    async def run(self, report: Report) -> None:
        """Make it, and tell the steps."""
        before = await asyncio.to_thread(_id_of, self._store, self._tag)
        model, known = await (self._of_model(report) if self._source else self._of_files(report))
        for layer in (*model.manifest.layers, model.manifest.config):
            verb = "using existing" if layer.digest in known else "creating new"
            report(StepView(status=f"{verb} layer {layer.digest}"))
        report(StepView(status="writing manifest"))
        if before and before != model.id:
            await asyncio.to_thread(_remove_nameless, self._store, before)
        await self._services.scheduler.refresh()

    async def _of_model(self, report: Report) -> tuple[Model, Collection[str]]:
        try:
            base = await asyncio.to_thread(_found, self._store, self._source)
        except InvalidReference as error:
            # Ollama's command sends what is no file there as the name of a model.
            if self._source.startswith((".", "/", "~")):
                hint = "its path is taken from where the Modelfile is"
                raise InvalidRequest(f"there is no file `{self._source}`", hint=hint) from error
            raise
        except ModelNotFound:
            self._pulling = True
            base = await fetch(self._services, self._source, report)
            self._pulling = False
        model = await asyncio.to_thread(
            create_from_model, self._store, base, self._tag, self._order
        )
        return model, {blob.digest for blob in base.manifest.blobs}

    async def _of_files(self, report: Report) -> tuple[Model, Collection[str]]:
        files = self._order.files
        is_gguf = not any(name.endswith(".safetensors") for name in files)
        report(StepView(status="parsing GGUF" if is_gguf else "parsing safetensors"))
        model = await asyncio.to_thread(create_from_files, self._store, self._tag, self._order)
        return model, {*files.values(), *self._order.adapters.values()}

    def word(self, error: ModelRunnerError) -> str:
        """An error in Ollama's words."""
        if self._pulling and isinstance(error, RegistryError | RemoteModelNotFound):
            return pull_word(error)
        if isinstance(error, InvalidTemplate):
            return f"template error: {error}"
        if isinstance(error, InvalidRequest):
            error.status = 400  # whatever it is elsewhere
        return str(error)


def _order(wanted: CreateRequest) -> Order:
    foreign = [name for name in _FOREIGN if getattr(wanted, name)]
    if foreign:
        raise InvalidRequest(
            f"`{foreign[0]}` is of Ollama's own engine, and there is nothing like it here",
            hint="leave it out; chats are rendered and read as the chat template says",
        )
    licenses = [wanted.license] if isinstance(wanted.license, str) else wanted.license
    if any(message.images or message.tool_calls for message in wanted.messages):
        raise InvalidRequest("a message of a model can only have a role and text")
    said = Modelfile(
        source=wanted.source.strip(),
        template=wanted.template,
        system=wanted.system,
        parameters={key: value for key, value in wanted.parameters.items() if value is not None},
        messages=tuple(Message(item.role.lower(), item.content) for item in wanted.messages),
        license=tuple(filter(None, licenses)),
    )
    return Order(
        said=said,
        files=_named(wanted.files or {}),
        adapters=_named(wanted.adapters),
        quantize=wanted.quantize,
    )


def _named(files: Mapping[str, str]) -> dict[str, str]:
    """Names and digests, both checked.

    Raises:
        InvalidRequest: A name leads elsewhere, or a digest is none.
    """
    for name in files:
        if not name or posixpath.isabs(name) or ".." in name.split("/"):
            raise InvalidRequest("file path must be relative")
    return {posixpath.normpath(name): checked(digest) for name, digest in files.items()}


def _tag(store: Store, name: str) -> str:
    """The name in full, and in the spelling of the store if it has it in another case.

    Raises:
        Worded: It is none.
    """
    try:
        check_tag(name.strip())
        return naming.canonical(store, name.strip())
    except InvalidReference as error:
        raise naming.invalid(error) from error


def _found(store: Store, name: str) -> Model:
    return store.get(naming.find(store, name).entry.id)


def _id_of(store: Store, tag: str) -> str | None:
    try:
        return store.resolve(tag).id
    except ModelNotFound:
        return None


def _remove_nameless(store: Store, model_id: str) -> None:
    """Remove a model whose name another one got, if it has no further one."""
    if not any(entry.id == model_id and entry.tags for entry in store.entries()):
        with contextlib.suppress(ModelNotFound):
            store.delete(model_id)
