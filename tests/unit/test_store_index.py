"""The store's index: names lead to models, tags move, deletion follows Docker's rules."""

import json
import os
from pathlib import Path

import pytest

from model_runner.errors import (
    Conflict,
    InvalidReference,
    ModelNotFound,
    StoreError,
    UnsupportedModel,
)
from model_runner.store import Store
from support.stores import add_layers, add_model, files_below, layer


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


def index_of(store: Store) -> object:
    return json.loads((store.root / "models.json").read_bytes())


def test_a_new_store_is_what_docker_makes_of_an_empty_directory(store):
    assert (store.root / "layout.json").read_bytes() == b'{\n  "version": "1.0.0"\n}'
    assert (store.root / "models.json").read_bytes() == b'{\n  "models": []\n}'
    assert store.list() == []


def test_the_index_is_written_as_docker_writes_it(store):
    model = add_model(store, b"weights", tags=["foo:v1"])
    files = [model.manifest.layers[0].digest, model.manifest.config.digest]
    assert (store.root / "models.json").read_text() == (
        "{\n"
        '  "models": [\n'
        "    {\n"
        f'      "id": "{model.id}",\n'
        '      "tags": [\n'
        '        "docker.io/ai/foo:v1"\n'
        "      ],\n"
        '      "files": [\n'
        f'        "{files[0]}",\n'
        f'        "{files[1]}"\n'
        "      ]\n"
        "    }\n"
        "  ]\n"
        "}"
    )
    assert (store.root / "manifests/sha256" / model.id[7:]).read_bytes() == model.manifest.raw
    assert (store.root / "models.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "written",
    ['{"models": null}', "{}", '{"models": [{"id": "sha256:%s", "tags": null, "files": null}]}'],
)
def test_nulls_of_docker_are_read(tmp_path, written):
    root = tmp_path / "models"
    Store.open(root)
    (root / "models.json").write_text(written.replace("%s", "0" * 64))
    if written == "{}":
        with pytest.raises(StoreError, match="damaged"):
            Store.open(root)
    else:
        assert Store.open(root).list() == []


def test_a_damaged_index_is_reported_and_left_alone(store):
    (store.root / "models.json").write_text('{"models": [{"id"')
    for attempt in (store.list, lambda: add_model(store, b"x", tags=["x"]), store.generation):
        with pytest.raises(StoreError, match="damaged") as caught:
            attempt()
        assert "pull the models again" in (caught.value.hint or "")
    assert (store.root / "models.json").read_text() == '{"models": [{"id"'


def test_old_hugging_face_tags_are_renamed_when_opened(store):
    model = add_model(store, b"weights", tags=["huggingface.co/org/m:Q8_0"])
    text = (store.root / "models.json").read_text()
    (store.root / "models.json").write_text(text.replace("huggingface.co/", "hf.co/"))
    reopened = Store.open(store.root)
    assert reopened.get("hf.co/org/M:Q8_0").id == model.id
    assert (store.root / "models.json").read_text() == text


def test_a_model_is_found_under_every_spelling(store):
    model = add_model(
        store, b"weights", tags=["ai/foo", "hf.co/org/Bar:Q4_K_M", "localhost:5000/x"]
    )
    for reference in [
        "foo",
        "Foo:latest",
        "ai/foo",
        "docker.io/ai/foo:latest",
        "hf.co/Org/bar:Q4_K_M",
        "localhost:5000/x",
        model.id,
        model.id[7:],
        model.id[7:19],
        f"foo@{model.id}",
        f"other/name:tag@{model.id}",
    ]:
        assert store.get(reference).id == model.id, reference


def test_a_digest_pins_whatever_tag_stands_before_it(store):
    old = add_model(store, b"old", tags=["foo:v1"])
    new = add_model(store, b"new", tags=["foo:v1"])
    assert store.get("foo:v1").id == new.id
    assert store.get(f"foo:v1@{old.id}").id == old.id
    with pytest.raises(ModelNotFound):
        store.get("foo:v1@sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "reference", ["bar", "foo:v2", "0" * 12, "0" * 64, "sha256:" + "0" * 64, "hf.co/ai/foo"]
)
def test_what_is_not_there_is_not_found(store, reference):
    add_model(store, b"weights", tags=["foo:v1"])
    with pytest.raises(ModelNotFound):
        store.get(reference)


