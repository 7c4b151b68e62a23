"""Whether there is room on the disk for what a pull brings, and keeping it for that pull."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

from model_runner.errors import DiskFull
from model_runner.registry.parts import arrived

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from model_runner.store import Descriptor, Store, Writer

# What is left besides: a part is on the disk twice while it becomes prefix, and its size is a
# 64th of its layer's, within bounds; what else a model has are some KiB.
_SPARE_SHARE = 64
_MOST_SPARE = 64 * 1024 * 1024


def keep_room(store: Store, writer: Writer, layers: Iterable[Descriptor]) -> None:
    """Refuse a pull that cannot end well, before it begins; keep the room of one that can. Blocks.

    What other pulls of this store still bring, here and in other processes, is counted.

    Raises:
        DiskFull: The layers that are missing need more than the disk has.
    """
    wanted = {layer.digest: layer.size for layer in layers}
    writer.needs(wanted, partial(_admit, store, wanted))


def _admit(store: Store, wanted: Mapping[str, int], others: Mapping[str, int]) -> None:
    missing = _missing(store, wanted)
    if not missing:
        return
    # What both wait for comes once.
    taken = _missing(store, {digest: n for digest, n in others.items() if digest not in wanted})
    spare = min(missing // _SPARE_SHARE, _MOST_SPARE)
    free = shutil.disk_usage(store.root).free
    if missing + spare + taken <= free:
        return
    needs = f"the model needs {missing} bytes and {spare} to spare"
    if not taken or missing + spare > free:
        raise DiskFull(
            f"{needs}, the disk of the model store has {free}",
            hint="make room, or set MODELS_PATH to a larger disk",
        )
    raise DiskFull(
        f"{needs}, the disk of the model store has {free}, of which pulls that are under way "
        f"take {taken}",
        hint="wait for them, make room, or set MODELS_PATH to a larger disk",
    )


def _missing(store: Store, blobs: Mapping[str, int]) -> int:
    """Bytes of blobs that are yet to come."""
    return sum(
        max(0, size - arrived(store.blobs, digest))
        for digest, size in blobs.items()
        if size and not store.blobs.has(digest, size)
    )
