"""The store under fire: many writers, killed writers, full and read-only disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from model_runner.errors import DiskFull, ModelNotFound, StoreError
from model_runner.packaging import package_gguf
from model_runner.store import PruneOptions, Store, disk_errors, files, index
from support.small_disks import on_disk_of
from support.store_writer import SCENARIOS, again
from support.stores import add_model, files_below
from support.tiny_gguf import tiny_script

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


EVERYTHING = PruneOptions(grace=0, dangling=True)


def writer(*arguments: object, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "support.store_writer", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdin=pipe, stdout=pipe)


def test_twenty_processes_write_at_once_and_nothing_is_lost(tmp_path):
    root = tmp_path / "models"
    names = [f"ai/model{number}" for number in range(20)]
    processes = [writer("write", root, name) for name in names]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    store = Store.open(root)
    assert sorted(model.tags for model in store.list()) == sorted(
        (f"docker.io/{name}:latest",) for name in names
    )
    for model in store.list():
        assert store.bundle(model).gguf
    assert store.prune(EVERYTHING) == []


def test_threads_that_build_one_bundle_get_the_same(tmp_path):
    store = Store.open(tmp_path / "models")
    model = add_model(store, b"one", b"two", tags=["m"])
    with ThreadPoolExecutor(8) as pool:
        bundles = list(pool.map(lambda _: store.bundle(model), range(16)))
    assert len(set(bundles)) == 1
    assert files_below(bundles[0].root) == {
        "config.json",
        "model/model-00001-of-00002.gguf",
        "model/model-00002-of-00002.gguf",
    }


def test_writers_and_deleters_leave_a_consistent_store(tmp_path):
    store = Store.open(tmp_path / "models")

    def churn(number: int) -> None:
        name = f"ai/m{number}"
        for _ in range(5):
            add_model(store, name.encode(), tags=[name])
            store.delete(name)
        add_model(store, name.encode(), tags=[name])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert len(store.list()) == 4
    for model in store.list():
        assert store.bundle(model).gguf


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_disk_operation_nothing_is_torn_or_lost_for_ever(
    tmp_path, monkeypatch, scenario
):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and only power cuts need it
    process = writer("crash", scenario, tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0
    crashes = int(output)
    assert crashes >= 10
    expected = settled(tmp_path / "0", scenario)
    for step in range(1, crashes + 1):
        root = tmp_path / str(step)
        check_store(root, damaged=scenario == "verify")
        # Nothing that was left is in the way of doing it again, and nothing stays.
        assert settled(root, scenario) == expected, step


def settled(root: Path, scenario: str) -> tuple[set[str] | int, list[tuple[str, ...]]]:
    """The files and the names of a store in which a change was made again, and then pruned."""
    store = again(root, scenario)
    store.prune(EVERYTHING)
    assert store.prune(EVERYTHING) == []
    assert not list((root / ".locks").glob("writer-*"))
    # Whether a model has a bundle depends on who asked for it; it must be a model's.
    bundles = {path.name for path in (root / "bundles/sha256").iterdir()}
    assert bundles <= {entry.id[7:] for entry in store.entries()}
    files = {name for name in files_below(root) if not name.startswith((".locks/", "bundles/"))}
    tags = sorted(entry.tags for entry in store.entries())
    # The configuration of what is imported has the time in it.
    return (len(files) if scenario == "import" else files), tags


def check_store(root: Path, *, damaged: bool) -> None:
    store = Store.open(root)
    models = store.list()
    assert len(models) == len(json.loads((root / "models.json").read_bytes())["models"])
    for model in models:
        if damaged and "docker.io/ai/one:latest" in model.tags:
            continue  # its weights were
        assert store.bundle(model).gguf
        verification = store.verify(model.id)
        while verification.step():
            pass
        assert verification.findings == []


@contextmanager
def unprivileged():
    """Root may write anywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def as_owner():
    """Meanwhile, whoever runs the tests."""
    before = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def foreign_store():
    """A store that everybody may read and nobody but its owner may write."""
    root = Path(tempfile.mkdtemp())
    store = Store.open(root)
    add_model(store, b"weights", tags=["m"])
    (root / "models.json").chmod(0o444)
    shutil.rmtree(root / ".locks")
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    yield root
    for directory in directories:
        directory.chmod(0o755)
    shutil.rmtree(root)