@pytest.mark.parametrize("reference", ["", "../x", "a%2Fb", "a b"])
def test_what_is_no_reference_is_refused(store, reference):
    for look_up in (store.get, store.find, store.delete):
        with pytest.raises(InvalidReference):
            look_up(reference)


def test_a_short_id_of_two_models_names_both(store):
    first, second = "sha256:" + "a" * 12 + "0" * 52, "sha256:" + "a" * 12 + "1" * 52
    models = [{"id": id_, "tags": [], "files": []} for id_ in (first, second)]
    (store.root / "models.json").write_text(json.dumps({"models": models}))
    with pytest.raises(InvalidReference) as caught:
        store.get("a" * 12)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_the_last_component_of_a_tag_is_enough_to_inspect(store):
    model = add_model(store, b"weights", tags=["otherorg/smollm2:x"])
    assert store.find("smollm2").id == model.id
    for name in ("smol", "smollm2:x", "otherorg"):
        with pytest.raises(ModelNotFound):
            store.find(name)
    with pytest.raises(ModelNotFound):
        store.get("smollm2")


def test_the_default_registry_can_be_another(tmp_path):
    store = Store.open(tmp_path / "models", default_registry="reg.corp:5000")
    model = add_model(store, b"weights", tags=["foo"])
    assert model.tags == ("reg.corp:5000/ai/foo:latest",)
    assert store.get("ai/foo").id == model.id
    with pytest.raises(ModelNotFound):
        store.get("docker.io/ai/foo")


def test_a_tag_moves_and_leaves_the_other_model_untagged(store):
    old = add_model(store, b"old", tags=["foo"])
    new = add_model(store, b"new", tags=["foo"])
    assert store.get("foo").id == new.id
    assert store.get(old.id).tags == ()
    assert "tags" not in store.get(old.id).describe()
    store.add_tag(old.id, "foo")
    assert (store.get(old.id).tags, store.get(new.id).tags) == (("docker.io/ai/foo:latest",), ())


def test_tagging_a_name_that_begins_like_another_keeps_both(store):
    model = add_model(store, b"weights", tags=["ai/foo:v1"])
    store.add_tag(model.id, "ai/foo:v10")
    store.add_tag(model.id, "ai/foo:v10")
    assert store.get(model.id).tags == ("docker.io/ai/foo:v1", "docker.io/ai/foo:v10")
    with pytest.raises(InvalidReference):
        store.add_tag(model.id, f"ai/foo@{model.id}")
    with pytest.raises(ModelNotFound):
        store.add_tag("sha256:" + "0" * 64, "ai/bar")


def test_a_model_written_under_a_mere_digest_has_no_tag(store):
    model = add_model(store, b"weights")
    again = store.write(model.manifest.raw, tags=[f"ai/foo@{model.id}"])
    assert again.tags == ()
    pinned = store.write(model.manifest.raw, tags=[f"ai/foo:v1@{model.id}"])
    assert pinned.tags == ("docker.io/ai/foo:v1",)


