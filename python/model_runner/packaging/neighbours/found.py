"""A model that was found outside of the store, and bringing it in without a second copy."""

from __future__ import annotations

import contextlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model_runner.packaging import baking
from model_runner.packaging.build import Weights, package_weights
from model_runner.packaging.extras import Extras
from model_runner.packaging.gguf import describe_gguf
from model_runner.store import manifests
from model_runner.store.modelfile import Modelfile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.packaging.layers import Report, SourceFile
    from model_runner.store import Model, Store

# Whether a model's files are in the store: not, as copies or clones, or as the same files.
State = Literal["no", "yes", "linked"]

# Ollama writes `sha256-…`, the Hugging Face cache `…`; both below a directory `blobs`.
_NAMED_BY_DIGEST = re.compile(r"(?:sha256[-:])?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Found:
    """A model outside of the store.

    Attributes:
        source: How the command line names it.
        name: What it is called in the store, unless another name is given.
        files: Its GGUF files: weights in the order of their shards, then a projector.
        licenses: Texts that travel with the model.
        context_size: Tokens of context that its owner has chosen.
        record: What its owner has said of it.
        notes: What a user should know of it, a phrase each.
    """

    source: str
    name: str
    files: Sequence[SourceFile]
    licenses: Sequence[Path] = ()
    context_size: int | None = None
    record: Modelfile = field(default_factory=Modelfile)
    notes: Sequence[str] = field(default=())

    def check(self) -> None:
        """See whether all of it is there.

        Raises:
            OSError: It is not.
        """
        for path in (*(file.path for file in self.files), *self.licenses):
            path.stat()

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.path.stat().st_size for file in self.files)


class Here:
    """Which files the models of a store have.

    Args:
        store: The store; None: there is none yet.
    """

    def __init__(self, store: Store | None) -> None:
        self._digests: set[str] = set()
        self._files: set[tuple[int, int]] = set()
        if store is None:
            return
        for model in store.list():
            for layer in model.manifest.layers:
                self._digests.add(layer.digest)
                with contextlib.suppress(OSError):
                    self._files.add(_identity(store.blobs.path(layer.digest)))

    def state(self, found: Found) -> State:
        """Whether all files are in the store: as the same files on disk, under a second name?"""
        if all(_identity(file.path) in self._files for file in found.files):
            return "linked"
        return "yes" if all(file.digest in self._digests for file in found.files) else "no"


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def digest_in_name(path: Path) -> str | None:
    """The digest of a file that a cache has named by it; nobody edits such a file in place."""
    real = path.resolve()
    match = _NAMED_BY_DIGEST.fullmatch(real.name)
    return f"sha256:{match[1]}" if match and real.parent.name == "blobs" else None


def import_found(store: Store, found: Found, tag: str, *, report: Report | None = None) -> Model:
    """Make a model of what was found.

    The ID only depends on the files and their times, so that importing twice changes nothing.

    Raises:
        InvalidReference: The name is outside the grammar.
        UnsupportedModel: A file is no GGUF file, or cut short, or is no model.
        DigestMismatch: A file is not what its name says.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    weights = [file for file in found.files if file.media_type == manifests.GGUF]
    config = describe_gguf([file.path for file in weights])
    template = baking.baked(found.record, baking.template_of_weights(weights[0].path))
    with tempfile.TemporaryDirectory() as directory:
        extras = Extras(
            licenses=found.licenses,
            chat_template=baking.written(template, Path(directory)),
            context_size=found.context_size,
            source_date_epoch=int(weights[0].path.stat().st_mtime),
            annotations={manifests.MODELFILE: found.record.encode()},
            report=report,
        )
        return package_weights(store, Weights(config, found.files), tag, extras)
