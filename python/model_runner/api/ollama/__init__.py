"""Ollama's API, as far as it is not inference: a router for each family of paths below `/api`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from model_runner.api.ollama import (
    account,
    blobs,
    copying,
    create,
    listing,
    running,
    server,
    show,
    transfers,
)
from model_runner.api.ollama.messages import ErrorView

__all__ = ["ERRORS", "router"]

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorView, "description": "An error, in words."}
}

router = APIRouter(prefix="/api", tags=["ollama"])
for _family in (server, account, listing, running, show, copying, transfers, blobs, create):
    router.include_router(_family.router)
