"""A streamed answer on its way to the terminal: thoughts, text, and what it cost."""

from __future__ import annotations

import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.client import ChatChunk, Message, Statistics


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How answers are asked for and shown.

    Attributes:
        verbose: Print tokens and speeds after each.
        max_tokens: Where an answer is cut, None for where the model ends it.
    """

    verbose: bool = False
    max_tokens: int | None = None


class Answer:
    """Prints chunks as they come and keeps the text.

    The text goes to stdout. Thoughts go there too on a terminal, dimmed; when stdout is a pipe or a
    file they go to stderr, so that what is kept is the answer alone.

    Attributes:
        text: The answer so far, without the thoughts.
        statistics: What the engine counted, once it has said so.
    """

    def __init__(self) -> None:
        self.text = ""
        self.statistics: Statistics | None = None
        self._begun = time.monotonic()
        self._first: float | None = None
        self._thinking = False
        self._at_line_start = True
        self._thoughts_to_stderr = not sys.stdout.isatty()

    def feed(self, chunk: ChatChunk) -> None:
        """Print one chunk."""
        if self._first is None and (chunk.content or chunk.reasoning):
            self._first = time.monotonic()
        self.statistics = chunk.statistics or self.statistics
        if chunk.reasoning:
            self._think(chunk.reasoning)
        if chunk.content:
            # After its thoughts a model begins with empty lines of its own; one is enough.
            content = chunk.content.lstrip("\n") if self._thinking else chunk.content
            if content:
                self._end_thinking()
                self.text += content
                self._write(content)

    def finish(self) -> None:
        """End the line, so that a prompt that follows stands on its own."""
        if self._thinking and not self._at_line_start:
            click.echo(err=self._thoughts_to_stderr)
        elif not self._at_line_start:
            click.echo()
        self._thinking, self._at_line_start = False, True

    def print_statistics(self) -> None:
        """Print tokens, speeds and times to stderr."""
        elapsed = time.monotonic() - self._begun
        first = f"first token after {self._first - self._begun:.2f} s, " if self._first else ""
        lines = [*_token_lines(self.statistics), f"time        {first}{elapsed:.2f} s in all"]
        click.secho("\n" + "\n".join(lines), err=True, dim=True)

    def _think(self, thought: str) -> None:
        if not self._thinking:
            click.secho("Thinking:", err=self._thoughts_to_stderr, dim=True)
            self._thinking = True
            thought = thought.lstrip("\n")
        click.secho(thought, err=self._thoughts_to_stderr, dim=True, nl=False)
        self._at_line_start = thought.endswith("\n")

    def _end_thinking(self) -> None:
        if self._thinking:
            self.finish()
            click.echo(err=self._thoughts_to_stderr)

    def _write(self, content: str) -> None:
        click.echo(content, nl=False)
        self._at_line_start = content.endswith("\n")


def _token_lines(statistics: Statistics | None) -> list[str]:
    if statistics is None:
        return ["tokens      not reported"]
    cached = f" ({statistics.cached_tokens} cached)" if statistics.cached_tokens else ""
    prompt = f"{statistics.prompt_tokens} tokens{cached}{_speed(statistics.prompt_speed)}"
    completion = f"{statistics.completion_tokens} tokens{_speed(statistics.completion_speed)}"
    return [f"prompt      {prompt}", f"completion  {completion}"]


def _speed(tokens_per_second: float) -> str:
    return f", {tokens_per_second:.1f} tokens/s" if tokens_per_second else ""


async def stream_answer(
    model: str, messages: Sequence[Message], answer: Answer, options: AnswerOptions
) -> None:
    """Send a conversation and print what comes back, until its end or an error."""
    from model_runner.client import Client

    try:
        async with Client() as client:
            chat = client.chat(
                model, messages, usage=options.verbose, max_tokens=options.max_tokens
            )
            async with aclosing(chat) as chunks:
                async for chunk in chunks:
                    answer.feed(chunk)
    finally:
        answer.finish()
    if options.verbose:
        answer.print_statistics()
