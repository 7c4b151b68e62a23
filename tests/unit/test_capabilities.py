"""What models can do, as their headers, templates and projectors tell."""

from __future__ import annotations

import pytest

from model_runner.lifecycle.capabilities import Sources, of, of_bundle, read
from model_runner.packaging import Extras, package_gguf
from model_runner.store import Store
from support.spoken_models import tiny_caller
from support.tiny_gguf import tiny_embed, tiny_projector, tiny_script, tiny_spoken

LLAMA = {"general.architecture": "llama"}


@pytest.mark.parametrize(
    ("metadata", "template", "projector", "expected"),
    [
        (LLAMA, "", None, {"completion"}),
        (LLAMA, "{% for m in messages %}", None, {"completion"}),
        (LLAMA, "{% if tools %}", None, {"completion", "tools"}),
        (LLAMA, "{{ m.tool_calls }}", None, {"completion", "tools"}),
        (LLAMA, "{{ '<think>' }}", None, {"completion", "thinking"}),
        (LLAMA, "{% if enable_thinking %}", None, {"completion", "thinking"}),
        (LLAMA, "{{ reasoning_effort }}", None, {"completion", "thinking"}),
        (LLAMA, "", {}, {"completion", "vision"}),
        (LLAMA, "", {"clip.has_vision_encoder": "true"}, {"completion", "vision"}),
        (LLAMA, "", {"clip.has_audio_encoder": "true"}, {"completion", "audio"}),
        (
            LLAMA,
            "",
            {"clip.has_vision_encoder": "true", "clip.has_audio_encoder": "true"},
            {"completion", "vision", "audio"},
        ),
        (
            {**LLAMA, "tokenizer.ggml.fim_pre_token_id": "1"},
            "",
            None,
            {"completion"},
        ),
        (
            {
                **LLAMA,
                "tokenizer.ggml.fim_pre_token_id": "1",
                "tokenizer.ggml.fim_suf_token_id": "2",
                "tokenizer.ggml.fim_mid_token_id": "3",
            },
            "",
            None,
            {"completion", "insert"},
        ),
        ({"general.architecture": "bert", "bert.pooling_type": "1"}, "", None, {"embedding"}),
        (
            {"general.architecture": "bert", "bert.attention.causal": "false"},
            "",
            None,
            {"embedding"},
        ),
        ({"general.architecture": "bert", "bert.pooling_type": "4"}, "", None, set()),
    ],
)
def test_what_a_model_can_do(metadata, template, projector, expected):
    assert set(read(Sources(metadata, template, projector))) == expected


@pytest.mark.parametrize(
    ("tokens", "can"),
    [
        (("<PRE>", "<SUF>", "<MID>"), True),
        (("<|fim_prefix|>", "<fim_suffix>", "<\uff5cfim▁end\uff5c>"), True),
        (("<PRE>", "<SUF>"), False),
        (("x<PRE>", "<SUF>", "<MID>"), False),
    ],
)
def test_tokens_for_gaps_are_known_by_their_texts(tmp_path, store, tokens, can):
    package_gguf(store, tiny_spoken(tmp_path / "m.gguf", tokens), "ai/m")
    assert ("insert" in of(store, store.get("ai/m"))) is can


@pytest.mark.parametrize(
    ("template", "can"),
    [
        ("{{ .Prompt }}{{ if .Suffix }}<s>{{ .Suffix }}{{ end }}", True),
        ("{% if suffix %}{{ suffix }}{% endif %}{{ prompt }}", True),
        ("{{ .Prompt }}", False),
        ("{{ if", False),
    ],
)
def test_a_template_with_a_place_for_a_suffix_fills_gaps(template, can):
    assert ("insert" in read(Sources(LLAMA, said=template))) is can


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


def test_models_of_the_store_are_asked_by_their_files(store, tmp_path):
    script = package_gguf(store, tiny_script(tmp_path / "s.gguf"), "ai/script")
    caller = package_gguf(store, tiny_caller(tmp_path / "c.gguf"), "ai/caller")
    embed = package_gguf(store, tiny_embed(tmp_path / "e.gguf"), "ai/embed")
    assert of(store, script) == ("completion",)
    assert of(store, caller) == ("completion", "tools", "thinking")
    assert of(store, embed) == ("embedding",)
    for model in (script, caller, embed):
        assert of_bundle(model, store.bundle(model)) == of(store, model)


def test_the_template_of_the_package_counts_not_the_one_in_the_weights(store, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% if tools %}{% endif %}")
    extras = Extras(chat_template=template, projector=tiny_projector(tmp_path / "p.gguf"))
    model = package_gguf(store, tiny_caller(tmp_path / "c.gguf"), "ai/caller", extras)
    assert of(store, model) == ("completion", "vision", "tools")
    assert of_bundle(model, store.bundle(model)) == of(store, model)


def test_a_package_without_the_header_is_read_itself(store, tmp_path):
    extras = Extras(format="cncf")
    model = package_gguf(store, tiny_caller(tmp_path / "c.gguf"), "ai/caller", extras)
    assert not model.config.gguf
    assert of(store, model) == ("completion", "tools", "thinking")


def test_a_model_is_read_once_and_one_that_cannot_be_read_is_read_again(store, tmp_path):
    extras = Extras(format="cncf")
    model = package_gguf(store, tiny_embed(tmp_path / "e.gguf"), "ai/embed", extras)
    (blob,) = (store.blobs.path(layer.digest) for layer in model.manifest.layers)
    away = blob.rename(tmp_path / "away")
    assert of(store, model) == ()
    away.rename(blob)
    assert of(store, model) == ("embedding",)
    blob.unlink()
    assert of(store, model) == ("embedding",)
