"""Stored responses: what OpenAI's API does with them, and what the data plane stores and reads.

Making a response is the data plane's. The calls under `/_control` are its own, and not public.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from model_runner.api.bodies import flag, parse_body, read_body
from model_runner.api.services import Services, services_of
from model_runner.errors import InvalidParameter
from model_runner.state import Page, Submission, packing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Endpoint = Callable[..., Awaitable[Response]]

Used = Annotated[Services, Depends(services_of)]

# Which backend the path names makes no difference, an unknown one neither: the store is one.
PREFIXES = (
    "/v1/responses",
    "/responses",
    "/engines/v1/responses",
    "/engines/responses",
    "/engines/{backend}/v1/responses",
    "/engines/{backend}/responses",
)

# What comes with a request besides its input: the answer, which no engine makes larger than this.
_ANSWER_BYTES = 64 * 1024 * 1024

_MOST_ITEMS = 100

router = APIRouter(tags=["responses"])
control = APIRouter(prefix="/_control", include_in_schema=False)


def _everywhere(method: str, path: str = "") -> Callable[[Endpoint], Endpoint]:
    """Serve an endpoint under all prefixes; the first one stands for them in the schema."""

    def register(endpoint: Endpoint) -> Endpoint:
        for prefix in PREFIXES:
            router.add_api_route(
                f"{prefix}/{{response_id}}{path}",
                endpoint,
                methods=[method],
                include_in_schema=prefix == PREFIXES[0],
            )
        return endpoint

    return register


@_everywhere("GET")
async def get_response(response_id: str, request: Request, services: Used) -> Response:
    """A stored response, as it was or is by now."""
    if flag(request.query_params.get("stream")):
        raise InvalidParameter(
            "stream",
            "a stored response is not offered as a stream",
            hint="get it without `stream`, again until its status is final",
        )
    return _json(await services.responses.get(response_id))


@_everywhere("DELETE")
async def delete_response(response_id: str, services: Used) -> Response:
    """Forget a response. Others that continue it stay, but cannot be continued any more."""
    await services.responses.delete(response_id)
    return _encoded({"id": response_id, "object": "response", "deleted": True})


@_everywhere("POST", "/cancel")
async def cancel_response(response_id: str, services: Used) -> Response:
    """End a response that is made in the background. The data plane ends its request besides."""
    return _json(await services.responses.cancel(response_id))


@_everywhere("GET", "/input_items")
async def list_input_items(response_id: str, request: Request, services: Used) -> Response:
    """What a response was made from, earlier turns included, the newest first.

    Whatever `include` names is there in any case.
    """
    query = request.query_params
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidParameter("order", f"`order` is 'asc' or 'desc', not '{order[:20]}'")
    page = Page(_limit(query.get("limit", "20")), order == "desc", query.get("after") or None)
    return _encoded(await services.responses.input_items(response_id, page))


class Stored(BaseModel):
    """A response that the data plane has made, or has begun to make in the background.

    Attributes:
        id: Its ID.
        response: The response object as clients are to get it.
        input: The items of the request.
        previous_response_id: What it continues.
    """

    id: str
    response: dict[str, Any]
    input: list[Any]
    previous_response_id: str | None = None


class Asked(BaseModel):
    """The response that a conversation goes on from."""

    id: str


@control.post("/responses")
async def store_response(request: Request, services: Used) -> Response:
    """Store a response; it is on disk when this has been answered."""
    limit = 2 * services.settings.body_limit + _ANSWER_BYTES
    body = await read_body(request, limit=limit)
    stored = await asyncio.to_thread(
        parse_body, Stored, body, complaint="invalid response to store", explain=True
    )
    await services.responses.put(
        Submission(stored.id, stored.response, stored.input, stored.previous_response_id)
    )
    return Response(status_code=204)


@control.post("/responses/history")
async def tell_history(request: Request, services: Used) -> Response:
    """What was said up to and with a response. Instructions do not carry over, as at OpenAI's."""
    asked = parse_body(Asked, await read_body(request), complaint="invalid request for a history")
    limit = services.settings.body_limit
    said = await services.responses.history(asked.id, limit=limit)
    return _json(await asyncio.to_thread(packing.encode, {"items": said, "instructions": None}))


class AskedItems(BaseModel):
    """Items that a request names.

    Attributes:
        ids: Their IDs.
    """

    ids: list[str]


@control.post("/responses/items")
async def tell_items(request: Request, services: Used) -> Response:
    """Items of stored responses."""
    asked = parse_body(AskedItems, await read_body(request), complaint="invalid request for items")
    return _encoded({"items": await services.responses.named_items(asked.ids)})


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= _MOST_ITEMS):
        raise InvalidParameter(
            "limit", f"`limit` is a number from 1 to {_MOST_ITEMS}, not '{text[:20]}'"
        )
    return int(text)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _encoded(value: object) -> Response:
    return _json(packing.encode(value))
