"""Which GGUF files of a directory are one model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.packaging.gguf import shards
from model_runner.packaging.layers import SourceFile
from model_runner.packaging.neighbours.found import digest_in_name
from model_runner.store import manifests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SHARD = re.compile(r"-[0-9]{5}(-of-[0-9]{5})$")
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q[0-9](?:_[A-Z0-9]+)*|TQ[0-9]_[0-9]|MXFP4|BF16|F16|F32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# What most models are published in first, and what a pull takes.
_USUAL = "Q4_K_M"
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Family:
    """The files of one model: one, or the first of its shards.

    Attributes:
        first: The file, or the first shard that is there.
        stem: Its name without the number of the shard and without ending.
    """

    first: Path
    stem: str

    @property
    def label(self) -> str:
        """The quantization that its name tells; empty if it tells none."""
        found = _QUANTIZATION.findall(self.stem)
        return found[-1].upper() if found else ""

    def answers(self, wanted: str) -> bool:
        """Whether this is a part of its name, or its file's name."""
        part = rf"(?<![A-Za-z0-9]){re.escape(wanted)}(?![A-Za-z0-9_])"
        return wanted == self.first.name or bool(re.search(part, self.stem, re.IGNORECASE))


def families(directory: Path) -> list[Family]:
    """The models below a directory, in the order of their names; also those that lack files."""
    found: dict[tuple[Path, str], Family] = {}
    for path in _ggufs(directory):
        if not _is_projector(path):
            together = path.parent, _SHARD.sub(r"\1", path.stem)
            found.setdefault(together, Family(path, _SHARD.sub("", path.stem)))
    return list(found.values())


def _ggufs(directory: Path) -> list[Path]:
    """All GGUF files below a directory, also links to what a cache has lost, to tell of it."""
    next(directory.iterdir(), None)  # fails where this user may not look, which `rglob` hides
    return [path for path in sorted(directory.rglob("*.gguf")) if not path.is_dir()]


def choose(found: Sequence[Family], wanted: str | None, shown: str) -> Family:
    """The one that is wanted, or the one that there is.

    Raises:
        UnsupportedModel: There is none, or there are several.
    """
    fitting = [family for family in found if wanted is None or family.answers(wanted)]
    if wanted is None and len(fitting) > 1:
        fitting = [family for family in fitting if family.label == _USUAL] or fitting
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(family.label or family.stem for family in found[:_LISTED])
    if not found:
        raise UnsupportedModel(
            f"`{shown}` holds no GGUF file",
            hint="safetensors become a model with `model-runner package --safetensors-dir`",
        )
    what = f"no `{wanted}`" if wanted and not fitting else f"{len(fitting)} models"
    raise UnsupportedModel(f"`{shown}` has {what}", hint=f"name one behind a colon: {names}")


def source_files(family: Family, *, link: bool, directory: Path | None) -> list[SourceFile]:
    """The files of a model, and the projector that lies beside them.

    Args:
        family: The model.
        link: Whether to link files that might be edited in place, too.
        directory: Where to look for a projector; None: there is none.

    Raises:
        UnsupportedModel: A shard is missing.
    """
    files = [source_file(path, manifests.GGUF, link=link) for path in shards(family.first)]
    projector = _projector(directory) if directory else None
    if projector:
        files.append(source_file(projector, manifests.PROJECTORS[0], link=link))
    return files


def source_file(
    path: Path, media_type: str, *, link: bool = False, name: str | None = None
) -> SourceFile:
    """A file, with its digest if its name says it; it is linked then."""
    digest = digest_in_name(path)
    return SourceFile(
        path, media_type, name or path.name, link=link or digest is not None, digest=digest
    )


def _projector(directory: Path) -> Path | None:
    """Of several the one in 16 bits, which every backend of llama.cpp computes well."""
    found = [path for path in _ggufs(directory) if _is_projector(path)]
    return next((path for path in found if _precision(path) == "F16"), found[0] if found else None)


def _precision(path: Path) -> str:
    return Family(path, path.stem).label


def _is_projector(path: Path) -> bool:
    return "mmproj" in path.name.lower()
