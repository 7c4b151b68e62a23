"""Packages of packages, in Docker's form and the CNCF's: what is kept and what is not."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runner.errors import InvalidReference, InvalidRequest, ModelNotFound, UnsupportedModel
from model_runner.lifecycle import policy
from model_runner.packaging import (
    Extras,
    SourceFile,
    Weights,
    package_directory,
    package_gguf,
    package_variant,
    package_weights,
)
from model_runner.packaging.cncf import param_size
from model_runner.store import ModelConfig, Store, manifests
from support.stores import add_layers, files_below, layer, unpack_fixture
from support.tiny_gguf import tiny_lora, tiny_projector, tiny_random, tiny_script
from support.tiny_safetensors import write_safetensors

CREATED = datetime(2025, 6, 15, 12, tzinfo=timezone.utc)
TRAINED = 4096

# Docker's own, but for the parameters, which are `183` there: the schema wants a unit.
GOLDEN_CNCF = (
    '{"descriptor":{"createdAt":"2025-06-15T12:00:00Z","family":"llama"},'
    '"modelfs":{"type":"layers","diffIds":["DIGEST"]},"config":{"architecture":"llama",'
    '"format":"gguf","paramSize":"0.2K","quantization":"MOSTLY_Q4_K_M"}}'
)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


@pytest.fixture
def plain(store, tmp_path):
    return package_gguf(store, tiny_script(tmp_path / "tiny.gguf"), "ai/plain")


def config_of(store, model):
    return json.loads(store.blobs.read(model.manifest.config.digest))


def context_of(model):
    """What a runner of it would get."""
    return policy.context_size(
        None,
        model.config.context_size,
        {"general.architecture": "llama", "llama.context_length": str(TRAINED * 4)},
        chosen=model.config.context_is_chosen,
    )


def types_of(model):
    return [layer.media_type.rpartition("/")[2] for layer in model.manifest.layers]


def check_schema(config):
    """As the CNCF's JSON schema says, field by field; it allows no others."""
    assert set(config) == {"descriptor", "modelfs", "config"}
    assert set(config["descriptor"]) <= {"createdAt", "family", "name", "licenses", "title"}
    assert config["modelfs"]["type"] == "layers"
    assert config["modelfs"]["diffIds"]
    known = {"architecture", "format", "paramSize", "precision", "quantization", "capabilities"}
    assert set(config["config"]) <= known
    size = config["config"].get("paramSize", "1K")
    assert re.fullmatch(r"[0-9]+(\.[0-9])?[KMBTQ]", size)


def test_the_cncfs_configuration_is_dockers_but_conforms(store, tmp_path):
    path = tmp_path / "dummy.gguf"
    path.write_bytes(b"weights")
    config = ModelConfig(
        format="gguf",
        architecture="llama",
        parameters="183",
        quantization="MOSTLY_Q4_K_M",
        size="864B",
        gguf={"general.architecture": "llama"},
    )
    weights = Weights(config, [SourceFile(path, manifests.GGUF, "dummy.gguf")])
    model = package_weights(store, weights, "ai/m", Extras(created=CREATED, format="cncf"))
    written = store.blobs.read(model.manifest.config.digest).decode()
    assert written == GOLDEN_CNCF.replace("DIGEST", model.manifest.layers[0].digest)
    assert len(written) == 281 + 1  # `0.2K` is one longer than `183`
    manifest = json.loads(model.manifest.raw)
    assert list(manifest) == ["schemaVersion", "mediaType", "artifactType", "config", "layers"]
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert types_of(model) == ["vnd.cncf.model.weight.v1.raw"]
    assert model.describe()["config"]["size"] == "0.2K"


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ("361.82M", "361.8M"),
        ("361.82 M", "361.8M"),
        ("7B", "7B"),
        ("1.50B", "1.5B"),
        ("183", "0.2K"),
        ("999.99M", "1B"),
        ("0.00", ""),
        ("0", ""),
        ("", ""),
        ("many", ""),
        ("2000Q", "2000Q"),
    ],
)
def test_parameters_have_at_most_one_decimal_and_a_unit(parameters, size):
    assert param_size(parameters) == size


