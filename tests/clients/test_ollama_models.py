"""Ollama's Python SDK: lists, details, pulls, pushes, and models made of others."""

from __future__ import annotations

import datetime
import json
import uuid

import ollama
import pytest

from support.client_models import ABSENT, CALLER, ENCODER, MODELS, SPEAKER, SPOKEN, THINKER
from support.oci_push import push, stored_artifact
from support.oci_registry import oci_registry
from support.server import DEADLINE, add_model
from support.tiny_gguf import tiny_script, tiny_spoken

COLD = {"temperature": 0}


@pytest.fixture(scope="module")
def client(server):
    with ollama.Client(host=server.url, timeout=DEADLINE) as made:
        yield made


@pytest.fixture
def name(client):
    """A name that nobody has, and that nobody has afterwards."""
    fresh = f"mine/{uuid.uuid4().hex[:8]}"
    yield fresh
    if any(fresh in model.model for model in client.list().models):
        client.delete(fresh)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry with a model that the server does not have."""
    directory = tmp_path_factory.mktemp("registry")
    add_model(directory, "org/tiny", lambda path: tiny_spoken(path, ["▁Pulled", "▁well"]))
    (entry,) = json.loads((directory / "models" / "models.json").read_text())["models"]
    with oci_registry(directory / "data") as running:
        push(running, "org/tiny", "v1", stored_artifact(directory / "models", entry["id"]))
        yield running


def test_all_models_are_listed(client):
    models = {model.model: model for model in client.list().models}
    for expected in MODELS:
        # Listed is the shortest name.
        model = models[f"{expected.removeprefix('ai/')}:latest"]
        assert len(model.digest) == 64
        assert model.size > 100_000
        assert isinstance(model.modified_at, datetime.datetime)
        assert model.details.format == "gguf"
        assert model.details.family in {"llama", "bert"}
        assert model.details.quantization_level


@pytest.mark.parametrize(
    ("model", "capabilities"),
    [
        (SPEAKER, {"completion"}),
        (CALLER, {"completion", "tools"}),
        (THINKER, {"completion", "thinking"}),
        (ENCODER, {"embedding"}),
    ],
)
def test_a_model_is_shown(client, model, capabilities):
    shown = client.show(model)
    assert set(shown.capabilities) == capabilities
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.embedding_length"] == 64
    assert shown.modelfile.find("FROM ") >= 0
    assert shown.details.format == "gguf"
    assert model == ENCODER or "im_start" in shown.template


@pytest.mark.parametrize("call", ["show", "delete"])
def test_an_absent_model_is_not_found(client, call):
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        getattr(client, call)(ABSENT)
    assert caught.value.status_code == 404


def test_a_copy_answers_and_is_deleted(client, name):
    assert client.copy(SPEAKER, name).status == "success"
    said = client.generate(name, "Hello", options=COLD)
    assert said.response.strip() == SPOKEN
    assert client.delete(name).status == "success"
    assert not any(name in model.model for model in client.list().models)
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.copy(ABSENT, name)
    assert caught.value.status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_is_made_of_another(client, name, stream):
    made = client.create(
        name,
        from_=SPEAKER,
        system="Be brief.",
        parameters={"num_predict": 3, "temperature": 0, "stop": ["never"]},
        license="none",
        stream=stream,
    )
    assert ([*made][-1] if stream else made).status == "success"
    shown = client.show(name)
    assert shown.modelfile.find("SYSTEM") >= 0
    assert "num_predict" in shown.parameters
    assert shown.license == "none"
    assert shown.details.parent_model
    answer = client.chat(name, [{"role": "user", "content": "Hello"}])
    assert (answer.done_reason, answer.eval_count) == ("length", 3)
    plain = client.chat(SPEAKER, [{"role": "user", "content": "Hello"}], options={"num_predict": 3})
    assert answer.prompt_eval_count > plain.prompt_eval_count


def test_a_model_is_made_of_a_file(client, name, tmp_path):
    digest = client.create_blob(tiny_script(tmp_path / "model.gguf"))
    statuses = [
        line.status for line in client.create(name, files={"model.gguf": digest}, stream=True)
    ]
    assert statuses[-1] == "success"
    assert client.generate(name, "Hello", options=COLD).response.strip() == SPOKEN


def test_a_model_is_not_made_of_nothing(client, name):
    with pytest.raises(ollama.ResponseError, match="neither") as caught:
        client.create(name)
    assert caught.value.status_code == 400


def test_a_model_is_pulled_with_its_progress_shown(client, registry):
    reference = f"{registry.address}/org/tiny:v1"
    lines = list(client.pull(reference, insecure=True, stream=True))
    assert lines[0].status == "pulling manifest"
    assert lines[-1].status == "success"
    layers = [line for line in lines if line.digest]
    assert layers
    assert all(line.digest.startswith("sha256:") and line.total for line in layers)
    assert layers[-1].completed == layers[-1].total
    assert client.generate(reference, "Hello", options=COLD).response == " Pulled well"
    assert client.pull(reference, insecure=True).status == "success"
    client.delete(reference)


def test_a_model_is_pushed(client, registry):
    reference = f"{registry.address}/org/pushed:v1"
    client.copy(SPEAKER, reference)
    lines = list(client.push(reference, insecure=True, stream=True))
    assert lines[-1].status == "success"
    client.delete(reference)
    assert client.pull(reference, insecure=True).status == "success"
    assert client.generate(reference, "Hello", options=COLD).response.strip() == SPOKEN
    client.delete(reference)


@pytest.mark.parametrize("stream", [False, True])
def test_a_pull_of_what_is_not_there_says_so(client, registry, stream):
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull(f"{registry.address}/org/absent:v1", insecure=True, stream=stream))


def test_the_version_is_told(server):
    version = server.request("/api/version").json()["version"]
    assert all(part.isdigit() for part in version.split(".")[:2])
    assert server.request("/", method="HEAD").status == 200
