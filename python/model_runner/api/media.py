"""Images by their addresses: the data plane asks for them before an engine would. Not public."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from model_runner.api.bodies import parse_body, read_body
from model_runner.api.disconnect import unless_gone
from model_runner.api.services import Services, services_of

router = APIRouter(prefix="/_control", include_in_schema=False)


class MediaRequest(BaseModel):
    """What a request names.

    Attributes:
        urls: The addresses of images.
    """

    urls: list[str]


@router.post("/media")
async def media(request: Request, services: Annotated[Services, Depends(services_of)]) -> Response:
    """Fetch the images; when the caller leaves, that ends."""
    body = await read_body(request)
    wanted = parse_body(MediaRequest, body, complaint="invalid media request")
    data_urls = await unless_gone(request.receive, services.media.fetch(wanted.urls))
    if data_urls is None:
        return Response(status_code=204)  # nobody reads it
    # Up to the limit on bodies: in a thread, the loop goes on meanwhile.
    answer = await asyncio.to_thread(json.dumps, {"data_urls": data_urls})
    return Response(answer, media_type="application/json")
