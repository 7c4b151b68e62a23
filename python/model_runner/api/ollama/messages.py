"""Bodies below `/api` as Ollama reads and writes them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.responses import Response
from pydantic import BaseModel

from model_runner.api.bodies import parse_body, read_body
from model_runner.errors import InvalidRequest
from model_runner.store import gojson

if TYPE_CHECKING:
    from starlette.requests import Request

# Ollama has no limit; what these paths have a use for is some texts.
_BODY_LIMIT = 16 * 1024 * 1024

Body = TypeVar("Body", bound=BaseModel)


class ErrorView(BaseModel):
    """What went wrong."""

    error: str


class Answer(Response):
    """A JSON body without a newline at its end; fields that are None are left out."""

    media_type = "application/json; charset=utf-8"

    def __init__(self, content: BaseModel) -> None:
        super().__init__(content)

    def render(self, content: BaseModel) -> bytes:
        """Encode `content`."""
        return gojson.encode(content.model_dump(mode="json", by_alias=True, exclude_none=True))


async def read(request: Request, shape: type[Body]) -> Body:
    """The body of a request; of whatever Content-Type.

    Raises:
        InvalidRequest: There is none, or not such a one.
    """
    body = await read_body(request, limit=_BODY_LIMIT)
    if not body.strip():
        raise InvalidRequest("missing request body")
    return parse_body(shape, body, complaint="invalid request body", explain=True)


def described(shape: type[BaseModel]) -> dict[str, Any]:
    """What /openapi.json says of a request whose body is read by `read`."""
    schema = shape.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def timestamp(seconds: float) -> str:
    """RFC 3339, in UTC. Clients fail on an empty one, so there always is one.

    >>> timestamp(0)
    '1970-01-01T00:00:00Z'
    """
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")
