"""Cleaning up, emptying, measuring and verifying a store."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_runner.errors import Conflict, ModelNotFound
from model_runner.store import PruneOptions, Store, files, manifests, purging
from support.stores import add_layers, add_model, files_below, layer

AT_ONCE = PruneOptions(grace=0)
ALL_AT_ONCE = PruneOptions(grace=0, dangling=True)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


def litter(store):
    """One of everything that can be left behind, under the name that `prune` has for it."""
    digest = store.blobs.put_bytes(b"needless")
    partial = "sha256:" + "1" * 64
    store.blobs.incomplete_path(partial).write_bytes(b"half")
    store.blobs.path(partial).with_suffix(".parts").write_bytes(b"other half")
    (store.root / "blobs/sha256/ingest.tmp-1").write_bytes(b"t" * 5)
    (store.root / "models.json.tmp-1").write_bytes(b"t" * 6)
    (store.root / "manifests/sha256" / ("2" * 64)).write_bytes(b"m" * 7)
    for name in ("3" * 64, "4" * 64 + ".tmp-x"):
        (store.root / "bundles/sha256" / name / "model").mkdir(parents=True)
        (store.root / "bundles/sha256" / name / "model/model.gguf").write_bytes(b"b" * 9)
    (store.root / ".quarantine").mkdir()
    (store.root / ".quarantine/damaged").write_bytes(b"q" * 10)
    return {
        ("blob", digest): 8,
        ("partial", partial): 14,
        ("temporary", "blobs/sha256/ingest.tmp-1"): 5,
        ("temporary", "models.json.tmp-1"): 6,
        ("manifest", "manifests/sha256/" + "2" * 64): 7,
        ("bundle", "bundles/sha256/" + "3" * 64): 9,
        ("temporary", "bundles/sha256/" + "4" * 64 + ".tmp-x"): 9,
        ("quarantine", ".quarantine/damaged"): 10,
    }


def removed(results):
    return {(item.kind, item.name): item.bytes for item in results if not item.kept}


def kept(results):
    return {(item.kind, item.name): item.kept for item in results if item.kept}


def test_prune_takes_what_no_model_needs_and_nothing_else(store):
    model = add_model(store, b"one", b"two", tags=["m"])
    bundle = store.bundle(model)
    before = files_below(store.root)
    expected = litter(store)
    assert removed(store.prune(AT_ONCE)) == expected
    assert files_below(store.root) - {".locks/writers.lock"} == before - {".locks/writers.lock"}
    assert store.bundle(model) == bundle
    assert store.prune(AT_ONCE) == []


def test_prune_leaves_alone_what_is_young(store):
    expected = litter(store)
    assert set(kept(store.prune(PruneOptions()))) == set(expected)
    old = time.time() - 4000
    for path in store.root.rglob("*"):
        os.utime(path, (old, old))
    assert set(removed(store.prune(PruneOptions(grace=5000)))) == set()
    assert set(removed(store.prune(PruneOptions()))) == set(expected)


def test_a_dry_run_tells_the_same_and_does_nothing(store):
    add_model(store, b"nameless")
    litter(store)
    before = files_below(store.root)
    told = store.prune(PruneOptions(grace=0, dangling=True, dry_run=True))
    assert files_below(store.root) == before
    assert store.prune(ALL_AT_ONCE) == told


def test_models_without_a_name_go_only_if_that_is_wanted(store):
    named = add_model(store, b"shared", tags=["m"])
    nameless = add_model(store, b"shared", b"own")
    store.bundle(nameless)
    assert store.prune(AT_ONCE) == []
    in_use = PruneOptions(grace=0, dangling=True, in_use={nameless.id})
    assert kept(store.prune(in_use)) == {("model", nameless.id): "it is loaded"}
    size = sum(
        path.stat().st_size
        for path in (
            store.root / "manifests/sha256" / nameless.id[7:],
            store.blobs.path(nameless.manifest.config.digest),
            store.root / "bundles/sha256" / nameless.id[7:] / "config.json",
        )
    )
    assert removed(store.prune(ALL_AT_ONCE)) == {("model", nameless.id): size + len(b"own")}
    assert store.list() == [named]
    assert store.bundle(named).gguf


def test_prune_disturbs_nobody_who_writes(store):
    digest = store.blobs.put_bytes(b"first of two")
    with store.writing():
        (refused,) = Store.open(store.root).prune(AT_ONCE)
    assert (refused.name, refused.kept) == (digest, "it is being written")
    (gone,) = Store.open(store.root).prune(AT_ONCE)
    assert (gone.name, gone.kept) == (digest, "")


def test_prune_disturbs_no_download(store):
    digest = "sha256:" + "1" * 64
    store.blobs.incomplete_path(digest).write_bytes(b"half")
    with store.blobs.lock(digest):
        assert kept(store.prune(AT_ONCE)) == {("partial", digest): "it is being written"}
    assert set(removed(store.prune(AT_ONCE))) == {("partial", digest)}


def test_who_begins_to_write_waits_for_no_more_than_one_file(store):
    """A writer that found a blob in the store must not lose it before it says that it needs it."""
    digest = store.blobs.put_bytes(b"needless")
    entered = threading.Event()

    def write():
        with store.writing():
            entered.set()

    with Store.open(store.root)._writers.kept_out():
        thread = threading.Thread(target=write)
        thread.start()
        assert not entered.wait(0.1)
    thread.join()
    assert store.blobs.has(digest)


def test_a_killed_writer_does_not_keep_others_from_pruning(store):
    store.blobs.put_bytes(b"needless")
    (store.root / ".locks/writer-0123.lock").touch()
    assert len(removed(store.prune(AT_ONCE))) == 1
    assert not list((store.root / ".locks").glob("writer-*"))


def test_locks_of_what_is_gone_go_with_it(store):
    model = add_model(store, b"one", tags=["m"])
    store.bundle(model)
    gone = add_model(store, b"two", tags=["n"])
    store.bundle(gone)
    with store.blobs.lock(gone.manifest.layers[0].digest):
        pass
    store.delete("n")
    store.prune(AT_ONCE)
    assert {path.name for path in (store.root / ".locks").iterdir()} == {
        "index.lock",
        "reserve",
        "writers.lock",
        f"bundle-{model.id[7:]}.lock",
    }


def test_what_is_known_of_blobs_goes_with_them_unless_a_model_lacks_them(store):
    model = add_model(store, b"one", tags=["m"])
    lacked = model.manifest.layers[0].digest[7:]
    store.blobs.path(f"sha256:{lacked}").unlink()
    (store.root / ".ranges").mkdir()
    for name in (lacked, "5" * 64):
        (store.root / ".ranges" / name).write_bytes(b"known")
    store.prune(AT_ONCE)
    assert [path.name for path in (store.root / ".ranges").iterdir()] == [lacked]
    store.purge()
    assert not (store.root / ".ranges").exists()


def test_blobs_stay_while_nobody_can_say_who_needs_them(store):
    model = add_model(store, b"weights", tags=["m"])
    index = store.root / "models.json"
    index.write_text(f'{{"models": [{{"id": "{model.id}", "tags": null, "files": null}}]}}')
    (store.root / "manifests/sha256" / model.id[7:]).write_text("damaged")
    reopened = Store.open(store.root)
    assert reopened.prune(AT_ONCE) == []
    assert reopened.blobs.has(model.manifest.layers[0].digest)


def test_purge_empties_the_store_and_leaves_it_one(store):
    store.bundle(add_model(store, b"one", tags=["m"]))
    litter(store)
    (store.root / "README").write_text("mine")
    store.purge()
    assert store.list() == []
    assert files_below(store.root) == {
        "README",
        "layout.json",
        "models.json",
        ".locks/index.lock",
        ".locks/reserve",
        ".locks/writers.lock",
        *(f".locks/{path.name}" for path in (store.root / ".locks").glob("bundle-*")),
    }
    assert (store.root / "models.json").read_text() == '{\n  "models": []\n}'
    assert store.bundle(add_model(store, b"one", tags=["m"])).gguf


def test_purge_refuses_a_directory_that_is_no_store(store):
    add_model(store, b"one", tags=["m"])
    (store.root / "layout.json").unlink()
    before = files_below(store.root)
    with pytest.raises(Conflict, match=r"no layout\.json"):
        store.purge()
    assert files_below(store.root) == before


def test_purge_during_a_pull_must_be_forced(store, monkeypatch):
    monkeypatch.setattr(purging, "_PATIENCE_SECONDS", 0.1)
    add_model(store, b"one", tags=["m"])
    with Store.open(store.root).writing() as writer:
        with pytest.raises(Conflict, match="being pulled or packaged"):
            store.purge()
        assert store.get("m")
        writer.check()
        store.purge(force=True)
        with pytest.raises(Conflict, match="being emptied"):
            writer.check()
    with pytest.raises(ModelNotFound):
        store.get("m")
    with store.writing() as writer:
        writer.check()


def test_a_forced_purge_waits_for_who_stops(store):
    """What a writer writes before it has noticed goes, too."""
    begun, purged = threading.Event(), threading.Event()

    def write():
        with Store.open(store.root).writing() as writer:
            begun.set()
            for number in range(5000):
                try:
                    writer.check()
                except Conflict:
                    break
                store.blobs.incomplete_path(f"sha256:{number:064}").write_bytes(b"more")
            else:
                pytest.fail("it was not asked to stop")
            assert not purged.is_set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        begun.wait()
        store.purge(force=True)
        purged.set()
        writing.result()
    assert files_below(store.root / "blobs") == set()
    assert not list((store.root / ".locks").glob("writer-*"))


def test_what_a_writer_needs_stays_when_its_model_goes(store):
    """However it was found: before the model went, or because another writer needs it."""
    shared = add_model(store, b"shared", b"own", tags=["m"]).manifest.layers[0]
    with store.writing() as writer:
        writer.needs({shared.digest: 0})
        assert Store.open(store.root).delete("m")
        assert store.blobs.has(shared.digest)
        other = add_model(store, b"shared", tags=["n"])
    assert files_below(store.root / "blobs/sha256") == {b.digest[7:] for b in other.manifest.blobs}
    store.delete("n")
    assert files_below(store.root / "blobs") == set()


def test_what_a_killed_writer_needed_goes_with_its_model(store):
    shared = add_model(store, b"shared", tags=["m"]).manifest.layers[0]
    (store.root / ".locks/writer-0123.lock").touch()
    (store.root / ".locks/writer-0123.needs").write_text(f"{shared.digest} 0\n")
    (store.root / ".locks/writer-4567.stop").touch()
    store.delete("m")
    assert not store.blobs.has(shared.digest)
    assert not list((store.root / ".locks").glob("writer-*"))


@pytest.mark.parametrize("clones", [False, True])
def test_disk_usage_counts_a_file_once(store, monkeypatch, clones):
    if clones:
        monkeypatch.setattr(
            files, "reflink", lambda old, new: bool(new.write_bytes(old.read_bytes()))
        )
    shared, own = b"s" * 5000, b"o" * 300
    one = add_model(store, shared, tags=["one"])
    two = add_model(store, shared, own, tags=["two", "further"])
    store.bundle(two)
    usage = store.usage()
    first, second = usage.models
    assert (first.id, first.shared, first.unique) == (one.id, 5000, first.size - 5000)
    assert second.tags == two.tags
    copies = len(own + shared) if clones else 0
    assert second.size == two.manifest.size + len(b'{"format":"gguf"}\n') + copies
    assert second.shared == 5000
    assert usage.in_models == first.size + second.size - 5000
    assert usage.total == sum(
        status.st_size
        for status in {
            (path.stat().st_ino): path.stat() for path in store.root.rglob("*") if path.is_file()
        }.values()
    )


def run(verification):
    steps = []
    while step := verification.step():
        steps.append(step)
    return steps


def test_a_whole_model_is_verified_file_by_file(store):
    model = add_model(store, b"one", b"two", b"one", tags=["m"])
    store.bundle(model)
    verification = store.verify("m")
    steps = run(verification)
    assert verification.findings == []
    assert verification.files == 4  # the manifest, the configuration, and each blob once
    blobs = {model.manifest.config.digest, *(layer.digest for layer in model.manifest.layers)}
    assert {step.digest for step in steps if step.current == step.size} == blobs
    assert {step.total for step in steps} == {sum(step.size for step in steps if step.current) // 2}


@pytest.mark.parametrize("content", [b"tWo", b"tw", b"", b"two and more"])
def test_a_damaged_blob_is_taken_aside_and_a_new_one_takes_its_place(store, content):
    model = add_model(store, b"one", b"two", tags=["m"])
    bundle = store.bundle(model)
    other = add_model(store, b"two", tags=["n"])
    store.bundle(other)
    broken = model.manifest.layers[1]
    path = store.blobs.path(broken.digest)
    path.chmod(0o644)
    path.write_bytes(content)
    verification = store.verify("m")
    run(verification)
    (finding,) = verification.damaged
    assert (finding.digest, finding.state, finding.descriptor) == (broken.digest, "damaged", broken)
    assert finding.path is not None
    assert finding.path.parent == store.root / ".quarantine"
    assert finding.path.read_bytes() == content
    # Nobody loads it under another name, and both models say what they lack.
    assert not bundle.root.exists()
    assert [described.get("missing") for described in store.describe()] == [[broken.digest]] * 2
    store.blobs.put_bytes(b"two")
    assert all("missing" not in described for described in store.describe())
    verification = store.verify("m")
    run(verification)
    assert verification.findings == []
    assert store.bundle(other).gguf


def test_a_missing_blob_is_named(store):
    model = add_model(store, b"one", tags=["m"])
    store.blobs.path(model.manifest.layers[0].digest).unlink()
    verification = store.verify("m")
    run(verification)
    assert [(finding.state, finding.path) for finding in verification.damaged] == [
        ("missing", None)
    ]


def test_a_damaged_manifest_is_taken_aside_and_the_model_still_listed(store):
    model = add_model(store, b"one", tags=["m"])
    (store.root / "manifests/sha256" / model.id[7:]).write_bytes(b"{}")
    verification = store.verify("m")
    run(verification)
    assert [finding.digest for finding in verification.damaged] == [model.id]
    (described,) = store.describe()
    assert described == {
        "id": model.id,
        "tags": ["docker.io/ai/m:latest"],
        "created": 0,
        "config": {},
        "missing": [model.id],
    }
    store.write(model.manifest.raw, tags=["m"])
    assert store.describe() == [model.describe()]


def test_a_damaged_configuration_is_found_although_it_was_read_before(store):
    model = add_model(store, b"one", tags=["m"])
    path = store.blobs.path(model.manifest.config.digest)
    path.write_bytes(path.read_bytes().replace(b"gguf", b"GGUF"))
    assert store.get("m") == model
    verification = store.verify("m")
    run(verification)
    assert [finding.digest for finding in verification.damaged] == [model.manifest.config.digest]
    (described,) = store.describe()
    assert described["missing"] == [model.manifest.config.digest]


def test_a_damaged_copy_is_made_anew(store, monkeypatch):
    monkeypatch.setattr(files, "reflink", lambda old, new: bool(new.write_bytes(old.read_bytes())))
    model = add_model(store, b"one", tags=["m"])
    gguf = store.bundle(model).gguf
    assert gguf is not None
    gguf.chmod(0o644)
    gguf.write_bytes(b"onE")
    verification = store.verify("m")
    run(verification)
    assert [finding.state for finding in verification.findings] == ["unpacked"]
    assert verification.damaged == []
    again = store.bundle(model).gguf
    assert again is not None
    assert again.read_bytes() == b"one"


def test_what_somebody_is_fetching_anew_is_left_to_them(store):
    model = add_model(store, b"one", tags=["m"])
    blob = model.manifest.layers[0]
    store.blobs.path(blob.digest).write_bytes(b"onE")
    with store.blobs.lock(blob.digest):
        verification = store.verify("m")
        run(verification)
    assert [(finding.state, finding.path) for finding in verification.damaged] == [
        ("damaged", None)
    ]
    assert store.blobs.has(blob.digest)


def test_engines_cannot_write_to_blobs_through_their_model_files(store):
    model = add_layers(
        store,
        [
            layer(store, b"w", manifests.GGUF, "m.gguf"),
            layer(store, b"{}", manifests.MODEL_FILE, "x"),
        ],
        config_type=manifests.CONFIG_V02,
    )
    bundle = store.bundle(model)
    for path in bundle.root.rglob("*"):
        assert path.is_dir() or not path.stat().st_mode & 0o200
    # What Docker's tools do with a store that they own still works.
    blob = store.blobs.path(model.manifest.layers[0].digest)
    os.link(blob, store.root / "link")
    (store.root / "new").write_bytes(b"w")
    (store.root / "new").replace(blob)
    blob.unlink()


def test_without_a_grace_period_the_clock_does_not_matter(store):
    path = store.blobs.path(store.blobs.put_bytes(b"needless"))
    tomorrow = time.time() + 24 * 3600
    os.utime(path, (tomorrow, tomorrow))
    assert kept(store.prune(PruneOptions()))
    assert removed(store.prune(AT_ONCE))


def test_to_prune_takes_no_longer_a_file_where_there_are_many(store, monkeypatch):
    """Looking through the store for each of 10000 blobs took minutes."""
    add_model(store, b"weights", tags=["m"])
    for number in range(300):
        digest = store.blobs.put_bytes(b"%d" % number)
        with store.blobs.lock(digest):
            pass
    looks = 0
    scandir = os.scandir

    def count(*arguments):
        nonlocal looks
        looks += 1
        return scandir(*arguments)

    monkeypatch.setattr(os, "scandir", count)
    monkeypatch.setattr(os, "listdir", count)  # of which `glob` makes use before Python 3.13
    monkeypatch.setattr("model_runner.store.pruning._HOLD_SECONDS", 60)
    assert len(removed(store.prune(AT_ONCE))) == 300
    assert looks < 50
    assert len(list((store.root / ".locks").glob("*.lock"))) < 5


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("purge", [False, True])
def test_a_model_that_is_removed_while_it_is_verified_is_not_damaged(store, steps, purge):
    add_model(store, b"one", b"two", tags=["m"])
    verification = store.verify("m")
    for _ in range(steps):
        verification.step()
    if purge:
        store.purge()
    else:
        store.delete("m")
    with pytest.raises(ModelNotFound):
        run(verification)
    assert verification.findings == []


def test_a_blob_that_vanishes_while_a_model_is_verified_is_missing(store):
    model = add_model(store, b"one", b"two", tags=["m"])
    verification = store.verify("m")
    verification.step()
    lost = model.manifest.layers[1].digest
    store.blobs.path(lost).unlink()
    run(verification)
    assert [(found.digest, found.state) for found in verification.findings] == [(lost, "missing")]


@pytest.mark.parametrize("refuses", ["open", "mkdir"])
def test_damage_is_told_also_where_the_store_can_only_be_read(store, monkeypatch, refuses):
    """At the lock of the blob, or at the move; root may write everywhere, so both are made up."""
    model = add_model(store, b"one", tags=["m"])
    blob = store.blobs.path(model.manifest.layers[0].digest)
    blob.unlink()
    blob.write_bytes(b"two")
    verification = store.verify("m")
    allowed = getattr(os, refuses)

    def refuse(path, *arguments, **options):
        if ".lock" in str(path) or ".quarantine" in str(path):
            raise PermissionError(errno.EACCES, "no", str(path))
        return allowed(path, *arguments, **options)

    monkeypatch.setattr(os, refuses, refuse)
    run(verification)
    assert [(found.state, found.path) for found in verification.findings] == [("damaged", blob)]
