"""What is said of a model in Ollama's way: kept, merged, and made a part of its template."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from model_runner.formats.rendering import render
from model_runner.packaging import Extras, Order, create_from_model, package_gguf, package_variant
from model_runner.packaging.baking import baked, bare
from model_runner.store import Store, manifests
from model_runner.store.modelfile import Message, Modelfile
from support.tiny_gguf import tiny_script

SAID = Modelfile(
    source="ai/base",
    template="{{ .Prompt }}",
    system="S",
    parameters={"num_ctx": 64, "stop": ["x"]},
    messages=(Message("user", "Q"),),
)
# One refuses a system prompt that is not first, the other begins with what could be trimmed.
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('late') }}{% endif %}{{ m.role }}:{{ m.content }};{% endfor %}"
)
INDENTED = "  Dear {{ messages[0].content }}, "


@pytest.fixture(name="store")
def _store(tmp_path):
    store = Store.open(tmp_path / "store")
    package_gguf(store, tiny_script(tmp_path / "tiny.gguf"), "ai/base")
    return store


def render_for(template, *messages):
    return render(template, {"messages": [{"role": r, "content": c} for r, c in messages]})


def test_nothing_said_changes_nothing():
    assert baked(Modelfile(parameters={"top_k": 1}), STRICT) is None


@pytest.mark.parametrize(
    "system",
    [
        "one BETWEEN SYSTEM and user",
        "it's {{ not }} {% a %} {# template #}",
        'a\n\nb\t\r\n"c" \\n',
        "日本 😀",
        "-%}",
    ],
)
def test_a_system_prompt_comes_first_letter_for_letter(system):
    template = baked(Modelfile(system=system), STRICT)
    assert template is not None
    assert render_for(template, ("user", "Hi")) == f"system:{system};user:Hi;"
    assert render_for(template, ("system", "own"), ("user", "Hi")) == "system:own;user:Hi;"


def test_messages_come_between_the_system_prompt_and_the_requests_own():
    said = Modelfile(system="S", messages=(Message("user", "Q"), Message("assistant", "A")))
    template = baked(said, STRICT)
    assert template is not None
    between = "user:Q;assistant:A;"
    assert render_for(template, ("user", "Hi")) == f"system:S;{between}user:Hi;"
    assert render_for(template, ("system", "o"), ("user", "H")) == f"system:o;{between}user:H;"


def test_a_template_is_not_touched_by_what_stands_before_it():
    template = baked(Modelfile(system="you"), INDENTED)
    assert template is not None
    assert render_for(template) == "  Dear you, "
    assert bare(template) == INDENTED
    assert baked(Modelfile(system="you"), template) == template


def test_without_any_template_it_is_chatml():
    template = baked(Modelfile(system="S"), None)
    assert template is not None
    assert render_for(template, ("user", "Hi")) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "annotation",
    ["", "nonsense", "[" * 9999, "[]", '{"system": 3, "messages": [1, {}], "parameters": []}'],
)
def test_an_annotation_that_makes_no_sense_says_nothing(store, annotation):
    manifest = store.get("ai/base").manifest
    said = Modelfile.of(replace(manifest, annotations={manifests.MODELFILE: annotation}))
    assert replace(said, messages=()) == Modelfile()


def test_what_is_said_comes_back_and_survives_a_variant(store):
    model = create_from_model(store, store.get("ai/base"), "ai/one", Order(SAID))
    kept = json.loads(model.manifest.annotations[manifests.MODELFILE])
    assert kept == {
        "from": "ai/base",
        "template": "{{ .Prompt }}",
        "system": "S",
        "parameters": {"num_ctx": 64, "stop": ["x"]},
        "messages": [{"role": "user", "content": "Q"}],
    }
    assert Modelfile.of(model.manifest) == SAID
    variant = package_variant(store, "ai/one", "ai/two", Extras(context_size=32))
    assert Modelfile.of(variant.manifest).parameters["num_ctx"] == 32
    assert variant.config.context_size == 32


def test_a_template_from_elsewhere_ends_what_was_in_the_old_one(store, tmp_path):
    create_from_model(store, store.get("ai/base"), "ai/one", Order(SAID))
    (tmp_path / "own.jinja").write_text(INDENTED)
    extras = Extras(chat_template=tmp_path / "own.jinja")
    variant = package_variant(store, "ai/one", "ai/two", extras)
    said = Modelfile.of(variant.manifest)
    assert said == Modelfile(source="ai/base", parameters=SAID.parameters)
    again = create_from_model(store, variant, "ai/three", Order(Modelfile(system="you")))
    layer = next(x for x in again.manifest.layers if x.media_type == manifests.CHAT_TEMPLATE)
    assert render_for(store.blobs.read(layer.digest).decode()) == "  Dear you, "


def test_a_context_is_no_larger_than_what_the_model_was_trained_for(store):
    order = Order(Modelfile(parameters={"num_ctx": 1_000_000}))
    assert create_from_model(store, store.get("ai/base"), "x", order).config.context_size == 4096
