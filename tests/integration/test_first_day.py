"""The first day of a user, with curl: create a model, look at it, chat with it, delete it."""

from __future__ import annotations

import html
import json
from http.client import IncompleteRead

import pytest

from support.oci_push import push, stored_artifact
from support.oci_registry import oci_registry
from support.server import events, running_server
from support.stores import fixture_models, unpack_fixture

FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` sends


@pytest.fixture
def registry(tmp_path):
    """A registry with `ai/tiny-script` as Docker packaged it."""
    model = fixture_models()[0]
    with oci_registry(tmp_path / "registry") as running:
        push(
            running,
            "ai/tiny-script",
            "latest",
            stored_artifact(unpack_fixture(tmp_path), model["id"]),
        )
        yield running


def test_create_inspect_chat_metrics_delete(tmp_path, registry):
    name = f"{registry.address}/ai/tiny-script"
    model = fixture_models()[0]
    with running_server(tmp_path) as server:
        assert server.request("/models").json() == []

        body = json.dumps({"from": name}).encode()
        created = server.request("/models/create", body, method="POST", headers=FORM)
        assert created.headers["content-type"] == "text/plain"
        lines = [json.loads(html.unescape(line)) for line in created.text.splitlines()]
        assert lines[0]["type"] == "progress"
        assert lines[-1]["message"] == "Model pulled successfully"
        again = server.request("/models/create", body, headers={"Accept": "application/json"})
        assert again.json()["message"] == f"Using cached model: {model['config']['size']}"

        inspected = server.request(f"/models/{name}").json()
        assert inspected == {**model, "tags": [f"{name}:latest"]}
        assert server.request("/models/tiny-script").json() == inspected

        chat = server.chat(name, max_tokens=4)
        assert chat.json()["choices"][0]["message"]["content"].startswith(" Hello")
        assert server.metric("model_runner_completion_tokens_total") == 4

        (engine,) = server.engine_pids()
        deleted = server.request(f"/models/{name}", method="DELETE")
        effects = [{"Untagged": f"{name}:latest"}, {"Deleted": model["id"]}]
        assert deleted.json() == effects
        assert server.engine_pids() == [], f"engine {engine} of a deleted model"
        assert server.chat(name).status == 404
        assert server.request("/models").json() == []


def test_create_what_the_registry_does_not_have(tmp_path, registry):
    with running_server(tmp_path) as server:
        missing = server.request("/models/create", {"from": f"{registry.address}/ai/nothing"})
        assert (missing.status, missing.text) == (404, "Model not found\n")
        nonsense = server.request("/models/create", {"from": "a b"})
        assert nonsense.status == 400
        assert nonsense.text.startswith("Invalid model reference")


def test_a_model_that_is_answering_is_not_deleted(models):
    with running_server(models) as server:
        connection = server.connect()
        body = {"model": "ai/tiny-random", "messages": [{"role": "user", "content": "x"}]}
        stream = json.dumps({**body, "stream": True, "max_tokens": 3900})
        connection.request("POST", "/v1/chat/completions", stream)
        response = connection.getresponse()
        response.readline()
        refused = server.request("/models/ai/tiny-random", method="DELETE")
        assert refused.status == 409
        assert "is answering 1 request" in refused.text
        forced = server.request("/models/ai/tiny-random?force=true", method="DELETE")
        assert forced.status == 200
        with pytest.raises(IncompleteRead) as cut:
            response.read()
        last = json.loads(events(cut.value.partial)[-1])
        assert last["error"]["code"] == "engine_died"
        connection.close()
        assert server.chat("ai/tiny-random").status == 404
