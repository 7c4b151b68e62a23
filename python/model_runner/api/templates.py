"""Prompts made with a template of Ollama's, for the data plane. Not public."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from model_runner.api.bodies import parse_body, read_body
from model_runner.api.ollama import naming
from model_runner.api.responses import JSON
from model_runner.api.services import Services, services_of
from model_runner.errors import InvalidTemplate, ModelNotFound
from model_runner.formats.go_to_jinja import is_jinja, takes_suffix, to_jinja

if TYPE_CHECKING:
    from starlette.responses import Response

    from model_runner.store import Model, Store
    from model_runner.store.modelfile import Modelfile

router = APIRouter(prefix="/_control", include_in_schema=False)

Used = Annotated[Services, Depends(services_of)]

# What the rest of a body may add to a prompt that is as large as bodies may be.
_MORE_BYTES = 1 << 20


class Message(BaseModel):
    """A message of a chat, in OpenAI's form."""

    model_config = ConfigDict(extra="allow")

    role: str


class TemplateRequest(BaseModel):
    """What is to be made a prompt.

    Attributes:
        model: The model as the client spelt it.
        template: In Go's language or in Jinja; None: the one that the model was made with.
        system: The system prompt; empty: the model's.
        prompt: What the user says; with a suffix, what comes before the gap.
        suffix: What comes behind the gap; empty: there is none.
        messages: What was said before; None: what the model was made with.
        tools: In OpenAI's form.
        think: Whether to think, or how much; None: nothing was said of it.
    """

    model: str
    template: str | None = None
    system: str = ""
    prompt: str = ""
    suffix: str = ""
    messages: list[Message] | None = None
    tools: list[dict[str, object]] = Field(default_factory=list)
    think: bool | str | None = None


@router.post("/templates")
async def render_template(request: Request, services: Used) -> Response:
    """The prompt that a template makes; what is wrong with the template is a 400."""
    body = await read_body(request, limit=services.settings.body_limit + _MORE_BYTES)
    wanted = parse_body(TemplateRequest, body, complaint="invalid template request", explain=True)
    return JSON({"prompt": await asyncio.to_thread(_rendered, services.store, wanted)})


def _rendered(store: Store, wanted: TemplateRequest) -> str:
    from model_runner.formats.rendering import render  # what it imports takes long

    record = _found(store, wanted.model).config.modelfile
    template = wanted.template or record.template
    if not template:
        raise InvalidTemplate(
            f"model `{wanted.model}` was not made with a template of its own",
            hint="send the template, or a chat, for which its chat template is used",
        )
    if wanted.suffix and not takes_suffix(template):
        raise InvalidTemplate("the template has no place for a suffix", hint="it is `.Suffix`")
    jinja = template if is_jinja(template) else to_jinja(template)
    return render(jinja, _values(wanted, record))


def _found(store: Store, name: str) -> Model:
    try:
        return store.find(name)
    except ModelNotFound:
        return store.get(naming.find(store, name).entry.id)  # in another case


def _values(wanted: TemplateRequest, record: Modelfile) -> dict[str, object]:
    values: dict[str, object] = {"messages": [], "tools": wanted.tools}
    if wanted.think is not None:
        values["enable_thinking"] = wanted.think is not False
    if isinstance(wanted.think, str):
        values["reasoning_effort"] = wanted.think
    if wanted.suffix:
        # A text with a gap is no conversation.
        return {**values, "prompt": wanted.prompt, "suffix": wanted.suffix}
    if wanted.messages is None:
        said = [{"role": item.role, "content": item.content} for item in record.messages]
    else:
        said = [message.model_dump() for message in wanted.messages]
    system = wanted.system or record.system
    has_own = bool(said) and said[0]["role"] == "system"
    first = [{"role": "system", "content": system}] if system and not has_own else []
    last = [{"role": "user", "content": wanted.prompt}] if wanted.prompt else []
    return {**values, "messages": [*first, *said, *last]}
