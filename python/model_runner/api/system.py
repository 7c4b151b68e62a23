"""The server itself: `/`, `/version` and `/metrics`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import PlainTextResponse, Response

from model_runner import __version__
from model_runner.api.responses import JSON, Text
from model_runner.api.services import Services, services_of
from model_runner.api.views import VersionView
from model_runner.errors import NotFound
from model_runner.telemetry import CONTENT_TYPE

router = APIRouter(tags=["system"])

Used = Annotated[Services, Depends(services_of)]

_OTHER_METHODS = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def banner() -> Response:
    """Docker Model Runner's sign of life, which its clients look for."""
    return PlainTextResponse("Docker Model Runner is running")


async def version() -> Response:
    """The version of this server."""
    return JSON(VersionView(version=__version__))


for _path, _endpoint, _model in (("/", banner, None), ("/version", version, VersionView)):
    # Docker Model Runner answers every method here.
    router.add_api_route(_path, _endpoint, response_model=_model)
    router.add_api_route(
        _path, _endpoint, response_model=_model, methods=_OTHER_METHODS, include_in_schema=False
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: Used) -> Response:
    """Our counters and every running engine's, in Prometheus' text format 0.0.4."""
    if services.exporter is None:
        raise NotFound("404 page not found")
    text = await services.exporter.render()
    return Response(text, headers={"content-type": CONTENT_TYPE})


@router.api_route("/metrics", methods=["HEAD", *_OTHER_METHODS], include_in_schema=False)
async def metrics_only_get(services: Used) -> Response:
    """A scrape is a GET."""
    if services.exporter is None:
        raise NotFound("404 page not found")
    return Text("Method Not Allowed", 405)
