"""What belongs to an account at ollama.com: there is none, and nothing here needs one."""

from __future__ import annotations

from typing import NoReturn

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from model_runner.api.bodies import read_body
from model_runner.api.ollama.messages import Answer
from model_runner.errors import HostedElsewhere, InvalidRequest, NotSignedIn

router = APIRouter()


class AccountView(BaseModel):
    """Who is signed in."""

    name: str


class RecommendationsView(BaseModel):
    """Models that are recommended: none."""

    recommendations: list[str] = []


@router.post("/me", response_model=AccountView)
async def me() -> Response:
    """The server itself.

    The CLI asks before it pushes a name without a host, which is at a registry of ours here and
    none of Ollama's. Were the answer 401, it would push nothing, and call that a success.
    """
    return Answer(AccountView(name="model-runner"))


@router.post("/signout")
@router.delete("/user/keys/{key:path}")
async def sign_out() -> Response:
    """Always 401: nobody is signed in."""
    raise NotSignedIn("unauthorized")


@router.get("/experimental/model-recommendations", response_model=RecommendationsView)
async def recommendations() -> Response:
    """None."""
    return Answer(RecommendationsView())


@router.post("/experimental/web_search")
async def web_search(request: Request) -> Response:
    """Always 403: it would be ollama.com that searches."""
    await _refuse(request, "web search is unavailable")


@router.post("/experimental/web_fetch")
async def web_fetch(request: Request) -> Response:
    """Always 403: it would be ollama.com that fetches."""
    await _refuse(request, "web fetch is unavailable")


async def _refuse(request: Request, what: str) -> NoReturn:
    if not await read_body(request):
        raise InvalidRequest("missing request body")
    raise HostedElsewhere(f"ollama cloud is disabled: {what}")
