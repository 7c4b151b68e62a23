"""import: models of other programs on this machine, and files, without a second copy."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from model_runner.cli import main
from model_runner.formats.rendering import render
from model_runner.store import Store, manifests
from model_runner.store.modelfile import Modelfile
from support.neighbours import hub_cache, ollama_model
from support.tiny_gguf import tiny_random, tiny_script, tiny_spoken


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """The bytes of two models that llama.cpp loads."""
    directory = tmp_path_factory.mktemp("gguf")
    return [make(directory / "x.gguf").read_bytes() for make in (tiny_script, tiny_random)]


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
    """A home directory, a store beside it, and no server."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MODELS_PATH", str(tmp_path / "store"))
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("MODEL_RUNNER_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("MODEL_RUNNER_HOST", f"unix://{tmp_path}/nobody.sock")
    for name in ("OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "DEFAULT_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    return home


def invoke(*arguments):
    return CliRunner().invoke(main, ["import", *arguments])


def succeed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def model_of(home, name):
    return Store.open(home.parent / "store").get(name)


def blob_of(home, name, number=0):
    store = Store.open(home.parent / "store")
    return store.blobs.path(store.get(name).manifest.layers[number].digest)


def test_a_model_of_ollama_is_linked(home, gguf):
    files = ollama_model(
        home / ".ollama/models",
        "registry.ollama.ai/library/llama3.2/3b",
        {
            "model": gguf[0],
            "template": b"{{ .Prompt }}",
            "license": b"do what you like",
            "system": b"You are a pirate.",
            "params": b'{"num_ctx": 2048, "stop": ["<end>"], "temperature": 0.2}',
        },
    )
    result = succeed("ollama:llama3.2:3b")
    assert "Imported ollama:llama3.2:3b as llama3.2:3b" in result.stdout
    assert "linked: it takes no room of its own" in result.stdout
    assert result.stderr == ""
    model = model_of(home, "llama3.2:3b")
    assert [layer.media_type for layer in model.manifest.layers] == [
        manifests.GGUF,
        manifests.LICENSE,
        manifests.CHAT_TEMPLATE,
    ]
    assert Modelfile.of(model.manifest) == Modelfile(
        system="You are a pirate.",
        parameters={"num_ctx": 2048, "stop": ["<end>"], "temperature": 0.2},
    )
    assert "<|im_start|>system\nYou are a pirate.<|im_end|>" in rendered(home, "llama3.2:3b")
    assert model.config.context_size == 2048
    assert blob_of(home, "llama3.2:3b").samefile(files["model"])
    files["model"].unlink()  # as `ollama rm` does
    assert blob_of(home, "llama3.2:3b").read_bytes() == gguf[0]


def rendered(home, name):
    """What the template that goes along makes of a question."""
    number = [layer.media_type for layer in model_of(home, name).manifest.layers].index(
        manifests.CHAT_TEMPLATE
    )
    template = blob_of(home, name, number).read_text()
    return render(template, {"messages": [{"role": "user", "content": "Hi"}]})


def test_a_template_of_ollama_is_taken_where_the_file_has_none(home, tmp_path):
    plain = tiny_spoken(tmp_path / "plain.gguf", ["\u2581Yes"], chat_template="").read_bytes()
    messages = json.dumps(
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I"}]
    )
    said = {"system": b"S", "messages": messages.encode()}
    good = {"model": plain, **said, "template": b"{{ .System }}[{{ .Prompt }}]{{ .Response }};"}
    root = home / ".ollama/models"
    ollama_model(root, "registry.ollama.ai/library/good/latest", good)
    assert succeed("ollama:good").stderr == ""
    assert rendered(home, "good") == "S[Who?]I;[Hi]"
    bad = {"model": plain, **said, "template": b"{{ .System }}{{ nonsense }}"}
    ollama_model(root, "registry.ollama.ai/library/bad/latest", bad)
    assert "the template calls `nonsense`" in succeed("ollama:bad").stderr
    assert rendered(home, "bad").startswith(
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nWho?"
    )


def test_importing_again_changes_nothing(home, gguf):
    ollama_model(home / ".ollama/models", "registry.ollama.ai/library/x/latest", {"model": gguf[0]})
    first, second = succeed("ollama:x"), succeed("ollama:x")
    assert first.stdout == second.stdout
    assert len(Store.open(home.parent / "store").list()) == 1


def test_names_of_ollama_become_names_here(home, gguf):
    root = home / ".ollama/models"
    for place, spelled, here in [
        ("registry.ollama.ai/someone/theirs/7b", "someone/theirs:7b", "someone/theirs:7b"),
        (
            "hf.co/org/Model-GGUF/Q4_K_M",
            "hf.co/org/Model-GGUF:Q4_K_M",
            "hf.co/org/model-gguf:Q4_K_M",
        ),
    ]:
        ollama_model(root, place, {"model": gguf[0]})
        succeed(f"ollama:{spelled}")
        assert model_of(home, here)


def test_a_projector_of_ollama_goes_along(home, gguf):
    layers = {"model": gguf[0], "projector": gguf[1]}
    ollama_model(home / ".ollama/models", "registry.ollama.ai/library/llava/latest", layers)
    succeed("ollama:llava")
    types = [layer.media_type for layer in model_of(home, "llava").manifest.layers]
    assert types == [manifests.GGUF, manifests.PROJECTORS[0]]


def test_ollama_may_keep_its_models_elsewhere(home, gguf, monkeypatch):
    ollama_model(home / "there", "registry.ollama.ai/library/x/latest", {"model": gguf[0]})
    assert invoke("ollama:x").exit_code == 4
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "there"))
    succeed("ollama:x")


