"""Writes Ollama's chat templates anew in Jinja, which llama.cpp reads: the same text comes out.

Ollama gives a template that names `.Messages` all of them at once, neighbours of one role joined.
An older one it runs for each turn, with `.System`, `.Prompt` and `.Response`, and the last time
only as far as the answer. Both are done here by what is written around the converted template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model_runner.errors import InvalidTemplate
from model_runner.formats import go_functions
from model_runner.formats.go_functions import Value
from model_runner.formats.go_template import (
    Action,
    Branch,
    Inclusion,
    Jump,
    Operand,
    Pipeline,
    Template,
    Text,
    fields_of,
    fields_of_pipeline,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from model_runner.formats.go_template import Node

# What a template is given: fields, the expression in Jinja, and what it is.
_COMMON = {
    "Suffix": Value("(suffix or '')", "text"),
    "Tools": Value("(tools or [])", "list"),
    "Think": Value("(enable_thinking is defined and enable_thinking)", "bool"),
    "IsThinkSet": Value("(enable_thinking is defined)", "bool"),
    "ThinkLevel": Value("(reasoning_effort or '')", "text"),
}
_AT_ONCE = {
    **_COMMON,
    "System": Value("go.system", "text"),
    "Messages": Value("go.messages", "list"),
    "Prompt": Value("(prompt or '')", "text"),
    "Response": Value("''", "text"),
}
_BY_TURN = {
    **_COMMON,
    "System": Value("go_system", "text"),
    "Prompt": Value("go_prompt", "text"),
    "Response": Value("go_response", "text"),
}
# Of messages, tools and calls. Everything that is not text may be written, then as JSON.
_TEXTS = {
    "Role": "role",
    "Content": "content",
    "Thinking": "reasoning_content",
    "ToolName": "name",
    "ToolCallID": "tool_call_id",
    "Name": "name",
    "Description": "description",
    "ID": "id",
}
_VALUES = {
    "ToolCalls": "tool_calls",
    "Function": "function",
    "Arguments": "arguments",
    "Parameters": "parameters",
    "Properties": "properties",
    "Required": "required",
    "Type": "type",
    "Enum": "enum",
    "Items": "items",
}
_MAPS = {"Arguments", "Properties"}
# What a message keeps when it is joined with its neighbour, if the template asks for it.
_KEPT = ("Thinking", "ToolCalls", "ToolName", "ToolCallID")
# How an action begins in the one and not in the other.
_OF_GO = re.compile(
    r"\{\{(?:- )?\s*(?:[.$]|/\*|(?:if|range|with|end|else|template|define|block|json)\b)"
)
_OF_JINJA = re.compile(r"\{[%#]")
_MAX_TEMPLATE = 1 << 20
_MAX_JINJA = 4 << 20

_TEXT_OF = "(m.content or '')"
_JOIN = """{%- set go = namespace(system='', messages=[], parted=false) -%}
{%- for m in messages or [] -%}
{%- if m.role == 'system' -%}
{%- set go.system = go.system ~ ('\\n\\n' if go.parted else '') ~ TEXT -%}
{%- set go.parted = true -%}
{%- endif -%}
{%- set before = go.messages[-1] if go.messages else none -%}
{%- if before and before.role == m.role and m.role != 'tool' -%}
{%- set joined = {'role': m.role, 'content': before.content ~ '\\n\\n' ~ TEXTBEFORE} -%}
{%- set go.messages = go.messages[:-1] + [joined] -%}
{%- else -%}
{%- set go.messages = go.messages + [{'role': m.role, 'content': TEXTKEPT}] -%}
{%- endif -%}
{%- endfor -%}"""
_TURNS = """{%- if suffix -%}
{{- go_turn('', prompt or '', '') -}}
{%- else -%}
{%- set turn = namespace(system='', prompt='', response='') -%}
{%- for m in go.messages -%}
{%- set ended = turn.prompt or turn.response if m.role == 'system' else turn.response -%}
{%- if ended and m.role in ['system', 'user'] -%}
{{- go_turn(turn.system, turn.prompt, turn.response) -}}
{%- set turn.system = '' -%}
{%- set turn.prompt = '' -%}
{%- set turn.response = '' -%}
{%- endif -%}
{%- if m.role == 'system' -%}
{%- set turn.system = m.content -%}
{%- elif m.role == 'user' -%}
{%- set turn.prompt = m.content -%}
{%- elif m.role == 'assistant' -%}
{%- set turn.response = m.content -%}
{%- endif -%}
{%- endfor -%}
{{- go_last(turn.system, turn.prompt, turn.response) -}}
{%- endif -%}"""


def is_jinja(source: str) -> bool:
    """Whether a template is in Jinja and not in Go's language. What is only text is Go's.

    >>> is_jinja("{% for m in messages %}{{ m.content }}{% endfor %}"), is_jinja("{{ .Prompt }}")
    (True, False)
    """
    if _OF_GO.search(source):
        return False
    if _OF_JINJA.search(source):
        return True
    try:
        parse(source)
    except InvalidTemplate:
        return "{{" in source
    return False


def to_jinja(source: str) -> str:
    """The same template in Jinja.

    Raises:
        InvalidTemplate: It is none of Go's, or holds something that has no counterpart.
    """
    if len(source) > _MAX_TEMPLATE:
        raise InvalidTemplate(f"the template has more than {_MAX_TEMPLATE} characters")
    template = parse(source)
    named = fields_of(template)
    joined = _joined(named)
    if "Messages" in named:
        jinja = f"{joined}\n{_Writer(template, _AT_ONCE).write(template.nodes)}"
    else:
        jinja = f"{_macros(template, named)}\n{joined}\n{_TURNS}"
    if len(jinja) > _MAX_JINJA:
        raise InvalidTemplate("the template includes its own parts too often")
    return jinja


def takes_suffix(source: str) -> bool:
    """Whether a template of either language can be asked for what is missing before a suffix.

    Raises:
        InvalidTemplate: It is none.
    """
    return "suffix" in source if is_jinja(source) else "Suffix" in fields_of(parse(source))


def _joined(named: set[str]) -> str:
    """Messages as Ollama gives them to templates.

    Only what the template asks for is named: by that llama.cpp finds out what a template can do.
    """
    names = [_TEXTS.get(name) or _VALUES[name] for name in _KEPT if name in named]
    more = "".join(f", '{name}': m.{name}" for name in names)
    earlier = "".join(f", '{name}': before.{name} or m.{name}" for name in names)
    return (
        _JOIN.replace("TEXTBEFORE", _TEXT_OF + earlier)
        .replace("TEXTKEPT", _TEXT_OF + more)
        .replace("TEXT", _TEXT_OF)
    )


def _macros(template: Template, named: set[str]) -> str:
    """The whole template, and as far as the answer that is to come."""
    nodes = list(template.nodes)
    if "Response" not in named:
        nodes.append(Action(Pipeline(((Operand("field", fields=("Response",)),),))))
    cut, _ = _cut(nodes)
    return "\n".join(
        f"{{%- macro {name}(go_system, go_prompt, go_response) -%}}\n"
        f"{_Writer(template, _BY_TURN).write(part)}\n{{%- endmacro -%}}"
        for name, part in (("go_turn", nodes), ("go_last", cut))
    )


def _cut(nodes: Sequence[Node]) -> tuple[list[Node], bool]:
    """What comes before the end of the answer, and whether there is one."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Branch):
            body, found = _cut(node.body)
            otherwise, found_otherwise = ([], True) if found else _cut(node.otherwise)
            kept.append(replace(node, body=body, otherwise=otherwise))
            if found or found_otherwise:
                return kept, True
            continue
        kept.append(node)
        if isinstance(node, Action) and "Response" in fields_of_pipeline(node.pipeline):
            return kept, True
    return kept, False


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names mean at one place of a template.

    Attributes:
        dot: What `.` is; None: what the template was given.
        root: What `$` is, likewise.
        variables: The others.
        including: Templates inside which this place is.
    """

    dot: Value | None
    root: Value | None
    variables: dict[str, Value]
    including: tuple[str, ...] = ()

    def inner(self) -> _Scope:
        """A block within: what it declares ends with it."""
        return replace(self, variables=dict(self.variables))

    def at(self, dot: Value) -> _Scope:
        """The same with another dot."""
        return replace(self, dot=dot)


class _Writer:
    """Writes the nodes of one template; its variables are members of one namespace."""

    def __init__(self, template: Template, given: Mapping[str, Value]) -> None:
        self._template = template
        self._given = given
        self._count = 0
        self._size = 0

    def write(self, nodes: Sequence[Node]) -> str:
        written = "\n".join(self._nodes(nodes, _Scope(None, None, {})))
        declared = "{%- set v = namespace() -%}\n" if self._count else ""
        return declared + written

    def _nodes(self, nodes: Sequence[Node], scope: _Scope) -> Iterator[str]:
        for node in nodes:
            for line in self._node(node, scope):
                self._size += len(line)
                if self._size > _MAX_JINJA:
                    raise InvalidTemplate("the template includes its own parts too often")
                yield line

    def _node(self, node: Node, scope: _Scope) -> Iterator[str]:
        if isinstance(node, Text):
            yield f"{{{{- {go_functions.quoted(node.text)} -}}}}"
        elif isinstance(node, Action):
            value = self._pipeline(node.pipeline, scope)
            if node.pipeline.variables:
                yield self._assign(node.pipeline, value, scope)
            else:
                yield f"{{{{- {go_functions.shown(value)} -}}}}"
        elif isinstance(node, Jump):
            yield f"{{%- {node.kind} -%}}"
        elif isinstance(node, Inclusion):
            yield from self._included(node, scope)
        elif node.kind == "range":
            yield from self._range(node, scope)
        else:
            yield from self._choice(node, scope)

    def _choice(self, node: Branch, scope: _Scope) -> Iterator[str]:
        """`if` and `with`."""
        inner = scope.inner()
        value = self._pipeline(node.pipeline, scope)
        if node.pipeline.variables:
            yield self._assign(node.pipeline, value, inner)
            value = inner.variables[node.pipeline.variables[0]]
        elif node.kind == "with":
            kept, value = value, self._new("w", value)
            yield f"{{%- set {value.code} = {kept.code} -%}}"
        yield f"{{%- if {value.code} -%}}"
        yield from self._nodes(node.body, inner.at(value) if node.kind == "with" else inner)
        if node.otherwise:
            yield "{%- else -%}"
            yield from self._nodes(node.otherwise, inner)
        yield "{%- endif -%}"

    def _range(self, node: Branch, scope: _Scope) -> Iterator[str]:
        value = self._pipeline(node.pipeline, scope)
        inner = scope.inner()
        self._count += 1
        item = Value(f"item{self._count}", "value")
        names = node.pipeline.variables
        if value.kind == "map":
            yield f"{{%- for key{self._count}, {item.code} in ({value.code} or {{}}).items() -%}}"
            key = Value(f"key{self._count}", "text")
        else:
            yield f"{{%- for {item.code} in {value.code} or [] -%}}"
            key = Value("loop.index0", "number")
        for name, part in zip(reversed(names), (item, key), strict=False):
            inner.variables[name] = self._new("x", part)
            yield f"{{%- set {inner.variables[name].code} = {part.code} -%}}"
        yield from self._nodes(node.body, inner.at(item))
        if node.otherwise:
            yield "{%- else -%}"
            yield from self._nodes(node.otherwise, scope.inner())
        yield "{%- endfor -%}"

    def _included(self, node: Inclusion, scope: _Scope) -> Iterator[str]:
        nodes = self._template.defined.get(node.name)
        if nodes is None:
            raise InvalidTemplate(f"the template includes `{node.name}`, which it does not define")
        if node.name in scope.including:
            raise InvalidTemplate(f"the template includes `{node.name}` in itself")
        given = self._pipeline(node.pipeline, scope) if node.pipeline else Value("none", "value")
        at_root = given.kind == "root"
        value = None if at_root else self._new("w", given)
        if value:
            yield f"{{%- set {value.code} = {given.code} -%}}"
        including = (*scope.including, node.name)
        yield from self._nodes(nodes, _Scope(value, value, {}, including))

    def _assign(self, pipeline: Pipeline, value: Value, scope: _Scope) -> str:
        name = pipeline.variables[0]
        if len(pipeline.variables) > 1:
            raise InvalidTemplate("only `range` gives values to two variables")
        if value.kind == "root":
            scope.variables[name] = value
            return ""
        # What is not a collection may become something else, depending on the way that is taken.
        kind = value.kind if value.kind in {"list", "map"} else "value"
        if pipeline.declares:
            scope.variables[name] = self._new("x", replace(value, kind=kind))
        return f"{{%- set {self._variable(name, scope).code} = {value.code} -%}}"

    def _new(self, letter: str, like: Value) -> Value:
        self._count += 1
        return Value(f"v.{letter}{self._count}", like.kind)

    def _variable(self, name: str, scope: _Scope) -> Value:
        if name == "$":
            return scope.root or Value("", "root")
        if name not in scope.variables:
            raise InvalidTemplate(f"the template uses the variable `{name}`, which has no value")
        return scope.variables[name]

    def _pipeline(self, pipeline: Pipeline, scope: _Scope) -> Value:
        value: Value | None = None
        for command in pipeline.commands:
            value = self._command(command, value, scope)
        return value or Value("none", "value")

    def _command(self, command: Sequence[Operand], before: Value | None, scope: _Scope) -> Value:
        first, *rest = command
        if first.kind == "name":
            values = [self._operand(operand, scope) for operand in rest]
            return go_functions.call(first.text, [*values, *([before] if before else [])])
        if rest or before:
            raise InvalidTemplate(
                f"`{first.text or '.' + '.'.join(first.fields)}` is no function of the template's"
            )
        return self._operand(first, scope)

    def _operand(self, operand: Operand, scope: _Scope) -> Value:
        if operand.kind == "field":
            value = scope.dot or Value("", "root")
        elif operand.kind == "variable":
            value = self._variable(operand.text, scope)
        elif operand.kind == "parentheses" and operand.inner:
            value = self._pipeline(operand.inner, scope)
        elif operand.kind == "name":
            return go_functions.call(operand.text, [])
        else:
            return go_functions.literal(operand)
        for name in operand.fields:
            value = self._field(value, name)
        return value

    def _field(self, value: Value, name: str) -> Value:
        if value.kind == "root":
            if name not in self._given:
                raise InvalidTemplate(
                    f"the template uses `.{name}`, which has no counterpart in Jinja",
                    hint=f"what there is: {', '.join('.' + known for known in self._given)}",
                )
            return self._given[name]
        if name in _TEXTS:
            return Value(f"({value.code}.{_TEXTS[name]} or '')", "text")
        if name not in _VALUES:
            raise InvalidTemplate(f"the template uses `.{name}`, which has no counterpart in Jinja")
        # `items` would be the method of a mapping.
        code = f"{value.code}['items']" if name == "Items" else f"{value.code}.{_VALUES[name]}"
        return Value(code, "map" if name in _MAPS else "value")
