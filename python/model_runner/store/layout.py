"""Where things are in the store, and bringing a directory into that state.

The layout is Docker Model Runner's (version 1.0.0), so that either program reads what the other
wrote. The additions are `.locks/`, `.quarantine/`, `.ranges/` and `.uploads/`, which Docker's tools
ignore.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from model_runner.errors import StoreError
from model_runner.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

LAYOUT_VERSION = "1.0.0"
# Docker Model Runner drops partial downloads after a week; so do we, and what crashed writers left.
STALE_AFTER_SECONDS = 7 * 24 * 3600
# What may lie beside the store's own entries without making us doubt that this is a store.
_HARMLESS = {"lost+found", ".DS_Store", ".gitkeep"}
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a store."""

    root: Path

    @property
    def version_file(self) -> Path:
        """`layout.json`."""
        return self.root / "layout.json"

    @property
    def index(self) -> Path:
        """`models.json`, which names the models."""
        return self.root / "models.json"

    @property
    def blobs(self) -> Path:
        """Layers and configurations, named by digest."""
        return self.root / "blobs" / "sha256"

    @property
    def manifests(self) -> Path:
        """Manifests, named by model ID."""
        return self.root / "manifests" / "sha256"

    @property
    def bundles(self) -> Path:
        """Directories that engines read, named by model ID."""
        return self.root / "bundles" / "sha256"

    @property
    def locks(self) -> Path:
        """Lock files of this program."""
        return self.root / ".locks"

    @property
    def quarantine(self) -> Path:
        """Damaged files that were taken out of their places."""
        return self.root / ".quarantine"

    @property
    def ranges(self) -> Path:
        """What is known of the parts of blobs, in files that are named like them."""
        return self.root / ".ranges"

    @property
    def uploads(self) -> Path:
        """Empty files, named like the blobs that were sent for a model that is yet to be made."""
        return self.root / ".uploads"

    def lock(self, name: str) -> FileLock:
        """A lock against other threads and processes; each call gives a fresh one.

        The files stay when released. Pruning removes those of things that are gone, while it holds
        them: who opened the file before then finds it unlinked, and opens it anew (filelock 3.24).
        """
        self.locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.locks / f"{name}.lock", thread_local=False)


def is_digest(digest: str) -> bool:
    """Whether this is `sha256:` and 64 lower-case hex digits."""
    algorithm, _, digits = digest.partition(":")
    return algorithm == "sha256" and bool(_HEX64.fullmatch(digits))


def is_hex(name: str) -> bool:
    """Whether this is the name of a blob, a manifest or a bundle: 64 lower-case hex digits."""
    return bool(_HEX64.fullmatch(name))


def is_temporary(name: str) -> bool:
    """Whether this is the name of a file or directory that is not yet what it will be."""
    return ".tmp-" in name


def partial_of(name: str) -> str | None:
    """The digits of the blob that a file belongs to whose download has not ended.

    >>> partial_of("0" * 64 + ".incomplete") == "0" * 64
    True
    """
    digits, dot, _ = name.partition(".")
    return digits if dot and is_hex(digits) and not is_temporary(name) else None


def digest_hex(digest: str) -> str:
    """The 64 digits of `sha256:…`; this is what keeps hostile digests from becoming paths.

    Raises:
        StoreError: It is not a sha256 digest.
    """
    if not is_digest(digest):
        raise StoreError(f"`{digest[:100]}` is not a sha256 digest")
    return digest.removeprefix("sha256:")


def prepare(layout: Layout) -> None:
    """Make a directory a store, if it is not yet one, and sweep what crashes left behind.

    Raises:
        StoreError: The directory holds other things, or a layout of a later version.
        OSError: The disk said no.
    """
    _refuse_what_is_no_store(layout)
    _check_version(layout)
    fresh = not layout.version_file.exists()
    if fresh:
        layout.root.mkdir(parents=True, exist_ok=True)
        write_atomic(layout.version_file, b'{\n  "version": "' + LAYOUT_VERSION.encode() + b'"\n}')
    try:
        for directory in (layout.blobs, layout.manifests, layout.bundles):
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if fresh:
            raise
        # A store that is mounted read-only can still be listed.
        logger.warning("the model store is not complete and cannot be written: %s", error)
    _sweep(layout)


def _refuse_what_is_no_store(layout: Layout) -> None:
    if layout.version_file.exists() or not layout.root.exists():
        return
    if not layout.root.is_dir():
        raise StoreError(
            f"the model store `{layout.root}` is not a directory", hint="set MODELS_PATH to one"
        )
    # Another process may be making the store right now, so layout.json may have come meanwhile.
    known = {
        "layout.json",
        "models.json",
        "blobs",
        "manifests",
        "bundles",
        layout.locks.name,
        layout.quarantine.name,
        layout.ranges.name,
        layout.uploads.name,
        *_HARMLESS,
    }
    strangers = sorted(
        entry.name
        for entry in layout.root.iterdir()
        if entry.name not in known and not is_temporary(entry.name)
    )
    if strangers:
        raise StoreError(
            f"`{layout.root}` is not a model store: it has no layout.json but holds "
            f"`{strangers[0]}`",
            hint="set MODELS_PATH to an empty directory or to a model store",
        )


def _check_version(layout: Layout) -> None:
    try:
        content = json.loads(layout.version_file.read_bytes())
        version = str(content["version"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, RecursionError):
        logger.warning("`%s` is damaged; taking it for version 1", layout.version_file)
        return
    if version.split(".")[0] != LAYOUT_VERSION.split(".")[0]:
        raise StoreError(
            f"the model store at `{layout.root}` has layout version {version[:20]}, "
            f"this program knows {LAYOUT_VERSION}",
            hint="upgrade model-runner, or set MODELS_PATH to another directory",
        )


def _sweep(layout: Layout) -> None:
    deadline = time.time() - STALE_AFTER_SECONDS
    for directory in (layout.root, layout.blobs, layout.manifests, layout.bundles):
        if not directory.is_dir():
            continue
        for entry in directory.iterdir():
            if entry.suffix == ".incomplete" or partial_of(entry.name) or is_temporary(entry.name):
                _remove_stale(entry, deadline)


def _remove_stale(path: Path, deadline: float) -> None:
    try:
        if path.lstat().st_mtime >= deadline:
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return  # its writer was done with it
    except OSError as error:
        logger.warning("could not remove the stale `%s`: %s", path, error)