def test_a_damaged_file_of_ollama_is_refused(home, gguf):
    files = ollama_model(
        home / ".ollama/models", "registry.ollama.ai/library/x/latest", {"model": gguf[0]}
    )
    content = bytearray(gguf[0])
    content[-1] ^= 1
    files["model"].write_bytes(content)
    result = invoke("ollama:x")
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert Store.open(home.parent / "store").list() == []


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [({"license": b"free"}, "holds no GGUF file"), ({"model": b"no gguf"}, "GGUF")],
)
def test_what_is_no_model_is_refused(home, layers, complaint):
    ollama_model(home / ".ollama/models", "registry.ollama.ai/library/x/latest", layers)
    result = invoke("ollama:x")
    assert result.exit_code == 1
    assert complaint in result.stderr


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..:..", "nothing", "a/b/c/d/e:f"])
def test_ollama_does_not_have_everything(home, gguf, name):
    ollama_model(home / ".ollama/models", "registry.ollama.ai/library/x/latest", {"model": gguf[0]})
    result = invoke(f"ollama:{name}")
    assert result.exit_code == 4
    assert "import --list" in result.stderr


def test_a_model_of_the_hugging_face_cache_is_linked(home, gguf):
    snapshot = hub_cache(
        home / ".cache/huggingface/hub",
        "org/Tiny-GGUF",
        {"tiny-Q4_K_M.gguf": gguf[0], "mmproj-F16.gguf": gguf[1], "README.md": b"read"},
    )
    result = succeed("hf-cache:org/Tiny-GGUF")
    assert "as huggingface.co/org/tiny-gguf:Q4_K_M" in result.stdout
    assert "linked" in result.stdout
    name = "hf.co/org/tiny-gguf:Q4_K_M"
    assert blob_of(home, name).samefile(snapshot / "tiny-Q4_K_M.gguf")
    assert not blob_of(home, name).is_symlink()
    types = [layer.media_type for layer in model_of(home, name).manifest.layers]
    assert types == [manifests.GGUF, manifests.PROJECTORS[0]]


def test_one_of_several_is_chosen_by_its_quantization(home, gguf):
    root = home / ".cache/huggingface/hub"
    files = {"x-Q8_0.gguf": gguf[0], "x-Q5_K_M.gguf": gguf[1], "sub/x-Q5_K_S.gguf": gguf[0] + b"0"}
    hub_cache(root, "org/x", files)
    unclear = invoke("hf-cache:org/x")
    assert unclear.exit_code == 1
    assert "Q8_0" in unclear.stderr
    assert "has no `Q5_K`" in invoke("hf-cache:org/x:Q5_K").stderr
    succeed("hf:org/x:q8_0")
    assert blob_of(home, "hf.co/org/x:Q8_0").read_bytes() == gguf[0]
    hub_cache(root, "org/x", {"x-Q4_K_M.gguf": gguf[1]})
    succeed("hf-cache:org/x", "usual")
    assert blob_of(home, "usual").read_bytes() == gguf[1]


def test_another_revision_of_the_cache_is_had_by_its_commit(home, gguf):
    root = home / ".cache/huggingface/hub"
    hub_cache(root, "org/x", {"x.gguf": gguf[0]}, commit="a" * 40)
    hub_cache(root, "org/x", {"x.gguf": gguf[1]}, commit="b" * 40)
    succeed("hf-cache:org/x@aaaaaaa", "old")
    succeed("hf-cache:org/x", "new")
    assert blob_of(home, "old").read_bytes() == gguf[0]
    assert blob_of(home, "new").read_bytes() == gguf[1]
    assert invoke("hf-cache:org/x@cccc", "none").exit_code == 4


