"""`/api/blobs`, `/api/create` and the data plane's templates, over a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import time

import pytest

from model_runner.config import Settings
from model_runner.errors import RemoteModelNotFound
from model_runner.formats.rendering import render
from model_runner.packaging import package_gguf
from model_runner.registry import Progress
from model_runner.store import Store, manifests
from model_runner.store.modelfile import Message, Modelfile
from support.control_planes import FakeRegistry, FakeScheduler, serving
from support.server import wait_until
from support.tiny_gguf import CHAT_TEMPLATE, tiny_lora, tiny_projector, tiny_random, tiny_script
from support.tiny_safetensors import write_safetensors

GRACE = 3600.0
LEGACY = "{{ if .System }}<{{ .System }}>{{ end }}[{{ .Prompt }}]{{ .Response }};"


@pytest.fixture(scope="module")
def ggufs(tmp_path_factory):
    """Files that take a while to make, by what they are."""
    directory = tmp_path_factory.mktemp("ggufs")
    made = {
        "script": tiny_script,
        "random": tiny_random,
        "projector": tiny_projector,
        "lora": tiny_lora,
    }
    return {name: make(directory / f"{name}.gguf") for name, make in made.items()}


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store")


@pytest.fixture
def base(store, ggufs):
    return package_gguf(store, ggufs["script"], "ai/base")


def ask(tmp_path, store, *requests, **parts):
    """Answers to (method, path, body), in order."""

    async def main():
        given = {"store": store, **parts}
        async with serving(tmp_path, **given) as client:
            answers = []
            for method, path, body in requests:
                data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
                answers.append(await client.send(method, path, data=data))
            return answers

    return asyncio.run(main())


def create(tmp_path, store, **fields):
    """The last line; the words of all of them."""
    (answer,) = ask(tmp_path, store, ("POST", "/api/create", fields))
    assert answer.status == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return lines[-1], [line.get("status") for line in lines]


def refused(tmp_path, store, **fields):
    """What is wrong, without a stream."""
    (answer,) = ask(tmp_path, store, ("POST", "/api/create", {**fields, "stream": False}))
    return answer.status, json.loads(answer.body)["error"]


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def send(tmp_path, store, *paths):
    """Names and digests of files that were sent."""
    contents = {path.name: path.read_bytes() for path in paths}
    digests = {name: digest_of(content) for name, content in contents.items()}
    posts = [("POST", f"/api/blobs/{digests[name]}", contents[name]) for name in contents]
    for answer in ask(tmp_path, store, *posts):
        assert answer.status in {200, 201}
        assert answer.body == b""
    return digests


def prompt(store, name, *messages):
    """What the chat template of a package makes of user messages."""
    layers = [x for x in store.get(name).manifest.layers if x.media_type == manifests.CHAT_TEMPLATE]
    template = store.blobs.read(layers[0].digest).decode()
    return render(template, {"messages": [{"role": "user", "content": text} for text in messages]})


# Blobs


def test_a_blob_is_there_once_it_was_sent(tmp_path, store):
    content = b"x" * (5 << 20)
    path = f"/api/blobs/{digest_of(content)}"
    dashed = path.replace("sha256:", "sha256-")
    asked = [("HEAD", path, b""), ("POST", path, content), ("HEAD", dashed, b"")]
    answers = ask(tmp_path, store, *asked, ("POST", path, b"anything"), ("GET", path, b""))
    assert [answer.status for answer in answers] == [404, 201, 200, 200, 405]
    assert all(answer.body == b"" for answer in answers[:4])
    assert store.blobs.path(digest_of(content)).read_bytes() == content


def test_a_blob_that_is_another_is_refused_and_gone(tmp_path, store):
    expected, other = digest_of(b"a"), digest_of(b"b")
    wrong = ("POST", f"/api/blobs/{expected}", b"b")
    bad = ("POST", "/api/blobs/sha256:12", b"b")
    mismatch, invalid = ask(tmp_path, store, wrong, bad)
    assert mismatch.status == 400
    assert json.loads(mismatch.body) == {
        "error": f'digest mismatch, expected "{expected}", got "{other}"'
    }
    assert (invalid.status, json.loads(invalid.body)) == (400, {"error": "invalid digest format"})
    assert list((tmp_path / "store/blobs/sha256").iterdir()) == []


def test_a_sender_who_leaves_leaves_nothing(tmp_path, store):
    digest = digest_of(b"never whole")

    def files(pattern):
        return list(store.root.glob(f"blobs/sha256/{pattern}"))

    async def main():
        async with serving(tmp_path, store=store) as client:
            _, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
            head = (
                f"POST /api/blobs/{digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n"
            )
            writer.write(head.encode() + b"x" * (3 << 20))
            await writer.drain()
            await asyncio.to_thread(wait_until, lambda: files("*.tmp-*"), "a blob on its way")
            writer.close()
            await asyncio.to_thread(wait_until, lambda: not files("*"), "nothing left")
            return (await client.send("HEAD", f"/api/blobs/{digest}")).status

    assert asyncio.run(main()) == 404


def test_what_is_not_used_is_removed_after_an_hour_and_nothing_else_is(
    tmp_path, store, base, ggufs
):
    (tmp_path / "unused.gguf").write_bytes(b"unused")
    sent = send(tmp_path, store, ggufs["script"], tmp_path / "unused.gguf")
    foreign = store.blobs.put_bytes(b"of somebody's pull")
    old = time.time() - 2 * GRACE
    for path in store.root.glob("blobs/sha256/*"):
        os.utime(path, (old, old))
    fresh = send(tmp_path, store, ggufs["random"])
    Store.open(store.root)  # as a server does that is started
    assert not store.blobs.has(sent["unused.gguf"])
    assert store.blobs.has(sent["script.gguf"])
    assert store.blobs.has(foreign)
    assert store.blobs.has(fresh["random.gguf"])


# Models made of files


def test_a_model_of_a_file(tmp_path, store, ggufs):
    files = send(tmp_path, store, ggufs["script"])
    last, words = create(tmp_path, store, model="Mine:V1", files=files, license=["MIT", "more"])
    assert last == {"status": "success"}
    model = store.get("mine:V1")
    kinds = [layer.media_type for layer in model.manifest.layers]
    assert kinds == [manifests.GGUF, manifests.LICENSE, manifests.LICENSE]
    assert words == [
        "parsing GGUF",
        f"using existing layer {files['script.gguf']}",
        *(f"creating new layer {blob.digest}" for blob in model.manifest.blobs[1:]),
        "writing manifest",
        "success",
    ]
    assert model.config.architecture == "llama"
    assert store.bundle(model).gguf


def test_everything_that_can_go_along_does(tmp_path, store, ggufs):
    files = send(
        tmp_path,
        store,
        tiny_random(tmp_path / "random.gguf", shards=3),
        *(tmp_path / f"random-0000{n}-of-00003.gguf" for n in (2, 3)),
        ggufs["projector"],
    )
    adapters = send(tmp_path, store, ggufs["lora"])
    fields = {"files": files, "adapters": adapters, "template": LEGACY, "system": "S"}
    parameters = {"num_ctx": 128, "stop": ["a", "b"], "whatever": None, "unknown": 1.5}
    first, _ = create(tmp_path, store, model="all", **fields, parameters=parameters)
    assert first == {"status": "success"}
    model = store.get("all")
    assert [layer.media_type for layer in model.manifest.layers] == [
        *[manifests.GGUF] * 3,
        manifests.CHAT_TEMPLATE,
        manifests.PROJECTORS[0],
        manifests.LORA,
    ]
    assert model.config.context_size == 128
    assert Modelfile.of(model.manifest) == Modelfile(
        template=LEGACY,
        system="S",
        parameters={"num_ctx": 128, "stop": ["a", "b"], "unknown": 1.5},
    )
    bundle = store.bundle(model)
    assert bundle.projector
    assert len(bundle.adapters) == 1
    assert prompt(store, "all", "Hi") == "<S>[Hi]"
    create(tmp_path, store, model="again", **fields, parameters=parameters)
    assert store.get("again").id == model.id


def test_a_directory_of_safetensors(tmp_path, store):
    weights = write_safetensors(tmp_path / "model.safetensors", {"a": ("BF16", (1000,))})
    (tmp_path / "config.json").write_text('{"architectures": ["X"]}')
    files = send(tmp_path, store, weights, tmp_path / "config.json")
    last, words = create(tmp_path, store, model="safe", files=files)
    assert last == {"status": "success"}
    assert words[0] == "parsing safetensors"
    assert store.get("safe").config.format == "safetensors"
    assert (
        "give the template, too"
        in create(tmp_path, store, model="x", **{"from": "safe"}, system="S")[0]["error"]
    )


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({"a.gguf": b"GGML"}, "supplied file was not in GGUF format"),
        ({"a.bin": b"PK"}, "unknown type (files are .gguf or .safetensors)"),
        ({}, "unknown type (files are .gguf or .safetensors)"),
        ({"a.gguf": b"GGUF"}, "`a.gguf` is truncated"),
        ({"a.gguf": "script", "b.gguf": "random"}, "there are 2 weights: a.gguf, b.gguf"),
        ({"a-00001-of-00002.gguf": "script"}, "shard 2 of 2 is missing"),
        ({"a.gguf": "script", "readme": b"x"}, "`readme` is neither weights nor a projector"),
        ({"p.gguf": "projector"}, "there are 0 weights and 1 projectors"),
        ({"l.gguf": "lora"}, "`l.gguf` is an adapter"),
    ],
)
def test_files_that_are_no_model_are_told(tmp_path, store, ggufs, names, error):
    files = {}
    for name, content in names.items():
        path = tmp_path / name
        path.write_bytes(ggufs[content].read_bytes() if isinstance(content, str) else content)
        files |= send(tmp_path, store, path)
    last, words = create(tmp_path, store, model="bad", files=files)
    assert words[0] == "parsing GGUF"
    assert last["error"].startswith(error), last
    status, said = refused(tmp_path, store, model="bad", files=files)
    assert (status, said) == (400, last["error"])
    assert store.list() == []


# Models made of models


def test_what_is_given_replaces_is_merged_or_appended(tmp_path, store, base):
    create(
        tmp_path,
        store,
        model="one",
        **{"from": "AI/Base"},
        system="First.",
        parameters={"temperature": 0.5, "num_ctx": 100},
        messages=[{"role": "User", "content": "Who?"}],
        license="MIT",
    )
    last, words = create(
        tmp_path,
        store,
        model="two",
        **{"from": "one"},
        template=LEGACY,
        parameters={"temperature": 1, "top_k": 3},
        license="and more",
    )
    assert last == {"status": "success"}
    one, two = store.get("one"), store.get("two")
    assert Modelfile.of(two.manifest) == Modelfile(
        source="one",
        template=LEGACY,
        system="First.",
        parameters={"temperature": 1, "num_ctx": 100, "top_k": 3},
        messages=(Message("user", "Who?"),),
    )
    licenses = [x for x in two.manifest.layers if x.media_type == manifests.LICENSE]
    assert [store.blobs.read(layer.digest) for layer in licenses] == [b"MIT", b"and more"]
    assert two.manifest.layers[0] == base.manifest.layers[0]
    assert two.config.context_size == one.config.context_size == 100
    assert f"using existing layer {base.manifest.layers[0].digest}" in words
    assert prompt(store, "two", "Hi") == "<First.>[Who?\n\nHi]"
    assert prompt(store, "one", "Hi").startswith("<|im_start|>system\nFirst.<|im_end|>")
    (answer,) = ask(tmp_path, store, ("POST", "/api/show", {"model": "one"}))
    shown = json.loads(answer.body)
    assert shown["template"] == CHAT_TEMPLATE, "what a system prompt is put before, alone"
    # Back to the template of the weights, of which only the bare one is kept.
    create(tmp_path, store, model="three", **{"from": "one"}, system="Third.")
    assert "First." not in prompt(store, "three", "Hi")


def test_a_name_moves_and_the_model_that_had_it_goes(tmp_path, store, base):
    scheduler = FakeScheduler()
    body = {"model": "mine", "from": "ai/base", "system": "1"}
    changed = {"model": "MINE", "from": "mine", "system": "2"}
    asked = [("POST", "/api/create", body), ("POST", "/api/create", changed)]
    answers = ask(tmp_path, store, *asked, scheduler=scheduler)
    assert all(answer.text.endswith('{"status":"success"}\n') for answer in answers)
    assert {tag for model in store.list() for tag in model.tags} == {
        "docker.io/ai/base:latest",
        "docker.io/ai/mine:latest",
    }
    assert len(store.list()) == 2
    assert "2" in prompt(store, "mine", "Hi")
    assert scheduler.events.count(("refresh",)) == 2


def test_a_model_that_is_not_here_is_pulled_and_its_progress_told(tmp_path, store, ggufs):
    source = Store.open(tmp_path / "elsewhere")
    package_gguf(source, ggufs["script"], "ai/far")

    class Far(FakeRegistry):
        async def pull(self, reference, *, token=None, insecure=False, report):
            await super().pull(reference, token=token, insecure=insecure, report=report)
            return package_gguf(store, ggufs["script"], reference)

    layer = source.get("ai/far").manifest.layers[0]
    progress = Progress("progress", "", 9, layer.digest, layer.size, 4)
    registry = Far(script=[progress])
    body = {"model": "near", "from": "ai/far", "system": "S"}
    (answer,) = ask(tmp_path, store, ("POST", "/api/create", body), registry=registry)
    words = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert words[:2] == ["pulling manifest", f"pulling {layer.digest[7:19]}"]
    assert words[-2:] == ["writing manifest", "success"]
    assert registry.pulled == [("ai/far", None)]
    missing = FakeRegistry(script=[RemoteModelNotFound("ai/nowhere")])
    body = {"model": "near", "from": "ai/nowhere"}
    (answer,) = ask(tmp_path, store, ("POST", "/api/create", body), registry=missing)
    last = json.loads(answer.text.splitlines()[-1])
    assert last == {"error": "pull model manifest: file does not exist"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": ""}, "invalid model name"),
        ({"model": "../x"}, "invalid model name"),
        ({"model": "sha256:" + "0" * 64}, "invalid model name"),
        ({"from": ""}, "neither 'from' or 'files' was specified"),
        ({"from": "./m.gguf"}, "there is no file `./m.gguf`"),
        ({"from": "~/m.gguf"}, "there is no file `~/m.gguf`"),
        ({"files": {"a.gguf": "sha256:12"}, "from": ""}, "invalid digest format"),
        ({"files": {"/a.gguf": digest_of(b"")}, "from": ""}, "file path must be relative"),
        ({"files": {"a/../b": digest_of(b"")}, "from": ""}, "file path must be relative"),
        ({"files": {"a": digest_of(b"")}}, "both 'from' and 'files'"),
        ({"files": {"a": digest_of(b"none")}, "from": ""}, "the file `a` is not here"),
        ({"adapters": {"a": digest_of(b"none")}}, "the file `a` is not here"),
        ({"template": "{{ nonsense }}"}, "template error: the template calls `nonsense`"),
        ({"template": "{% if %}"}, "template error: line 1"),
        ({"quantize": "q4_K_M"}, "the weights are F32 and cannot be made Q4_K_M"),
        ({"renderer": "x"}, "`renderer` is of Ollama's own engine"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "a message has the role `robot`"),
        ({"messages": [{"role": "user", "images": ["x"]}]}, "a message of a model can only"),
        ({"parameters": {"num_ctx": "many"}}, "the parameter `num_ctx` is no number"),
        ({"parameters": []}, "invalid request body: `parameters`"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, store, base, fields, error):
    status, said = refused(tmp_path, store, **{"model": "x", "from": "ai/base", **fields})
    assert (status, said[: len(error)]) == (400, error)
    assert len(store.list()) == 1


def test_the_type_that_the_weights_have_is_no_change(tmp_path, store, base):
    body = {"model": "x", "from": "ai/base", "quantize": "f32", "stream": False}
    (answer,) = ask(tmp_path, store, ("POST", "/api/create", body))
    assert (answer.status, answer.text) == (200, '{"status":"success"}')


# Templates, for the data plane


def rendered(tmp_path, store, **fields):
    body = {"model": "mine", **fields}
    settings = Settings()
    (answer,) = ask(tmp_path, store, ("POST", "/_control/templates", body), settings=settings)
    return answer.status, json.loads(answer.body)


def test_a_prompt_is_made_with_a_template_of_the_request_or_of_the_model(tmp_path, store, base):
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    fill_in = "{{ if .Suffix }}<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ else }}{{ .Prompt }}{{ end }}"
    said = {"template": LEGACY, "system": "Own.", "messages": messages}
    create(tmp_path, store, model="mine", **{"from": "ai/base"}, **said)
    for fields, expected in [
        ({"prompt": "Hi"}, "<Own.>[Q]A;[Hi]"),
        ({"prompt": "Hi", "system": "Other."}, "<Other.>[Q]A;[Hi]"),
        ({"prompt": "Hi", "messages": []}, "<Own.>[Hi]"),
        ({"prompt": "Hi", "template": "{{ .Prompt }}!"}, "Q!A" + "Hi!"),
        ({"prompt": "a", "suffix": "b", "template": fill_in}, "<P>a<S>b<M>"),
        ({"prompt": "Hi", "template": "{{ messages[-1].content }}"}, "Hi"),
        ({"model": "MINE", "prompt": "Hi", "messages": []}, "<Own.>[Hi]"),
        ({"prompt": "x", "template": "{{ .ThinkLevel }}", "think": "low", "messages": []}, "low"),
    ]:
        assert rendered(tmp_path, store, **fields) == (200, {"prompt": expected})


@pytest.mark.parametrize(
    ("fields", "status", "code", "named"),
    [
        ({"template": "{{ if }}"}, 400, "invalid_template", "value is missing"),
        ({"template": "{{ .Prompt }}", "suffix": "x"}, 400, "invalid_template", "no place for a"),
        ({}, 400, "invalid_template", "not made with a template"),
        ({"model": "ai/none"}, 404, "model_not_found", "ai/none"),
        ({"messages": 3}, 400, "invalid_request", "`messages`"),
    ],
)
def test_a_mistake_is_the_callers(tmp_path, store, base, fields, status, code, named):
    got, refusal = rendered(tmp_path, store, **{"model": "ai/base", "prompt": "Hi", **fields})
    assert (got, refusal["code"]) == (status, code)
    assert named in refusal["message"]
