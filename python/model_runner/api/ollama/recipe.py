"""What a model was made with in Ollama's way: its Modelfile, kept as an annotation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError, field_validator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from model_runner.store import Manifest

ANNOTATION = "dev.model-runner.modelfile"

# Ollama's own listing has the values in one column.
_COLUMN = 30


class Message(BaseModel):
    """One message that precedes each conversation."""

    role: str
    content: str


class Recipe(BaseModel):
    """The instructions of a Modelfile; empty where it has none."""

    source: str = Field(default="", alias="from")
    template: str = ""
    system: str = ""
    parameters: dict[str, object] = {}
    messages: list[Message] = []
    license: list[str] = []

    @field_validator("license", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @classmethod
    def of(cls, manifest: Manifest) -> Recipe:
        """The recipe of a model; an empty one if it has none, or one that makes no sense."""
        text = manifest.annotations.get(ANNOTATION)
        if text is None:
            return cls()
        try:
            fields = {key: value for key, value in json.loads(text).items() if value is not None}
            return cls.model_validate(fields)
        except (ValueError, AttributeError, RecursionError, ValidationError):
            return cls()  # anybody may write annotations


def parameter_lines(parameters: Mapping[str, object]) -> list[str]:
    """`name value` for each parameter, and for each value of a list.

    >>> parameter_lines({"temperature": 1.0, "stop": ["a b"]})
    ['temperature                    1', 'stop                           "a b"']
    """
    return [f"{name:<{_COLUMN}} {value}" for name, value in _pairs(parameters)]


def modelfile(name: str, recipe: Recipe) -> str:
    """A Modelfile that makes the model again.

    Args:
        name: What the model is called, which leads to its files.
        recipe: What it was made with.
    """
    lines = ["# Modelfile of a model of model-runner", f"FROM {name}"]
    if recipe.template:
        lines.append(f"TEMPLATE {_quoted(recipe.template)}")
    if recipe.system:
        lines.append(f"SYSTEM {_quoted(recipe.system)}")
    lines += [f"PARAMETER {key} {value}" for key, value in _pairs(recipe.parameters)]
    lines += [f"LICENSE {_quoted(text)}" for text in recipe.license]
    lines += [f"MESSAGE {item.role} {_quoted(item.content)}" for item in recipe.messages]
    return "\n".join(lines) + "\n"


def _pairs(parameters: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, given in parameters.items():
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, float) and value.is_integer():
                yield name, str(int(value))
            else:
                yield name, json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    """Text behind an instruction; on several lines, or with quotes in it, between three of them."""
    plain = "\n" not in text and '"' not in text and text.strip() == text
    return text if plain else f'"""{text}"""'