@given(st.integers(0, 10**15))
def test_any_number_of_parameters_conforms(count):
    size = param_size(str(count))
    assert re.fullmatch(r"(0|[1-9][0-9]{0,2})(\.[1-9])?[KMBTQ]|1000[.0-9]*Q|", size)


def test_everything_that_goes_along_has_its_place_in_both_forms(store, tmp_path):
    licence, template = tmp_path / "LICENSE", tmp_path / "chat.txt"
    licence.write_text("free")
    template.write_text("{{ messages }}")
    extras = {
        "licenses": [licence],
        "chat_template": template,
        "projector": tiny_projector(tmp_path / "eyes.gguf"),
        "adapters": [tiny_lora(tmp_path / "style.gguf"), tiny_lora(tmp_path / "tone.gguf", seed=9)],
    }
    first = tiny_random(tmp_path / "tiny.gguf", shards=3)
    docker = package_gguf(store, first, "ai/docker", Extras(**extras))
    prefix = "vnd.docker.ai."
    assert types_of(docker) == [
        *[f"{prefix}gguf.v3"] * 3,
        f"{prefix}license",
        f"{prefix}chat.template.jinja",
        f"{prefix}mmproj",
        *[f"{prefix}gguf.v3.lora"] * 2,
    ]
    bundle = store.bundle(docker)
    root = bundle.root / "model"
    assert bundle.gguf == root / "model-00001-of-00003.gguf"
    assert bundle.chat_template == root / "template.jinja"
    assert bundle.projector == root / "model.mmproj"
    assert bundle.adapters == (root / "lora/adapter-00001.gguf", root / "lora/adapter-00002.gguf")
    assert bundle.adapters[1].read_bytes() == (tmp_path / "tone.gguf").read_bytes()

    cncf = package_gguf(store, first, "ai/cncf", Extras(**extras, format="cncf"))
    check_schema(config_of(store, cncf))
    weight, file = "vnd.cncf.model.weight.v1.raw", "vnd.cncf.model.weight.config.v1.raw"
    document = "vnd.cncf.model.doc.v1.raw"
    assert types_of(cncf) == [*[weight] * 3, document, file, *[weight] * 3]
    bundle = store.bundle(cncf)
    root = bundle.root / "model"
    assert bundle.gguf == root / "tiny-00001-of-00003.gguf"
    assert bundle.chat_template == root / "chat.jinja"
    assert bundle.projector == root / "mmproj-eyes.gguf"
    assert bundle.adapters == (root / "lora/style.gguf", root / "lora/tone.gguf")

    turned = package_variant(store, "ai/docker", "ai/turned", Extras(format="cncf"))
    assert [(x.media_type, x.digest, x.filepath) for x in turned.manifest.layers] == [
        (x.media_type, x.digest, x.filepath) for x in cncf.manifest.layers
    ]


@pytest.mark.parametrize("form", ["docker", "cncf"])
def test_a_variant_keeps_the_form_and_shares_the_weights(store, tmp_path, form):
    licence = tmp_path / "LICENSE"
    licence.write_text("old")
    file = tiny_script(tmp_path / "tiny.gguf")
    model = package_gguf(store, file, "ai/one", Extras([licence], format=form))
    licence.write_text("new")
    variant = package_variant(store, "one", "ai/two", Extras([licence], context_size=999))
    assert variant.manifest.config.media_type == model.manifest.config.media_type
    assert variant.manifest.artifact_type == model.manifest.artifact_type
    assert variant.manifest.layers[0] == model.manifest.layers[0]
    assert len(variant.manifest.layers) == 2
    assert store.blobs.read(variant.manifest.layers[1].digest) == b"new"
    assert variant.config.context_size == 999
    assert variant.created == model.created
    assert variant.config.architecture == "llama"
    assert store.get("ai/one").id == model.id


