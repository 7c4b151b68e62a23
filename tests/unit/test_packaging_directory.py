"""Packages of directories: order, paths, what is left out, and links that lead elsewhere."""

from __future__ import annotations

import os
import shutil
from datetime import datetime, timezone

import pytest

from model_runner.errors import InvalidRequest, UnsupportedModel
from model_runner.packaging import (
    Extras,
    SourceFile,
    Weights,
    package_dduf,
    package_directory,
    package_weights,
)
from model_runner.packaging.directory import list_files
from model_runner.store import ModelConfig, Store, manifests
from support.stores import files_below
from support.tiny_gguf import tiny_random
from support.tiny_safetensors import write_safetensors

CREATED = datetime(2025, 6, 15, 12, tzinfo=timezone.utc)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models")


@pytest.fixture
def directory(tmp_path):
    root = tmp_path / "model"
    (root / "text_encoder").mkdir(parents=True)
    write_safetensors(root / "model.safetensors", {"a": ("BF16", (1000,))}, format="pt")
    write_safetensors(root / "text_encoder/model.safetensors", {"b": ("BF16", (500,))})
    (root / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 4096}')
    (root / "LICENSE").write_text("free")
    (root / ".hidden").write_text("secret")
    (root / ".git").mkdir()
    (root / ".git/config").write_text("secret")
    return root


def names_of(directory, **options):
    return [file.name for file in list_files(directory, **options)]


def paths_of(model):
    return [layer.filepath for layer in model.manifest.layers]


def test_a_directory_has_dockers_id(store, tmp_path):
    root = tmp_path / "d"
    (root / "text_encoder").mkdir(parents=True)
    contents = {"config.json": "{}\n", "model.safetensors": "w\n"}
    moment = 1_735_689_600_500_000_000  # 2025-01-01T00:00:00.5Z
    for name, text in {**contents, "text_encoder/model.safetensors": "t\n"}.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644)
        os.utime(root / name, ns=(moment, moment))
    config = ModelConfig(
        format="safetensors",
        quantization="BF16",
        parameters="1.50B",
        size="3.00GB",
        safetensors={"tensor_count": "2", "format": "pt"},
    )
    weights = Weights(config, list_files(root), by_path=True)
    model = package_weights(store, weights, "golden", Extras(created=CREATED))
    assert model.manifest.config.size == 453
    assert model.manifest.config.media_type == manifests.CONFIG_V02
    assert model.manifest.config.digest == (
        "sha256:9828cb63a18783cb45f1d5a7f9511526a6f1b21bf855e1a3b4f4de6a47fa9baf"
    )
    assert model.id == "sha256:3a79b3ef27401a137117453dea4dcdb35b33e2ce6a223ea1a9ad2bd04f8bb418"


def test_all_files_but_hidden_ones_go_in_under_their_paths(store, directory):
    model = package_directory(store, directory, "ai/m")
    paths = ["LICENSE", "config.json", "model.safetensors", "text_encoder/model.safetensors"]
    assert paths_of(model) == paths
    assert [layer.media_type for layer in model.manifest.layers] == [
        manifests.LICENSE,
        manifests.MODEL_FILE,
        manifests.SAFETENSORS,
        manifests.SAFETENSORS,
    ]
    assert files_below(store.bundle(model).root / "model") == set(paths)
    assert model.describe()["config"] == {
        "format": "safetensors",
        "quantization": "BF16",
        "parameters": "1.50K",
        "architecture": "llama",
        "size": "3.17kB",
        "safetensors": {"format": "pt", "tensor_count": "2"},
        "context_size": 4096,
    }


def test_names_are_in_the_order_of_their_bytes_and_directories_in_their_place(tmp_path):
    for name in ("b.txt", "B.txt", "a/z", "a.txt", "\u00e9", "a-b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert names_of(tmp_path) == ["B.txt", "a/z", "a-b", "a.txt", "b.txt", "\u00e9"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["text_encoder/"], ["LICENSE", "config.json", "model.safetensors"]),
        (["LICENSE/"], None),
        (["text_encoder/model.safetensors"], ["LICENSE", "config.json", "model.safetensors"]),
        (["*.safetensors"], ["LICENSE", "config.json"]),
        (["[Lc]*"], ["model.safetensors", "text_encoder/model.safetensors"]),
        (["config.json", "text_encoder"], ["LICENSE", "model.safetensors"]),
        (["license", "encoder"], None),
    ],
)
def test_exclusions(directory, patterns, left):
    assert names_of(directory, exclude=patterns) == (left or names_of(directory))


