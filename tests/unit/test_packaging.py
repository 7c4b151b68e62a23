"""Packaging: what we build has the digests that Docker Model Runner gives the same files."""

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from model_runner.errors import Conflict, InvalidReference, UnsupportedModel
from model_runner.packaging import (
    Extras,
    SourceFile,
    Weights,
    package_gguf,
    package_variant,
    package_weights,
)
from model_runner.packaging.artifact import timestamp
from model_runner.packaging.neighbours import Found, import_found
from model_runner.store import ModelConfig, PruneOptions, Store, gojson, manifests
from support.server import wait_until
from support.stores import files_below, fixture_models, unpack_fixture
from support.tiny_gguf import tiny_random, tiny_script

CREATED = datetime(2025, 6, 15, 12, tzinfo=timezone.utc)

# Made by Docker Model Runner's own packages from `hello\n`, 0644, 2025-01-01T00:00:00.5Z.
GOLDEN_CONFIG = (
    r'{"config":{"format":"gguf","quantization":"MOSTLY_Q4_K_M","parameters":"361.82M",'
    r'"architecture":"llama","size":"256.35MiB","gguf":{"general.architecture":"llama",'
    r'"tokenizer.chat_template":"{% if a \u003c b \u0026\u0026 c %}\u003c|im_start|\u003e\n\"é\"'
    r'{% endif %}"},"context_size":4096},"descriptor":{"created":"2025-06-15T12:00:00Z"},'
    r'"rootfs":{"type":"rootfs","diff_ids":'
    r'["sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"]}}'
).encode()
GOLDEN_ID = "sha256:b1a5d65199282bf3ec96935cef94d93873880a9b370ce05e29dcc0dcc6500731"
GOLDEN_MANIFEST = (
    rb'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
    rb'{"mediaType":"application/vnd.docker.ai.model.config.v0.1+json","size":450,"digest":'
    rb'"sha256:ac8ae5a831e395f1c4b70fdac4090e7dcb3948193537d770c27698ee86cb0caf"},"layers":'
    rb'[{"mediaType":"application/vnd.docker.ai.gguf.v3","size":6,"digest":'
    rb'"sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03","annotations":'
    rb'{"org.cncf.model.file.mediatype.untested":"false","org.cncf.model.file.metadata+json":'
    rb'"{\"name\":\"gguf-bytes.gguf\",\"mode\":420,\"uid\":0,\"gid\":0,\"size\":6,\"mtime\":'
    rb'\"2025-01-01T00:00:00.5Z\",\"typeflag\":0}","org.cncf.model.filepath":"gguf-bytes.gguf"}}]}'
)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


def test_configuration_and_manifest_are_dockers_byte_for_byte(store, tmp_path):
    file = tmp_path / "gguf-bytes.gguf"
    file.write_bytes(b"hello\n")
    file.chmod(0o644)
    moment = 1_735_689_600_500_000_000  # 2025-01-01T00:00:00.5Z
    os.utime(file, ns=(moment, moment))
    template = '{% if a < b && c %}<|im_start|>\n"é"{% endif %}'
    config = ModelConfig(
        format="gguf",
        architecture="llama",
        parameters="361.82M",
        quantization="MOSTLY_Q4_K_M",
        size="256.35MiB",
        gguf={"tokenizer.chat_template": template, "general.architecture": "llama"},
    )
    model = package_weights(
        store,
        Weights(config, [SourceFile(file, manifests.GGUF, file.name)]),
        "golden",
        Extras(created=CREATED, context_size=4096),
    )
    assert store.blobs.read(model.manifest.config.digest) == GOLDEN_CONFIG
    assert model.manifest.raw == GOLDEN_MANIFEST
    assert model.id == GOLDEN_ID
    assert model.created == 1_749_988_800


def test_a_packaged_file_is_listed_as_docker_lists_the_same_file(store, tmp_path):
    docker = fixture_models()[0]
    model = package_gguf(store, tiny_script(tmp_path / "tiny-script.gguf"), "ai/tiny-script")
    ours = model.describe()
    assert json.dumps(ours["config"]) == json.dumps(docker["config"])
    assert ours["tags"] == ["docker.io/ai/tiny-script:latest"]


def test_dockers_own_package_of_the_same_file_is_reproduced(store, tmp_path):
    docker = Store.open(unpack_fixture(tmp_path)).get("ai/tiny-script")
    file = tiny_script(tmp_path / "tiny-script.gguf")
    file.chmod(0o644)
    moment = 1_795_401_372_774_172_958  # 2026-11-23T02:36:12.774172958Z
    os.utime(file, ns=(moment, moment))
    model = package_gguf(store, file, "ai/tiny-script")
    assert model.manifest.layers == docker.manifest.layers
    # Only the moment of packaging differs, to whose nanoseconds a datetime does not go.
    assert model.config == docker.config


