"""How bodies are written: JSON as Docker Model Runner's encoder spells it, and plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import Response
from pydantic import BaseModel

from model_runner.store import gojson

if TYPE_CHECKING:
    from starlette.requests import Request


class JSON(Response):
    """A JSON body as Go's encoder writes it, with a newline at its end.

    The content may be, or be a list of, pydantic models; their fields that are None are left out.
    """

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Encode `content`."""
        return gojson.encode(_plain(content)) + b"\n"


def _plain(content: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if isinstance(content, BaseModel):
        return content.model_dump(mode="json", exclude_none=True)
    if isinstance(content, list):
        return [_plain(item) for item in content]
    return content


class Text(Response):
    """A line of plain text, as every error of the management endpoints is."""

    media_type = "text/plain"

    def __init__(self, message: str, status_code: int = 200) -> None:
        super().__init__(message + "\n", status_code, headers={"X-Content-Type-Options": "nosniff"})

    def render(self, content: str) -> bytes:
        """Encode `content`."""
        return content.encode("utf-8", "replace")


def wants_json(request: Request) -> bool:
    """Whether the client accepts JSON and nothing else."""
    return request.headers.get("accept", "").strip() == "application/json"
