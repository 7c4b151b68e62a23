"""The room that pulls need: kept for those under way, refused to others, and used up midway."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from model_runner.errors import DiskFull
from model_runner.registry.parts import PartFiles
from model_runner.store import Store
from support.fault_proxy import FaultProxy, fault_proxy
from support.oci_push import make_artifact, noise, push, sha256
from support.oci_registry import RunningRegistry, oci_registry
from support.pulling import forget_logins, open_registry, pull, pulled
from support.small_disks import on_disk_of

if TYPE_CHECKING:
    from pathlib import Path

    from model_runner.registry import Progress, Registry
    from model_runner.store import Model

MIB = 1024 * 1024
_SIZE = 16 * MIB
_LAYER = noise(_SIZE, seed=1)
_MODEL = make_artifact(_LAYER)
_OTHER = make_artifact(noise(_SIZE, seed=2))

# Of the pull in a process of its own; and heads, manifests and configurations.
_PART = MIB // 2
_SLACK = 2 * MIB


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with oci_registry(tmp_path_factory.mktemp("registry")) as running:
        push(running, "room/model", "v1", _MODEL)
        push(running, "room/other", "v1", _OTHER)
        yield running


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch, tmp_path):
    forget_logins(monkeypatch, tmp_path)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "models")


@dataclass
class _Usage:
    free: int


async def _under_way(client: Registry, proxy: FaultProxy) -> asyncio.Task[Model]:
    """A pull that hangs after 4 MiB, more than 2 of them on disk."""
    proxy.stall_after = 4 * MIB
    begun = asyncio.Event()

    def report(message: Progress) -> None:
        if message.layer_current > 2 * MIB:
            begun.set()

    reference = f"{proxy.address}/room/model:v1"
    task = asyncio.create_task(client.pull(reference, report=report))
    await begun.wait()
    return task


def _on_a_disk_of(monkeypatch: pytest.MonkeyPatch, store: Store, size: int) -> None:
    def usage(_: Path) -> _Usage:
        return _Usage(size - sum(file.stat().st_size for file in store.root.glob("blobs/*/*")))

    monkeypatch.setattr("shutil.disk_usage", usage)


def test_of_two_pulls_that_do_not_fit_together_the_second_is_refused(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if another process has begun the first, and half of it is here."""
    other = f"{registry.http_address}/room/other:v1"
    _on_a_disk_of(monkeypatch, store, _SIZE * 3 // 2)

    async def main() -> None:
        elsewhere = Store.open(store.root)
        async with (
            fault_proxy(registry.port) as proxy,
            open_registry(store) as client,
            open_registry(elsewhere) as another,
        ):
            first = await _under_way(client, proxy)
            with pytest.raises(DiskFull, match="of which pulls that are under way take") as failure:
                await pulled(another, other)
            assert "wait for them" in (failure.value.hint or "")
            proxy.released.set()
            model = await first
            # Now it is the disk that is too small.
            with pytest.raises(DiskFull, match="the disk of the model store has") as failure:
                await pulled(another, other)
            assert "wait" not in (failure.value.hint or "")
            await asyncio.to_thread(store.delete, model.id)
            await pulled(another, other)

    asyncio.run(main())


def test_what_two_pulls_share_takes_its_room_once(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_a_disk_of(monkeypatch, store, _SIZE * 5 // 4)

    async def main() -> None:
        async with fault_proxy(registry.port) as proxy, open_registry(store) as client:
            first = await _under_way(client, proxy)
            reference = f"{registry.http_address}/room/model:v1"
            second = asyncio.create_task(pulled(client, reference))
            proxy.released.set()
            assert (await first).id == (await second).model.id

    asyncio.run(main())


def test_a_pull_that_needs_the_last_byte_is_refused(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index and the configuration take some, too."""
    _on_a_disk_of(monkeypatch, store, _SIZE)
    with pytest.raises(DiskFull, match=f"needs {_SIZE} bytes and {_SIZE // 64} to spare"):
        pull(store, f"{registry.http_address}/room/model:v1")
    _on_a_disk_of(monkeypatch, store, _SIZE + _SIZE // 64)
    pull(store, f"{registry.http_address}/room/model:v1")
    assert not list(store.root.rglob("*.incomplete"))


def test_what_is_here_in_parts_needs_no_room(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = store.blobs.incomplete_path(sha256(_LAYER))
    prefix.write_bytes(_LAYER[: 2 * MIB])
    PartFiles(prefix).append(4 * MIB, [_LAYER[4 * MIB : 7 * MIB]])
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(11 * MIB - 1))
    with pytest.raises(DiskFull, match=str(11 * MIB)):
        pull(store, f"{registry.http_address}/room/model:v1")
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(12 * MIB))
    assert pull(store, f"{registry.http_address}/room/model:v1").model.id == _MODEL.id


@pytest.mark.parametrize("connections", [1, 8])
def test_a_pull_onto_a_real_disk_that_fills_up(
    registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    """It says so, and keeps what has come; once there is room the next goes on from there."""
    monkeypatch.setenv("MODEL_RUNNER_PULL_CONNECTIONS", str(connections))
    disk = tmp_path / "disk"
    disk.mkdir()
    before = on_disk_of(40, disk)

    async def story() -> int:
        async with fault_proxy(registry.port) as proxy:
            proxy.rate = 4 * MIB
            await pull_twice(proxy)
            return proxy.delivered

    async def pull_twice(proxy: FaultProxy) -> None:
        process = await asyncio.create_subprocess_exec(
            *before, sys.executable, "-m", "support.full_disk_puller", str(disk / "models"),
            f"{proxy.address}/room/model:v1",
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0
        arrived_bytes, model_id = output.split()
        assert int(arrived_bytes) > 4 * MIB
        assert model_id.decode() == _MODEL.id

    # Each connection had something on its way that there was no room for.
    lost = 6 * _PART if connections > 1 else _PART
    assert asyncio.run(story()) < _SIZE + lost + _SLACK
