"""Making a damaged model whole: of damaged files what is wrong with them, the rest by a pull."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from model_runner.errors import ModelRunnerError, UnsupportedModel
from model_runner.registry.progress import LayerProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_runner.api.services import Services
    from model_runner.registry import Progress
    from model_runner.store import Verification


async def repair(
    services: Services, verification: Verification, report: Callable[[Progress], None]
) -> bool:
    """Fetch what a model lacks from where its names lead, one after the other.

    Args:
        services: The store, and the registries.
        verification: What is wrong with the model.
        report: Takes the progress.

    Returns:
        Whether it is whole now. It stays damaged if no name leads to a registry that still has it.

    Raises:
        ModelRunnerError: The last of its names led to a failure. What was repaired stays so.
    """
    failure: ModelRunnerError | None = None
    for tag in verification.entry.tags:
        try:
            await _from(services, verification, tag, report)
        except ModelRunnerError as error:
            failure = error
        if await asyncio.to_thread(_is_whole, services, verification.entry.id):
            return True
    if failure:
        raise failure
    return False


async def _from(
    services: Services, verification: Verification, tag: str, report: Callable[[Progress], None]
) -> None:
    entry = verification.entry
    pinned = await services.registry.pinned(tag, entry.id, verification.manifest)
    await _mend(services, verification, pinned or tag, report)
    if await asyncio.to_thread(_is_whole, services, entry.id):
        return
    if pinned is None:
        # Another one in its place is not what a repair is asked for.
        raise UnsupportedModel(
            f"`{tag}` has no commit any more that the model was made of",
            hint="pull it to have the newest in its place",
        )
    await services.registry.pull(pinned, report=lambda event: _unless_last(event, report))


async def _mend(
    services: Services, verification: Verification, wanted: str, report: Callable[[Progress], None]
) -> None:
    """Of damaged files that are still somewhere, fetch only what differs."""
    for finding in verification.damaged:
        blob, path = finding.descriptor, finding.path
        if blob is None or path is None or not await asyncio.to_thread(path.exists):
            continue
        progress = LayerProgress(report, total=blob.size, layer_id=blob.digest, size=blob.size)
        try:
            repaired = await services.registry.repair(wanted, blob, path, progress.advance)
        finally:
            progress.stop()
        if repaired:
            progress.finish()


def _is_whole(services: Services, model_id: str) -> bool:
    try:
        manifest = services.store.get(model_id).manifest
    except ModelRunnerError:
        return False
    return all(services.store.blobs.has(blob.digest, blob.size) for blob in manifest.blobs)


def _unless_last(event: Progress, report: Callable[[Progress], None]) -> None:
    if event.type != "success":
        report(event)
