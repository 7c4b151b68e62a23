"""The functions of Go's templates and of Ollama's, as expressions in Jinja."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import InvalidTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.formats.go_template import Operand

_JSON = "tojson(separators=(',', ':'))"
_COMPARISONS = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_VERB = re.compile(r"%(.)", re.DOTALL)
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class Value:
    """An expression.

    Attributes:
        code: In Jinja.
        kind: `text`, `number`, `bool`, `list`, `map`, `root` for what the template was given, or
            `value` where nobody knows.
        constant: The text, of a literal.
    """

    code: str
    kind: str
    constant: str | None = None


def quoted(text: str) -> str:
    """A literal in Jinja."""
    return "'" + "".join(_ESCAPES.get(letter, letter) for letter in text) + "'"


def shown(value: Value) -> str:
    """What is written for a value: text as it is, everything else as JSON, nothing for nothing."""
    if value.kind in {"text", "number"}:
        return value.code
    if value.kind == "bool":
        return f"({value.code})|tojson"
    if value.kind == "root":
        raise InvalidTemplate("the template writes `.`, which is all that it was given")
    if value.kind == "list":
        return f"({value.code})|{_JSON}"
    code = value.code
    nothing = f"'' if {code} is none or {code} is not defined"
    return f"({code} if {code} is string else {nothing} else {code}|{_JSON})"


def literal(operand: Operand) -> Value:
    """A constant of the template."""
    if operand.kind == "text":
        return Value(quoted(operand.text), "text", operand.text)
    if operand.kind == "number":
        return Value(operand.text, "number")
    if operand.text == "nil":
        return Value("none", "value")
    return Value(operand.text, "bool")


def call(name: str, values: Sequence[Value]) -> Value:
    """A function with its arguments.

    Raises:
        InvalidTemplate: There is no such function in Jinja, or it takes other arguments.
    """
    if any(value.kind == "root" for value in values):
        raise InvalidTemplate(f"the template gives `.` to `{name}`, which is all that it was given")
    codes = [value.code for value in values]
    if name in {"and", "or"} and values:
        kinds = {value.kind for value in values}
        return Value(f"({f' {name} '.join(codes)})", kinds.pop() if len(kinds) == 1 else "value")
    if name == "eq" and len(values) > 1:
        either = " or ".join(f"{codes[0]} == {code}" for code in codes[1:])
        return Value(f"({either})", "bool")
    if name in _COMPARISONS and len(values) == 2:
        return Value(f"({codes[0]} {_COMPARISONS[name]} {codes[1]})", "bool")
    if name in {"not", "len", "json"} and len(values) == 1:
        return _of_one(name, values[0])
    if name in {"index", "slice"} and values:
        return _part(name, values)
    if name in {"print", "printf"} and values:
        return _print(values) if name == "print" else _printf(values)
    if name == "currentDate" and not values:
        return Value("strftime_now('%Y-%m-%d')", "text")
    raise InvalidTemplate(
        f"the template calls `{name}` with {len(values)} values, which has no counterpart in Jinja",
        hint="a template in Jinja itself is taken as it is",
    )


def _of_one(name: str, value: Value) -> Value:
    if name == "not":
        return Value(f"(not {value.code})", "bool")
    if name == "len":
        return Value(f"(({value.code} or [])|length)", "number")
    if value.kind == "map":
        return Value(shown(value), "text")  # arguments may come as the text of their JSON
    return Value(f"({value.code})|{_JSON}", "text")


def _part(name: str, values: Sequence[Value]) -> Value:
    whole, *rest = values
    if name == "slice" and len(rest) in {1, 2}:
        start, end = rest[0].code, rest[1].code if len(rest) > 1 else ""
        return Value(f"({whole.code})[{start}:{end}]", whole.kind)
    code = whole.code
    if name == "index":
        for value in rest:
            code = f"({code})[{value.code}]"
        return Value(code, "value" if rest else whole.kind)
    raise InvalidTemplate(f"the template calls `slice` with {len(rest)} bounds")


def _print(values: Sequence[Value]) -> Value:
    """Go puts a space between two values if neither is text."""
    code = shown(values[0])
    for before, value in itertools.pairwise(values):
        space = "" if "text" in {before.kind, value.kind} else " ~ ' '"
        code += f"{space} ~ {shown(value)}"
    return Value(f"({code})", "text")


def _printf(values: Sequence[Value]) -> Value:
    form, rest = values[0], list(values[1:])
    text = form.constant
    if text is None:
        raise InvalidTemplate("the template calls `printf` with a format that is not constant")
    parts: list[str] = []
    at = 0
    for match in _VERB.finditer(text):
        parts.append(quoted(text[at : match.start()]))
        at = match.end()
        parts.append(_verb(match[1], rest))
    parts.append(quoted(text[at:]))
    if rest:
        raise InvalidTemplate("the template gives `printf` more values than its format has verbs")
    return Value(f"({' ~ '.join(part for part in parts if part != quoted(''))})", "text")


def _verb(verb: str, rest: list[Value]) -> str:
    if verb == "%":
        return quoted("%")
    if verb not in "sdvq" or not rest:
        raise InvalidTemplate(f"the template calls `printf` with `%{verb}`, or without its value")
    value = rest.pop(0)
    return f"(({shown(value)})|tojson)" if verb == "q" else f"({shown(value)})"
