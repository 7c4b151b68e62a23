"""Rules for paths that hold before any routing: HEAD, dots, and paths that want a slash."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_DOTS = re.compile(r"/\.{1,2}(/|$)")

# `/models` itself is the list, but nothing can be sent to it.
_DIRECTORIES = {"/engines", "/v1"}

# A scraper that sends HEAD is misconfigured; Docker Model Runner says so with a 405. Ollama answers
# HEAD at a few paths, which have it by themselves.
_WITHOUT_HEAD = re.compile(r"/metrics|/api/.*")

# In the scope of a GET that was a HEAD, for whoever need not make a body that is not sent.
WITHOUT_BODY = "model_runner.without_body"


def clean(path: str) -> str:
    """Resolve `.` and `..` in a percent-encoded path; a trailing slash stays.

    >>> clean("/models/../engines/./ps/")
    '/engines/ps/'
    """
    # One slash, whatever came in: `//host` in a Location would lead to another host.
    resolved = "/" + posixpath.normpath(path).lstrip("/")
    kept = path.endswith(("/", "/.", "/..")) and resolved != "/"
    return resolved + "/" if kept else resolved


def redirection(method: str, path: str) -> str | None:
    """Where a request for this (still percent-encoded) path is sent instead, or None."""
    if _DOTS.search(path):
        return clean(path)
    if path in _DIRECTORIES or (path == "/models" and method not in {"GET", "HEAD"}):
        return path + "/"
    return None


class PathRules:
    """ASGI middleware that answers HEAD like GET and redirects paths as Go's router does."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or redirect it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        path = scope["raw_path"].decode("latin-1")
        target = redirection(scope["method"], path)
        if target is not None:
            query = scope["query_string"].decode("latin-1")
            location = f"{target}?{query}" if query else target
            await Response(status_code=307, headers={"location": location})(scope, receive, send)
            return
        if scope["method"] == "HEAD" and not _WITHOUT_HEAD.fullmatch(path):
            # The server below still knows that it was HEAD and sends no body.
            scope = {**scope, "method": "GET", WITHOUT_BODY: True}
        await self._application(scope, receive, send)