def test_a_variant_of_a_directory_keeps_its_paths(store, tmp_path):
    (tmp_path / "d/sub").mkdir(parents=True)
    write_safetensors(tmp_path / "d/sub/m.safetensors", {"a": ("F32", (1,))})
    package_directory(store, tmp_path / "d", "ai/one")
    variant = package_variant(store, "ai/one", "ai/two", Extras(context_size=7))
    assert variant.manifest.config.media_type == manifests.CONFIG_V02
    assert files_below(store.bundle(variant).root / "model") == {"sub/m.safetensors"}


def test_a_variant_without_any_difference_is_the_same_model(store, plain):
    again = package_variant(store, plain.id[7:19], "ai/again")
    assert again.id == plain.id
    assert again.tags == ("docker.io/ai/plain:latest", "docker.io/ai/again:latest")


def test_packages_of_docker_can_be_varied_and_turned(tmp_path):
    store = Store.open(unpack_fixture(tmp_path))
    for number, model in enumerate(store.list()):
        variant = package_variant(store, model.id, f"ai/v{number}", Extras(context_size=1234))
        assert variant.config.context_size == 1234
        assert variant.manifest.keeps_paths == model.manifest.keeps_paths
        assert files_below(store.bundle(variant).root) == files_below(store.bundle(model).root)
        if model.manifest.config.media_type != manifests.CONFIG_CNCF:
            turned = package_variant(store, variant.id, f"ai/t{number}", Extras(format="cncf"))
            check_schema(config_of(store, turned))
            assert turned.config.context_size == 1234
            assert (store.bundle(turned).gguf is None) == (store.bundle(model).gguf is None)


def test_shards_of_2025_without_names_get_those_that_llama_cpp_finds(store):
    layers = [layer(store, b"one"), layer(store, b"two"), layer(store, b"free", manifests.LICENSE)]
    model = add_layers(store, [*layers, layer(store, b"terms", manifests.LICENSE)])
    turned = package_variant(store, model.id, "ai/turned", Extras(format="cncf"))
    assert [x.filepath for x in turned.manifest.layers] == [
        "model-00001-of-00002.gguf",
        "model-00002-of-00002.gguf",
        "LICENSE",
        "LICENSE-2",
    ]


def test_a_package_of_the_cncfs_form_stays_one(store, tmp_path):
    file = tiny_script(tmp_path / "tiny.gguf")
    package_gguf(store, file, "ai/one", Extras(format="cncf"))
    with pytest.raises(InvalidRequest, match="says too little for Docker's"):
        package_variant(store, "ai/one", "ai/two", Extras(format="docker"))


@pytest.mark.parametrize("form", ["docker", "cncf"])
def test_a_context_that_somebody_chose_holds_and_one_that_nobody_chose_is_limited(
    store, tmp_path, form
):
    file = tiny_script(tmp_path / "tiny.gguf")
    nobody = package_gguf(store, file, "ai/nobody", Extras(format=form))
    assert not nobody.config.context_is_chosen
    chosen = package_gguf(store, file, "ai/chosen", Extras(context_size=TRAINED, format=form))
    assert chosen.config.context_size == TRAINED
    assert chosen.config.context_is_chosen
    assert context_of(chosen) == TRAINED
    assert chosen.manifest.annotations == {"model-runner.context-size": str(TRAINED)}
    other = package_variant(store, "ai/chosen", "ai/other", Extras(context_size=100))
    assert other.config.context_size == 100
    assert context_of(other) == 100
    assert package_variant(store, "ai/other", "ai/x", Extras(context_size=TRAINED)).id == chosen.id


def test_dockers_note_of_what_a_model_was_trained_for_is_no_choice(store, plain):
    assert plain.config.context_size == TRAINED
    trained = {"general.architecture": "llama", "llama.context_length": "131072"}
    assert policy.context_size(None, 131072, trained) == 8192
    assert policy.context_size(None, 131072, trained, chosen=True) == 131072
    turned = package_variant(store, "ai/plain", "ai/turned", Extras(format="cncf"))
    assert turned.config.context_size is None


@pytest.mark.parametrize("note", ["0", "-1", "many", "2147483648", "9" * 5000, "\u0663"])
def test_a_strangers_note_of_the_context_is_checked(store, tmp_path, note):
    file = tiny_script(tmp_path / "tiny.gguf")
    model = package_gguf(store, file, "ai/one", Extras(format="cncf"))
    manifest = json.loads(model.manifest.raw)
    manifest["annotations"] = {"model-runner.context-size": note}
    odd = store.write(json.dumps(manifest).encode(), tags=["ai/odd"])
    assert odd.config.context_size is None


