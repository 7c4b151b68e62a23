"""Ollama's pulls and pushes: what is told of them, and their ends."""

from __future__ import annotations

import asyncio
import json

import pytest

from model_runner.errors import RegistryUnreachable, RemoteModelNotFound
from model_runner.registry import Progress
from model_runner.store import Store
from support.control_planes import FakeRegistry, FakeScheduler, serving
from support.ollama import ask, lines, refusal
from support.stores import unpack_fixture

TINY = "docker.io/ai/tiny-script:latest"
ALIAS = "docker.io/fix/alias:two"


@pytest.fixture
def store(tmp_path):
    return Store.open(unpack_fixture(tmp_path))


LAYER = "sha256:" + "ab" * 32


class PullingRegistry(FakeRegistry):
    """A registry whose pulls end with a model of the store."""

    def __init__(self, script, model):
        super().__init__(script)
        self.model = model

    async def pull(self, reference, *, token=None, insecure=False, report):
        await super().pull(reference, token=token, insecure=insecure, report=report)
        return self.model


def test_a_pull_is_told_step_by_step(tmp_path, store):
    model = store.get(TINY)
    (cached,) = model.manifest.layers
    registry = PullingRegistry(
        [
            Progress("progress", "Downloaded: 0 MB", 10, LAYER, 10, 0),
            Progress("progress", "Downloaded: 0 MB", 10, LAYER, 10, 4),
            Progress("warning", "<odd>"),
            Progress("progress", "Downloaded: 0 MB", 10, LAYER, 10, 10),
            Progress("success", "Model pulled successfully"),
        ],
        model,
    )
    scheduler = FakeScheduler()
    (answer,) = ask(
        tmp_path,
        store,
        ("POST", "/api/pull", {"name": "Llama3.2", "insecure": True, "username": "x"}),
        registry=registry,
        scheduler=scheduler,
    )
    layer = {"status": "pulling abababababab", "digest": LAYER, "total": 10}
    assert lines(answer) == [
        {"status": "pulling manifest"},
        layer,
        {**layer, "completed": 4},
        {"status": "<odd>"},
        {**layer, "completed": 10},
        {
            "status": f"pulling {cached.digest[7:19]}",
            "digest": cached.digest,
            "total": cached.size,
            "completed": cached.size,
        },
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    assert (registry.pulled, registry.insecure) == ([("Llama3.2", None)], [True])
    assert scheduler.events == [("refresh",)]


def test_a_pull_without_a_stream(tmp_path, store):
    registry = PullingRegistry([Progress("success", "x")], store.get(TINY))
    body = {"model": "x", "stream": False}
    (answer,) = ask(tmp_path, store, ("POST", "/api/pull", body), registry=registry)
    assert (answer.status, answer.body) == (200, b'{"status":"success"}')
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RemoteModelNotFound("x"), "pull model manifest: file does not exist"),
        (RegistryUnreachable("no route"), "pull model manifest: no route"),
    ],
)
def test_a_pull_that_fails(tmp_path, store, error, text):
    streamed, whole = ask(
        tmp_path,
        store,
        ("POST", "/api/pull", {"model": "x"}),
        ("POST", "/api/pull", {"model": "x", "stream": False}),
        registry=FakeRegistry([error]),
    )
    assert lines(streamed) == [{"status": "pulling manifest"}, {"error": text}]
    assert refusal(whole) == (500, text)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_pull(tmp_path, store, stream):
    async def main():
        registry = FakeRegistry([asyncio.Event()])
        async with serving(tmp_path, registry=registry, store=store) as client:
            body = json.dumps({"model": "x", "stream": stream})
            asking = asyncio.ensure_future(client.send("POST", "/api/pull", data=body))
            await asyncio.wait_for(registry.began.wait(), 10)
            asking.cancel()
            await asyncio.wait_for(registry.cancelled.wait(), 10)

    asyncio.run(main())


def test_a_push_is_told_step_by_step(tmp_path, store):
    registry = FakeRegistry(
        [
            Progress("progress", "Uploaded: 0 MB", 10, LAYER, 10, 10, "push"),
            Progress("success", "Model pushed successfully", mode="push"),
        ]
    )
    (answer,) = ask(
        tmp_path,
        store,
        ("POST", "/api/push", {"name": "FIX/alias:TWO", "insecure": True}),
        registry=registry,
    )
    assert lines(answer) == [
        {"status": "retrieving manifest"},
        {"status": "pushing abababababab", "digest": LAYER, "total": 10, "completed": 10},
        {"status": "pushing manifest"},
        {"status": "success"},
    ]
    assert (registry.pushed, registry.insecure) == ([(ALIAS, None)], [True])


@pytest.mark.parametrize("name", ["nothing", "a b"])
def test_a_push_of_nothing(tmp_path, store, name):
    streamed, whole = ask(
        tmp_path,
        store,
        ("POST", "/api/push", {"model": name}),
        ("POST", "/api/push", {"model": name, "stream": False}),
    )
    first, second, last = lines(streamed)
    assert [first["status"], second["status"]] == [
        "retrieving manifest",
        "couldn't retrieve manifest",
    ]
    assert name in last["error"]
    assert refusal(whole) == (500, last["error"])
