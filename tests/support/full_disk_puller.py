"""Pulls onto a small disk that fills up meanwhile: `python -m support.full_disk_puller ROOT NAME`.

The disk is a real one, which the caller has mounted at the parent of ROOT. Prints how many bytes
had arrived when it was full, and the model's ID at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model_runner.errors import DiskFull
from model_runner.registry.parts import arrived
from model_runner.store import Store
from support.puller import small_parts
from support.pulling import open_registry, pulled
from support.stores import add_model, files_below

if TYPE_CHECKING:
    from model_runner.registry import Progress
    from model_runner.store import Model

MIB = 1024 * 1024


async def main(root: Path, reference: str) -> None:
    """Be refused by the disk midway, see what is left, make room, and go on."""
    small_parts()
    store = Store.open(root)
    bystander = add_model(store, b"w" * 100_000, tags=["ai/bystander"])
    before = files_below(root / "blobs") | files_below(root / "manifests")
    filler = root.parent / "filler"

    def report(message: Progress) -> None:
        if message.layer_current > 4 * MIB and not filler.exists():
            _fill(filler)

    async with open_registry(store) as client:
        with pytest.raises(DiskFull, match="no room left for the model store") as failure:
            await client.pull(reference, report=report)
        assert "free some space" in (failure.value.hint or "")
    assert store.list() == [bystander]
    _assert_whole(store, bystander)
    left = files_below(root / "blobs") | files_below(root / "manifests")
    assert before <= left
    (digits,) = {name.partition("/")[2].partition(".")[0] for name in left - before}
    print(arrived(store.blobs, f"sha256:{digits}"), flush=True)
    # Still full: refused before anything is fetched.
    async with open_registry(store) as client:
        with pytest.raises(DiskFull):
            await pulled(client, reference)
    filler.unlink()
    async with open_registry(Store.open(root)) as client:
        model = (await pulled(client, reference)).model
    for each in (bystander, model):
        _assert_whole(store, each)
        assert store.bundle(each).gguf
    assert not [name for name in files_below(root) if ".incomplete" in name or ".tmp-" in name]
    print(model.id, flush=True)


def _fill(path: Path) -> None:
    """To the last byte."""
    for size in (MIB, 4096, 1):
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"f" * size):
                pass


def _assert_whole(store: Store, model: Model) -> None:
    verification = store.verify(model.id)
    while verification.step():
        pass
    assert verification.findings == []


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
