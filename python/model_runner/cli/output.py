"""How results look: tables, JSON, names, ages and sizes.

It is the same in a terminal and in a pipe, but for tables that are wider than the terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from model_runner import names

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORT_ID = 12
_GAP = "  "
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    narrow: Sequence[Sequence[str]] | None = None,
) -> None:
    """Print left-aligned columns two spaces apart under upper-case headers.

    On a terminal that is not wide enough, what does not fit into the first column gets a line of
    its own above the other columns.

    Args:
        headers: One for each column.
        rows: A cell for each column.
        narrow: The same, headers first, in fewer letters, for a terminal that is not wide enough.
    """
    lines = [headers, *rows]
    widths, room = _widths(lines), _terminal_columns()
    if room and narrow and _total(widths) > room:
        lines, widths = [*narrow], _widths(narrow)
    if room and _total(widths) > room:
        left = room - (_total(widths) - widths[0])
        fitting = [len(line[0]) for line in lines if len(line[0]) <= left]
        widths[0] = max(fitting, default=left) if left >= 0 else widths[0]
    for line in lines:
        first, *others = line
        if len(first) > widths[0]:
            click.echo(first)
            first = ""
        cells = (cell.ljust(width) for cell, width in zip((first, *others), widths, strict=True))
        click.echo(_GAP.join(cells).rstrip())


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _terminal_columns() -> int | None:
    """How wide the terminal is that the output goes to; None if it goes elsewhere."""
    return (shutil.get_terminal_size((0, 0)).columns or None) if sys.stdout.isatty() else None


def print_json(value: object) -> None:
    """Print an indented document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def short_id(model_id: str) -> str:
    """The first 12 hex digits of a digest."""
    return model_id.removeprefix("sha256:")[:_SHORT_ID]


def model_name(name: str, *, default_registry: str) -> str:
    """A tag without what goes without saying; an ID shortened."""
    if names.is_id(name):
        return short_id(name)
    return names.short(name, default_registry=default_registry)


def duration(seconds: float) -> str:
    """A length of time in words, in the largest unit that says enough, as Docker's tools put it."""
    whole = int(seconds)
    if whole < _MINUTE:
        return "Less than a second" if whole < 1 else _count(whole, "second")
    if whole < _HOUR:
        return "About a minute" if whole < 2 * _MINUTE else _count(whole // _MINUTE, "minute")
    if whole < 2 * _DAY:
        hours = round(whole / _HOUR)
        return "About an hour" if hours == 1 else _count(hours, "hour")
    days = whole // _DAY
    for limit, length, unit in ((14, 1, "day"), (60, 7, "week"), (730, 30, "month")):
        if days < limit:
            return _count(days // length, unit)
    return _count(days // 365, "year")


def byte_size(count: float) -> str:
    """A number of bytes in decimal units, as registries and disks count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def waiting(text: str) -> AbstractContextManager[object]:
    """Show on a terminal's stderr that something is going on; nothing where nobody watches."""
    if not animated(sys.stderr):
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def animated(stream: object) -> bool:
    """Whether a stream is a terminal that can redraw a line."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM", "") not in {"", "dumb"}


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
