"""A system prompt and example messages, made a part of a model's chat template.

So they hold whichever way somebody asks the model, and no request has to be changed for them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.formats.gguf import read_header
from model_runner.formats.go_functions import quoted
from model_runner.formats.go_to_jinja import is_jinja, to_jinja
from model_runner.store.placement import place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model_runner.store import Model, Store
    from model_runner.store.modelfile import Message, Modelfile

_BEGIN = "{#- model-runner: a system prompt and messages that come first -#}"
_END = "{#- model-runner: the template itself follows #}\n"
# What llama.cpp falls back to for weights without a template.
_CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
# Some templates refuse a system prompt that is not the very first message.
_PUT_FIRST = """{%- set given = messages or [] -%}
{%- if given and given[0].role == 'system' -%}
{%- set messages = given[:1] + BETWEEN + given[1:] -%}
{%- else -%}
{%- set messages = SYSTEM + BETWEEN + given -%}
{%- endif -%}
"""


def baked(record: Modelfile, template: str | None) -> str | None:
    """The chat template of a model with this record; None if its own is to stay as it is.

    Args:
        record: What was said of the model.
        template: The chat template that is there, in Jinja; None if there is none.

    Raises:
        InvalidTemplate: The template of the record is none, or cannot be converted.
    """
    if record.template:
        base = in_jinja(record.template)
    elif record.system or record.messages:
        base = bare(template or _CHATML)
    else:
        return None
    if not record.system and not record.messages:
        return base
    # The template begins a line as it did before: `#}` takes the line break behind it with it.
    return f"{_BEGIN}\n{_first(record.system, record.messages)}{_END}{base}"


def in_jinja(template: str) -> str:
    """A template in Jinja, whichever of the two languages it is in.

    Raises:
        InvalidTemplate: It is in neither, or cannot be converted.
    """
    # Jinja takes some 50 ms to import, which a server spends only if it is asked for this.
    from model_runner.formats import rendering

    jinja = template if is_jinja(template) else to_jinja(template)
    rendering.check(jinja)
    return jinja


def written(template: str | None, directory: Path) -> Path | None:
    """A template as a file that can be packaged; None if there is none."""
    if template is None:
        return None
    path = directory / "template.jinja"
    path.write_bytes(template.encode())
    return path


def bare(template: str) -> str:
    """A template without what was put before it."""
    return template.partition(_END)[2] if template.startswith(_BEGIN) else template


def template_of_weights(gguf: Path) -> str | None:
    """The chat template in a GGUF file.

    Raises:
        UnsupportedModel: It is no GGUF file.
    """
    found = read_header(gguf).metadata.get("tokenizer.chat_template")
    return found if isinstance(found, str) and found.strip() else None


def template_of_model(store: Store, model: Model) -> str | None:
    """The chat template that an engine uses for a model; None if it has none.

    Raises:
        UnsupportedModel: Its weights are no GGUF, and it has no template beside them.
        StoreError: A file is missing.
    """
    placement = place(model.manifest)
    layers = {file.path: file.layer for file in placement.files}
    if placement.chat_template:
        return store.blobs.read(layers[placement.chat_template].digest).decode("utf-8", "replace")
    if placement.gguf:
        return template_of_weights(store.blobs.path(layers[placement.gguf].digest))
    raise UnsupportedModel(
        "the model has no chat template that a system prompt or messages could be put before",
        hint="give the template, too",
    )


def _first(system: str, messages: Sequence[Message]) -> str:
    between = ", ".join(map(_literal, messages))
    prompt = f"{{'role': 'system', 'content': {quoted(system)}}}" if system else ""
    # In one go: what is said may have either word in it.
    lists = {"SYSTEM": f"[{prompt}]", "BETWEEN": f"[{between}]"}
    return re.sub("SYSTEM|BETWEEN", lambda found: lists[found[0]], _PUT_FIRST)


def _literal(message: Message) -> str:
    return f"{{'role': {quoted(message.role)}, 'content': {quoted(message.content)}}}"
