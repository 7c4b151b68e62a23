"""Bundles and blobs: complete or not there, within their directory, and never from torn bytes."""

import errno
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from model_runner.errors import ModelNotFound, StoreError, UnsupportedModel
from model_runner.store import Store, bundles, files, manifests
from model_runner.store.placement import safe_path
from support.stores import add_layers, add_model, files_below, layer

PROJECTOR = "application/vnd.docker.ai.mmproj"
RAW = "application/vnd.cncf.model.weight.v1.raw"


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


def test_shards_are_numbered_and_the_first_is_loaded_from_the_first_call_on(store):
    model = add_model(store, b"one", b"two", b"three", tags=["m"])
    for _ in range(2):
        bundle = store.bundle(model)
        assert bundle.gguf == bundle.root / "model/model-00001-of-00003.gguf"
        assert bundle.gguf.read_bytes() == b"one"
    assert files_below(bundle.root) == {
        "config.json",
        "model/model-00001-of-00003.gguf",
        "model/model-00002-of-00003.gguf",
        "model/model-00003-of-00003.gguf",
    }
    assert (bundle.root / "config.json").read_bytes() == b'{"format":"gguf"}\n'


def test_projector_and_template_have_fixed_names(store):
    model = add_layers(
        store,
        [
            layer(store, b"weights", path="whatever.gguf"),
            layer(store, b"eyes", PROJECTOR, "mmproj-F16.gguf"),
            layer(store, b"{{ m }}", manifests.CHAT_TEMPLATE, "chat.jinja"),
            layer(store, b"free", manifests.LICENSE, "LICENSE"),
        ],
    )
    bundle = store.bundle(model)
    content = bundle.root / "model"
    assert bundle.projector == content / "model.mmproj"
    assert bundle.chat_template == content / "template.jinja"
    assert files_below(content) == {"model.gguf", "model.mmproj", "template.jinja"}


def test_the_projector_may_have_the_specifications_media_type(store):
    eyes = layer(store, b"eyes", "application/vnd.docker.ai.gguf.v3.mmproj")
    bundle = store.bundle(add_layers(store, [layer(store, b"weights"), eyes]))
    assert bundle.projector == bundle.root / "model/model.mmproj"


def test_a_tokenizer_configuration_is_no_chat_template(store):
    wrong = layer(store, b"{}", manifests.CHAT_TEMPLATE, "tokenizer_config.json")
    bundle = store.bundle(add_layers(store, [layer(store, b"weights"), wrong]))
    assert bundle.chat_template is None


@pytest.mark.parametrize(
    ("weights", "config_type"),
    [
        (manifests.GGUF, manifests.CONFIG_V02),
        (RAW, manifests.CONFIG_CNCF),
        (RAW, manifests.CONFIG_V01),
    ],
)
def test_packages_of_directories_keep_their_paths(store, weights, config_type):
    model = add_layers(
        store,
        [
            layer(store, b"2", weights, "big-00002-of-00002.gguf"),
            layer(store, b"1", weights, "big-00001-of-00002.gguf"),
            layer(store, b"0", weights, "another/a.gguf"),
            layer(store, b"eyes", weights, "mmproj-big.gguf"),
            layer(store, b"{{ m }}", manifests.MODEL_FILE, "chat_template.jinja"),
            layer(store, b"a", manifests.MODEL_FILE, "../outside/notes.txt"),
        ],
        config_type=config_type,
    )
    bundle = store.bundle(model)
    content = bundle.root / "model"
    assert bundle.gguf == content / "big-00001-of-00002.gguf"
    assert bundle.projector == content / "mmproj-big.gguf"
    assert bundle.chat_template == content / "chat_template.jinja"
    assert (content / "outside/notes.txt").read_bytes() == b"a"


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "a/../..", ".", "a\0b", "..\\..\\x", "C:\\x", "C:x", "//host/x"],
)
def test_paths_that_lead_outside_are_refused(store, path):
    with pytest.raises(UnsupportedModel, match="unsafe path"):
        safe_path(path)
    model = add_layers(
        store, [layer(store, b"w", manifests.GGUF, path)], config_type=manifests.CONFIG_V02
    )
    with pytest.raises(UnsupportedModel, match="unsafe path"):
        store.bundle(model)
    assert files_below(store.root / "bundles") == set()


