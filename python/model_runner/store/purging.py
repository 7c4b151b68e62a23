"""Emptying a store: first the index forgets every model, then the files go."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.errors import Conflict
from model_runner.store.files import disk_errors, sync_directory
from model_runner.store.layout import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model_runner.store.index import Index
    from model_runner.store.layout import Layout
    from model_runner.store.writers import Writers

logger = logging.getLogger(__name__)

# A pull stops within a second. Who has not by then is at one long step, such as syncing gigabytes;
# what it does next fails, for what it has written is gone.
_PATIENCE_SECONDS = 5.0


def purge(layout: Layout, index: Index, writers: Writers, *, force: bool) -> None:
    """Remove every model and all that belongs to the store; what else lies there stays.

    Forced, it first asks those to stop who are bringing models: what they write later would stay.

    Raises:
        Conflict: Somebody is bringing a model, and it is not forced; or this is no store.
        StoreError: The disk refused.
    """
    with disk_errors(layout.root):
        if not layout.version_file.exists():
            raise Conflict(
                f"`{layout.root}` is no model store any more: it has no layout.json",
                hint="nothing was removed; check MODELS_PATH",
            )
        alone = writers.sent_away(_PATIENCE_SECONDS) if force else _nobody(writers)
        with alone, index.emptied():
            trash = _take_away(layout)
        # Gigabytes take the disk a while, and nobody needs to wait for it.
        for path in trash:
            _remove(path)


@contextlib.contextmanager
def _nobody(writers: Writers) -> Iterator[None]:
    with writers.kept_out() as quiet:
        if not quiet:
            raise Conflict(
                "a model is being pulled or packaged",
                hint="wait for it, or force it, which makes that fail",
            )
        yield


def _take_away(layout: Layout) -> list[Path]:
    """Move everything out of its place in no time; where it is now."""
    trash = Path(tempfile.mkdtemp(prefix="purge.tmp-", dir=layout.root))
    old = [path for path in layout.root.iterdir() if is_temporary(path.name)]
    known = (
        *(layout.blobs, layout.manifests, layout.bundles),
        *(layout.quarantine, layout.ranges, layout.uploads),
    )
    for directory in known:
        if directory.is_dir():
            old += _move(directory, trash / "-".join(directory.relative_to(layout.root).parts))
    for directory in (layout.blobs, layout.manifests, layout.bundles):
        directory.mkdir(parents=True, exist_ok=True)
    sync_directory(layout.root)
    return old


def _move(directory: Path, target: Path) -> list[Path]:
    """Move a directory, or else say what is in it: a mounted one stays where it is."""
    try:
        directory.rename(target)
    except OSError:
        return list(directory.iterdir())
    return []


def _remove(path: Path) -> None:
    """What cannot be removed only takes room: the next clean-up tries again."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("could not remove `%s`: %s", path, error)
