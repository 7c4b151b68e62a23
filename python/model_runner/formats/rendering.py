"""Renders chat templates in Jinja as llama.cpp does, within bounds: they come from strangers."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from model_runner.errors import InvalidTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from jinja2 import Template

    # What `sys.settrace` takes: called for a line, says who is called for the next one.
    Trace = Callable[[FrameType, str, Any], Any]

# The longest context that any model has is some 10 MB of text.
MAX_TEXT = 64 << 20
_SECONDS = 5.0
_FILE = "<chat template>"
_KEPT_TEMPLATES = 32


class _TooMuch(Exception):
    """A template that would take too long, or become too large."""


def check(source: str) -> None:
    """Refuse a template that is not Jinja.

    Raises:
        InvalidTemplate: It is not.
    """
    try:
        _compiled(source)
    except (TemplateError, RecursionError) as error:
        raise _invalid(error) from error


def render(source: str, values: Mapping[str, object], *, seconds: float = _SECONDS) -> str:
    """The text that a template makes. It computes, so it is called in a thread.

    Args:
        source: The template.
        values: What it is given: `messages`, and so on.
        seconds: How long it may take.

    Raises:
        InvalidTemplate: It is not Jinja, fails, or makes too much of it.
    """
    try:
        template = _compiled(source)
        with _Deadline(seconds):
            pieces, size = [], 0
            for piece in template.generate(**values, add_generation_prompt=True):
                size += len(piece)
                _check_size(size)
                pieces.append(piece)
            return "".join(pieces)
    except InvalidTemplate:
        raise
    except Exception as error:  # whatever a template may divide by, index, or call
        raise _invalid(error) from error


def _invalid(error: Exception) -> InvalidTemplate:
    line = getattr(error, "lineno", None)
    where = f"line {line} of the template" if line else "the template"
    if isinstance(error, TemplateError | _TooMuch):
        return InvalidTemplate(f"{where}: {error}")
    return InvalidTemplate(f"{where} fails: {type(error).__name__}: {error}")


def _check_size(size: int) -> None:
    if size > MAX_TEXT:
        raise _TooMuch(f"it makes a text of more than {MAX_TEXT} characters")


class _Deadline:
    """Ends what this thread computes in a template when its time is over.

    A trace function is the only way into a loop that neither writes nor calls anything.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, _event: str, _detail: object) -> Trace | None:
        if time.monotonic() > self._until:
            raise _TooMuch(f"it takes longer than {self._seconds:g} s")
        return self._trace if frame.f_code.co_filename == _FILE else None


class _Environment(ImmutableSandboxedEnvironment):
    """What templates of Hugging Face expect, and no operation that makes something huge."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        if operator == "**" or (operator == "*" and not _are_numbers(left, right)):
            raise _TooMuch(f"it uses `{operator}` on what it may not")
        if operator == "%" and isinstance(left, str):
            raise _TooMuch("it uses `%` on text; `~` joins texts")
        sequences = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        _check_size(sum(map(len, sequences)))
        return super().call_binop(context, operator, left, right)

    def joined(self, *parts: object) -> str:
        """What `~` makes."""
        texts = [str(part) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)


class _Joining(NodeTransformer):
    """Has `~` done by a method, for it cannot be intercepted."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's
        self.generic_visit(node)
        method = nodes.EnvironmentAttribute("joined", lineno=node.lineno)
        return nodes.Call(method, node.nodes, [], None, None, lineno=node.lineno)


def _are_numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) for value in values)


@lru_cache(maxsize=_KEPT_TEMPLATES)
def _compiled(source: str) -> Template:
    tree = _Joining().visit(_ENVIRONMENT.parse(source))
    code = _ENVIRONMENT.compile(tree, filename=_FILE)
    return _ENVIRONMENT.template_class.from_code(_ENVIRONMENT, code, _ENVIRONMENT.make_globals({}))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja's own filter would make it safe for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now(timezone.utc).astimezone().strftime(form)


_ENVIRONMENT = _Environment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
)
_ENVIRONMENT.filters["tojson"] = _tojson
_ENVIRONMENT.globals["raise_exception"] = _raise_exception
_ENVIRONMENT.globals["strftime_now"] = _strftime_now
