"""Looking at a model of a hub that is not here: as a pull would make it, without its weights."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from model_runner.errors import (
    DigestMismatch,
    ModelRunnerError,
    RegistryError,
    RegistryUnauthorized,
    RegistryUnreachable,
    RemoteModelNotFound,
    UnsupportedModel,
)
from model_runner.store import Store
from support import tiny_gguf
from support.hub_double import HubDouble, hub_double
from support.oci_push import noise, sha256
from support.pulling import QUICK, forget_hub, forget_logins, open_registry, pull
from support.tiny_safetensors import write_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model_runner.registry import Patience
    from model_runner.store import Model
    from support.hub_double import Exchange

NAME = "hf.co/Org/Tiny-GGUF"
MIB = 1024 * 1024
# Looks have 2 s to their end in QUICK; a busy machine may need more.
CALM = replace(QUICK, small=60.0)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf.tiny_script(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    forget_logins(monkeypatch, tmp_path)
    with hub_double() as double:
        forget_hub(monkeypatch, tmp_path, double.endpoint)
        yield double


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "models")


def look(store: Store, reference: str, patience: Patience = CALM) -> Model:
    async def main() -> Model:
        async with open_registry(store, patience) as registry:
            return await registry.inspect(reference)

    found = asyncio.run(main())
    assert found.tags == ()
    return found


def assert_as_pulled(hub: HubDouble, store: Store, reference: str) -> int:
    """How much of the large files it took to know all of what a pull makes."""
    hub.seen.clear()
    found = look(store, reference)
    served = hub.served()
    assert store.list() == []
    assert not list(store.root.glob("blobs/**/*.*"))
    assert found == replace(pull(store, reference).model, tags=())
    return served


def grown(gguf: bytes) -> bytes:
    """A model with more weights than anybody needs to see."""
    return gguf + noise(8 * MIB)


def test_a_gguf_model_is_known_by_its_header(hub: HubDouble, store: Store, gguf: bytes) -> None:
    hub.publish(
        "Org/Tiny-GGUF",
        {
            "tiny-Q8_0.gguf": grown(gguf),
            "tiny-F16.gguf": gguf,
            "mmproj-F16.gguf": grown(b"projector"),
            "LICENSE": b"MIT",
            "README.md": b"# Tiny",
        },
    )

    served = assert_as_pulled(hub, store, f"{NAME}:q8_0")

    assert served <= MIB
    read = [seen.path.rpartition("/")[2] for seen in hub.asked("/resolve/")]
    assert "README.md" not in read


def test_a_header_that_is_longer_than_usual(hub: HubDouble, store: Store) -> None:
    """Such as a vocabulary of several megabytes: fetched on, no byte of it twice."""

    def text(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    header += text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    header += text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 50_000)
    header += b"".join(text(b"%060d" % number) for number in range(50_000))
    header += text(b"weight") + struct.pack("<IQIQ", 1, 8, 0, 0)
    hub.publish("Org/Tiny-GGUF", {"tiny-F16.gguf": grown(header)})

    served = assert_as_pulled(hub, store, NAME)

    assert len(header) < served <= 4 * MIB


def test_a_template_beside_the_weights(hub: HubDouble, store: Store, tmp_path: Path) -> None:
    bare = tiny_gguf.tiny_embed(tmp_path / "bare.gguf").read_bytes()
    settings = json.dumps({"chat_template": "{{ x }}"}).encode()
    hub.publish("Org/Tiny-GGUF", {"bare-F16.gguf": bare, "tokenizer_config.json": settings})

    assert_as_pulled(hub, store, NAME)


def test_shards_and_revisions(hub: HubDouble, store: Store, gguf: bytes, tmp_path: Path) -> None:
    first = tiny_gguf.tiny_random(tmp_path / "tiny.gguf", shards=2)
    shards = sorted(first.parent.glob("tiny-0*.gguf"))
    files = {f"Q8_0/{shard.name}": shard.read_bytes() for shard in shards}
    old = hub.publish("Org/Tiny-GGUF", files)
    hub.publish("Org/Tiny-GGUF", {"tiny-F16.gguf": gguf})

    assert_as_pulled(hub, store, f"{NAME}:Q8_0@{old.id}")


@pytest.mark.parametrize("lfs", [(".safetensors",), (".safetensors", ".json"), ()])
def test_a_safetensors_model(
    hub: HubDouble, store: Store, tmp_path: Path, lfs: tuple[str, ...]
) -> None:
    """Its settings, and small weights, may be kept either way."""
    shards = {}
    for number in (1, 2):
        names = {f"layer.{number}.{index}": ("BF16", [64, 64]) for index in range(300 * number)}
        path = write_safetensors(tmp_path / f"{number}.safetensors", names)
        shards[f"model-{number:05d}-of-00002.safetensors"] = path.read_bytes()
    texts = {
        "config.json": b'{"model_type": "llama", "max_position_embeddings": 2048}',
        "vision/config.json": b"{}",
        "tokenizer.json": b"{}",
    }
    hub.publish("Org/Tensors", {**shards, **texts}, lfs=lfs)

    served = assert_as_pulled(hub, store, "hf.co/Org/Tensors")

    assert served <= 256 * 1024 < sum(map(len, shards.values()))


def test_a_diffusion_model(hub: HubDouble, store: Store) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("model_index.json", noise(2 * MIB))
    hub.publish("Org/Diffusion", {"all.dduf": archive.getvalue()})

    assert assert_as_pulled(hub, store, "hf.co/Org/Diffusion") == 4


def test_a_connection_that_breaks_is_made_anew(hub: HubDouble, store: Store, gguf: bytes) -> None:
    hub.publish("Org/Tiny-GGUF", {"tiny-F16.gguf": grown(gguf)})
    cut: list[str] = []

    def cutting(exchange: Exchange) -> bool:
        if exchange.host != "storage" or cut:
            return False
        cut.append(exchange.where)
        exchange.send_response(206)
        exchange.send_header("Content-Range", f"bytes 0-{MIB - 1}/{len(grown(gguf))}")
        exchange.send_header("Content-Length", str(MIB))
        exchange.end_headers()
        exchange.wfile.write(gguf[:100_000])
        exchange.close_connection = True
        return True

    hub.intercept = cutting
    found = look(store, NAME)

    assert cut
    assert hub.downloads()[-1].headers["Range"] == f"bytes=100000-{MIB - 1}"
    hub.intercept = None
    assert found.id == pull(store, NAME).model.id


def header_of_array(kind: int, length: int) -> bytes:
    """A GGUF header without tensors, whose one value is an array."""
    return b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, kind, length)


@pytest.mark.parametrize("file", ["bytes", "texts", "creeping", "safetensors"])
def test_a_header_without_end_is_not_followed(hub: HubDouble, store: Store, file: str) -> None:
    beginnings = {
        "bytes": header_of_array(0, 70 * MIB),
        "texts": header_of_array(8, 9 * MIB),
        # Nothing says how long it is: arrays of more than 50 texts, one after the other.
        "creeping": b"GGUF" + struct.pack("<IQQ", 3, 0, 9_000),
        "safetensors": struct.pack("<Q", 90_000_000) + b"{",
    }
    body = beginnings[file]
    if file == "creeping":
        body += b"".join(
            struct.pack("<Q4sIIQ", 4, b"%04d" % number, 9, 0, 9_000) + bytes(9_000)
            for number in range(9_000)
        )
    ending = "safetensors" if file == "safetensors" else "gguf"
    data = body + bytes(96 * MIB - len(body))
    hub.publish("Org/Tiny-GGUF", {f"tiny-F16.{ending}": data})

    with pytest.raises(UnsupportedModel, match=f"more than {64 * MIB} bytes") as refusal:
        look(store, NAME)

    assert refusal.value.hint == "pull the model, then inspect it without `--remote`"
    assert hub.served() <= (64 * MIB if file == "creeping" else MIB)


def test_many_small_files_are_not_all_read(hub: HubDouble, store: Store, tmp_path: Path) -> None:
    weights = write_safetensors(tmp_path / "w", {"w": ("BF16", [4, 4])}).read_bytes()
    texts = {f"{number}.txt": bytes(8 * MIB) for number in range(9)}
    hub.publish("Org/Tensors", {"model.safetensors": weights, **texts})

    with pytest.raises(UnsupportedModel, match=f"more than {64 * MIB} bytes"):
        look(store, "hf.co/Org/Tensors")

    assert len(hub.asked("/resolve/")) <= 9


def test_a_storage_that_says_nothing_more_is_given_up(
    hub: HubDouble, store: Store, gguf: bytes
) -> None:
    hub.publish("Org/Tiny-GGUF", {"tiny-F16.gguf": grown(gguf)})

    def stall(exchange: Exchange) -> bool:
        if exchange.host != "storage":
            return False
        exchange.send_response(206)
        exchange.send_header("Content-Range", f"bytes 0-{MIB - 1}/{len(grown(gguf))}")
        exchange.send_header("Content-Length", str(MIB))
        exchange.end_headers()
        exchange.wfile.write(gguf[:1000])
        exchange.rfile.read(1)  # until nobody waits any more
        exchange.close_connection = True
        return True

    hub.intercept = stall
    with pytest.raises(RegistryUnreachable, match="within 1 seconds"):
        look(store, NAME, replace(QUICK, small=1.0, stall=60.0))


def test_a_source_without_ranges_sends_no_gigabytes(
    hub: HubDouble, store: Store, gguf: bytes
) -> None:
    data = grown(gguf)
    hub.publish("Org/Tiny-GGUF", {"tiny-F16.gguf": data})

    def whole(exchange: Exchange) -> bool:
        if exchange.host != "storage":
            return False
        exchange.send(200, data)
        return True

    hub.intercept = whole
    with pytest.raises(RegistryError, match="as a whole only") as refusal:
        look(store, NAME)
    assert "pull the model" in str(refusal.value.hint)


def test_what_is_no_model_is_refused_as_by_a_pull(hub: HubDouble, store: Store) -> None:
    """The same words, but for the directory that a pull has the file in."""
    for name, data in {
        "Text": b"<html>" * 1000,
        "Cut": b"GGUF" + struct.pack("<IQQ", 3, 10, 10),
        "Old": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    }.items():
        hub.publish(f"Org/{name}", {"tiny-F16.gguf": data})
        with pytest.raises(UnsupportedModel) as looked:
            look(store, f"hf.co/Org/{name}")
        with pytest.raises(UnsupportedModel) as pulled:
            pull(store, f"hf.co/Org/{name}")
        assert looked.value.message == pulled.value.message
        assert looked.value.hint == pulled.value.hint


def test_refusals_are_those_of_a_pull(
    hub: HubDouble, store: Store, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("Org/Tiny-GGUF", {"tiny-Q8_0.gguf": gguf})
    repository = hub.repositories["Org/Tiny-GGUF"]

    def refused(reference: str, kind: type[ModelRunnerError], text: str) -> None:
        with pytest.raises(kind, match=text):
            look(store, reference)

    refused("hf.co/Org/None", RemoteModelNotFound, "Org/None")
    refused(f"{NAME}@no-such-branch", RemoteModelNotFound, "Tiny")
    refused(f"{NAME}:Q4_K_M", UnsupportedModel, "has no `Q4_K_M`")
    repository.gated, repository.readers = True, {"owner"}
    refused(NAME, RegistryUnauthorized, "is gated")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    refused(NAME, RegistryUnauthorized, "refused the token")
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    assert look(store, NAME).config.architecture == "llama"
    assert {seen.token for seen in hub.downloads()} == {None}

    def busy(exchange: Exchange) -> bool:
        exchange.fail(429, "Too many requests", ratelimit='"api";r=0;t=299')
        return True

    hub.intercept = busy
    refused(NAME, RegistryUnreachable, "in 299 seconds, as it asks")
    hub.seen.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(NAME, RegistryUnreachable, "HF_HUB_OFFLINE is set")
    assert hub.seen == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    refused(NAME, RegistryUnreachable, "cannot be reached")
    assert store.list() == []


def test_a_mirror_that_is_behind_is_noticed(hub: HubDouble, store: Store, gguf: bytes) -> None:
    """The ID is of the digest that was listed, so other bytes must not be described under it."""
    hub.publish("Org/Tiny-GGUF", {"tiny-F16.gguf": gguf})

    def lie(exchange: Exchange) -> bool:
        if "/resolve/" not in exchange.where:
            return False
        exchange.send(
            302,
            headers={
                "X-Linked-Etag": f'"{sha256(b"other").removeprefix("sha256:")}"',
                "Location": f"{hub.storage}/objects/x?signature=a%2Bb%3D",
            },
        )
        return True

    hub.intercept = lie
    with pytest.raises(DigestMismatch, match="another file than it listed"):
        look(store, NAME)
