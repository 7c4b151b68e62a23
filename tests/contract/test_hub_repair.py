"""Damaged files of models that came from a hub: only what is wrong with them is fetched again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from model_runner.api import repairing
from model_runner.errors import ModelRunnerError, RegistryUnreachable, UnsupportedModel
from model_runner.registry import marks
from model_runner.store import Store
from support import tiny_gguf
from support.hub_double import HubDouble, hub_double
from support.oci_push import noise, sha256
from support.pulling import forget_hub, forget_logins, open_registry, pull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model_runner.api.services import Services
    from model_runner.registry import Progress
    from model_runner.store import Model
    from support.hub_double import Exchange

NAME = "hf.co/Org/Tiny-GGUF"
TAG = "huggingface.co/org/tiny-gguf:latest"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of some ranges and a little more."""
    path = tiny_gguf.tiny_script(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return path.read_bytes() + noise(5 * MIB + 12345)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gguf: bytes) -> Iterator[HubDouble]:
    forget_logins(monkeypatch, tmp_path)
    monkeypatch.setattr(marks, "RANGE", MIB)
    monkeypatch.setattr(marks, "_HEAD", f"sha256 {MIB}\n".encode())
    with hub_double() as double:
        forget_hub(monkeypatch, tmp_path, double.endpoint)
        double.publish("Org/Tiny-GGUF", {"tiny-Q4_K_M.gguf": gguf, "LICENSE": b"MIT"})
        yield double


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "models")


@pytest.fixture
def model(hub: HubDouble, store: Store) -> Model:
    """Pulled, before the repository goes on without it."""
    found = pull(store, NAME).model
    hub.seen.clear()
    return found


def flip(store: Store, digest: str, *offsets: int) -> None:
    path = store.blobs.path(digest)
    path.chmod(0o644)
    with path.open("rb+") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


def repaired(store: Store) -> bool:
    """Verify and repair as the API does; whether it says that the model is whole."""
    (entry,) = (entry for entry in store.entries() if entry.tags)
    verification = store.verify(entry.id)
    while verification.step():
        pass
    assert verification.damaged
    messages: list[Progress] = []

    async def main() -> bool:
        async with open_registry(store) as registry:
            services = cast("Services", SimpleNamespace(store=store, registry=registry))
            return await repairing.repair(services, verification, messages.append)

    return asyncio.run(main())


def assert_whole(store: Store, model: Model) -> None:
    """The very model, and no other one."""
    assert [(one.id, one.tags) for one in store.list()] == [(model.id, (TAG,))]
    verification = store.verify(model.id)
    while verification.step():
        pass
    assert verification.findings == []
    # What was mended is not left beside it.
    weights = store.blobs.path(model.manifest.layers[0].digest).name
    assert not list((store.root / ".quarantine").glob(f"{weights}*"))


@pytest.mark.parametrize(("offsets", "ranges"), [([3], 1), ([MIB, MIB + 9], 1), ([5, 4 * MIB], 2)])
def test_a_flipped_byte_takes_a_range(
    hub: HubDouble, store: Store, model: Model, gguf: bytes, offsets: list[int], ranges: int
) -> None:
    flip(store, sha256(gguf), *offsets)

    assert repaired(store)

    assert 0 < hub.served() <= ranges * MIB
    assert_whole(store, model)


def test_what_was_taken_out_before_is_mended(
    hub: HubDouble, store: Store, model: Model, gguf: bytes
) -> None:
    """A user verifies, is told what is wrong, and then repairs."""
    flip(store, sha256(gguf), 7)
    verification = store.verify(model.id)
    while verification.step():
        pass
    assert not store.blobs.has(sha256(gguf))

    assert repaired(store)

    assert 0 < hub.served() <= MIB
    assert_whole(store, model)


def test_the_hub_has_gone_on(hub: HubDouble, store: Store, model: Model, gguf: bytes) -> None:
    """What is repaired is the commit that was pulled; the name does not move to the newest."""
    hub.publish("Org/Tiny-GGUF", {"tiny-Q4_K_M.gguf": gguf + b"newer", "LICENSE": b"GPL"})
    flip(store, sha256(gguf), 7)
    flip(store, sha256(b"MIT"), 0)
    store.blobs.path(model.manifest.config.digest).unlink()

    assert repaired(store)

    assert 0 < hub.served() <= MIB
    assert_whole(store, model)


def test_a_commit_that_is_gone_still_gives_its_bytes(
    hub: HubDouble, store: Store, model: Model, gguf: bytes
) -> None:
    """Its history was rewritten; the weights are the same in another commit."""
    hub.repositories["Org/Tiny-GGUF"].branches.clear()
    hub.publish("Org/Tiny-GGUF", {"tiny-Q4_K_M.gguf": gguf, "LICENSE": b"GPL"})
    flip(store, sha256(gguf), 7)

    assert repaired(store)
    assert 0 < hub.served() <= MIB
    assert_whole(store, model)

    flip(store, sha256(b"MIT"), 0)
    with pytest.raises(UnsupportedModel, match="no commit any more") as refusal:
        repaired(store)
    assert "pull it" in str(refusal.value.hint)
    assert [(one.id, one.tags) for one in store.list()] == [(model.id, (TAG,))]


def test_a_storage_without_ranges_sends_the_file(
    hub: HubDouble, store: Store, model: Model, gguf: bytes
) -> None:
    flip(store, sha256(gguf), 7)

    def whole(exchange: Exchange) -> bool:
        if exchange.host != "storage":
            return False
        exchange.send(200, gguf)
        return True

    hub.intercept = whole
    assert repaired(store)
    assert_whole(store, model)


def test_a_file_of_which_no_ranges_are_known_is_compared(
    hub: HubDouble, store: Store, model: Model, gguf: bytes
) -> None:
    """As one that Docker's tools have brought: all of it is fetched, once."""
    (store.root / ".ranges" / sha256(gguf).removeprefix("sha256:")).unlink()
    flip(store, sha256(gguf), 7)

    assert repaired(store)
    assert hub.served() == len(gguf)
    assert_whole(store, model)


def test_a_manifest_that_is_lost_comes_back_from_the_same_commit(
    hub: HubDouble, store: Store, model: Model, gguf: bytes
) -> None:
    (store.root / "manifests/sha256" / model.id.removeprefix("sha256:")).unlink()

    assert repaired(store)
    assert hub.served() == 0
    assert_whole(store, model)


def test_a_hub_that_cannot_be_asked_makes_nothing_worse(
    hub: HubDouble, store: Store, model: Model, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(store, sha256(gguf), 7)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RegistryUnreachable, match="HF_HUB_OFFLINE"):
        repaired(store)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.repositories["Org/Tiny-GGUF"].private = True
    with pytest.raises(ModelRunnerError):
        repaired(store)
    hub.repositories["Org/Tiny-GGUF"].private = False
    (damaged,) = (store.root / ".quarantine").iterdir()
    assert damaged.stat().st_size == len(gguf)
