"""What becomes of a pull when the network, the registry, the disk or the user get in its way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from model_runner.errors import DigestMismatch, DiskFull, RegistryUnreachable, ShuttingDown
from model_runner.registry.prefix import Prefix
from model_runner.store import Store
from support.fault_proxy import FaultProxy, fault_proxy
from support.oci_push import make_artifact, noise, push, sha256
from support.oci_registry import RunningRegistry, oci_registry
from support.pulling import Pulled, forget_logins, open_registry, pull, pulled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model_runner.registry import Progress, Registry
    from model_runner.store import Model

MIB = 1024 * 1024
_SIZE = 8 * MIB
_LAYER = noise(_SIZE)
_MODEL = make_artifact(_LAYER)

# Heads of responses, manifest and config, and what is in flight when a connection is cut.
_SLACK = 1 * MIB


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with oci_registry(tmp_path_factory.mktemp("registry")) as running:
        push(running, "faulty/model", "v1", _MODEL)
        yield running


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch, tmp_path):
    forget_logins(monkeypatch, tmp_path)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "models")


def _prefix(store: Store) -> Path:
    return store.blobs.incomplete_path(sha256(_LAYER))


def _assert_arrived(store: Store) -> None:
    assert store.blobs.path(sha256(_LAYER)).read_bytes() == _LAYER
    assert not _prefix(store).exists()


async def _under_way(client: Registry, proxy: FaultProxy) -> asyncio.Task[Model]:
    """A pull that hangs after 4 MiB, more than 2 of them on disk."""
    proxy.stall_after = 4 * MIB
    arrived = asyncio.Event()

    def report(message: Progress) -> None:
        if message.layer_current > 2 * MIB:
            arrived.set()

    reference = f"{proxy.address}/faulty/model:v1"
    task = asyncio.create_task(client.pull(reference, report=report))
    await arrived.wait()
    return task


async def _pull_through(proxy: FaultProxy, store: Store) -> Pulled:
    async with open_registry(store) as client:
        return await pulled(client, f"{proxy.address}/faulty/model:v1")


def test_a_cut_connection_is_resumed_within_the_pull(
    registry: RunningRegistry, store: Store
) -> None:
    async def main() -> int:
        async with fault_proxy(registry.port) as proxy:
            proxy.cuts = [3 * MIB, 3 * MIB]
            result = await _pull_through(proxy, store)
            assert result.model.id == _MODEL.id
            assert proxy.cuts == []
            return proxy.delivered

    assert asyncio.run(main()) < _SIZE + _SLACK
    _assert_arrived(store)


def test_a_connection_that_keeps_breaking_leaves_a_prefix_for_the_next_pull(
    registry: RunningRegistry, store: Store
) -> None:
    async def main() -> int:
        async with fault_proxy(registry.port) as proxy:
            proxy.cuts = [6 * MIB] + [0] * 100
            with pytest.raises(RegistryUnreachable, match="what has arrived is kept"):
                await _pull_through(proxy, store)
            kept = _prefix(store).read_bytes()
            assert len(kept) > 5 * MIB
            assert _LAYER.startswith(kept)

            proxy.cuts = []
            before = proxy.delivered
            await _pull_through(proxy, store)
            return proxy.delivered - before

    assert asyncio.run(main()) < 3 * MIB
    _assert_arrived(store)


def test_a_connection_that_goes_silent_is_given_up(registry: RunningRegistry, store: Store) -> None:
    async def main() -> None:
        async with fault_proxy(registry.port) as proxy:
            proxy.stall_after = 2 * MIB
            with pytest.raises(RegistryUnreachable):
                await _pull_through(proxy, store)

    asyncio.run(main())
    assert _prefix(store).stat().st_size > MIB


def test_a_registry_that_is_down(registry: RunningRegistry, store: Store) -> None:
    async def main() -> str:
        async with fault_proxy(registry.port) as proxy:
            address = proxy.address
        async with open_registry(store) as client:
            with pytest.raises(RegistryUnreachable) as failure:
                await pulled(client, f"{address}/faulty/model:v1")
        assert address in str(failure.value)
        return str(failure.value)

    assert "local store" not in asyncio.run(main())


@pytest.mark.parametrize("version", [":v1", f":v1@{_MODEL.id}", f"@{_MODEL.id}"])
def test_a_registry_that_is_down_while_the_model_is_here(
    registry: RunningRegistry, store: Store, version: str
) -> None:
    async def main() -> str:
        async with fault_proxy(registry.port) as proxy:
            await _pull_through(proxy, store)
            reference = f"{proxy.address}/faulty/model{version}"
        async with open_registry(store) as client:
            with pytest.raises(RegistryUnreachable) as failure:
                await pulled(client, reference)
        return str(failure.value)

    message = asyncio.run(main())
    assert f"/faulty/model{version}` in the local store stays usable" in message
    assert [model.id for model in store.list()] == [_MODEL.id]


def test_bytes_that_were_changed_never_reach_the_store(tmp_path: Path, store: Store) -> None:
    with oci_registry(tmp_path / "registry") as registry:
        push(registry, "corrupt/model", "v1", _MODEL)
        file = registry.blob_file(sha256(_LAYER))
        changed = bytearray(_LAYER)
        changed[_SIZE // 2] ^= 1
        file.write_bytes(changed)

        with pytest.raises(DigestMismatch, match=sha256(_LAYER)):
            pull(store, f"{registry.http_address}/corrupt/model:v1")
        assert not store.blobs.has(sha256(_LAYER))
        assert store.list() == []

        file.write_bytes(_LAYER)
        pull(store, f"{registry.http_address}/corrupt/model:v1")
    _assert_arrived(store)


@pytest.mark.parametrize("leftover", [noise(MIB, seed=9), noise(_SIZE, seed=9), _LAYER + b"more"])
def test_a_prefix_of_something_else_is_thrown_away(
    registry: RunningRegistry, store: Store, leftover: bytes
) -> None:
    _prefix(store).write_bytes(leftover)

    pull(store, f"{registry.http_address}/faulty/model:v1")

    _assert_arrived(store)


def test_a_complete_prefix_is_not_fetched_again(registry: RunningRegistry, store: Store) -> None:
    _prefix(store).write_bytes(_LAYER)

    async def main() -> int:
        async with fault_proxy(registry.port) as proxy:
            await _pull_through(proxy, store)
            return proxy.delivered

    assert asyncio.run(main()) < MIB
    _assert_arrived(store)


def test_two_pulls_at_once_share_the_download(registry: RunningRegistry, store: Store) -> None:
    async def main() -> int:
        async with fault_proxy(registry.port) as proxy, open_registry(store) as client:
            reference = f"{proxy.address}/faulty/model:v1"
            results = await asyncio.gather(*[pulled(client, reference) for _ in range(2)])
            for result in results:
                assert result.model.id == _MODEL.id
                assert result.messages[-2].layer_current == _SIZE
            return proxy.delivered

    assert asyncio.run(main()) < _SIZE + _SLACK
    _assert_arrived(store)


def test_a_cancelled_pull_stops_and_keeps_what_arrived(
    registry: RunningRegistry, store: Store
) -> None:
    async def main() -> int:
        async with fault_proxy(registry.port) as proxy, open_registry(store) as client:
            first = await _under_way(client, proxy)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            kept = _prefix(store).stat().st_size
            assert kept > 2 * MIB

            proxy.stall_after = None
            before = proxy.delivered
            await pulled(client, f"{proxy.address}/faulty/model:v1")
            return proxy.delivered - before + kept

    assert asyncio.run(main()) < _SIZE + _SLACK
    _assert_arrived(store)


def test_one_of_two_pulls_may_leave(registry: RunningRegistry, store: Store) -> None:
    async def main() -> int:
        async with fault_proxy(registry.port) as proxy, open_registry(store) as client:
            first = await _under_way(client, proxy)
            # The second asks the registry itself what the name stands for, past the stalled proxy.
            joined = asyncio.Event()
            second = asyncio.create_task(
                client.pull(
                    f"{registry.http_address}/faulty/model:v1", report=lambda _: joined.set()
                )
            )
            await joined.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            proxy.released.set()
            assert (await second).id == _MODEL.id
            return proxy.delivered

    assert _SIZE < asyncio.run(main()) < _SIZE + _SLACK
    _assert_arrived(store)


def test_a_layer_that_another_process_fetches_is_waited_for(
    registry: RunningRegistry, store: Store, tmp_path: Path
) -> None:
    theirs = Store.open(store.root)

    async def main() -> int:
        async with fault_proxy(registry.port) as proxy, open_registry(store) as client:
            lock = theirs.blobs.lock(sha256(_LAYER))
            lock.acquire()
            await asyncio.to_thread(_prefix(store).write_bytes, _LAYER[:MIB])
            waiting = asyncio.Event()
            task = asyncio.create_task(
                client.pull(f"{proxy.address}/faulty/model:v1", report=lambda _: waiting.set())
            )
            await waiting.wait()
            await asyncio.to_thread(_prefix(store).write_bytes, _LAYER)
            await asyncio.to_thread(theirs.blobs.commit, sha256(_LAYER))
            lock.release()
            await task
            return proxy.delivered

    assert asyncio.run(main()) < MIB
    _assert_arrived(store)


def test_a_server_that_stops_ends_its_pulls(registry: RunningRegistry, store: Store) -> None:
    async def main() -> None:
        async with fault_proxy(registry.port) as proxy, open_registry(store) as client:
            task = await _under_way(client, proxy)
            await client.close()
            with pytest.raises(ShuttingDown):
                await task
            with pytest.raises(ShuttingDown):
                await pulled(client, f"{proxy.address}/faulty/model:v1")

    asyncio.run(main())
    assert _prefix(store).stat().st_size > 2 * MIB


def test_a_model_that_does_not_fit_is_refused_at_once(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(free=_SIZE - 1))

    with pytest.raises(DiskFull, match=str(_SIZE)) as failure:
        pull(store, f"{registry.http_address}/faulty/model:v1")

    assert failure.value.status == 507
    assert not _prefix(store).exists()


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_disk_that_fills_up(registry: RunningRegistry, store: Store) -> None:
    """/dev/full takes no byte, as a full disk does."""
    _prefix(store).symlink_to("/dev/full")

    with pytest.raises(DiskFull):
        pull(store, f"{registry.http_address}/faulty/model:v1")

    assert store.list() == []


def test_what_arrived_before_the_disk_was_full_is_kept(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Prefix.append

    def append(self: Prefix, pieces: Sequence[bytes]) -> None:
        if self.size > 2 * MIB:
            raise DiskFull("no room")
        original(self, pieces)

    with monkeypatch.context() as context:
        context.setattr(Prefix, "append", append)
        with pytest.raises(DiskFull):
            pull(store, f"{registry.http_address}/faulty/model:v1")
    assert _LAYER.startswith(_prefix(store).read_bytes())
    assert _prefix(store).stat().st_size > 2 * MIB

    pull(store, f"{registry.http_address}/faulty/model:v1")
    _assert_arrived(store)