def test_the_same_bytes_have_the_same_id_whenever_and_wherever_they_are_packaged(tmp_path):
    ids = set()
    for number, mode in enumerate((0o600, 0o664)):
        directory = tmp_path / str(number)
        directory.mkdir()
        file, licence = tiny_script(directory / "tiny.gguf"), directory / "LICENSE"
        licence.write_text("free")
        for path in (file, licence):
            path.chmod(mode)
        extras = Extras([licence], source_date_epoch=1_700_000_000, annotations={"b": "2", "a": ""})
        model = package_gguf(Store.open(directory / "models"), file, "ai/m", extras)
        ids.add(model.id)
        assert model.created == 1_700_000_000
        assert b'\\"mode\\":420' in model.manifest.raw
        assert b'\\"mtime\\":\\"2023-11-14T22:13:20Z\\"' in model.manifest.raw
    assert len(ids) == 1


def test_annotations_are_those_of_the_manifest(store, tmp_path, plain):
    key = "org.opencontainers.image.source"
    noted = {key: "https://example.com/<x>", "a": "1"}
    model = package_variant(store, "ai/plain", "ai/noted", Extras(annotations=noted))
    assert model.manifest.raw.endswith(
        b'],"annotations":{"a":"1","org.opencontainers.image.source":'
        b'"https://example.com/\\u003cx\\u003e"}}'
    )
    less = package_variant(store, "ai/noted", "ai/less", Extras(annotations={"a": ""}))
    assert less.manifest.annotations == {key: noted[key]}
    for wrong in ("", " a", "model-runner.context-size"):
        with pytest.raises(InvalidRequest):
            package_variant(store, "ai/plain", "ai/x", Extras(annotations={wrong: "1"}))


def test_what_goes_along_is_looked_at_before_anything_is_copied(store, tmp_path):
    model = tiny_script(tmp_path / "tiny.gguf")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.jinja").write_text(" \n")
    (tmp_path / "a").mkdir()
    (tmp_path / "LICENSE").write_text("one")
    (tmp_path / "a/LICENSE").write_text("two")
    lora = tiny_lora(tmp_path / "lora.gguf", architecture="qwen2")
    wrong = {
        "JSON, not Jinja": Extras(chat_template=tmp_path / "tokenizer_config.json"),
        "not text in UTF-8": Extras(chat_template=tmp_path / "binary.jinja"),
        "empty.jinja` is empty": Extras(chat_template=tmp_path / "empty.jinja"),
        "cannot be read": Extras(chat_template=tmp_path / "nothing.jinja"),
        "not a multimodal projector: its architecture is `llama`": Extras(projector=model),
        "not a LoRA adapter": Extras(adapters=[model]),
        "for a `qwen2` model, and this one is `llama`": Extras(adapters=[lora]),
        "2 of the files are called `LICENSE`": Extras(
            [tmp_path / "LICENSE", tmp_path / "a/LICENSE"]
        ),
        "context of 0 tokens": Extras(context_size=0),
    }
    for reason, extras in wrong.items():
        with pytest.raises(InvalidRequest, match=re.escape(reason)):
            package_gguf(store, model, "ai/m", extras)
    parts = {"adapter": lora, "projector": tiny_projector(tmp_path / "eyes.gguf")}
    for reason, path in parts.items():
        with pytest.raises(UnsupportedModel, match=f"{reason}, which only works together"):
            package_gguf(store, path, "ai/m")
    assert files_below(store.root / "blobs") == set()


@pytest.mark.parametrize("tag", ["ai/m@sha256:" + "0" * 64, "a b", "0" * 64])
def test_a_variant_needs_a_proper_name(store, plain, tag):
    with pytest.raises(InvalidReference):
        package_variant(store, "ai/plain", tag)


def test_a_variant_of_nothing_says_so(store):
    with pytest.raises(ModelNotFound):
        package_variant(store, "ai/nothing", "ai/x")


