"""From files on disk to layers in the store."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from model_runner.errors import DigestMismatch, UnsupportedModel
from model_runner.packaging.artifact import annotations_of_file
from model_runner.store import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from model_runner.store import Store, Writer

    # The name of the file that is being copied, bytes done, and bytes of all files.
    Report = Callable[[str, int, int], None]

_NANOSECONDS = 1_000_000_000
# What a file has on most machines; the mask of whoever packages it would change the digest.
_MODE = 0o644


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that becomes a layer.

    Attributes:
        path: Where it is.
        media_type: What it is.
        name: Where it goes, relative to the model's directory.
        link: Whether the store may take the file itself, by a hard link: for what nobody edits.
        digest: What it is known to be, of a cache that names its files by their digests.
    """

    path: Path
    media_type: str
    name: str
    link: bool = False
    digest: str | None = None


def ingest(
    store: Store,
    writer: Writer,
    files: Sequence[SourceFile],
    *,
    source_date_epoch: int | None = None,
    report: Report | None = None,
) -> tuple[Descriptor, ...]:
    """Bring files into the store.

    Args:
        store: Where they go.
        writer: Who needs them from then on.
        files: In the order of the layers.
        source_date_epoch: Seconds since 1970 to note instead of when each file was written, and
            with it the usual permissions instead of each file's own.
        report: Told how far it is.

    Raises:
        UnsupportedModel: A file cannot be read, or changed meanwhile.
        DigestMismatch: A file is not what it is known to be.
        Conflict: The store is being emptied.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    states = [_state(file.path) for file in files]
    total, done = sum(state.st_size for state in states), 0
    layers: list[Descriptor] = []
    for file, state in zip(files, states, strict=True):
        progress = partial(_relay, report, file.name, done, total) if report else None
        digest, size = _bring(store, writer, file, state.st_size, progress)
        if size != state.st_size or _changed(file.path, state):
            raise UnsupportedModel(f"`{file.path}` changed while it was copied", hint="try again")
        done += size
        fixed = source_date_epoch is not None
        annotations = annotations_of_file(
            file.name,
            size=size,
            mode=_MODE if fixed else state.st_mode & 0o777,
            modified=(source_date_epoch or 0) * _NANOSECONDS if fixed else state.st_mtime_ns,
        )
        layers.append(Descriptor(file.media_type, size, digest, annotations))
    return tuple(layers)


def _state(path: Path) -> os.stat_result:
    """Of a file that can be read, which is found out before gigabytes of others are copied."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnsupportedModel(f"`{path}` is not a file", hint="pipes cannot be read twice")
        with path.open("rb") as file:
            return os.fstat(file.fileno())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnsupportedModel(f"`{path}` cannot be read: {reason}") from error


def _changed(path: Path, before: os.stat_result) -> bool:
    """Whether somebody wrote to a file, or put another one in its place, since then."""
    now = _state(path)
    return (now.st_mtime_ns, now.st_ino) != (before.st_mtime_ns, before.st_ino)


def _bring(
    store: Store,
    writer: Writer,
    file: SourceFile,
    size: int,
    progress: Callable[[int], None] | None,
) -> tuple[str, int]:
    if file.digest:
        writer.needs({file.digest: 0})
        if store.blobs.has(file.digest, size):
            return file.digest, size

    def watch(done: int) -> None:
        writer.check()
        if progress:
            progress(done)

    writer.check()
    while True:
        try:
            digest, size = store.blobs.ingest_file(
                file.path, link=file.link, expected=file.digest, progress=watch
            )
        except DigestMismatch as error:
            hint = "it is damaged: let the program that it belongs to fetch it again"
            raise DigestMismatch(error.message, hint=hint) from error
        writer.needs({digest: 0})
        # Until it was said that it is needed, it could go with another model that has it.
        if store.blobs.has(digest, size):
            return digest, size


def _relay(report: Report, name: str, before: int, total: int, done: int) -> None:
    report(name, before + done, total)