@pytest.mark.parametrize("root", [".lmstudio/models", ".cache/lm-studio/models", "chosen"])
def test_a_model_of_lm_studio_is_copied_unless_it_is_to_be_linked(home, gguf, root):
    if root == "chosen":
        (home / ".lmstudio").mkdir()
        settings = {"downloadsFolder": str(home / "chosen")}
        (home / ".lmstudio/settings.json").write_text(json.dumps(settings))
    file = home / root / "publisher/tiny-GGUF/tiny-Q8_0.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(gguf[0])
    copied = succeed("lmstudio:publisher/tiny-GGUF")
    assert "linked" not in copied.stdout
    assert not blob_of(home, "hf.co/publisher/tiny-gguf:Q8_0").samefile(file)
    Store.open(home.parent / "store").delete("hf.co/publisher/tiny-gguf:Q8_0")
    linked = succeed("--link", "lmstudio:publisher/tiny-GGUF/tiny-Q8_0.gguf", "mine")
    assert "linked" in linked.stdout
    assert blob_of(home, "mine").samefile(file)


def test_a_file_is_copied_and_may_be_edited(home, gguf):
    file = home / "Tiny Model_v2-Q8_0.gguf"
    file.write_bytes(gguf[0])
    result = succeed(str(file))
    assert "as tiny-model_v2-q8_0" in result.stdout
    file.write_bytes(b"something else")
    assert blob_of(home, "tiny-model_v2-q8_0").read_bytes() == gguf[0]


def test_shards_and_directories_are_taken_whole(home, gguf, tmp_path):
    directory = home / "sharded"
    directory.mkdir()
    for number in (1, 2):
        (directory / f"big-0000{number}-of-00002.gguf").write_bytes(gguf[number - 1])
    succeed(str(directory), "sharded")
    assert len(model_of(home, "sharded").manifest.layers) == 2
    (directory / "big-00002-of-00002.gguf").unlink()
    result = invoke("sharded/big-00001-of-00002.gguf")
    assert result.exit_code == 1
    assert "are missing" in result.stderr


def test_a_name_that_nobody_chose_is_not_taken_from_another_model(home, gguf):
    for name, content in (("a", gguf[0]), ("b", gguf[1] + b"longer")):
        (home / name).mkdir()
        (home / name / "same.gguf").write_bytes(content)
    succeed("a/same.gguf")
    refused = invoke("b/same.gguf")
    assert refused.exit_code == 5
    assert "import b/same.gguf NAME" in refused.stderr
    succeed("b/same.gguf", "same")
    assert blob_of(home, "same").stat().st_size == len(gguf[1]) + 6


def test_a_model_of_the_same_size_is_another_one_all_the_same(home, gguf):
    changed = bytearray(gguf[0])
    changed[-1] ^= 1
    for name, content in (("a", gguf[0]), ("b", bytes(changed))):
        (home / name).mkdir()
        (home / name / "same.gguf").write_bytes(content)
    succeed("a/same.gguf")
    assert invoke("b/same.gguf").exit_code == 5
    succeed("a/same.gguf")
    assert blob_of(home, "same").read_bytes() == gguf[0]


def test_a_file_that_is_called_like_an_id_gets_a_name_that_is_none(home, gguf):
    (home / "deadbeefcafe.gguf").write_bytes(gguf[0])
    assert "as ai/deadbeefcafe" in succeed("deadbeefcafe.gguf").stdout
    assert model_of(home, "ai/deadbeefcafe")


def test_a_shard_under_another_name_is_refused(home):
    tiny_random(home / "big.gguf", shards=2)
    (home / "big-00001-of-00002.gguf").rename(home / "alone.gguf")
    result = invoke("alone.gguf")
    assert result.exit_code == 1
    assert "is one of 2 shards, as it says itself" in result.stderr


@pytest.mark.parametrize("source", ["", "ollama:", "lmstudio:a/", "hf-cache:a/"])
def test_what_cannot_be_looked_at_is_told(home, gguf, source):
    """No disk has such names; what a user may not look into is refused in the same way."""
    ollama_model(home / ".ollama/models", "registry.ollama.ai/library/x/latest", {"model": gguf[0]})
    (home / ".lmstudio/models/a").mkdir(parents=True)
    (home / ".cache/huggingface/hub").mkdir(parents=True)
    result = invoke(source + "x" * 300)
    assert result.exit_code == 1
    assert "cannot be looked at" in result.stderr
    assert "file name too long" in result.stderr


