"""A pull as a writer of the store: nothing it has brought is pruned, and a purge can stop it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from model_runner.registry.threads import in_thread
from model_runner.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from model_runner.store import Store, Writer

_Result = TypeVar("_Result")

# How often to look whether the store is being emptied, by whichever process.
_LOOK_SECONDS = 0.2


async def as_writer(
    store: Store, work: Callable[[Writer], Coroutine[None, None, _Result]]
) -> _Result:
    """Be a writer of a store for as long as some work takes.

    Raises:
        Conflict: The store is being emptied; the work was cancelled, and has ended.
        StoreError: It cannot be written.
    """
    held = store.writing()
    with disk_errors(store.root):
        writer = await asyncio.to_thread(held.__enter__)
    try:
        return await _watched(writer, work(writer))
    finally:
        held.__exit__(None, None, None)


async def _watched(writer: Writer, work: Coroutine[None, None, _Result]) -> _Result:
    working = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([working], timeout=_LOOK_SECONDS))[0]:
            await in_thread(writer.check)
        return working.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
