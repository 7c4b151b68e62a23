"""The server itself: which Ollama it is like, and what it has no part in."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from model_runner.api.ollama.messages import Answer

router = APIRouter()

# The Ollama whose API this is. Not our own version: VS Code refuses servers below 0.6.4, others
# those below 0.34, and the CLI merely remarks that it has another one.
VERSION = "0.33.0"


class VersionView(BaseModel):
    """The version of Ollama that this server is like."""

    version: str


class CloudView(BaseModel):
    """Whether hosted models can be used, and who decided it."""

    disabled: bool
    source: str


class StatusView(BaseModel):
    """What this server has switched on."""

    cloud: CloudView


@router.head("/version", include_in_schema=False)
@router.get("/version", response_model=VersionView)
async def version() -> Response:
    """The version of Ollama whose API this server has. Its own is at `/version`."""
    return Answer(VersionView(version=VERSION))


@router.get("/status", response_model=StatusView)
async def status() -> Response:
    """That there are no hosted models."""
    return Answer(StatusView(cloud=CloudView(disabled=True, source="config")))
