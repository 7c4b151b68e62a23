"""Fetching the metrics of running engines over their sockets. Never counts as use of a model."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from model_runner.telemetry.sources import Runner

log = logging.getLogger(__name__)


async def scrape(runners: Iterable[Runner], timeout: float) -> list[tuple[Runner, str]]:
    """The metrics of all these runners, fetched at the same time; those that fail are left out.

    Args:
        runners: Whom to ask.
        timeout: Seconds that each of them has.
    """
    chosen = list(runners)
    texts = await asyncio.gather(*(_scrape(runner, timeout) for runner in chosen))
    return [(runner, text) for runner, text in zip(chosen, texts, strict=True) if text is not None]


async def _scrape(runner: Runner, timeout: float) -> str | None:
    connector = aiohttp.UnixConnector(str(runner.socket_path), force_close=True)
    limit = aiohttp.ClientTimeout(total=timeout)
    headers = {"Authorization": f"Bearer {runner.api_key}"}
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as session,
            session.get("http://localhost/metrics", headers=headers) as response,
        ):
            response.raise_for_status()
            return await response.text(errors="replace")
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        log.debug("no metrics from %s (%s): %r", runner.model, runner.runner_id, error)
        return None