def test_a_store_of_somebody_else_can_be_read_and_says_why_not_written(foreign_store):
    with unprivileged():
        store = Store.open(foreign_store)
        model = store.get("m")
        assert store.list() == [model]
        for attempt in (
            lambda: add_model(store, b"other"),
            lambda: store.add_tag(model.id, "n"),
            lambda: store.delete("m"),
            lambda: store.bundle(model),
            lambda: store.blobs.lock(model.id),
        ):
            with pytest.raises(StoreError, match="permission denied") as caught:
                attempt()
            assert "MODELS_PATH" in (caught.value.hint or "")


@pytest.fixture
def scratch(monkeypatch):
    """A place of their own for those who may only read; links do not reach it, only copies do."""
    monkeypatch.setattr(files, "reflink", lambda old, new: bool(new.write_bytes(old.read_bytes())))
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        yield Path(place)


def verified(store, name):
    verification = store.verify(name)
    while verification.step():
        pass
    return [finding.state for finding in verification.findings]


def test_copies_of_somebody_elses_store_are_verified(foreign_store, scratch):
    with unprivileged():
        store = Store.open(foreign_store, scratch=scratch)
        weights = store.bundle(store.get("m")).gguf
        assert weights.is_relative_to(scratch)
        assert verified(store, "m") == []
        weights.chmod(0o644)
        weights.write_bytes(b"weighty")
        assert verified(store, "m") == ["unpacked"]
        assert not weights.exists()
        assert store.bundle(store.get("m")).gguf.read_bytes() == b"weights"
    blob = store.blobs.path(store.get("m").manifest.layers[0].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"weighty")
    with unprivileged():
        assert store.bundle(store.get("m")).gguf.read_bytes() == b"weights"
        assert verified(store, "m") == ["damaged"]
        # Its owner may bring the right one, of which this must not be the old copy.
        assert not weights.exists()


def test_a_copy_goes_with_the_model_of_somebody_elses_store(foreign_store, scratch, monkeypatch):
    with unprivileged():
        store = Store.open(foreign_store, scratch=scratch)
        model = store.get("m")
        store.bundle(model)

    original = store._scratch.get

    def get_and_lose(*arguments):
        bundle = original(*arguments)
        with as_owner():
            (foreign_store / "models.json").chmod(0o644)
            (foreign_store / "models.json").write_text('{"models": []}')
        return bundle

    monkeypatch.setattr(store._scratch, "get", get_and_lose)
    with unprivileged(), pytest.raises(ModelNotFound):
        store.bundle(model)
    assert files_below(scratch / "bundles") == set()


def test_a_purge_takes_copies_along(tmp_path):
    left = tmp_path / "scratch/bundles/sha256" / ("1" * 64) / "model"
    left.mkdir(parents=True)
    (left / "model.gguf").write_bytes(b"weights")
    Store.open(tmp_path / "models", scratch=tmp_path / "scratch").purge()
    assert files_below(tmp_path / "scratch/bundles") == set()


def test_a_directory_that_cannot_be_made_a_store_says_why(foreign_store):
    with unprivileged(), pytest.raises(StoreError, match="permission denied") as caught:
        Store.open(foreign_store / "new")
    assert "MODELS_PATH" in (caught.value.hint or "")


