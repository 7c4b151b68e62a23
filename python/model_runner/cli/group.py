"""The group of all commands: aliases, and the place where an error becomes an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import click

from model_runner.errors import ModelRunnerError

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTERRUPTED = 130
# A closed pipe is click's business; it ends quietly.
_UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class CommandGroup(click.Group):
    """Commands in the order in which they were added, with aliases that help leaves out."""

    aliases: ClassVar[Mapping[str, str]] = {"ls": "list", "stop": "unload"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name or alias."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, most used first, as they were added."""
        return list(self.commands)

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - click's signature
        """Run the program, and end it in words when what it prints cannot be written."""
        try:
            return super().main(*args, **options)
        except OSError as error:
            if error.errno not in _UNWRITTEN or error.filename is not None:
                raise
            _drop_output()
            reason = (error.strerror or str(error)).lower()
            report(ModelRunnerError(f"cannot write the output: {reason}"))
            sys.exit(ModelRunnerError.exit_code)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; its errors are told on stderr, each kind with its own exit code."""
        try:
            return super().invoke(ctx)
        except ModelRunnerError as error:
            report(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal has echoed ^C
            ctx.exit(_INTERRUPTED)


def _drop_output() -> None:
    """What is still buffered would fail again when the interpreter ends, with a message of its."""
    with contextlib.suppress(OSError, ValueError):  # standard output that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def report(error: ModelRunnerError) -> None:
    """Tell on stderr what happened and what to do next, and go on."""
    click.echo(f"Error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