class TestDelete:
    """Docker Model Runner's table of cases."""

    def test_one_of_several_tags_only_untags(self, store):
        model = add_model(store, b"weights", tags=["foo", "bar"])
        assert store.delete("foo") == [{"Untagged": "docker.io/ai/foo:latest"}]
        assert store.get("bar").id == model.id
        with pytest.raises(ModelNotFound):
            store.get("foo")

    def test_force_changes_nothing_for_one_of_several_tags(self, store):
        add_model(store, b"weights", tags=["foo", "bar"])
        assert store.delete("bar", force=True) == [{"Untagged": "docker.io/ai/bar:latest"}]
        assert store.get("foo")

    def test_the_last_tag_takes_the_model_along(self, store):
        model = add_model(store, b"weights", tags=["foo"])
        store.bundle(model)
        assert store.delete("Foo") == [
            {"Untagged": "docker.io/ai/foo:latest"},
            {"Deleted": model.id},
        ]
        assert store.list() == []
        left = {path for path in files_below(store.root) if not path.startswith(".locks")}
        assert left == {"layout.json", "models.json"}

    @pytest.mark.parametrize("tags", [[], ["foo"]])
    def test_by_id_with_at_most_one_tag(self, store, tags):
        model = add_model(store, b"weights", tags=tags)
        untagged = [{"Untagged": f"docker.io/ai/{tag}:latest"} for tag in tags]
        assert store.delete(model.id[7:19]) == [*untagged, {"Deleted": model.id}]
        assert store.list() == []

    def test_by_id_with_several_tags_needs_force(self, store):
        model = add_model(store, b"weights", tags=["foo", "bar"])
        for reference in (model.id, model.id[7:], model.id[7:19], f"foo@{model.id}"):
            with pytest.raises(Conflict) as caught:
                store.delete(reference)
            assert str(caught.value) == (
                f'unable to delete "{reference}" (must be forced) '
                "due to multiple tag references: resource conflict"
            )
        assert len(store.get("foo").tags) == 2
        assert store.delete(model.id, force=True) == [
            {"Untagged": "docker.io/ai/foo:latest"},
            {"Untagged": "docker.io/ai/bar:latest"},
            {"Deleted": model.id},
        ]

    def test_what_is_not_there(self, store):
        with pytest.raises(ModelNotFound):
            store.delete("foo")

    def test_shared_blobs_stay(self, store):
        add_model(store, b"one", b"shared", tags=["one"])
        two = add_model(store, b"two", b"shared", tags=["two"])
        store.delete("one")
        assert store.bundle(two).gguf is not None
        assert all(store.blobs.has(blob.digest, blob.size) for blob in two.manifest.blobs)

    def test_a_model_whose_files_are_gone_can_be_removed(self, store):
        model = add_model(store, b"weights", tags=["foo"])
        (store.root / "manifests/sha256" / model.id[7:]).unlink()
        reopened = Store.open(store.root)
        assert reopened.list() == []
        with pytest.raises(StoreError, match="missing"):
            reopened.get("foo")
        assert reopened.delete("foo")[-1] == {"Deleted": model.id}


def test_hostile_digests_in_the_index_reach_no_file(store, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    model = add_model(store, b"weights", tags=["foo"])
    index = index_of(store)
    index["models"][0]["files"].append("sha256:../../../victim")
    (store.root / "models.json").write_text(json.dumps(index))
    assert store.delete("foo")[-1] == {"Deleted": model.id}
    assert victim.read_text() == "precious"
    assert store.list() == []


def test_other_processes_changes_are_seen_at_once(store):
    other = Store.open(store.root)
    before = store.generation()
    assert store.generation() == before
    for number in range(20):
        add_model(other, b"weights %d" % number, tags=[f"m{number}"])
        assert store.get(f"m{number}").tags == (f"docker.io/ai/m{number}:latest",)
        assert store.generation() > before
        before = store.generation()
    other.delete("m0")
    with pytest.raises(ModelNotFound):
        store.get("m0")


def test_reading_again_costs_no_file_but_a_stat(store, monkeypatch):
    add_model(store, b"weights", tags=["foo"])
    os.utime(store.root / "models.json", ns=(1, 1))  # long settled
    store.get("foo")
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read_bytes(path))
    for _ in range(10):
        store.get("foo")
        store.generation()
        store.list()
    assert reads == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"{", b"no json", "not JSON"),
        (b"image.manifest.v1", b"image.index.v1", "not the manifest of a model"),
        (b"docker.ai.model.config.v0.1", b"oci.image.config.v1", "supported: "),
        (b'"digest":"sha256:', b'"digest":"sha512:', "sha256 digest"),
        (b'"size":7', b'"size":-7', "no size"),
        (b'"layers":[', b'"layers":[7,', r"layers\[0\]"),
        (b'"layers":[', b'"layers":{"":"","a":[', "not JSON|not a list"),
    ],
)
def test_manifests_of_other_things_are_refused(store, old, new, reason):
    model = add_model(store, b"weights")
    with pytest.raises(UnsupportedModel, match=reason):
        store.write(model.manifest.raw.replace(old, new), tags=["foo"])
    assert len(store.list()) == 1


def test_compressed_layers_are_refused(store):
    described = layer(store, b"packed")
    model = add_layers(store, [described])
    other = layer(store, b"something else")
    forged = model.manifest.raw.replace(
        str(described["digest"]).encode(), str(other["digest"]).encode()
    ).replace(b'"size":6', b'"size":14')
    with pytest.raises(UnsupportedModel, match="compressed"):
        store.write(forged, tags=["foo"])