def test_a_directory_of_other_things_is_not_made_a_store(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(StoreError, match=r"holds `thesis\.tex`") as caught:
        Store.open(tmp_path)
    assert "MODELS_PATH" in (caught.value.hint or "")
    assert files_below(tmp_path) == {"thesis.tex"}
    with pytest.raises(StoreError, match="not a directory"):
        Store.open(tmp_path / "thesis.tex")


def test_a_store_that_lost_its_layout_file_is_one_again(tmp_path):
    root = tmp_path / "models"
    add_model(Store.open(root), b"weights", tags=["m"])
    (root / "layout.json").unlink()
    assert Store.open(root).get("m")
    assert (root / "layout.json").exists()


def test_a_store_of_a_later_layout_is_left_alone(tmp_path):
    root = tmp_path / "models"
    Store.open(root)
    (root / "layout.json").write_text('{"version": "2.0.0"}')
    with pytest.raises(StoreError, match=r"layout version 2\.0\.0"):
        Store.open(root)
    (root / "layout.json").write_text("")
    assert Store.open(root).list() == []


def test_a_lock_that_is_held_for_ever_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_LOCK_SECONDS", 0.05)
    store = Store.open(tmp_path / "models")
    model = add_model(store, b"weights", tags=["m"])
    path = store.root / ".locks/index.lock"
    with FileLock(path):
        with pytest.raises(StoreError, match="another process holds the store's lock") as caught:
            store.delete("m")
        assert str(path) in str(caught.value.hint)
        assert store.get("m") == model
        assert store.bundle(model).gguf
    store.delete("m")


def test_old_partial_files_are_swept_and_young_ones_kept(tmp_path):
    root = tmp_path / "models"
    Store.open(root)
    blobs = root / "blobs/sha256"
    for name in ("a.incomplete", "b.tmp-1", "c"):
        for age in ("old", "new"):
            (blobs / f"{age}{name}").write_text("")
            if age == "old":
                os.utime(blobs / f"{age}{name}", (0, 0))
    (root / "bundles/sha256/x.tmp-1/model").mkdir(parents=True)
    os.utime(root / "bundles/sha256/x.tmp-1", (0, 0))
    Store.open(root)
    assert files_below(blobs) == {"newa.incomplete", "newb.tmp-1", "newc", "oldc"}
    assert not (root / "bundles/sha256/x.tmp-1").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["write", "fsync", "replace"])
def test_a_full_disk_is_named_and_leaves_the_store_as_it_was(
    tmp_path, monkeypatch, operation, number
):
    store = Store.open(tmp_path / "models")
    add_model(store, b"weights", tags=["m"])
    before = files_below(store.root)
    source = tmp_path / "source"
    source.write_bytes(b"more weights")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    attempts = [
        lambda: store.blobs.put_bytes(b"bytes"),
        lambda: store.blobs.ingest_file(source),
        lambda: store.delete("m"),
    ]
    with monkeypatch.context() as patched:
        if operation == "write":
            # What `write` of a buffered file comes down to cannot be patched; its flush can.
            patched.setattr("model_runner.store.files.os.fdopen", refuse)
            attempts.pop(1)
        else:
            patched.setattr(os, operation, refuse)
        for attempt in attempts:
            with pytest.raises(DiskFull, match="no room left") as caught:
                attempt()
            assert "free some space" in (caught.value.hint or "")
            assert caught.value.status == 507
    assert files_below(store.root) == before
    assert store.get("m")


def test_a_really_full_disk_is_named(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    store = Store.open(tmp_path / "models")
    digest = "sha256:" + "0" * 64
    store.blobs.incomplete_path(digest).symlink_to("/dev/full")
    with pytest.raises(DiskFull), disk_errors(store.root):
        store.blobs.incomplete_path(digest).write_bytes(b"x")


def test_on_a_disk_that_is_full_models_can_still_be_removed(tmp_path):
    process = writer("full", tmp_path / "models", before=on_disk_of(2, tmp_path))
    process.communicate()
    assert process.returncode == 0


def test_packaging_onto_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    store = Store.open(tmp_path / "models")
    file = tiny_script(tmp_path / "m.gguf")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(DiskFull):
            package_gguf(store, file, "ai/m")
    assert store.list() == []
    assert files_below(store.root / "blobs") == set()
