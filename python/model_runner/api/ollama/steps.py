"""Work that is told step by step: a JSON object a line, and `success` or an error as the last."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from starlette.responses import Response

from model_runner.api.disconnect import disconnected, unless_gone
from model_runner.api.errors import OllamaError
from model_runner.api.ollama.messages import ErrorView
from model_runner.errors import ModelRunnerError
from model_runner.store import gojson

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

_SUCCESS = "success"
_UNEXPECTED = "internal error (the server's log says more)"


class StepView(BaseModel):
    """One step of a longer work, or how far it is."""

    status: str
    digest: str | None = Field(default=None, description="Of the layer that this is about.")
    total: int | None = Field(default=None, description="Its bytes.")
    completed: int | None = Field(default=None, description="Of these, what is done, if any.")


if TYPE_CHECKING:
    Report = Callable[[StepView], None]
    Work = Callable[[Report], Awaitable[object]]
    Word = Callable[[ModelRunnerError], str]


async def steps_response(
    request: Request, work: Work, *, stream: bool, word: Word = str
) -> Response:
    """The answer to a request for some work, which ends when its client leaves.

    Args:
        request: Its body has been read.
        work: What is to be done; it tells its steps, and `success` is added.
        stream: Whether the client wants to see the steps; if not, it gets the last one.
        word: How an error is told.
    """
    if stream:
        return _Steps(work, word)
    try:
        done = await unless_gone(request.receive, _silent(work))
    except ModelRunnerError as error:
        return OllamaError(word(error), 500)
    return Response(status_code=204) if done is None else _Result(done)


async def _silent(work: Work) -> StepView:
    await work(lambda _: None)
    return StepView(status=_SUCCESS)


class _Result(Response):
    media_type = "application/json"

    def __init__(self, step: StepView) -> None:
        super().__init__(_encode(step))


class _Steps(Response):
    """Runs the work for as long as its client listens."""

    def __init__(self, work: Work, word: Word) -> None:
        super().__init__()
        self._work = work
        self._word = word
        self._lines: asyncio.Queue[BaseModel | None] = asyncio.Queue()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Do it, and report."""
        working = asyncio.ensure_future(self._run())
        leaving = asyncio.ensure_future(disconnected(receive))
        writing = asyncio.ensure_future(self._write(send))
        try:
            await asyncio.wait({leaving, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                await writing
        finally:
            for task in (writing, leaving, working):
                task.cancel()
            await asyncio.gather(writing, leaving, working, return_exceptions=True)

    async def _run(self) -> None:
        """The work; its end, whatever it is, is the last line."""
        tell = self._lines.put_nowait
        try:
            await self._work(tell)
            tell(StepView(status=_SUCCESS))
        except ModelRunnerError as error:
            tell(ErrorView(error=self._word(error)))
        except Exception:  # the stream's edge: a client must not take a bug for a success
            log.exception("work failed unexpectedly")
            tell(ErrorView(error=_UNEXPECTED))
        finally:
            tell(None)

    async def _write(self, send: Send) -> None:
        head = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        while (line := await self._lines.get()) is not None:
            body = _encode(line) + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encode(line: BaseModel) -> bytes:
    return gojson.encode(line.model_dump(exclude_none=True))