def test_any_shard_stands_for_all_and_they_keep_their_order(store, tmp_path):
    first = tiny_random(tmp_path / "tiny-random.gguf", shards=3)
    family = sorted(tmp_path.glob("tiny-random-*.gguf"))
    model = package_gguf(store, family[2], "ai/sharded", Extras(created=CREATED))
    digests = ["sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() for file in family]
    assert [layer.digest for layer in model.manifest.layers] == digests
    assert json.dumps(model.describe()["config"]) == json.dumps(fixture_models()[1]["config"])
    bundle = store.bundle(model)
    assert bundle.gguf is not None
    assert bundle.gguf.read_bytes() == first.read_bytes()


def test_packaging_the_same_files_again_is_the_same_model(store, tmp_path):
    file = tiny_script(tmp_path / "m.gguf")
    first = package_gguf(store, file, "ai/m:one", Extras(created=CREATED))
    second = package_gguf(store, file, "ai/m:two", Extras(created=CREATED))
    assert first.id == second.id
    assert second.tags == ("docker.io/ai/m:one", "docker.io/ai/m:two")
    assert len(store.list()) == 1


def test_licences_and_context_size_go_along(store, tmp_path):
    licence = tmp_path / "LICENSE.txt"
    licence.write_text("Do as you like.\n")
    model = package_gguf(
        store, tiny_script(tmp_path / "m.gguf"), "ai/m", Extras([licence], context_size=512)
    )
    assert model.config.context_size == 512
    assert [layer.media_type for layer in model.manifest.layers] == [
        "application/vnd.docker.ai.gguf.v3",
        "application/vnd.docker.ai.license",
    ]
    assert sorted(p.name for p in (store.bundle(model).root / "model").iterdir()) == ["model.gguf"]


def test_the_original_may_be_changed_afterwards(store, tmp_path):
    file = tiny_script(tmp_path / "m.gguf")
    model = package_gguf(store, file, "ai/m")
    before = store.blobs.path(model.manifest.layers[0].digest).read_bytes()
    with file.open("r+b") as handle:
        handle.write(b"XXXX")
    assert store.blobs.path(model.manifest.layers[0].digest).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.gguf", b"", "empty"),
        ("a.gguf", b"PK\3\4 no model", "not a GGUF file"),
        ("a-00001-of-00003.gguf", b"GGUF", "2 of them are missing"),
        ("a-00001-of-00000.gguf", b"GGUF", "shard 1 of 0"),
        ("a-00003-of-00002.gguf", b"GGUF", "shard 3 of 2"),
        ("a.gguf", b"GGUF\3\0\0\0" + bytes(16), "holds no weights"),
    ],
)
def test_what_is_no_whole_gguf_model_is_refused_and_leaves_nothing(
    store, tmp_path, name, content, reason
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedModel, match=reason):
        package_gguf(store, tmp_path / name, "ai/m")
    assert store.list() == []
    assert list((store.root / "blobs" / "sha256").iterdir()) == []


def test_a_file_without_its_end_is_refused(store, tmp_path):
    file = tiny_script(tmp_path / "m.gguf")
    os.truncate(file, file.stat().st_size - 1000)
    with pytest.raises(UnsupportedModel, match="1000 bytes are missing"):
        package_gguf(store, file, "ai/m")


def test_missing_files_are_named(store, tmp_path):
    with pytest.raises(UnsupportedModel, match=r"nowhere\.gguf` cannot be read"):
        package_gguf(store, tmp_path / "nowhere.gguf", "ai/m")
    file = tiny_script(tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModel, match="licence"):
        package_gguf(store, file, "ai/m", Extras([tmp_path / "nowhere.txt"]))


@pytest.mark.parametrize("tag", ["ai/../m", "1234567890ab", ""])
def test_a_model_needs_a_proper_name(store, tmp_path, tag):
    with pytest.raises(InvalidReference):
        package_gguf(store, tiny_script(tmp_path / "m.gguf"), tag)
    assert list((store.root / "blobs" / "sha256").iterdir()) == []


def test_times_have_as_many_digits_as_they_need():
    assert timestamp(1_735_689_600, 500_000_000) == "2025-01-01T00:00:00.5Z"
    assert timestamp(1_735_689_600, 0) == "2025-01-01T00:00:00Z"
    assert timestamp(1_735_689_600, 1) == "2025-01-01T00:00:00.000000001Z"


def test_created_is_told_in_utc(store, tmp_path):
    abroad = datetime(2025, 6, 15, 14, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))
    model = package_gguf(store, tiny_script(tmp_path / "m.gguf"), "ai/m", Extras(created=abroad))
    config = json.loads(store.blobs.read(model.manifest.config.digest))
    assert config["descriptor"]["created"] == "2025-06-15T12:00:00.25Z"


