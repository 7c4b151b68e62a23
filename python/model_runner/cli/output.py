"""How results look: tables, JSON, names, ages and sizes; the same in a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from model_runner import names

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORT_ID = 12
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print left-aligned columns two spaces apart under upper-case headers."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


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
