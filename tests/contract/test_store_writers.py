"""A pull that takes its time, beside somebody who cleans up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from model_runner.errors import Conflict
from model_runner.store import PruneOptions, Store
from support.oci_push import make_artifact, noise, sha256
from support.pulling import forget_logins, open_registry
from support.registry_double import registry_double
from support.stores import add_model, files_below

if TYPE_CHECKING:
    from aiohttp import web

    from model_runner.registry import Progress


@pytest.fixture
def store(monkeypatch, tmp_path) -> Store:
    forget_logins(monkeypatch, tmp_path)
    return Store.open(tmp_path / "models")


def test_what_a_pull_has_brought_so_far_is_not_pruned(store: Store) -> None:
    """Nor what it found here and needs, however old: no model needs it before the pull is done."""
    found, first, second = noise(1000, 1), noise(1000, 2), noise(1000, 3)
    artifact = make_artifact(found, first, second)
    store.blobs.put_bytes(found)
    at_once = PruneOptions(grace=0)

    async def main() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def hold(request: web.Request) -> None:
            if request.path.endswith(sha256(second)):
                asked.set()
                await go_on.wait()

        async with registry_double(artifact, hold) as double, open_registry(store) as client:
            arrived = asyncio.Event()

            def report(message: Progress) -> None:
                if message.layer_id == sha256(first) and message.layer_current == len(first):
                    arrived.set()

            reference = f"{double.address}/slow/model:v1"
            task = asyncio.create_task(client.pull(reference, report=report))
            await asked.wait()
            await arrived.wait()
            elsewhere = Store.open(store.root)
            kept = await asyncio.to_thread(elsewhere.prune, at_once)
            assert {item.kept for item in kept} == {"it is being written"}
            with pytest.raises(Conflict, match="being pulled"):
                await asyncio.to_thread(elsewhere.purge)
            go_on.set()
            model = await task
            assert store.bundle(model).gguf
        assert store.prune(at_once) == []

    asyncio.run(main())


@pytest.mark.parametrize("where", ["resolving", "asking", "between layers"])
def test_a_forced_purge_stops_a_pull(store: Store, where: str) -> None:
    """At once, although the registry says nothing; and nothing of it comes back."""
    first, second = noise(1000, 2), noise(1000, 3)
    artifact = make_artifact(first, second)
    paths = {"resolving": "/manifests/", "asking": sha256(first), "between layers": sha256(second)}

    async def main() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def hold(request: web.Request) -> None:
            if paths[where] in request.path:
                asked.set()
                await go_on.wait()

        async with registry_double(artifact, hold) as double, open_registry(store) as client:
            reference = f"{double.address}/slow/model:v1"
            task = asyncio.create_task(client.pull(reference, report=lambda _: None))
            await asked.wait()
            elsewhere = Store.open(store.root)
            await asyncio.to_thread(elsewhere.purge, force=True)
            with pytest.raises(Conflict, match="somebody has forced a purge"):
                await task
            assert files_below(store.root / "blobs") == set()
            assert store.entries() == ()
            go_on.set()
            assert (await client.pull(reference, report=lambda _: None)).id == artifact.id

    asyncio.run(main())


def test_a_model_that_goes_during_a_pull_may_share_a_file_with_what_is_pulled(
    store: Store,
) -> None:
    """The pull had found the file in the store, and fetches it after all."""
    shared, own = noise(1000, 1), noise(1000, 2)
    artifact = make_artifact(shared, own)
    add_model(store, shared, tags=["goes"])

    async def main() -> None:
        async def remove(request: web.Request) -> None:
            if request.path.endswith(sha256(own)) and store.entries():
                await asyncio.to_thread(store.delete, "goes")

        async with registry_double(artifact, remove) as double, open_registry(store) as client:
            model = await client.pull(f"{double.address}/shared/model:v1", report=lambda _: None)
        assert [entry.id for entry in store.entries()] == [model.id]
        assert store.bundle(model).gguf

    asyncio.run(main())