def test_json_is_escaped_as_go_does():
    text = '<a href="x">&\u2028\u2029\b\f\n\r\t\x00\x1f\x7fé\ud800'
    assert gojson.encode({"b": text, "a": [1, True]}).decode() == (
        r'{"b":"\u003ca href=\"x\"\u003e\u0026\u2028\u2029\b\f\n\r\t\u0000\u001f'
        "\x7fé\ufffd"
        r'","a":[1,true]}'
    )


def test_what_a_package_is_made_of_is_not_pruned_meanwhile(store, tmp_path, monkeypatch):
    """Neither what was copied for it, nor what was found in the store, however old."""
    weights = tiny_script(tmp_path / "m.gguf")
    licence = tmp_path / "LICENSE"
    licence.write_bytes(b"do what you like")
    elsewhere = Store.open(store.root)
    digest, _ = elsewhere.blobs.ingest_file(weights)
    os.utime(elsewhere.blobs.path(digest), (0, 0))
    ingest, reasons = store.blobs.ingest_file, set()

    def ingest_and_prune(source, **options):
        ingested = ingest(source, **options)
        reasons.update(item.kept for item in elsewhere.prune(PruneOptions(grace=0)))
        return ingested

    monkeypatch.setattr(store.blobs, "ingest_file", ingest_and_prune)
    model = package_gguf(store, weights, "m", Extras(licenses=[licence]))
    assert "missing" not in model.describe()
    (tmp_path / "NOTICE").write_bytes(b"but tell")
    package_variant(store, "m", "v", Extras(licenses=[tmp_path / "NOTICE"]))
    assert reasons == {"it is being written"}
    assert elsewhere.prune(PruneOptions(grace=0)) == []


@pytest.mark.parametrize("kind", ["file", "known file", "template", "variant"])
def test_a_model_that_goes_meanwhile_may_share_a_file_with_the_package(
    store, tmp_path, monkeypatch, kind
):
    """It goes when the package has found the file in the store, and is not done."""
    weights, licence = tiny_script(tmp_path / "m.gguf"), tmp_path / "LICENSE"
    licence.write_bytes(b"do what you like")
    package_gguf(store, weights, "goes", Extras(licenses=[licence]))
    elsewhere = Store.open(store.root)
    put_bytes = store.blobs.put_bytes

    def delete_and_put(data):
        elsewhere.delete("goes")
        return put_bytes(data)

    # The last step before the model is written.
    monkeypatch.setattr(store.blobs, "put_bytes", delete_and_put)
    if kind == "variant":
        model = package_variant(store, "goes", "stays", Extras(context_size=7))
    elif kind == "known file":
        digest = elsewhere.get("goes").manifest.layers[0].digest
        known = SourceFile(weights, manifests.GGUF, "m.gguf", digest=digest)
        found = Found("elsewhere", "stays", [known])
        model = import_found(store, found, "stays")
    else:
        extras = Extras(licenses=[licence] if kind == "template" else [], context_size=7)
        model = package_gguf(store, weights, "stays", extras)
    assert [entry.tags for entry in store.entries()] == [("docker.io/ai/stays:latest",)]
    assert store.describe() == [model.describe()]
    assert store.bundle(model).gguf


def test_a_package_whose_store_is_emptied_stops(store, tmp_path):
    weights = tiny_script(tmp_path / "m.gguf")
    elsewhere = Store.open(store.root)
    with ThreadPoolExecutor(1) as pool:
        asked = threading.Event()
        purging = []

        def report(*_):
            if not purging:
                purging.append(pool.submit(elsewhere.purge, force=True))
            wait_until(lambda: list((store.root / ".locks").glob("*.stop")), "it is asked to stop")
            asked.set()

        with pytest.raises(Conflict, match="being emptied"):
            package_gguf(store, weights, "m", Extras(report=report))
        assert asked.is_set()
        purging[0].result()
    assert store.entries() == ()
    assert files_below(store.root / "blobs") == set()
    assert package_gguf(store, weights, "m")


def test_a_file_that_cannot_be_read_is_no_fault_of_the_store(store, tmp_path, monkeypatch):
    """Root may read everything, so the disk is asked for something that it has not."""
    weights, licence = tiny_script(tmp_path / "m.gguf"), tmp_path / "LICENSE"
    licence.write_bytes(b"do what you like")
    monkeypatch.setattr(Extras, "check", lambda *_: licence.unlink())
    with pytest.raises(UnsupportedModel, match=r"`.*LICENSE` cannot be read: no such file"):
        package_gguf(store, weights, "m", Extras(licenses=[licence]))
    assert not any((store.root / "blobs/sha256").iterdir())
