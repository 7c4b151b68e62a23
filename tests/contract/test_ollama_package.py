"""The official `ollama` Python package against the control plane: what is not inference."""

from __future__ import annotations

import asyncio

import httpx
import ollama
import pytest

from model_runner.config import Settings
from model_runner.errors import ModelNotFound
from model_runner.registry import Registry
from model_runner.store import Store
from support.control_planes import FakeRunner, FakeScheduler, serving
from support.oci_registry import oci_registry
from support.pulling import QUICK, forget_logins
from support.stores import unpack_fixture

TINY = "docker.io/ai/tiny-script:latest"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with oci_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch, tmp_path):
    forget_logins(monkeypatch, tmp_path)


@pytest.fixture
def store(tmp_path):
    return Store.open(unpack_fixture(tmp_path))


def with_client(tmp_path, store, use, *, scheduler=None):
    """What `use` makes of a client, which blocks, so in a thread."""

    async def main():
        real = Registry(store, Settings(), patience=QUICK)
        parts = {"store": store, "registry": real, "scheduler": scheduler or FakeScheduler()}
        try:
            async with serving(tmp_path, **parts):
                return await asyncio.to_thread(in_thread)
        finally:
            await real.close()

    def in_thread():
        socket = httpx.HTTPTransport(uds=str(tmp_path / "control.sock"))
        with ollama.Client(host="http://localhost", transport=socket) as client:
            return use(client)

    return asyncio.run(main())


def test_lists_and_details(tmp_path, store):
    found = store.get(TINY)
    loaded = FakeScheduler(loaded=[FakeRunner(model="ai/tiny-script", model_id=found.id)])

    def use(client):
        return client.list(), client.show("tiny-script"), client.ps()

    listed, shown, running = with_client(tmp_path, store, use, scheduler=loaded)
    entry = next(model for model in listed.models if model.model == "tiny-script:latest")
    assert entry.digest == found.id.removeprefix("sha256:")
    assert entry.modified_at.utcoffset() is not None
    assert entry.details.family == "llama"
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "completion" in shown.capabilities
    assert [model.name for model in running.models] == ["tiny-script:latest"]
    assert running.models[0].expires_at.utcoffset() is not None


def test_copy_push_delete_pull(tmp_path, store, registry):
    name = f"127.0.0.1:{registry.port}/mine/tiny:v1"

    def use(client):
        client.copy("tiny-script", name)
        pushed = [step.status for step in client.push(name, insecure=True, stream=True)]
        assert client.push(name).status == "success"
        client.delete(name)
        with pytest.raises(ollama.ResponseError, match="not found") as gone:
            client.show(name)
        assert gone.value.status_code == 404
        pulled = list(client.pull(name, stream=True))
        assert client.pull(name, insecure=True).status == "success"
        return pushed, pulled

    model = store.get(TINY)
    pushed, pulled = with_client(tmp_path, store, use)
    assert (pushed[0], pushed[-1]) == ("retrieving manifest", "success")
    assert pulled[-1].status == "success"
    layers = {step.digest: step for step in pulled if step.digest}
    assert set(layers) == {layer.digest for layer in model.manifest.layers}
    assert all(step.completed == step.total for step in layers.values())
    assert store.get(name).id == model.id


def test_errors_are_the_packages_own(tmp_path, store, registry):
    missing = f"127.0.0.1:{registry.port}/mine/nothing"

    def use(client):
        told = []
        for call in (
            lambda: client.show("nothing"),
            lambda: client.delete("nothing"),
            lambda: client.copy("nothing", "x"),
            lambda: client.pull(missing),
            lambda: list(client.pull(missing, stream=True)),
            lambda: client.push("nothing"),
        ):
            with pytest.raises(ollama.ResponseError) as caught:
                call()
            told.append((caught.value.status_code, caught.value.error))
        return told

    assert with_client(tmp_path, store, use) == [
        (404, "model 'nothing:latest' not found"),
        (404, "model 'nothing' not found"),
        (404, 'model "nothing" not found'),
        (500, "pull model manifest: file does not exist"),
        (-1, "pull model manifest: file does not exist"),
        (500, str(ModelNotFound("nothing"))),
    ]
