"""How a command, which is a plain function, calls the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

Result = TypeVar("Result")


def complete(work: Coroutine[object, None, Result]) -> Result:
    """Run a coroutine to its end; Ctrl-C cancels it."""
    import asyncio  # 50 ms that `--help` does not need

    return asyncio.run(work)


async def fetch_list(path: str) -> list[object]:
    """GET a JSON array, as the server has it."""
    from model_runner.client import Client

    async with Client() as client:
        document = await client.fetch(path)
    return document if isinstance(document, list) else []
