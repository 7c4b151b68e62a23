"""Merging the Prometheus text of several engines: labels added, one HELP and TYPE for each family.

Names stay as the engine wrote them. A parser that thinks in OpenMetrics would rename counters
without `_total`, as llama.cpp's `llamacpp:n_tokens_max` is one, so lines are taken apart here.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"'
_SAMPLE = re.compile(
    rf"(?P<name>{_NAME})(?:\{{\s*(?P<labels>{_LABEL}(?:\s*,\s*{_LABEL})*)?\s*,?\s*\}})?"
    r"\s+(?P<value>[^\s]+)(?:\s+-?[0-9]+)?\s*"
)
_COMMENT = re.compile(rf"# (?P<kind>HELP|TYPE) (?P<name>{_NAME})(?: (?P<text>.*))?")

# Samples of these types carry a suffix that is not part of the family's name.
_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(slots=True)
class Family:
    """The samples of one name, with what the first engine said about it."""

    name: str
    help: str = ""
    type: str = ""
    samples: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """The family as text, comments first."""
        if self.help:
            yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.type or 'untyped'}"
        yield from self.samples


class Exposition:
    """Collects what engines export."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def add(self, text: str, labels: Mapping[str, str]) -> None:
        """Take in one engine's export.

        A family that another engine exported with another type is left out: a scraper would
        refuse the whole page.

        Args:
            text: Prometheus text format 0.0.4. Lines that are none are skipped.
            labels: Added to every sample, in this order, before the engine's own.
        """
        added = ",".join(f'{name}="{escape_label(value)}"' for name, value in labels.items())
        own = _parse(text)
        for family in own.values():
            known = self._families.setdefault(family.name, Family(family.name))
            if not known.samples:
                known.help, known.type = family.help, family.type
            elif known.type != family.type:
                log.debug("metric %s left out: two types", family.name)
                continue
            known.samples += [_relabel(sample, added) for sample in family.samples]

    def render(self) -> str:
        """All families, sorted by name."""
        families = sorted(self._families.values(), key=lambda family: family.name)
        lines = [line for family in families if family.samples for line in family.lines()]
        return "".join(line + "\n" for line in lines)


def escape_label(value: str) -> str:
    """Escape a label's value."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _parse(text: str) -> dict[str, Family]:
    families: dict[str, Family] = {}
    for line in text.splitlines():
        comment = _COMMENT.fullmatch(line)
        if comment:
            family = families.setdefault(comment["name"], Family(comment["name"]))
            if comment["kind"] == "HELP":
                family.help = comment["text"] or ""
            else:
                family.type = (comment["text"] or "").strip()
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample and _is_number(sample["value"]):
            name = _family_name(sample["name"], families)
            families.setdefault(name, Family(name)).samples.append(line)
    return families


def _family_name(sample: str, families: Mapping[str, Family]) -> str:
    for suffix in _SUFFIXES:
        base = sample.removesuffix(suffix)
        if base != sample and base in families:
            return base
    return sample


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _relabel(sample: str, added: str) -> str:
    match = _SAMPLE.fullmatch(sample)
    if match is None:
        return sample  # cannot be: only samples get here
    labels = f"{added},{match['labels']}" if match["labels"] else added
    return f"{match['name']}{{{labels}}} {match['value']}"
