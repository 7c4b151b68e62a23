"""Items of conversations: those of a chain of responses, and pages of them as OpenAI lists them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_runner.errors import InvalidParameter
from model_runner.state import packing

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = dict[str, Any]

# How OpenAI begins the IDs of items; of other kinds it has many, which nobody tells apart by them.
_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}

# How the data plane names the items of a response: by its digits, and a number.
_OF_RESPONSE = re.compile(r"[a-z]+_([0-9a-f]{24})[0-9a-f]{4,}")

# Kinds that clients read a status of; the others do not all have one.
_WITH_STATUS = {"message", "function_call", "function_call_output"}


@dataclass(frozen=True, slots=True)
class Link:
    """One response of a chain, packed."""

    id: str
    response: bytes
    input: bytes

    @property
    def bytes(self) -> int:
        """How much room it takes."""
        return len(self.response) + len(self.input)

    def given(self) -> list[Item]:
        """The items of its input."""
        items = [item for item in packing.load(self.input) if isinstance(item, dict)]
        return [complete(item, self.id, number) for number, item in enumerate(items)]

    def made(self) -> list[Item]:
        """The items of its output."""
        output = packing.load(self.response).get("output")
        return [item for item in output or [] if isinstance(item, dict)]


def response_of(item_id: str) -> str | None:
    """The response that has an item, which its ID tells; None if it is none of ours."""
    found = _OF_RESPONSE.fullmatch(item_id)
    return f"resp_{found[1]}" if found else None


@dataclass(frozen=True, slots=True)
class Page:
    """Which items of a list are wanted.

    Attributes:
        limit: How many at most.
        descending: Whether the newest come first.
        after: The ID of the item that comes before them, or None.
    """

    limit: int = 20
    descending: bool = True
    after: str | None = None


def conversation(chain: Sequence[Link]) -> list[Item]:
    """What was said in a chain, its oldest response first."""
    return [item for link in chain for item in (*link.given(), *link.made())]


def input_items(chain: Sequence[Link], page: Page) -> dict[str, Any]:
    """A page of what the last response of a chain was made from, as OpenAI's list.

    Raises:
        InvalidParameter: There is no item that the page could come after.
    """
    items = conversation(chain[:-1]) + chain[-1].given()
    if page.descending:
        items.reverse()
    begin = 0
    if page.after is not None:
        numbers = [number for number, item in enumerate(items) if item.get("id") == page.after]
        if not numbers:
            raise InvalidParameter("after", f"no input item has the ID '{page.after[:100]}'")
        begin = numbers[0] + 1
    data = items[begin : begin + page.limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0].get("id") if data else None,
        "last_id": data[-1].get("id") if data else None,
        "has_more": begin + page.limit < len(items),
    }


def complete(item: Item, response_id: str, number: int) -> Item:
    """An item with all that OpenAI's have, if the client left some of it out."""
    kind = item.get("type") or "message"
    whole: Item = {**item, "type": kind}
    if not item.get("id"):
        digest = hashlib.sha256(f"{response_id}/{number}".encode()).hexdigest()
        whole["id"] = f"{_PREFIXES.get(kind, 'item')}_{digest[:48]}"
    if kind in _WITH_STATUS and not item.get("status"):
        whole["status"] = "completed"
    if kind == "message" and isinstance(item.get("content"), str):
        whole["content"] = [_part(item["content"], item.get("role"))]
    return whole


def _part(text: str, role: object) -> Item:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}
