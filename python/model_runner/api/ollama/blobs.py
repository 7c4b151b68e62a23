"""`/api/blobs`: files that are sent for a model that is yet to be made."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response

from model_runner.api.archives import feed
from model_runner.api.errors import Worded
from model_runner.api.services import Services, services_of
from model_runner.errors import DigestMismatch, DiskFull, InvalidRequest, ModelRunnerError
from model_runner.store import disk_errors

if TYPE_CHECKING:
    from model_runner.store import Store

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.head("/blobs/{digest}")
async def has_blob(digest: str, services: Used) -> Response:
    """Whether a file is here."""
    here = await asyncio.to_thread(services.store.blobs.has, checked(digest))
    return Response(status_code=200 if here else 404)


@router.post(
    "/blobs/{digest}",
    status_code=201,
    responses={200: {"description": "It is here already."}},
    openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
)
async def add_blob(digest: str, request: Request, services: Used) -> Response:
    """Send a file for `/api/create`. If no model is made of it within an hour, it is removed."""
    size = int(request.headers.get("content-length") or 0)
    try:
        incoming = await asyncio.to_thread(_begin, services.store, digest, size)
    except ModelRunnerError:
        await _discard(request)
        raise
    if incoming is None:
        await _discard(request)
        return Response(status_code=200)
    try:
        await feed(request, incoming.write)
        await asyncio.to_thread(incoming.commit)
    except DigestMismatch as error:
        error.status = 400
        text = f'digest mismatch, expected "{checked(digest)}", got "{incoming.found}"'
        raise Worded(error, text) from error
    finally:
        await asyncio.to_thread(incoming.close)
    return Response(status_code=201)


async def _discard(request: Request) -> None:
    """Read a body for nothing.

    Ollama's command sends without asking first. If the connection were closed under it, it would
    report a broken pipe, and never see the answer.
    """
    async for _ in request.stream():
        pass


def _begin(store: Store, digest: str, size: int) -> _Incoming | None:
    """Make ready for a blob of at least this size; None if it is here."""
    canonical = checked(digest)
    store.uploads.prune()
    return None if store.blobs.has(canonical) else _Incoming(store, canonical, size)


def checked(digest: str) -> str:
    """A digest in our spelling; Ollama's files are called `sha256-…`.

    Raises:
        InvalidRequest: It is none.
    """
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise InvalidRequest("invalid digest format")
    return f"sha256:{match[1].lower()}"


class _Incoming:
    """A blob on its way, hashed as it is written. What it was sent for is noted beforehand.

    Raises:
        StoreError: It cannot be written; DiskFull if there is no room.
    """

    def __init__(self, store: Store, digest: str, size: int) -> None:
        free = shutil.disk_usage(store.root).free
        if size > free:
            raise DiskFull(
                f"the file has {size} bytes, the disk of the model store has room for {free}",
                hint="make room, or set MODELS_PATH to a larger disk",
            )
        self._writing = ExitStack()
        with disk_errors(store.root):
            self._writer = self._writing.enter_context(store.writing())
        try:
            store.uploads.note(digest)
            self._blob = store.blobs.receive(digest)
        except BaseException:
            self._writing.close()
            raise

    @property
    def found(self) -> str:
        """The digest of what has come."""
        return self._blob.found

    def write(self, piece: bytearray) -> None:
        self._writer.check()
        self._blob.write(memoryview(piece))

    def commit(self) -> None:
        self._blob.commit()

    def close(self) -> None:
        """Forget what is not whole."""
        self._blob.discard()
        self._writing.close()
