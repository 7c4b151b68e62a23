"""What clients of Ollama call models: found in any case, listed in the shortest form with a tag."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.api.errors import Worded
from model_runner.errors import (
    HostedElsewhere,
    InvalidReference,
    InvalidRequest,
    ModelNotFound,
    ModelRunnerError,
)

if TYPE_CHECKING:
    from model_runner.store import Entry, Store

_LOCAL, _CLOUD = ":local", ":cloud"


@dataclass(frozen=True, slots=True)
class Found:
    """A model of the store, and the name that it was found by.

    Attributes:
        entry: The model.
        name: The name in the store's spelling; an ID if it was found by that.
    """

    entry: Entry
    name: str


def local(typed: str, *, refused: str) -> str:
    """A name without blanks, and without the `:local` that rules hosted models out.

    Args:
        typed: As the client has it.
        refused: What is told of a hosted model.

    Raises:
        HostedElsewhere: It is the name of a hosted model.
        InvalidRequest: It is to be hosted and local.
    """
    name = typed.strip()
    lowered = name.lower()
    if lowered.endswith((_LOCAL + _CLOUD, _CLOUD + _LOCAL)):
        raise InvalidRequest(f'use either :local or :cloud, not both: "{name}"')
    if lowered.endswith(_LOCAL):
        return name[: -len(_LOCAL)]
    tag = lowered.rpartition("/")[2].partition(":")[2]
    if tag == "cloud" or tag.endswith("-cloud"):
        raise HostedElsewhere(f"ollama cloud is disabled: {refused}")
    return name


def find(store: Store, name: str) -> Found:
    """A model by any of its names and IDs, in any case.

    Raises:
        InvalidReference: It is no name.
        ModelNotFound: There is none.
    """
    try:
        entry = store.resolve(name)
    except ModelNotFound as error:
        complete = canonical(store, name)
        try:
            return Found(store.resolve(complete), complete)
        except ModelNotFound:
            raise error from None  # it has the name as it was asked for
    return Found(entry, names.normalize(name, default_registry=store.default_registry))


def canonical(store: Store, name: str) -> str:
    """A name in full, and in the spelling of the store if it has it in another case.

    Raises:
        InvalidReference: It is no name.
    """
    complete = names.normalize(name, default_registry=store.default_registry)
    tags = [tag for entry in store.entries() for tag in entry.tags]
    if complete in tags:
        return complete
    return next((tag for tag in tags if tag.lower() == complete.lower()), complete)


def listed(tag: str, *, default_registry: str) -> str:
    """A canonical name as lists have it: as short as it can be, always with a tag.

    >>> listed("docker.io/ai/smollm2:latest", default_registry="docker.io")
    'smollm2:latest'
    >>> listed("huggingface.co/org/repo:Q4_K_M", default_registry="docker.io")
    'hf.co/org/repo:Q4_K_M'
    """
    if names.is_id(tag):
        # Of a model without a name; Ollama has none such.
        return tag.removeprefix("sha256:")[:12]
    shown = names.short(tag, default_registry=default_registry)
    if shown.startswith(f"{names.HUGGING_FACE}/"):
        shown = "hf.co" + shown.removeprefix(names.HUGGING_FACE)
    return shown if ":" in shown.rpartition("/")[2] else f"{shown}:{names.DEFAULT_TAG}"


def shown(store: Store, name: str) -> str:
    """A name that a client sent as messages repeat it: complete, if it is one."""
    try:
        complete = names.normalize(name, default_registry=store.default_registry)
    except InvalidReference:
        return name
    if names.is_id(complete):
        return name
    return listed(complete, default_registry=store.default_registry)


def unknown(name: str, text: str) -> Worded:
    """A model that is not here, in the words that Ollama's clients look for."""
    return Worded(ModelNotFound(name), text)


def invalid(error: ModelRunnerError, text: str = "invalid model name") -> Worded:
    """A name that is none, in Ollama's words."""
    return Worded(error, text)


def required() -> InvalidRequest:
    """The error for a name that is missing."""
    return InvalidRequest("model is required")


# What `spelling` raises.
UNRESOLVED = (InvalidReference, ModelNotFound)


async def spelling(store: Store, name: str) -> str:
    """The store's spelling of a name of one of its models.

    Raises:
        InvalidReference: It is no name.
        ModelNotFound: There is none.
    """
    return (await asyncio.to_thread(find, store, name)).name