def test_a_configuration_with_what_json_cannot_say_is_refused(store, plain):
    raw = store.blobs.read(plain.manifest.config.digest).replace(b":4096", b":1e999")
    digest = store.blobs.put_bytes(raw)
    manifest = json.loads(plain.manifest.raw)
    manifest["config"].update(digest=digest, size=len(raw))
    store.write(json.dumps(manifest).encode(), tags=["ai/odd"])
    with pytest.raises(UnsupportedModel, match="not JSON"):
        package_variant(store, "ai/odd", "ai/x")


@pytest.mark.parametrize("form", ["docker", "cncf"])
def test_an_adapter_with_the_name_of_the_weights_does_not_take_their_place(store, tmp_path, form):
    file = tiny_script(tmp_path / "model.gguf")
    (tmp_path / "other").mkdir()
    adapter = tiny_lora(tmp_path / "other/model.gguf")
    extras = Extras(adapters=[adapter], format=form)
    package_gguf(store, file, "ai/base")
    variant = package_variant(store, "ai/base", "ai/variant", extras)
    for model in (package_gguf(store, file, "ai/one", extras), variant):
        bundle = store.bundle(model)
        assert bundle.gguf.read_bytes() == file.read_bytes()
        assert [path.read_bytes() for path in bundle.adapters] == [adapter.read_bytes()]


def test_a_text_with_the_path_of_the_weights_is_refused(store, tmp_path):
    (tmp_path / "d").mkdir()
    write_safetensors(tmp_path / "d/m.safetensors", {"a": ("F32", (1,))})
    (tmp_path / "m.safetensors").write_text("do what you like")
    extras = Extras([tmp_path / "m.safetensors"])
    with pytest.raises(InvalidRequest, match=r"the weights of the model are called `m\.safeten"):
        package_directory(store, tmp_path / "d", "ai/one", extras)


def test_what_is_added_to_a_package_of_the_cncfs_form_has_that_form(store, tmp_path):
    package_gguf(store, tiny_script(tmp_path / "tiny.gguf"), "ai/one", Extras(format="cncf"))
    (tmp_path / "NOTICE").write_text("free")
    extras = Extras([tmp_path / "NOTICE"], adapters=[tiny_lora(tmp_path / "style.gguf")])
    variant = package_variant(store, "ai/one", "ai/two", extras)
    weight, document = "vnd.cncf.model.weight.v1.raw", "vnd.cncf.model.doc.v1.raw"
    assert types_of(variant) == [weight, document, weight]
    assert store.bundle(variant).adapters


def test_a_name_that_no_bundle_can_have_is_refused_in_the_cncfs_form(store, tmp_path):
    file = tiny_script(tmp_path / "a\\b.gguf")
    assert store.bundle(package_gguf(store, file, "ai/docker")).gguf
    with pytest.raises(UnsupportedModel, match="unsafe path"):
        package_gguf(store, file, "ai/cncf", Extras(format="cncf"))
    adapter = tiny_lora(tmp_path / "c\\d.gguf")
    with pytest.raises(UnsupportedModel, match="unsafe path"):
        package_variant(store, "ai/docker", "ai/x", Extras(adapters=[adapter], format="cncf"))


def test_a_directory_keeps_its_paths_in_the_cncfs_form(store, tmp_path):
    (tmp_path / "d").mkdir()
    tiny_script(tmp_path / "d/small.gguf")
    tiny_random(tmp_path / "d/large.gguf")
    model = package_directory(store, tmp_path / "d", "ai/one", Extras(format="cncf"))
    assert [x.filepath for x in model.manifest.layers] == ["large.gguf", "small.gguf"]


def test_thousands_of_files_of_one_name_get_a_name_each(store):
    text = layer(store, b"free", manifests.LICENSE, "LICENSE")
    model = add_layers(store, [layer(store, b"one", path="a.gguf"), *[text] * 8000])
    turned = package_variant(store, model.id, "ai/turned", Extras(format="cncf"))
    assert turned.manifest.layers[-1].filepath == "LICENSE-8000"
