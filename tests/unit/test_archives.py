"""Tar archives of models: the bytes that are written, and everything that may come back."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import itertools
import os
import random
import shutil
import tarfile
import time
from collections import namedtuple

import pytest

from model_runner.errors import (
    DigestMismatch,
    DiskFull,
    InvalidArchive,
    InvalidReference,
    StoreError,
    UnsupportedModel,
)
from model_runner.packaging import Archive, Loading, tar_headers
from model_runner.store import Store, manifests
from support.archives import (
    GOLDEN_CONFIG,
    GOLDEN_LAYER,
    GOLDEN_MANIFEST,
    a_model,
    blob,
    container_image,
    entries_of,
    exported,
    golden_model,
    load,
    oci_index,
    tar,
    temporary_files,
)
from support.stores import add_layers, add_model, layer, unpack_fixture

DIGITS = "ab" * 32


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "from")


@pytest.fixture
def target(tmp_path):
    return Store.open(tmp_path / "to")


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


# The three digests are those of what Go 1.25's archive/tar writes for the same entries.


def test_the_archive_of_an_id_is_dockers_to_the_byte(store):
    model = golden_model(store, "ai/golden")
    assert model.id == "sha256:b1a5d65199282bf3ec96935cef94d93873880a9b370ce05e29dcc0dcc6500731"
    content = exported(store, model)
    assert len(content) == 5632
    assert digest_of(content) == "d54bb8df69286810c3358e7d4c984b58e6d44a7512c49adcd3676e6231119352"


def test_headers_of_files_beyond_8_gib_are_those_of_go():
    beyond = tar_headers.directory("blobs") + tar_headers.directory("blobs/sha256")
    beyond += tar_headers.file(f"blobs/sha256/{DIGITS}", 8 << 30)
    assert digest_of(beyond) == "e3278e3d023ef7853c09038c9647cec13ddbdb614488322c22a9a62d3c0c3b48"
    largest = tar_headers.file(f"blobs/sha256/{DIGITS}", (8 << 30) - 1)
    assert digest_of(largest) == "9cca8265f6ca8c5b1b5c366d333566e6ccae9bc5f1cc9328429cac92c423ed34"


def test_every_model_that_docker_wrote_comes_back_with_its_id(tmp_path, target):
    docker = Store.open(unpack_fixture(tmp_path))
    for model in docker.list():
        loaded = load(target, exported(docker, model), piece=10_007)
        assert (loaded.id, loaded.tags) == (model.id, ())
    assert [model.id for model in target.list()] == [model.id for model in docker.list()]
    for model in docker.list():
        for part in model.manifest.blobs:
            assert target.blobs.read(part.digest) == docker.blobs.read(part.digest)
    assert temporary_files(target.root) == []


def test_an_archive_may_come_in_any_pieces(store, target):
    content = exported(store, a_model(store, random.Random(1).randbytes(2000)), "docker.io/ai/x:v1")
    generator = random.Random(7)
    for _ in range(30):
        with Loading(target) as loading:
            position = 0
            while position < len(content):
                size = generator.choice([1, 3, 511, 512, 513, 4000])
                loading.feed(content[position : position + size])
                position += size
            assert loading.finish().tags == ("docker.io/ai/x:v1",)


def test_names_travel_in_an_entry_that_docker_passes_over(store, target):
    model = a_model(store, tag="Registry.Example.com/Org/Some:V2")
    content = exported(store, model, *model.tags)
    names = [name for name, _ in entries_of(content)]
    assert names[-2:] == ["model-runner.json", "manifest.json"]
    assert load(target, content).tags == ("registry.example.com/org/some:V2",)
    assert load(target, content, tags=["other"]).tags == (
        "registry.example.com/org/some:V2",
        "docker.io/ai/other:latest",
    )


def test_names_that_are_given_replace_those_inside(store, target):
    model = a_model(store)
    content = exported(store, model, *model.tags)
    assert load(target, content, tags=[]).tags == ()
    assert load(target, content, tags=["mine"]).tags == ("docker.io/ai/mine:latest",)


def test_any_part_of_an_archive_can_be_read(store):
    model = add_model(store, b"a" * 700, b"b" * 512, b"a" * 700, b"")
    content = exported(store, model)
    with Archive(store, model) as archive:
        for start in range(0, archive.size, 97):
            data = b""
            while len(data) < 300 and (piece := archive.read(start + len(data), 50)):
                data += piece
            assert data[:300] == content[start : start + 300]
        assert archive.read(archive.size, 10) == b""


def test_a_model_that_is_deleted_while_it_is_read_is_read_to_its_end(store, target):
    model = a_model(store, b"w" * 100_000)
    whole = exported(store, model)
    with Archive(store, model) as archive:
        head = archive.read(0, 600)
        store.delete(model.id)
        assert store.list() == []
        rest = b""
        while piece := archive.read(len(head) + len(rest), 1 << 20):
            rest += piece
    assert head + rest == whole
    assert load(target, head + rest).id == model.id


def test_a_model_with_a_torn_file_is_not_exported(store):
    model = a_model(store)
    store.blobs.path(model.manifest.layers[0].digest).write_bytes(b"torn")
    with pytest.raises(StoreError, match="is missing"):
        Archive(store, model)


def test_what_is_here_is_not_written_again(store, target):
    model = a_model(store)
    content = exported(store, model)
    load(target, content)
    files = {path: path.stat().st_mtime_ns for path in target.root.rglob("sha256/*")}
    load(target, content)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_an_archive_that_breaks_off_keeps_what_was_whole(store, target):
    model = add_model(store, b"first" * 1000, b"second" * 1000)
    content = exported(store, model)
    first, second = (part.digest for part in model.manifest.layers)
    cut = content.index(b"second" * 10) + 100
    with Loading(target) as loading:
        loading.feed(content[:cut])
    assert target.blobs.has(first)
    assert not target.blobs.has(second)
    assert temporary_files(target.root) == []
    before = target.blobs.path(first).stat()
    assert load(target, content).id == model.id
    assert target.blobs.path(first).stat().st_ino == before.st_ino


def test_a_torn_blob_in_the_store_is_replaced(store, target):
    model = a_model(store)
    digest = model.manifest.layers[0].digest
    target.blobs.path(digest).write_bytes(b"torn")
    load(target, exported(store, model))
    assert target.blobs.read(digest) == b"weights"


@pytest.mark.parametrize("cut", [1, 600, 1500, 2100, 4000, -1025])
def test_an_archive_that_is_cut_short_is_refused(store, target, cut):
    content = exported(store, golden_model(store))
    with pytest.raises(InvalidArchive, match=r"cut short|holds no model"):
        load(target, content[:cut])
    assert target.list() == []


def test_an_archive_without_its_end_mark_is_whole_all_the_same(store, target):
    content = exported(store, golden_model(store))
    assert load(target, content[:-1024]).id


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_is_undone(store, target, members):
    model = a_model(store, b"w" * 3_000_000)
    content = exported(store, model)
    step = len(content) // members + 1
    parts = [content[start : start + step] for start in range(0, len(content), step)]
    packed = b"".join(map(gzip.compress, parts))
    assert load(target, packed, piece=777).id == model.id


def test_many_compressed_files_in_a_row_take_time_by_their_bytes(target):
    began = time.process_time()
    with pytest.raises(InvalidArchive, match="the archive is empty"):
        load(target, gzip.compress(b"") * 100_000, piece=2 << 20)
    assert time.process_time() - began < 5


def test_a_damaged_or_cut_compression_is_refused(store, target):
    content = gzip.compress(exported(store, a_model(store)))
    damaged = content[:300] + bytes([content[300] ^ 255]) + content[301:]
    with pytest.raises(InvalidArchive):
        load(target, damaged)
    with pytest.raises(InvalidArchive, match="cut short"):
        load(target, content[:-3])


@pytest.mark.parametrize(
    ("magic", "name"), [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh91AY", "bzip2")]
)
def test_other_compressions_are_named_with_what_undoes_them(target, magic, name):
    with pytest.raises(InvalidArchive, match=f"compressed with {name}.*`{name} -d`"):
        load(target, magic + bytes(1000))


def special(kind, name, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info, b""


LAYER, CONFIG = blob(GOLDEN_LAYER), blob(GOLDEN_CONFIG)
MANIFEST = ("manifest.json", GOLDEN_MANIFEST)


@pytest.mark.parametrize(
    "entries",
    [
        [LAYER, CONFIG, MANIFEST],
        [MANIFEST, CONFIG, LAYER],
        [(f"./{name}", content) for name, content in (LAYER, CONFIG, MANIFEST)],
        [("README", b"read me"), LAYER, LAYER, ("sub/manifest.json", b"{}"), CONFIG, MANIFEST],
        [
            special(tarfile.SYMTYPE, "manifest.json", linkname="/etc/passwd"),
            LAYER,
            CONFIG,
            MANIFEST,
        ],
        [special(tarfile.CHRTYPE, "blobs/sha256/" + DIGITS, devmajor=1), LAYER, CONFIG, MANIFEST],
        [("x" * 300, b"a long name"), LAYER, CONFIG, MANIFEST],
        [("blobs/sha256/._" + DIGITS, b"a Mac's"), LAYER, CONFIG, MANIFEST],
    ],
)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_tools_are_loaded(target, entries, form):
    if form == tarfile.USTAR_FORMAT and any(len(str(name)) > 250 for name, _ in entries):
        form = tarfile.PAX_FORMAT
    model = load(target, tar(*entries, format=form), piece=1000)
    assert model.id == "sha256:b1a5d65199282bf3ec96935cef94d93873880a9b370ce05e29dcc0dcc6500731"


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([LAYER, CONFIG], "holds no model"),
        ([CONFIG, MANIFEST], "the blob `sha256:5891b5b5.*` of 6 bytes is missing"),
        ([LAYER, MANIFEST], "the blob `sha256:ac8ae5a8.*` of 450 bytes is missing"),
        ([LAYER, CONFIG, MANIFEST, MANIFEST], "twice: it holds more than one model"),
        ([LAYER, CONFIG, ("manifest.json", b"{")], "not JSON"),
        ([LAYER, CONFIG, ("manifest.json", b"[]")], "archive of a container image"),
        ([LAYER, CONFIG, ("manifest.json", b"7")], "not a JSON object"),
        ([("blobs/sha256/../../../etc/cron.d/x", b"* * * * *")], "unsafe name"),
        ([("..", b"")], "unsafe name"),
        ([("blobs/sha256/" + DIGITS, b"something else")], "blob digest mismatch for"),
        (
            [special(tarfile.SYMTYPE, LAYER[0], linkname="/etc/passwd"), CONFIG, MANIFEST],
            "is missing",
        ),
        ([special(tarfile.LNKTYPE, LAYER[0], linkname=CONFIG[0]), CONFIG, MANIFEST], "is missing"),
        ([special(tarfile.GNUTYPE_SPARSE, LAYER[0])], "with holes"),
        ([LAYER, CONFIG, ("model-runner.json", b"{}"), MANIFEST], "`model-runner.json`"),
        ([("manifest.json", b" " * (5 << 20))], "5242880 bytes"),
    ],
)
def test_hostile_archives_are_refused(target, entries, complaint):
    outside = {path for path in target.root.parent.rglob("*") if target.root not in path.parents}
    with pytest.raises(
        (InvalidArchive, StoreError, DigestMismatch, UnsupportedModel), match=complaint
    ):
        load(target, tar(*entries))
    assert target.list() == []
    assert temporary_files(target.root) == []
    assert {
        path for path in target.root.parent.rglob("*") if target.root not in path.parents
    } == outside


def header_with_size(size):
    info = tarfile.TarInfo(f"blobs/sha256/{DIGITS}")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_size_beyond_the_disk_is_refused_before_a_byte_is_written(target):
    with pytest.raises(DiskFull, match="a file of 281474976710656 bytes"):
        load(target, header_with_size(1 << 48))
    assert temporary_files(target.root) == []


@pytest.mark.parametrize("size", [1 << 62, -5])
def test_absurd_sizes_are_refused(target, size):
    with pytest.raises(InvalidArchive, match="an entry of"):
        load(target, header_with_size(size))


def test_a_header_that_extends_without_end_is_refused(target):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with pytest.raises(InvalidArchive, match="a header of"):
        load(target, info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("record", [b"5 size=x\n", b"999 path=x\n", b"nonsense", b"11 size=-1\n"])
def test_damaged_pax_records_are_refused(target, record):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    with pytest.raises(InvalidArchive):
        load(target, info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0"))


@pytest.mark.parametrize("content", [b"", b"no tar", b"x" * 5000, bytes(5000), b"\x1f\x8b"])
def test_what_is_no_archive_is_refused(target, content):
    with pytest.raises(InvalidArchive):
        load(target, content)


def test_a_file_of_zeros_is_no_archive(target):
    with pytest.raises(InvalidArchive, match="no tar archive"):
        load(target, bytes(3 << 20))


def test_what_follows_the_end_is_refused_but_padding(store, target):
    content = exported(store, golden_model(store))
    assert load(target, content + bytes(1 << 20)).id
    for garbage in (content, b"x", bytes(3 << 20)):
        with pytest.raises(InvalidArchive, match="goes on behind its end"):
            load(target, content + garbage)


def feed_for_ever(target, data):
    with Loading(target) as loading:
        for _ in itertools.count():
            loading.feed(data)


def test_an_endless_stream_of_entries_is_ended(target):
    empty = tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(InvalidArchive, match="more than 20000 entries"):
        feed_for_ever(target, empty * 1000)


def test_an_endless_stream_of_what_is_no_model_is_ended(target):
    info = tarfile.TarInfo("rubbish")
    info.size = 64 << 20
    with pytest.raises(InvalidArchive, match="`rubbish`"):
        feed_for_ever(target, info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size))


def test_a_full_disk_is_said_and_leaves_nothing_half(store, target, monkeypatch):
    model = a_model(store, b"w" * 5000)
    usage = namedtuple("usage", "total used free")(0, 0, 4999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"a file of 5000 bytes.*has 4999"):
        load(target, exported(store, model))
    assert temporary_files(target.root) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_half(store, target, monkeypatch):
    content = exported(store, add_model(store, b"first", b"second"))

    def refuse(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Loading(target) as loading:
        loading.feed(content[:2560])  # with all of the first blob
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(DiskFull, match="no room left"):
            loading.feed(content[2560:])
    assert temporary_files(target.root) == []
    assert len(list((target.root / "blobs" / "sha256").iterdir())) == 1


def test_a_name_inside_that_is_none_is_refused(target):
    names = ("model-runner.json", b'{"tags":["../../x"]}')
    with pytest.raises(InvalidReference):
        load(target, tar(LAYER, CONFIG, names, MANIFEST))


def test_the_one_model_of_an_oci_layout_is_loaded(target):
    manifest = blob(GOLDEN_MANIFEST)
    layout = ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    index = oci_index(GOLDEN_MANIFEST, name="registry.example.com/org/golden:v1")
    for entries in ([layout, LAYER, CONFIG, manifest, index], [index, manifest, CONFIG, LAYER]):
        model = load(target, tar(*entries))
        assert model.tags == ("registry.example.com/org/golden:v1",)
        # The manifest was a blob there; here it is not.
        assert not target.blobs.has(model.id)
        target.delete(model.id)


def test_a_mere_tag_in_an_oci_layout_is_no_name(target):
    index = oci_index(GOLDEN_MANIFEST, name="latest")
    assert load(target, tar(LAYER, CONFIG, blob(GOLDEN_MANIFEST), index)).tags == ()


def test_the_model_among_other_things_in_an_oci_layout_is_found(target):
    image, config = container_image()
    index = oci_index(image, GOLDEN_MANIFEST)
    entries = [blob(image), blob(config), LAYER, CONFIG, blob(GOLDEN_MANIFEST), index]
    assert load(target, tar(*entries)).id.startswith("sha256:b1a5d651")


def test_a_manifest_that_is_also_a_file_of_the_model_stays(store, target):
    image, config = container_image()
    model = add_layers(store, [layer(store, b"weights"), layer(store, image, manifests.MODEL_FILE)])
    parts = [blob(store.blobs.read(part.digest)) for part in model.manifest.blobs]
    index = oci_index(image, model.manifest.raw)
    loaded = load(target, tar(*parts, blob(config), blob(model.manifest.raw), index))
    assert target.describe_model(loaded).get("missing") is None


def test_an_image_and_several_models_in_an_oci_layout_are_refused(store, target):
    image, config = container_image()
    with pytest.raises(UnsupportedModel, match="is not supported"):
        load(target, tar(blob(image), blob(config), oci_index(image)))
    other = add_layers(store, [layer(store, b"other")])
    index = oci_index(GOLDEN_MANIFEST, other.manifest.raw)
    parts = [blob(store.blobs.read(part.digest)) for part in other.manifest.blobs]
    entries = [LAYER, CONFIG, blob(GOLDEN_MANIFEST), blob(other.manifest.raw), *parts, index]
    with pytest.raises(InvalidArchive, match="holds 2 models"):
        load(target, tar(*entries))


@pytest.mark.parametrize(
    "index",
    [b"[]", b"{}", b'{"manifests":[7]}', b'{"manifests":[{"digest":"x"}]}', b'{"manifests":[]}'],
)
def test_a_damaged_index_is_refused(target, index):
    with pytest.raises(InvalidArchive):
        load(target, tar(("index.json", index)))


def test_an_index_that_names_itself_ends(target):
    raw = b'{"manifests":[]}'
    content = io.BytesIO(raw)
    index = oci_index(content.getvalue())[1].replace(b"image.manifest", b"image.index")
    with pytest.raises(InvalidArchive, match="names no manifest"):
        load(target, tar(blob(raw), ("index.json", index)))
