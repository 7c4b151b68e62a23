"""Reads templates in Go's language (`text/template`), in which Ollama's are written."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from model_runner.errors import InvalidTemplate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["field", "variable", "text", "number", "constant", "name", "parentheses"]

# `.`, `.A.B`, `$`, `$x.A`; a chain behind a parenthesis is glued to it, one behind a space is not.
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<field>(?:\.[A-Za-z_]\w*)+ | \.(?![\w.]))
    | (?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)
    | (?P<text>"(?:[^"\\\n]|\\.)*" | `[^`]*`)
    | (?P<number>-?\d+(?:\.\d+)?\b)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>:=|[=|,(])
    | (?P<close>\)(?:\.[A-Za-z_]\w*)*)
    """,
    re.VERBOSE,
)
_BLANKS = " \t\r\n"
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Operand:
    """One value: `kind` says what `text` is, or that it is the pipeline `inner`.

    Attributes:
        kind: What it is.
        text: A name, a literal's value; empty for the dot.
        fields: What is taken of it, as of `$x.A.B`.
        inner: What stands in the parentheses.
    """

    kind: Kind
    text: str = ""
    fields: tuple[str, ...] = ()
    inner: Pipeline | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, of which each gets the value of the one before, perhaps kept in variables."""

    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """What is written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A value that is written, or kept in a variable."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`."""

    kind: str
    pipeline: Pipeline
    body: Sequence[Node]
    otherwise: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    kind: str


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Another template, in its place."""

    name: str
    pipeline: Pipeline | None


Node: TypeAlias = "Text | Action | Branch | Jump | Inclusion"


@dataclass(frozen=True, slots=True)
class Template:
    """A template, and those that it defines for itself."""

    nodes: Sequence[Node]
    defined: dict[str, Sequence[Node]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def parse(source: str) -> Template:
    """Read a template.

    Raises:
        InvalidTemplate: It is not one; the error names what is wrong, and where.
    """
    return _Parser(source).parse()


def fields_of(template: Template) -> set[str]:
    """Every field that a template names, anywhere."""
    found: set[str] = set()
    for nodes in (template.nodes, *template.defined.values()):
        for pipeline in _pipelines(nodes):
            found |= fields_of_pipeline(pipeline)
    return found


def fields_of_pipeline(pipeline: Pipeline) -> set[str]:
    """Every field that a pipeline names."""
    found: set[str] = set()
    for operand in (operand for command in pipeline.commands for operand in command):
        found |= set(operand.fields)
        if operand.inner:
            found |= fields_of_pipeline(operand.inner)
    return found


def _pipelines(nodes: Sequence[Node]) -> Iterator[Pipeline]:
    for node in nodes:
        if isinstance(node, Branch):
            yield node.pipeline
            yield from _pipelines(node.body)
            yield from _pipelines(node.otherwise)
        elif isinstance(node, Action | Inclusion) and node.pipeline:
            yield node.pipeline


class _Parser:
    """Goes through a source once, from front to back."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._trim = False
        self._defined: dict[str, Sequence[Node]] = {}
        self._depth = 0
        self._end: list[_Token] = []

    def parse(self) -> Template:
        nodes = self._nodes()
        if self._end:
            self._fail(f"there is an `{self._end[0].text}` too many")
        return Template(nodes, self._defined)

    def _nodes(self) -> list[Node]:
        """Up to the end, or to an `else` or `end`, whose tokens are then in `_end`."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"it is nested more than {_MAX_DEPTH} deep")
        nodes: list[Node] = []
        self._end = []
        while self._at < len(self._source):
            self._text(nodes)
            tokens = self._action()
            if tokens and tokens[0].kind == "name" and tokens[0].text in {"else", "end"}:
                self._end = tokens
                break
            if tokens:
                nodes += self._node(tokens)
        self._depth -= 1
        return nodes

    def _text(self, nodes: list[Node]) -> None:
        start = self._source.find("{{", self._at)
        stop = len(self._source) if start < 0 else start
        text = self._source[self._at : stop]
        if self._trim:
            text = text.lstrip(_BLANKS)
        self._at = stop + 2
        self._trim = False
        if start >= 0 and re.compile(rf"-[{_BLANKS}]").match(self._source, self._at):
            text = text.rstrip(_BLANKS)
            self._at += 1
        if text:
            nodes.append(Text(text))

    def _action(self) -> list[_Token]:
        """The tokens up to `}}`; none at the end of the source, or of a comment."""
        tokens: list[_Token] = []
        if self._at > len(self._source):
            return tokens
        comment = _COMMENT.match(self._source, self._skip_blanks())
        if comment:
            self._at = comment.end()
        while not self._closed():
            match = _TOKEN.match(self._source, self._at)
            if not match or comment:
                ends = self._source.find("}}", self._at) < 0
                self._fail("an action is not closed" if ends else "this is no word of Go's")
            self._at = match.end()
            if match.lastgroup and match.lastgroup != "space":
                tokens.append(_Token(match.lastgroup, match[0]))
        if not tokens and not comment:
            self._fail("an action is empty")
        return tokens

    def _skip_blanks(self) -> int:
        at = self._at
        while self._source[at : at + 1] in tuple(_BLANKS):
            at += 1
        return at

    def _closed(self) -> bool:
        trim = re.compile(rf"[{_BLANKS}]+-(?=}}}})").match(self._source, self._at)
        stop = trim.end() if trim else self._skip_blanks()
        if not self._source.startswith("}}", stop):
            return False
        self._at = stop + 2
        self._trim = trim is not None
        return True

    def _node(self, tokens: list[_Token]) -> list[Node]:
        word, rest = tokens[0].text, tokens[1:]
        if tokens[0].kind != "name":
            return [Action(self._pipeline(tokens))]
        if word in {"if", "with", "range"}:
            return [self._branch(word, rest)]
        if word in {"break", "continue"} and not rest:
            return [Jump(word)]
        if word in {"template", "block", "define"}:
            return self._other(word, rest)
        return [Action(self._pipeline(tokens))]

    def _branch(self, kind: str, tokens: list[_Token]) -> Branch:
        pipeline = self._pipeline(tokens)
        body = self._nodes()
        otherwise: list[Node] = []
        ending = self._ending(kind)
        if len(ending) > 1 and ending[0].text == "else":
            # `else if` needs no `end` of its own.
            self._depth += 1
            otherwise = [self._branch(ending[1].text, ending[2:])]
            self._depth -= 1
        elif ending[0].text == "else":
            otherwise = self._nodes()
            if [token.text for token in self._ending(kind)] != ["end"]:
                self._fail(f"`{kind}` has two `else`")
        return Branch(kind, pipeline, body, otherwise)

    def _ending(self, kind: str) -> list[_Token]:
        words = [token.text for token in self._end]
        if not words:
            self._fail(f"`{kind}` has no `end`")
        if len(words) > 1 and (words[0] != "else" or words[1] not in {"if", "with"}):
            self._fail(f"`{' '.join(words[:2])}` is not of Go")
        ending, self._end = self._end, []
        return ending

    def _other(self, word: str, tokens: list[_Token]) -> list[Node]:
        """What concerns templates with names."""
        if not tokens or tokens[0].kind != "text":
            self._fail(f"`{word}` has no name")
        name = _literal(tokens[0].text)
        pipeline = self._pipeline(tokens[1:]) if tokens[1:] else None
        if word == "template":
            return [Inclusion(name, pipeline)]
        self._defined[name] = self._nodes()
        if [token.text for token in self._ending(word)] != ["end"]:
            self._fail(f"`{word}` has an `else`")
        return [Inclusion(name, pipeline)] if word == "block" else []

    def _pipeline(self, tokens: list[_Token]) -> Pipeline:
        variables: tuple[str, ...] = ()
        declares = False
        signs = [token.text for token in tokens[:4]]
        for sign in (":=", "="):
            if sign in signs:
                names = tokens[: signs.index(sign)]
                declares = sign == ":="
                variables = tuple(token.text for token in names if token.kind == "variable")
                tokens = tokens[len(names) + 1 :]
                if not variables or any("." in name for name in variables):
                    self._fail("only variables can be assigned to")
        pending = list(reversed(tokens))
        pipeline = Pipeline(self._commands(pending), variables, declares)
        if pending:
            self._fail(f"`{pending[-1].text}` is unexpected")
        return pipeline

    def _commands(self, pending: list[_Token]) -> tuple[tuple[Operand, ...], ...]:
        commands: list[tuple[Operand, ...]] = []
        operands: list[Operand] = []
        while pending and pending[-1].kind != "close":
            token = pending.pop()
            if token.text == "|" and operands:
                commands.append(tuple(operands))
                operands = []
            else:
                operands.append(self._operand(token, pending))
        if not operands:
            self._fail("a value is missing")
        return (*commands, tuple(operands))

    def _operand(self, token: _Token, pending: list[_Token]) -> Operand:
        first, *rest = token.text.split(".")
        if token.kind == "field":
            return Operand("field", fields=tuple(filter(None, rest)))
        if token.kind == "variable":
            return Operand("variable", first, tuple(rest))
        if token.kind == "text":
            return Operand("text", self._text_of(token.text))
        if token.kind == "number":
            return Operand("number", token.text)
        if token.kind == "name":
            constant = token.text in {"true", "false", "nil"}
            return Operand("constant" if constant else "name", token.text)
        if token.text != "(":
            self._fail(f"`{token.text}` is unexpected")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"it is nested more than {_MAX_DEPTH} deep")
        inner = Pipeline(self._commands(pending))
        self._depth -= 1
        if not pending:
            self._fail("a parenthesis is not closed")
        _, *fields = pending.pop().text.split(".")
        return Operand("parentheses", "", tuple(fields), inner)

    def _text_of(self, literal: str) -> str:
        try:
            return _literal(literal)
        except (ValueError, SyntaxError):
            self._fail(f"{literal} is no text of Go's")

    def _fail(self, what: str) -> NoReturn:
        line = self._source.count("\n", 0, self._at) + 1
        near = self._source[max(0, self._at - 30) : self._at + 10].strip()
        raise InvalidTemplate(f"line {line} of the template: {what}, near `{near}`")


def _literal(text: str) -> str:
    """The value of a literal; Go's escapes are among Python's."""
    return text[1:-1] if text[0] == "`" else str(ast.literal_eval(text))
