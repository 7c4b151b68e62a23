"""A model on its way from a tar archive into the store, in one pass, blob by blob.

Archives of Docker Model Runner end with `manifest.json`; OCI layouts, as skopeo and oras write
them, name their manifest in `index.json`. Until the end nobody knows which blobs are wanted, so
each that is whole is kept: if the archive breaks off, the next attempt does not write it again.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import DiskFull, InvalidArchive, InvalidReference
from model_runner.packaging.compression import Unpacked
from model_runner.packaging.export import MANIFEST, NAMES
from model_runner.packaging.oci_layout import INDEX, Choice, choose
from model_runner.packaging.tar_reader import Collected, Nowhere, TarReader
from model_runner.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.packaging.tar_reader import Sink
    from model_runner.store import Model, Store
    from model_runner.store.incoming import IncomingBlob

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
# What registries take for a manifest.
_MAX_DOCUMENT = 4 << 20
# What is in no model is read for nothing; an archive of a model has hardly any of it.
_MAX_IGNORED = 1 << 30


class Loading:
    """Takes the bytes of an archive in order, and makes a model of them.

    A context manager: leaving it closes it. Everything blocks, but not
    for longer than the disk takes for what is given at a time.

    Args:
        store: Where the model goes.
        tags: Names that the model gets, in any spelling. None: those that the archive says.
    """

    def __init__(self, store: Store, tags: Sequence[str] | None = None) -> None:
        self._store = store
        self._tags = tags
        self._tar = TarReader(self._open)
        self._unpacked = Unpacked(self._tar.feed)
        self._documents: dict[str, Collected] = {}
        self._ignored = 0
        self._blob: _Blob | None = None
        self._added: set[str] = set()
        self._needed: set[str] = set()
        # Whoever closes may not be able to wait for the thread that feeds.
        self._feeding = threading.Lock()
        self._writing = ExitStack()
        with disk_errors(store.root):
            self._writer = self._writing.enter_context(store.writing())

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the blob that is not whole yet."""
        with self._feeding:
            if self._blob:
                self._blob.discard()
            self._writing.close()

    def feed(self, data: bytes | bytearray) -> None:
        """The next bytes.

        Raises:
            InvalidArchive: They are not those of an archive, or it is damaged.
            DigestMismatch: A blob is not what its name says.
            Conflict: The store is being emptied.
            StoreError: The disk refused; DiskFull if there is no room.
        """
        with self._feeding:
            self._writer.check()
            self._unpacked.feed(data)

    def finish(self) -> Model:
        """That was all: add the model.

        Raises:
            InvalidArchive: The archive is cut short, or does not hold one model.
            InvalidReference: A name is outside the grammar.
            UnsupportedModel: It is not a model of a kind that this program knows.
            StoreError: A blob is missing, or the disk refused.
        """
        self._writer.check()
        self._unpacked.finish()
        self._tar.finish()
        choice = self._choose()
        given = choice.tags if self._tags is None else self._tags
        model = self._store.write(choice.manifest, tags=given)
        layers = {blob.digest for blob in model.manifest.blobs}
        for digest in (self._added & choice.documents) - layers:
            # In an OCI layout manifests are blobs, too. A model hardly has one among its files.
            self._store.blobs.path(digest).unlink(missing_ok=True)
        return model

    def _choose(self) -> Choice:
        document = self._document(MANIFEST)
        if document is not None and not isinstance(_json(document, MANIFEST), list):
            return Choice(document, self._names())
        index = self._document(INDEX)
        if index is not None:
            choice = choose(index, self._read)
            return choice.named(self._names())
        if document is not None:
            raise InvalidArchive(
                "this is the archive of a container image, not of a model",
                hint="archives of models are made by `model-runner save`",
            )
        raise InvalidArchive(
            f"the archive holds no model: it has neither `{MANIFEST}` nor `{INDEX}`",
            hint="archives of models are made by `model-runner save`",
        )

    def _read(self, digest: str) -> bytes:
        if not self._store.blobs.has(digest):
            raise InvalidArchive(f"the archive names the manifest `{digest}` and does not hold it")
        return self._store.blobs.read(digest)

    def _names(self) -> tuple[str, ...]:
        document = self._document(NAMES)
        if document is None:
            return ()
        content = _json(document, NAMES)
        listed = content.get("tags") if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(tag, str) for tag in listed):
            raise InvalidArchive(f"`{NAMES}` in the archive is damaged")
        return tuple(listed)

    def _document(self, name: str) -> bytes | None:
        collected = self._documents.get(name)
        return bytes(collected.content) if collected and collected.complete else None

    def _open(self, raw_name: str, size: int) -> Sink:
        if ".." in raw_name.split("/"):
            raise InvalidArchive(
                f"the archive has an entry with the unsafe name {raw_name[:200]!r}"
            )
        name = posixpath.normpath(raw_name)
        if name in {MANIFEST, INDEX, NAMES}:
            return self._collect(name, size)
        match = _BLOB.fullmatch(name)
        digest = f"sha256:{match[1]}" if match else None
        if digest is not None and digest not in self._needed:
            self._needed.add(digest)
            self._writer.needs({digest: 0})
        if digest is not None and not self._store.blobs.has(digest, size):
            return self._receive(digest, size)
        if digest is None:
            self._ignored += size
            if self._ignored > _MAX_IGNORED:
                shown = name[:200].encode("utf-8", "replace").decode()
                raise InvalidArchive(f"the archive holds `{shown}`, which is of no model")
        return Nowhere()

    def _collect(self, name: str, size: int) -> Sink:
        if name in self._documents:
            raise InvalidArchive(f"the archive has `{name}` twice: it holds more than one model")
        if size > _MAX_DOCUMENT:
            raise InvalidArchive(f"`{name}` in the archive has {size} bytes")
        self._documents[name] = Collected()
        return self._documents[name]

    def _receive(self, digest: str, size: int) -> Sink:
        free = shutil.disk_usage(self._store.root).free
        if size > free:
            raise DiskFull(
                f"the archive holds a file of {size} bytes, the disk of the model store has {free}",
                hint="make room, or set MODELS_PATH to a larger disk",
            )
        self._blob = _Blob(self._store.blobs.receive(digest))
        self._added.add(digest)
        return self._blob


class _Blob:
    """An entry that becomes a blob."""

    def __init__(self, incoming: IncomingBlob) -> None:
        self._incoming = incoming

    def write(self, piece: memoryview) -> None:
        self._incoming.write(piece)

    def close(self) -> None:
        self._incoming.commit()

    def discard(self) -> None:
        self._incoming.discard()


def check_tag(tag: str) -> None:
    """Refuse what no model can be called.

    Raises:
        InvalidReference: It is outside the grammar, or an ID, or pins a digest.
    """
    if names.parse(tag).digest:
        raise InvalidReference(tag, "a digest is no tag")


def _json(document: bytes, name: str) -> object:
    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"`{name}` in the archive is not JSON: {error}") from error