def test_leading_parents_are_refused_unless_asked_for():
    with pytest.raises(UnsupportedModel):
        safe_path("../x")
    assert safe_path("../../x", strip_parents=True) == "x"
    assert safe_path("a/./b//c") == "a/b/c"


def test_two_files_for_one_path_are_refused_but_a_repetition_is_fine(store):
    one = layer(store, b"one", manifests.GGUF, "m.gguf")
    two = layer(store, b"two", manifests.GGUF, "./m.gguf")
    below = layer(store, b"three", manifests.MODEL_FILE, "m.gguf/x")
    for layers in ([one, two], [one, below]):
        with pytest.raises(UnsupportedModel, match=r"m\.gguf"):
            store.bundle(add_layers(store, layers, config_type=manifests.CONFIG_V02))
    assert store.bundle(add_layers(store, [one, one], config_type=manifests.CONFIG_V02)).gguf


def test_a_model_without_weights_has_no_bundle(store):
    model = add_layers(store, [layer(store, b"free", manifests.LICENSE)])
    with pytest.raises(UnsupportedModel, match="no weights"):
        store.bundle(model)


def test_archives_are_unpacked_within_the_bundle(store):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("tokenizer.json", "sub/x.json"):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    weights = layer(store, b"w", manifests.SAFETENSORS, "model.safetensors")
    archive = layer(store, buffer.getvalue(), "application/vnd.docker.ai.dir.tar")
    bundle = store.bundle(add_layers(store, [weights, archive]))
    assert bundle.gguf is None
    assert files_below(bundle.root / "model") == {
        "model.safetensors",
        "tokenizer.json",
        "sub/x.json",
    }


def test_hostile_archives_are_refused(store):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../../evil"), io.BytesIO())
    weights = layer(store, b"w", manifests.SAFETENSORS, "model.safetensors")
    for content in (buffer.getvalue(), b"no tar at all" * 100):
        archive = layer(store, content, "application/vnd.docker.ai.vllm.config.tar")
        with pytest.raises(UnsupportedModel):
            store.bundle(add_layers(store, [weights, archive]))
    assert files_below(store.root / "bundles") == set()


def test_an_incomplete_bundle_is_built_again(store):
    model = add_model(store, b"one", b"two", tags=["m"])
    bundle = store.bundle(model)
    assert bundle.gguf is not None
    (bundle.root / "model/model-00002-of-00002.gguf").unlink()
    store.bundle(model)
    assert (bundle.root / "model/model-00002-of-00002.gguf").read_bytes() == b"two"
    shutil.rmtree(bundle.root / "model")
    store.bundle(model)
    assert bundle.gguf.read_bytes() == b"one"


def test_a_complete_bundle_is_left_alone(store):
    model = add_model(store, b"one", tags=["m"])
    root = store.bundle(model).root
    (root / "model/extra").write_text("")
    assert store.bundle(model).root == root
    assert (root / "model/extra").exists()


@pytest.mark.parametrize("content", [b"", b"weigh", None])
def test_a_torn_or_missing_blob_is_not_trusted(store, content):
    model = add_model(store, b"weights", tags=["m"])
    blob = model.manifest.layers[0]
    path = store.blobs.path(blob.digest)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not store.blobs.has(blob.digest, blob.size)
    with pytest.raises(StoreError, match="damaged" if content is not None else "missing") as caught:
        store.bundle(model)
    assert caught.value.hint == "pull the model again"
    with pytest.raises(StoreError, match="missing"):
        store.write(model.manifest.raw, tags=["again"])
    # What a new pull brings replaces it.
    store.blobs.put_bytes(b"weights")
    bundle = store.bundle(model)
    assert bundle.gguf is not None
    assert bundle.gguf.read_bytes() == b"weights"


def test_a_damaged_manifest_is_not_trusted(store):
    model = add_model(store, b"weights", tags=["m"])
    path = store.root / "manifests/sha256" / model.id[7:]
    path.write_bytes(model.manifest.raw.replace(b'"size":7', b'"size":8'))
    reopened = Store.open(store.root)
    assert reopened.list() == []
    with pytest.raises(StoreError, match="damaged"):
        reopened.get("m")
    reopened.write(model.manifest.raw, tags=["m"])
    assert reopened.get("m").id == model.id