def test_places_that_may_not_be_looked_into_do_not_hide_the_others(home, gguf, monkeypatch):
    (home / ".ollama/models/manifests").mkdir(parents=True)
    hub_cache(home / ".cache/huggingface/hub", "org/y", {"y.gguf": gguf[1]})
    look = Path.iterdir

    def refuse(path):
        if path.name == "manifests":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    listed = succeed("--list")
    assert "hf-cache:org/y" in listed.stdout
    assert "Ollama's store cannot be looked at" in listed.stderr
    assert "permission denied" in invoke("ollama:x").stderr


def test_what_a_cache_lacks_is_told_and_hides_nothing(home, gguf):
    root = home / ".cache/huggingface/hub"
    tiny_random(home / "big.gguf", shards=3)
    rest = {
        path.name: path.read_bytes() for path in home.glob("big-*") if "-00001-" not in path.name
    }
    hub_cache(root, "org/begun", rest)
    lost = hub_cache(root, "org/lost", {"x.gguf": gguf[0], "mmproj.gguf": b"seen"})
    (lost / "mmproj.gguf").resolve().unlink()
    whole = hub_cache(root, "org/whole", {"x.gguf": gguf[0]})
    (whole / "mmproj.gguf").mkdir()
    nested = home / ".ollama/models/manifests/registry.ollama.ai/library/nested/latest"
    nested.parent.mkdir(parents=True)
    nested.write_text("[" * 100_000)
    listed = succeed("--list")
    assert listed.stdout.count("hf-cache:") == 1
    assert "hf-cache:org/whole" in listed.stdout
    assert "1 of them are missing" in listed.stderr
    assert "mmproj.gguf`: no such file" in listed.stderr
    assert "ollama:nested:latest" in listed.stderr
    succeed("hf-cache:org/whole")


def test_a_name_that_cannot_be_one_here_is_left_to_the_user(home, gguf):
    file = home / ".lmstudio/models/My Pub/My Model/x.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(gguf[0])
    refused = invoke("lmstudio:My Pub/My Model")
    assert refused.exit_code == 2
    assert "model-runner import 'lmstudio:My Pub/My Model' NAME" in refused.stderr
    succeed("lmstudio:My Pub/My Model", "mine")


def test_the_list_shows_what_there_is_and_what_is_linked(home, gguf):
    nothing = succeed("--list")
    assert "Neither Ollama nor LM Studio" in nothing.stdout
    assert not (home.parent / "store").exists()
    root = home / ".ollama/models"
    ollama_model(root, "registry.ollama.ai/library/x/latest", {"model": gguf[0]})
    ollama_model(root, "registry.ollama.ai/library/cloud/latest", {"license": b"none"})
    hub_cache(home / ".cache/huggingface/hub", "org/y", {"y.gguf": gguf[1], "z.gguf": gguf[0]})
    studio = home / ".lmstudio/models/pub/z/z.gguf"
    studio.parent.mkdir(parents=True)
    studio.write_bytes(gguf[1])
    succeed("ollama:x")
    shown = succeed("--list")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [(line[0], line[-1]) for line in lines[1:]] == [
        ("ollama:x:latest", "linked"),
        ("lmstudio:pub/z", "no"),
        ("hf-cache:org/y:y", "no"),
        ("hf-cache:org/y:z", "yes"),
    ]
    assert "ollama:cloud:latest" in shown.stderr
    listed = json.loads(succeed("--list", "--json").stdout)
    assert listed[0] == {"source": "ollama:x:latest", "size": len(gguf[0]), "in_store": "linked"}
    for entry in listed:
        succeed(entry["source"], f"again/{listed.index(entry)}")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--list", "x"), 2),
        (("llama3.2",), 4),
        (("hf-cache:nothing",), 1),
        (("hf-cache:org/nothing",), 4),
        (("lmstudio:org/nothing",), 4),
        (("README",), 1),
        (("empty",), 1),
        (("x.gguf", "../x"), 2),
        (("x.gguf", "0123456789ab"), 2),
    ],
)
def test_wrong_usage_is_told_before_anything_is_written(home, gguf, arguments, code):
    (home / "README").write_text("no model")
    (home / "x.gguf").write_bytes(gguf[0])
    (home / "empty").mkdir()
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    store = home.parent / "store"
    assert not store.exists() or Store.open(store).list() == []


def test_where_links_are_not_allowed_a_file_is_copied(home, gguf, monkeypatch):
    files = ollama_model(
        home / ".ollama/models", "registry.ollama.ai/library/x/latest", {"model": gguf[0]}
    )
    monkeypatch.setattr(os, "link", _refused)
    result = succeed("ollama:x")
    assert "linked" not in result.stdout
    assert not blob_of(home, "x").samefile(files["model"])


def _refused(*_):
    raise PermissionError(1, "Operation not permitted")
