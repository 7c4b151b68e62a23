"""A model's Modelfile as people read and write it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from model_runner.store.modelfile import Modelfile

# Ollama's own listing has the values in one column.
_COLUMN = 30


def parameter_lines(parameters: Mapping[str, object]) -> list[str]:
    """`name value` for each parameter, and for each value of a list.

    >>> parameter_lines({"temperature": 1.0, "stop": ["a b"]})
    ['temperature                    1', 'stop                           "a b"']
    """
    return [f"{name:<{_COLUMN}} {value}" for name, value in _pairs(parameters)]


def modelfile(name: str, said: Modelfile) -> str:
    """A Modelfile that makes the model again.

    Args:
        name: What the model is called, which leads to its files.
        said: What it was made with.
    """
    lines = ["# Modelfile of a model of model-runner", f"FROM {name}"]
    if said.template:
        lines.append(f"TEMPLATE {_quoted(said.template)}")
    if said.system:
        lines.append(f"SYSTEM {_quoted(said.system)}")
    lines += [f"PARAMETER {key} {value}" for key, value in _pairs(said.parameters)]
    lines += [f"LICENSE {_quoted(text)}" for text in said.license]
    lines += [f"MESSAGE {item.role} {_quoted(item.content)}" for item in said.messages]
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