def test_a_deleted_model_has_no_bundle(store):
    model = add_model(store, b"weights", tags=["m"])
    store.delete("m")
    with pytest.raises(ModelNotFound):
        store.bundle(model)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_model_deleted_while_its_bundle_is_built_leaves_nothing(store, monkeypatch, moment):
    model = add_model(store, b"weights", tags=["m"])

    def share(source, target):
        if moment == "after":
            files.share(source, target)
        Store.open(store.root).delete("m")
        if moment == "before":
            files.share(source, target)

    monkeypatch.setattr(bundles, "share", share)
    with pytest.raises(ModelNotFound, match="m:latest"):
        store.bundle(model)
    assert list((store.root / "bundles/sha256").iterdir()) == []
    assert list((store.root / "blobs/sha256").iterdir()) == []


def test_old_bundles_of_no_model_are_swept(store):
    kept, old, young = (add_model(store, text, tags=["m"]) for text in (b"3", b"1", b"2"))
    roots = {model.id: store.bundle(model).root for model in (kept, old, young)}
    index = store.root / "models.json"
    entries = json.loads(index.read_bytes())["models"]
    known = [entry for entry in entries if entry["id"] == kept.id]
    index.write_text(json.dumps({"models": known}))
    for model in (kept, old):
        os.utime(roots[model.id], (0, 0))
    Store.open(store.root)
    assert {model_id for model_id, root in roots.items() if root.exists()} == {kept.id, young.id}


def _refuse(*refused):
    def operation(*arguments, **options):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    return operation


@pytest.mark.parametrize("works", ["link", "symlink", "copy"])
def test_file_systems_without_links_get_what_they_can(store, monkeypatch, works, tmp_path):
    monkeypatch.setattr(files, "reflink", lambda *_: False)
    if works in ("symlink", "copy"):
        monkeypatch.setattr(os, "link", _refuse())
    if works == "copy":
        monkeypatch.setattr(os, "symlink", _refuse())
    model = add_model(store, b"weights", tags=["m"])
    gguf = store.bundle(model).gguf
    assert gguf is not None
    assert gguf.read_bytes() == b"weights"
    assert gguf.is_symlink() == (works == "symlink")
    assert gguf.samefile(store.blobs.path(model.manifest.layers[0].digest)) == (works != "copy")
    # A store that was moved still works.
    moved = tmp_path / "moved"
    store.root.rename(moved)
    reopened = Store.open(moved)
    there = reopened.bundle(reopened.get("m")).gguf
    assert there is not None
    assert there.read_bytes() == b"weights"


def test_a_file_system_that_clones_is_used(store, monkeypatch):
    cloned = []

    def clone(source: Path, target: Path) -> bool:
        cloned.append(source)
        shutil.copyfile(source, target)
        return True

    monkeypatch.setattr(files, "reflink", clone)
    model = add_model(store, b"weights", tags=["m"])
    assert store.bundle(model).gguf
    assert cloned == [store.blobs.path(model.manifest.layers[0].digest)]


def test_a_download_is_committed_under_its_digest(store):
    digest = manifests.sha256(b"weights")
    with store.blobs.lock(digest):
        store.blobs.incomplete_path(digest).write_bytes(b"weights")
        assert not store.blobs.has(digest)
        store.blobs.commit(digest)
    assert store.blobs.has(digest, 7)
    assert not store.blobs.incomplete_path(digest).exists()
    assert store.blobs.path(digest) == store.root / "blobs/sha256" / digest[7:]


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../x", "sha512:" + "0" * 128, "0" * 64])
def test_what_is_no_digest_is_no_path(store, digest):
    for use in (store.blobs.path, store.blobs.incomplete_path, store.blobs.has, store.blobs.lock):
        with pytest.raises(StoreError, match="not a sha256 digest"):
            use(digest)


def test_a_files_bytes_are_counted_while_it_comes_in(store, tmp_path):
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 10_000)
    seen = []
    digest, size = store.blobs.ingest_file(source, progress=seen.append)
    assert digest == manifests.sha256(source.read_bytes())
    assert size == 2_560_000
    assert seen == [1 << 20, 2 << 20, size]
    assert store.blobs.ingest_file(source) == (digest, size)
    assert files_below(store.root / "blobs") == {f"sha256/{digest[7:]}"}
