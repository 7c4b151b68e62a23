"""Errors as responses: text for people, JSON for programs, OpenAI's shape where its clients ask.

Below `/api` it is Ollama's: `{"error": "text"}`; and plain text for what is not there at all.

To Anthropic's clients it is Anthropic's: `{"type": "error", "error": {"type", "message"}}`.

Under `/_control` it is the data plane's own shape, whatever went wrong: it can read no other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match

from model_runner.api.responses import JSON, Text, wants_json
from model_runner.errors import ModelNotFound, ModelRunnerError, NoCapacity, NotFound, ShuttingDown
from model_runner.store import gojson

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

_OPENAI_PATHS = re.compile(r"^(/engines(/[^/]+)?)?(/v1/models|(/v1)?/responses)(/|$)")

_OLLAMA_PATHS = re.compile(r"^/api(/|$)")

_ANTHROPIC_PATHS = re.compile(r"^/anthropic(/|$)")

# The types that Anthropic's documentation gives to statuses; others are `api_error`.
_ANTHROPIC_TYPES = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}

_METHODS = ("GET", "HEAD", "POST", "DELETE")

_CONTROL_PATHS = re.compile(r"^/_control(/|$)")

# What may be over when the client comes again; a missing engine stays missing.
_PASSING = (NoCapacity, ShuttingDown)
_RETRY_SECONDS = 1

# Inside these families whatever is not routed, by path or by method, is `not found`.
_FAMILIES = re.compile(r"^/(models|engines|v1)(/|$)")


class Worded(Exception):
    """An error in the words of one endpoint.

    Args:
        error: What happened.
        text: The plain text, whose first words clients of Docker Model Runner know.
    """

    def __init__(self, error: ModelRunnerError, text: str) -> None:
        super().__init__(text)
        self.error = error
        self.text = text


class OllamaError(Response):
    """An error as Ollama's clients read it."""

    media_type = "application/json"

    def render(self, content: str) -> bytes:
        """Encode a text."""
        return gojson.encode({"error": content})


def respond(request: Request, error: ModelRunnerError, text: str | None = None) -> Response:
    """The response that reports `error`; `text` are the plain words, if not the error's own."""
    if _CONTROL_PATHS.match(request.scope["path"]):
        return JSON(_refusal(error), error.status)
    if _OLLAMA_PATHS.match(request.scope["path"]):
        return OllamaError(str(error) if text is None else text, error.status)
    if _is_anthropics(request):
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
        detail = {"type": kind, "message": str(error)}
        request_id = request.headers.get("x-request-id", "")
        return JSON({"type": "error", "error": detail, "request_id": request_id}, error.status)
    if _OPENAI_PATHS.match(request.scope["path"]):
        shown = {
            "message": str(error),
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
        return JSON({"error": shown}, error.status)
    if wants_json(request):
        body = {
            "message": error.message,
            "type": error.kind,
            "code": error.code,
            "hint": error.hint,
        }
        return JSON({"error": body}, error.status)
    return Text(str(error) if text is None else text, error.status)


def _is_anthropics(request: Request) -> bool:
    path = request.scope["path"]
    asked = "anthropic-version" in request.headers and _OPENAI_PATHS.match(path)
    return bool(_ANTHROPIC_PATHS.match(path) or asked)


def _refusal(error: ModelRunnerError) -> dict[str, str | int | None]:
    """The error as the data plane words it for its client, in the client's dialect."""
    return {
        "code": error.code,
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint,
        "param": error.param,
        "retry_after": _RETRY_SECONDS if isinstance(error, _PASSING) else None,
        "reference": error.reference if isinstance(error, ModelNotFound) else None,
    }


def nothing_here(request: Request) -> Response:
    """What a path or a method that nobody serves is answered."""
    inside = _FAMILIES.match(request.scope["path"]) is not None
    return respond(request, NotFound("not found" if inside else "404 page not found"))


def _not_in_ollama(request: Request) -> Response:
    """What Ollama's router says of a path that it does not have, or not with this method."""
    path = request.scope["path"]
    if methods := _methods(request, path):
        return PlainTextResponse("405 method not allowed", 405, headers={"allow": methods})
    bare = path.rstrip("/")
    if bare != path and _methods(request, bare):
        status = 301 if request.method == "GET" else 307
        return Response(status_code=status, headers={"location": quote(bare)})
    return PlainTextResponse("404 page not found", 404)


def _methods(request: Request, path: str) -> str:
    """The methods of a path, `GET, HEAD`; empty if there is no such path."""
    found = [method for method in _METHODS if _is_routed(request, method, path)]
    return ", ".join(found)


def _is_routed(request: Request, method: str, path: str) -> bool:
    scope = {**request.scope, "method": method, "path": path}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


# Starlette types handlers as taking any Exception; `install` says which ones come.


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, Worded):
        return respond(request, error.error, error.text)
    if isinstance(error, ModelRunnerError):
        return respond(request, error)
    raise error


async def _unrouted(request: Request, _error: Exception) -> Response:
    if _OLLAMA_PATHS.match(request.scope["path"]):
        return _not_in_ollama(request)
    return nothing_here(request)


async def _departed(_request: Request, _error: Exception) -> Response:
    return Response(status_code=204)  # nobody reads it


async def _unexpected(request: Request, _error: Exception) -> Response:
    # The traceback goes to the log on its own way; this only keeps the answer readable.
    return respond(request, ModelRunnerError("internal error", hint="the server's log says more"))


def install(application: FastAPI) -> None:
    """Make `application` answer every error in the shapes above."""
    application.add_exception_handler(ModelRunnerError, _refused)
    application.add_exception_handler(Worded, _refused)
    application.add_exception_handler(ClientDisconnect, _departed)  # while its body was read
    application.add_exception_handler(404, _unrouted)
    application.add_exception_handler(405, _unrouted)
    application.add_exception_handler(Exception, _unexpected)