def test_a_snapshot_of_a_hugging_face_cache_is_packaged_through_its_links(
    store, tmp_path, directory
):
    repository = tmp_path / "hub/models--org--name"
    snapshot = repository / "snapshots/0123abcd"
    (snapshot / "text_encoder").mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, name in enumerate(names_of(directory)):
        blob = repository / f"blobs/{number:064x}"
        shutil.copy(directory / name, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    epoch = Extras(source_date_epoch=1_700_000_000)
    linked = package_directory(store, snapshot, "ai/linked", epoch)
    plain = package_directory(store, directory, "ai/plain", epoch)
    assert linked.id == plain.id


def test_shards_in_a_snapshot_are_described_together(store, tmp_path):
    repository = tmp_path / "hub/models--org--name"
    snapshot, plain = repository / "snapshots/0123abcd", tmp_path / "plain"
    for directory in (snapshot, repository / "blobs", plain):
        directory.mkdir(parents=True)
    tiny_random(plain / "tiny.gguf", shards=3)
    for number, file in enumerate(sorted(plain.iterdir())):
        shutil.copy(file, repository / f"blobs/{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    linked = package_directory(store, snapshot, "ai/linked")
    assert linked.config == package_directory(store, plain, "ai/plain").config
    (snapshot / "tiny-00002-of-00003.gguf").unlink()
    with pytest.raises(UnsupportedModel, match="one of 3 shards, and 1 of them are missing"):
        package_directory(store, snapshot, "ai/cut")


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "nothing", "text_encoder", "link"])
def test_links_that_lead_elsewhere_are_refused(directory, target):
    (directory.parent / "outside").write_text("secret")
    (directory / "link").symlink_to(target)
    with pytest.raises(UnsupportedModel, match="`link` is a link"):
        list_files(directory)
    assert "link" not in names_of(directory, exclude=["link"])


def test_blobs_beside_a_directory_that_is_no_cache_are_out_of_reach(tmp_path):
    (tmp_path / "name/blobs").mkdir(parents=True)
    (tmp_path / "name/blobs/x").write_text("secret")
    snapshot = tmp_path / "name/snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "x").symlink_to("../../blobs/x")
    with pytest.raises(UnsupportedModel, match="`x` is a link"):
        list_files(snapshot)


def test_links_within_the_directory_are_followed(directory):
    (directory / "copy.safetensors").symlink_to("text_encoder/model.safetensors")
    files = {file.name: file.path for file in list_files(directory)}
    assert (
        files["copy.safetensors"].read_bytes()
        == files["text_encoder/model.safetensors"].read_bytes()
    )


def test_what_is_no_file_is_refused(directory):
    os.mkfifo(directory / "pipe")
    with pytest.raises(UnsupportedModel, match=r"pipe` is not a file"):
        list_files(directory)


@pytest.mark.parametrize("name", [b"a\\b", b"\xff"])
def test_names_that_others_cannot_unpack_are_refused(directory, name):
    with open(os.fsencode(directory) + b"/" + name, "w"):  # noqa: PTH123 - of bytes
        pass
    with pytest.raises(UnsupportedModel):
        list_files(directory)


def test_a_directory_without_weights_is_refused(store, directory):
    with pytest.raises(UnsupportedModel, match="holds no weights"):
        package_directory(store, directory, "ai/m", exclude=["*.safetensors"])
    with pytest.raises(UnsupportedModel, match="cannot be read: no such file"):
        package_directory(store, directory / "nowhere", "ai/m")


def test_a_directory_with_far_too_many_files_is_refused(tmp_path):
    for number in range(5001):
        (tmp_path / str(number)).touch()
    with pytest.raises(UnsupportedModel, match="more than 5000 files"):
        list_files(tmp_path)


def test_weights_that_are_cut_short_are_refused_before_anything_is_copied(store, directory):
    os.truncate(directory / "text_encoder/model.safetensors", 500)
    with pytest.raises(UnsupportedModel, match="bytes are missing"):
        package_directory(store, directory, "ai/m")
    assert files_below(store.root / "blobs") == set()


