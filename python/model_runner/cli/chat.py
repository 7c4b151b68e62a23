"""The conversation of `run`: a prompt, a few commands, and answers that can be cut short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from model_runner.cli.answer import Answer, AnswerOptions, stream_answer
from model_runner.cli.calls import complete
from model_runner.cli.group import report
from model_runner.errors import ModelRunnerError

if TYPE_CHECKING:
    from model_runner.client import Message

_QUOTES = '"""'
_HELP = """\
/set system TEXT   say how the model should behave; without TEXT, forget it
/clear             begin a new conversation
/?, /help          show this
/bye               leave (also Ctrl-D)

Text between \"\"\" and \"\"\" may have several lines.
Ctrl-C cuts an answer short."""


class Chat:
    """A conversation with one model.

    Args:
        model: The name as the user typed it.
        options: How its answers are asked for and shown.
    """

    def __init__(self, model: str, options: AnswerOptions) -> None:
        self._model = model
        self._options = options
        self._system = ""
        self._messages: list[Message] = []

    def loop(self) -> None:
        """Read and answer until the user leaves."""
        _use_line_editing()
        click.secho("/? for help, /bye or Ctrl-D to leave", dim=True)
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Read one message and answer it; False when the user leaves."""
        try:
            text = _read()
            if text in {"/bye", "/exit"}:
                return False
            self._take(text)
        except EOFError:
            click.echo()
            return False
        except KeyboardInterrupt:
            click.secho("\n/bye or Ctrl-D to leave", dim=True)
        return True

    def _take(self, text: str) -> None:
        if text.startswith("/"):
            self._command(text)
        elif text:
            self._ask(text)

    def _command(self, text: str) -> None:
        words = text.split(maxsplit=2)
        if words[0] in {"/?", "/help"}:
            click.echo(_HELP)
        elif words[0] == "/clear":
            self._messages.clear()
            click.echo("a new conversation")
        elif words[:2] == ["/set", "system"]:
            self._system = words[2] if len(words) > 2 else ""
            click.echo("system message set" if self._system else "system message cleared")
        else:
            click.echo(f"no such command: `{text}`; /? lists them")

    def _ask(self, text: str) -> None:
        """Send the conversation with one message more; what failed is not kept."""
        system: list[Message] = (
            [{"role": "system", "content": self._system}] if self._system else []
        )
        question: Message = {"role": "user", "content": text}
        answer = Answer()
        request = [*system, *self._messages, question]
        try:
            complete(stream_answer(self._model, request, answer, self._options))
        except KeyboardInterrupt:
            pass  # what has been said stays said
        except ModelRunnerError as error:
            report(error)
            return
        if answer.text:
            self._messages += [question, {"role": "assistant", "content": answer.text}]
        click.echo()


def _use_line_editing() -> None:
    """Let `input` have arrow keys and a history, where Python was built with them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _read() -> str:
    """One message, which is a line, or all lines between triple quotes."""
    text = input("> ").strip()
    if not text.startswith(_QUOTES):
        return text
    text = text.removeprefix(_QUOTES)
    while not text.rstrip().endswith(_QUOTES):
        text = f"{text}\n{input('. ')}"
    return text.rstrip().removesuffix(_QUOTES).strip()
