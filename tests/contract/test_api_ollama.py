"""Ollama's API without inference, over a store that a real Docker Model Runner wrote."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone

import pytest

from model_runner.packaging import Extras, package_gguf
from model_runner.store import Store, gojson
from support.control_planes import FakeRunner, FakeScheduler
from support.ollama import ask, refusal
from support.stores import fixture_models, unpack_fixture
from support.tiny_gguf import tiny_projector, tiny_script

TINY = "docker.io/ai/tiny-script:latest"
FAR = "127.0.0.1:15000/fix/alias:three"


@pytest.fixture
def store(tmp_path):
    return Store.open(unpack_fixture(tmp_path))


def test_the_version_is_one_that_clients_take(tmp_path):
    get, head = ask(tmp_path, None, ("GET", "/api/version"), ("HEAD", "/api/version"))
    assert get.headers["content-type"] == "application/json; charset=utf-8"
    major, minor, patch = json.loads(get.body)["version"].split(".")
    assert (int(major), int(minor), int(patch)) >= (0, 6, 4)  # what VS Code wants
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_every_command_begins_with_a_head_of_the_root(tmp_path):
    (answer,) = ask(tmp_path, None, ("HEAD", "/"))
    assert (answer.status, answer.body) == (200, b"")


def test_there_is_no_cloud_and_no_account(tmp_path):
    status, me, out, keys, recommended, search, fetch, empty = ask(
        tmp_path,
        None,
        ("GET", "/api/status"),
        ("POST", "/api/me"),
        ("POST", "/api/signout"),
        ("DELETE", "/api/user/keys/c3NoL2VkMjU1MTk="),
        ("GET", "/api/experimental/model-recommendations"),
        ("POST", "/api/experimental/web_search", {"query": "x"}),
        ("POST", "/api/experimental/web_fetch", {"url": "x"}),
        ("POST", "/api/experimental/web_search"),
    )
    assert json.loads(status.body) == {"cloud": {"disabled": True, "source": "config"}}
    # Were it 401, the CLI would push nothing and end with success.
    assert (me.status, json.loads(me.body)) == (200, {"name": "model-runner"})
    assert refusal(out) == refusal(keys) == (401, "unauthorized")
    assert json.loads(recommended.body) == {"recommendations": []}
    assert refusal(search) == (403, "ollama cloud is disabled: web search is unavailable")
    assert refusal(fetch)[0] == 403
    assert refusal(empty) == (400, "missing request body")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/api/tags", "GET, HEAD"),
        ("PUT", "/api/version", "GET, HEAD"),
        ("HEAD", "/api/ps", "GET"),
        ("GET", "/api/show", "POST"),
        ("GET", "/api/delete", "DELETE"),
        ("PATCH", "/api/user/keys/a", "DELETE"),
    ],
)
def test_a_known_path_with_another_method(tmp_path, method, path, allow):
    (answer,) = ask(tmp_path, None, (method, path))
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == ("" if method == "HEAD" else "405 method not allowed")


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/Tags", "/api/nothing/"])
def test_an_unknown_path(tmp_path, path):
    (answer,) = ask(tmp_path, None, ("GET", path))
    assert (answer.status, answer.text) == (404, "404 page not found")
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_slash_too_many(tmp_path):
    get, post = ask(tmp_path, None, ("GET", "/api/tags/"), ("POST", "/api/show/", {}))
    assert (get.status, get.headers["location"]) == (301, "/api/tags")
    assert (post.status, post.headers["location"]) == (307, "/api/show")


def test_tags_have_a_line_for_each_name(tmp_path, store):
    (answer,) = ask(tmp_path, store, ("GET", "/api/tags"))
    models = json.loads(answer.body)["models"]
    expected = sum(max(1, len(model.get("tags", ()))) for model in fixture_models())
    assert len(models) == expected
    names = {model["name"] for model in models}
    assert {"tiny-script:latest", "fix/alias:two", FAR} <= names
    tiny = next(model for model in models if model["name"] == "tiny-script:latest")
    found = store.get(TINY)
    assert tiny == {
        "name": "tiny-script:latest",
        "model": "tiny-script:latest",
        "modified_at": tiny["modified_at"],
        "size": sum(blob.size for blob in found.manifest.blobs),
        "digest": found.id.removeprefix("sha256:"),
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": found.config.parameters.replace(" ", ""),
            "quantization_level": found.config.quantization.removeprefix("MOSTLY_"),
            "context_length": int(found.config.gguf["llama.context_length"]),
            "embedding_length": int(found.config.gguf["llama.embedding_length"]),
        },
        "capabilities": tiny["capabilities"],
    }
    for model in models:
        assert len(model["digest"]) == 64
        assert ":" in model["name"] or len(model["name"]) == 12
        when = datetime.fromisoformat(model["modified_at"].replace("Z", "+00:00"))
        assert when.utcoffset() == timedelta(0)


def test_every_listed_name_can_be_shown(tmp_path, store):
    (listed,) = ask(tmp_path, store, ("GET", "/api/tags"))
    models = json.loads(listed.body)["models"]
    answers = ask(
        tmp_path, store, *(("POST", "/api/show", {"model": model["name"]}) for model in models)
    )
    for model, answer in zip(models, answers, strict=True):
        shown = json.loads(answer.body)
        assert answer.status == 200, model["name"]
        assert shown["capabilities"] == model["capabilities"]
        assert shown["modified_at"] == model["modified_at"]
        assert f"FROM {model['name']}\n" in shown["modelfile"]
        assert isinstance(shown["model_info"], dict)


def test_the_newest_comes_first(tmp_path, store):
    ids = [model["id"] for model in fixture_models()]
    manifest = store.root / "manifests" / "sha256" / ids[-1].removeprefix("sha256:")
    assert manifest.exists()
    os.utime(manifest, (4_000_000_000, 4_000_000_000))
    get, head = ask(tmp_path, store, ("GET", "/api/tags"), ("HEAD", "/api/tags"))
    first = json.loads(get.body)["models"][0]
    assert first["digest"] == ids[-1].removeprefix("sha256:")
    assert first["modified_at"] == "2096-10-02T07:06:40Z"
    assert (head.status, head.body) == (200, b"")


def test_an_empty_store(tmp_path):
    store = Store.open(tmp_path / "empty")
    tags, ps = ask(tmp_path, store, ("GET", "/api/tags"), ("GET", "/api/ps"))
    assert tags.body == ps.body == b'{"models":[]}'


def test_what_is_loaded(tmp_path, store):
    found = store.get(TINY)
    idle = datetime.now(timezone.utc) - timedelta(seconds=100)
    log = tmp_path / "engine.log"
    rows = [
        {"kind": "device", "name": "CUDA0", "self": 100, "model": 90, "context": 5, "compute": 5},
        {"kind": "host", "name": "Host", "self": 7},
    ]
    estimate = {"type": "fit_memory_breakdown", "data": {"unit": "MiB", "rows": rows}}
    log.write_text('{"type":"log","msg":"x"}\n' + json.dumps(estimate, separators=(",", ":")))
    runners = [
        FakeRunner(
            model="ai/tiny-script",
            model_id=found.id,
            last_used=idle,
            pid=os.getpid(),
            log=log,
            context_size=2048,
        ),
        FakeRunner("r2", model="fix/alias:two", model_id=found.id, keep_alive=-1, in_use=True),
        FakeRunner("r3", model="gone/x", model_id="sha256:" + "0" * 64, state="retiring"),
        FakeRunner("r4", model=found.id, model_id=found.id, state="loading"),
    ]
    (answer,) = ask(tmp_path, store, ("GET", "/api/ps"), scheduler=FakeScheduler(loaded=runners))
    now = datetime.now(timezone.utc)
    models = {model["name"]: model for model in json.loads(answer.body)["models"]}
    first, *_, last = models
    assert (first, last) == ("fix/alias:two", "gone/x:latest")
    tiny = models["tiny-script:latest"]
    assert tiny["digest"] == found.id.removeprefix("sha256:")
    assert tiny["size_vram"] == 100 * 1024 * 1024
    assert tiny["size"] > tiny["size_vram"] + 1024 * 1024  # this very process
    assert tiny["context_length"] == 2048
    assert tiny["details"]["family"] == "llama"
    assert "context_length" not in tiny["details"]
    assert _left(tiny, now) == pytest.approx(200, abs=20)
    assert _left(models["fix/alias:two"], now) > 200 * 365 * 86400
    assert _left(models["gone/x:latest"], now) < 0
    assert _left(models[found.id], now) == pytest.approx(300, abs=20)
    assert models["fix/alias:two"]["size_vram"] == 0


def _left(model, now):
    expires = datetime.fromisoformat(model["expires_at"].replace("Z", "+00:00"))
    return (expires - now).total_seconds()


@pytest.mark.parametrize(
    "name",
    ["tiny-script", "TINY-Script", " ai/tiny-script ", TINY, "fix/alias:TWO", "tiny-script:local"],
)
def test_show_by_every_spelling(tmp_path, store, name):
    new, old = ask(
        tmp_path,
        store,
        ("POST", "/api/show", {"model": name}),
        ("POST", "/api/show", {"MODEL": "", "Name": name, "unknown": 1}),
    )
    assert new.status == 200
    assert new.body == old.body
    shown = json.loads(new.body)
    assert shown["details"]["family"] == "llama"
    assert "context_length" not in shown["details"]


def test_show_tells_the_header(tmp_path, store):
    short, verbose = ask(
        tmp_path,
        store,
        ("POST", "/api/show", {"model": "tiny-script"}),
        ("POST", "/api/show", {"model": "tiny-script", "verbose": True}),
    )
    info = json.loads(short.body)["model_info"]
    assert info["general.architecture"] == "llama"
    assert isinstance(info["llama.context_length"], int)
    assert info["llama.attention.layer_norm_rms_epsilon"] == 1e-05
    assert info["general.parameter_count"] > 0
    assert info["tokenizer.ggml.tokens"] is None
    assert not {"general.name", "tokenizer.chat_template"} & set(info)
    shown = json.loads(verbose.body)
    tokens = shown["model_info"]["tokenizer.ggml.tokens"]
    assert len(tokens) == info["llama.vocab_size"]
    assert all(isinstance(token, str) for token in tokens)
    assert {"name", "type", "shape"} == set(shown["tensors"][0])
    counted = sum(_product(tensor["shape"]) for tensor in shown["tensors"])
    assert counted == info["general.parameter_count"]


def _product(shape):
    result = 1
    for size in shape:
        result *= size
    return result


def with_modelfile(tmp_path, fields):
    """A store with one model, its Modelfile noted as the server notes it."""
    store = Store.open(tmp_path / "models")
    licence = tmp_path / "LICENSE"
    licence.write_text("Do what you like.")
    extras = Extras(
        projector=tiny_projector(tmp_path / "mmproj.gguf"),
        licenses=(licence,),
    )
    package_gguf(store, tiny_script(tmp_path / "tiny.gguf"), "ai/base", extras=extras)
    base = store.get("ai/base")
    manifest = json.loads(base.manifest.raw)
    manifest["annotations"] = {"dev.model-runner.modelfile": json.dumps(fields)}
    store.write(gojson.encode(manifest), tags=["ai/made"])
    return store


def modelfile_lines(shown):
    return shown["modelfile"].splitlines()


def test_show_tells_what_a_model_was_made_with(tmp_path):
    fields = {
        "from": "ai/base",
        "template": "{{ .Prompt }}",
        "system": 'You are "terse".\nVery.',
        "parameters": {"temperature": 1.0, "top_p": 0.5, "stop": ["</s>", "a b"], "num_ctx": 512},
        "messages": [{"role": "user", "content": "Hi"}],
    }
    store = with_modelfile(tmp_path, fields)
    plain, command, changed, tags = ask(
        tmp_path,
        store,
        ("POST", "/api/show", {"model": "made"}),
        ("POST", "/api/show", {"model": "made"}, "ollama/0.33.0 (amd64 linux) Go/go1.24"),
        (
            "POST",
            "/api/show",
            {"model": "made", "system": "Other.", "options": {"top_p": 1, "seed": 3}},
        ),
        ("GET", "/api/tags"),
    )
    shown = json.loads(plain.body)
    assert shown["template"] == "{{ .Prompt }}"
    assert shown["system"] == fields["system"]
    assert shown["messages"] == fields["messages"]
    assert shown["license"] == "Do what you like."
    assert modelfile_lines(shown).count("LICENSE Do what you like.") == 1
    assert shown["parameters"].splitlines() == [
        "temperature                    1",
        "top_p                          0.5",
        'stop                           "</s>"',
        'stop                           "a b"',
        "num_ctx                        512",
    ]
    assert shown["details"]["parent_model"] == "base:latest"
    # Its `/save` makes a model of the parent, if there is one.
    assert json.loads(command.body)["details"]["parent_model"] == ""
    assert shown["projector_info"]["general.architecture"] == "clip"
    assert "vision" in shown["capabilities"]
    modelfile = shown["modelfile"]
    assert 'SYSTEM """You are "terse".\nVery."""' in modelfile
    assert "PARAMETER temperature 1\n" in modelfile
    assert 'PARAMETER stop "a b"\n' in modelfile
    assert "MESSAGE user Hi\n" in modelfile
    assert "TEMPLATE {{ .Prompt }}\n" in modelfile
    as_if = json.loads(changed.body)
    assert as_if["system"] == "Other."
    assert "top_p                          1\n" in as_if["parameters"]
    assert as_if["parameters"].endswith("seed                           3")
    names = {model["name"]: model for model in json.loads(tags.body)["models"]}
    assert names["made:latest"]["details"]["parent_model"] == "base:latest"


@pytest.mark.parametrize("text", ["", "null", "[]", '{"license": 5}', "{", '{"messages": [3]}'])
def test_annotations_of_strangers_break_nothing(tmp_path, text):
    store = with_modelfile(tmp_path, {})
    manifest = json.loads(store.get("ai/made").manifest.raw)
    manifest["annotations"] = {"dev.model-runner.modelfile": text}
    store.write(gojson.encode(manifest), tags=["ai/odd"])
    show, tags = ask(tmp_path, store, ("POST", "/api/show", {"name": "odd"}), ("GET", "/api/tags"))
    assert (show.status, tags.status) == (200, 200)


def test_a_model_without_its_files_is_shown_all_the_same(tmp_path, store):
    for layer in store.get(TINY).manifest.layers:
        store.blobs.path(layer.digest).unlink(missing_ok=True)
    show, tags = ask(
        tmp_path, store, ("POST", "/api/show", {"name": "tiny-script"}), ("GET", "/api/tags")
    )
    shown = json.loads(show.body)
    assert (show.status, shown["model_info"], shown["tensors"]) == (200, {}, [])
    assert tags.status == 200


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "missing request body"),
        ({}, 400, "model is required"),
        ("null", 400, "model is required"),
        ({"model": None}, 400, "model is required"),
        ({"model": "nothing"}, 404, "model 'nothing:latest' not found"),
        ({"model": "NoThing:V1"}, 404, "model 'nothing:V1' not found"),
        ({"model": "a b"}, 400, "invalid model name"),
        ({"model": "../x"}, 400, "invalid model name"),
        (
            {"model": "x:cloud"},
            403,
            "ollama cloud is disabled: remote model details are unavailable",
        ),
        ({"model": "x:8b-cloud"}, 403, None),
        ({"model": "x:cloud:local"}, 400, 'use either :local or :cloud, not both: "x:cloud:local"'),
    ],
)
def test_show_refuses(tmp_path, store, body, status, text):
    (answer,) = ask(tmp_path, store, ("POST", "/api/show", body))
    told = refusal(answer)
    assert told[0] == status
    assert text in {None, told[1]}


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/api/show", "model"),
        ("POST", "/api/copy", "source"),
        ("POST", "/api/pull", "model"),
        ("POST", "/api/push", "model"),
        ("DELETE", "/api/delete", "model"),
    ],
)
def test_bodies_that_are_none(tmp_path, store, method, path, field):
    good = json.dumps({field: "tiny-script"})
    bodies = ["", "{", "[]", json.dumps({field: 5}), b"\xff", "\ufeff" + good]
    answers = ask(tmp_path, store, *((method, path, body) for body in bodies))
    assert [refusal(answer)[0] for answer in answers] == [400] * len(bodies)


def test_what_stands_behind_a_body_is_ignored(tmp_path, store):
    (answer,) = ask(tmp_path, store, ("POST", "/api/show", '{"model":"x","model":"tiny-script"} }'))
    assert answer.status == 200


def test_copy_and_delete(tmp_path, store):
    scheduler = FakeScheduler()
    (copied,) = ask(
        tmp_path,
        store,
        ("POST", "/api/copy", {"source": "TINY-SCRIPT", "destination": "mine:V1"}),
        scheduler=scheduler,
    )
    assert (copied.status, copied.body) == (200, b"")
    assert copied.headers["content-length"] == "0"
    assert "content-type" not in copied.headers
    assert store.get("ai/mine:V1").id == store.get(TINY).id
    again, onto_itself, deleted, gone = ask(
        tmp_path,
        store,
        ("POST", "/api/copy", {"source": "mine:v1", "destination": "mine:v1"}),
        ("POST", "/api/copy", {"source": TINY, "destination": "tiny-script"}),
        ("DELETE", "/api/delete", {"model": "", "name": "Mine:v1"}),
        ("DELETE", "/api/delete", {"model": "mine:V1"}),
        scheduler=scheduler,
    )
    assert again.status == onto_itself.status == deleted.status == 200
    assert deleted.body == b""
    assert refusal(gone) == (404, "model 'mine:V1' not found")
    assert "docker.io/ai/mine:v1" not in store.get(TINY).tags
    assert scheduler.events == [("refresh",)] * 4


def test_the_last_name_deletes_the_model(tmp_path, store):
    model = store.get(TINY)
    answers = ask(
        tmp_path, store, *(("DELETE", "/api/delete", {"model": tag}) for tag in model.tags)
    )
    assert [answer.status for answer in answers] == [200] * len(model.tags)
    assert model.id not in {entry.id for entry in store.entries()}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/api/copy", {"source": "nix", "destination": "y"}, 404, 'model "nix" not found'),
        ("POST", "/api/copy", {"source": "%"}, 400, 'source "%" is invalid'),
        ("POST", "/api/copy", {"source": ""}, 400, 'source "" is invalid'),
        (
            "POST",
            "/api/copy",
            {"source": "tiny-script", "destination": "a b"},
            400,
            'destination "a b" is invalid',
        ),
        (
            "POST",
            "/api/copy",
            {"source": "tiny-script", "destination": "0123456789ab"},
            400,
            'destination "0123456789ab" is invalid',
        ),
        ("DELETE", "/api/delete", {"model": "nix"}, 404, "model 'nix' not found"),
        ("DELETE", "/api/delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("POST", "/api/push", {}, 400, "model is required"),
        ("POST", "/api/pull", {}, 400, "invalid model name"),
        ("POST", "/api/pull", {"name": "a b"}, 400, "invalid model name"),
        (
            "POST",
            "/api/pull",
            {"name": "x:cloud"},
            403,
            "ollama cloud is disabled: remote model is unavailable",
        ),
    ],
)
def test_refusals(tmp_path, store, method, path, body, status, text):
    (answer,) = ask(tmp_path, store, (method, path, body))
    assert refusal(answer) == (status, text)


def test_all_of_it_is_in_the_description(tmp_path):
    (answer,) = ask(tmp_path, None, ("GET", "/openapi.json"))
    paths = json.loads(answer.body)["paths"]
    shown = {path for path in paths if path.startswith("/api/")}
    assert {"/api/tags", "/api/ps", "/api/show", "/api/pull", "/api/push", "/api/copy"} <= shown
    fields = paths["/api/show"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "name", "verbose"} <= set(fields["properties"])