def test_weights_that_are_there_twice_count_once(store, directory):
    shutil.copy(directory / "model.safetensors", directory / "consolidated.safetensors")
    model = package_directory(store, directory, "ai/m")
    assert model.config.parameters == "1.50K"
    assert "consolidated.safetensors" in paths_of(model)


def test_what_goes_along_takes_the_place_of_what_is_there(store, directory, tmp_path):
    (directory / "chat_template.jinja").write_text("old")
    (tmp_path / "new.txt").write_text("{{ new }}")
    (tmp_path / "LICENSE").write_text("other terms")
    extras = Extras([tmp_path / "LICENSE"], tmp_path / "new.txt")
    model = package_directory(store, directory, "ai/m", extras)
    assert paths_of(model)[-2:] == ["LICENSE", "new.jinja"]
    bundle = store.bundle(model)
    assert (bundle.root / "model/LICENSE").read_text() == "other terms"
    assert bundle.chat_template == bundle.root / "model/new.jinja"
    assert "chat_template.jinja" not in paths_of(model)


def test_a_directory_of_shards_is_run_from_the_first(store, tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    tiny_random(root / "tiny.gguf", shards=3)
    (root / "mmproj-tiny.gguf").write_bytes(b"eyes")
    model = package_directory(store, root, "ai/m")
    assert model.config.format == "gguf"
    assert model.config.gguf["split.count"] == "3"
    bundle = store.bundle(model)
    assert bundle.gguf == bundle.root / "model/tiny-00001-of-00003.gguf"
    assert bundle.projector == bundle.root / "model/mmproj-tiny.gguf"


def test_a_dduf_file_is_described_by_its_size(store, tmp_path):
    shutil.make_archive(str(tmp_path / "flux"), "zip", tmp_path, "models")
    path = (tmp_path / "flux.zip").rename(tmp_path / "flux.dduf")
    os.truncate(path, 1000)
    with pytest.raises(UnsupportedModel, match="truncated"):
        package_dduf(store, path, "ai/flux")
    path.write_bytes(b"no archive")
    with pytest.raises(UnsupportedModel, match="not a DDUF file"):
        package_dduf(store, path, "ai/flux")
    shutil.make_archive(str(tmp_path / "flux"), "zip", tmp_path, "models")
    path = (tmp_path / "flux.zip").rename(path)
    model = package_dduf(store, path, "ai/flux")
    size = f"{path.stat().st_size / 1000:.2f}kB"
    diffusers = {"dduf_file": "flux.dduf", "layout": "dduf"}
    assert model.describe()["config"] == {
        "format": "dduf",
        "architecture": "diffusers",
        "size": size,
        "diffusers": diffusers,
    }
    assert model.manifest.config.media_type == manifests.CONFIG_V01


def test_projectors_and_adapters_need_gguf_weights(store, directory):
    with pytest.raises(UnsupportedModel, match="for GGUF weights"):
        package_directory(store, directory, "ai/m", Extras(projector=directory / "LICENSE"))
    with pytest.raises(InvalidRequest, match="not between 1 and"):
        package_directory(store, directory, "ai/m", Extras(context_size=2**31))


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_file_that_changes_while_it_is_copied_is_refused(store, tmp_path, mode):
    path = tmp_path / "w"
    path.write_bytes(bytes(3 << 20))
    os.utime(path, (0, 0))

    def change(_name, done, total):
        if done < total:
            with path.open(mode) as file:
                file.write(b"more")

    files = [SourceFile(path, manifests.GGUF, "w.gguf")]
    with pytest.raises(UnsupportedModel, match="changed while it was copied"):
        package_weights(store, Weights(ModelConfig(), files), "ai/m", Extras(report=change))
    assert store.list() == []


@pytest.mark.parametrize("option", ["chat_template", "licenses", "weights"])
def test_a_pipe_is_no_file(store, tmp_path, option):
    """Opening one waits until somebody writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    extras = {"chat_template": Extras(chat_template=pipe), "licenses": Extras([pipe])}
    files = [SourceFile(pipe, manifests.GGUF, "w.gguf")] if option == "weights" else []
    with pytest.raises(UnsupportedModel, match="pipe` is not a file"):
        package_weights(store, Weights(ModelConfig(), files), "ai/m", extras.get(option, Extras()))
