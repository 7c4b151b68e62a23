"""Directories of GGUF files: LM Studio's, the Hugging Face cache's, and a user's own."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import ModelNotFound, UnsupportedModel
from model_runner.packaging.neighbours.choosing import Family, choose, families, source_files
from model_runner.packaging.neighbours.found import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

LM_STUDIO = "lmstudio:"
HUGGING_FACE = "hf-cache:"

_REVISION = re.compile("[0-9a-f]{40}")
_REPOSITORY_PARTS = 2


def lm_studio_roots() -> list[Path]:
    """Where LM Studio keeps models on this machine: what its settings say, or the usual places."""
    home = Path.home()
    homes = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    chosen = [folder for folder in map(_downloads_folder, homes) if folder]
    places = [*chosen, *(place / "models" for place in homes)]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def _downloads_folder(home: Path) -> Path | None:
    try:
        settings = json.loads((home / "settings.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    folder = settings.get("downloadsFolder") if isinstance(settings, dict) else None
    return Path(folder) if isinstance(folder, str) and folder else None


def hub_cache_roots() -> list[Path]:
    """Where Hugging Face's programs keep what they have fetched."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    place = os.environ.get("HF_HUB_CACHE") or f"{home}/hub"
    root = Path(place).expanduser()
    return [root] if root.is_dir() else []


def in_lm_studio(name: str, *, link: bool) -> Found:
    """A model by `PUBLISHER/REPOSITORY`, with `/FILE` or `:QUANTIZATION` behind if there are more.

    Raises:
        ModelNotFound: LM Studio does not have it.
        UnsupportedModel: It is not in GGUF, or there are several.
    """
    repository, wanted, _ = _split(name)
    for root in lm_studio_roots():
        directory = root / repository
        if directory.is_dir():
            return _found(LM_STUDIO, repository, directory, wanted, link=link)
    raise ModelNotFound(f"{LM_STUDIO}{name}", hint="see `model-runner import --list`")


def in_hub_cache(name: str) -> Found:
    """A model by `ORGANISATION/REPOSITORY`, with `:QUANTIZATION` and `@REVISION` behind if needed.

    Raises:
        ModelNotFound: The cache does not have it.
        UnsupportedModel: It is not in GGUF, or there are several.
    """
    repository, wanted, revision = _split(name)
    for root in hub_cache_roots():
        snapshot = _snapshot(root / f"models--{repository.replace('/', '--')}", revision)
        if snapshot:
            return _found(HUGGING_FACE, repository, snapshot, wanted, link=False)
    raise ModelNotFound(f"{HUGGING_FACE}{name}", hint="see `model-runner import --list`")


def at_path(path: Path, *, link: bool) -> Found:
    """A GGUF file, or the one model in a directory.

    Raises:
        UnsupportedModel: There is none, or there are several.
    """
    family = choose(families(path), None, str(path)) if path.is_dir() else None
    family = family or Family(path, path.stem)
    files = source_files(family, link=link, directory=path if path.is_dir() else None)
    stem = re.sub("-[0-9]{5}-of-[0-9]{5}$", "", family.first.stem)
    return Found(source=str(path), name=_as_name(stem), files=files)


def list_lm_studio() -> Iterator[str]:
    """The models of LM Studio, as the command line names them."""
    for root in lm_studio_roots():
        for directory in sorted(root.glob("*/*")):
            if directory.is_dir():
                yield from _sources(LM_STUDIO, str(directory.relative_to(root)), directory)


def list_hub_cache() -> Iterator[str]:
    """The models in GGUF of the Hugging Face cache, as the command line names them."""
    for root in hub_cache_roots():
        for directory in sorted(root.glob("models--*--*")):
            snapshot = _snapshot(directory, None)
            if snapshot:
                repository = directory.name.removeprefix("models--").replace("--", "/", 1)
                yield from _sources(HUGGING_FACE, repository, snapshot)


def _sources(prefix: str, repository: str, directory: Path) -> Iterator[str]:
    found = families(directory)
    for family in found:
        only = len(found) == 1
        yield (
            f"{prefix}{repository}" if only else f"{prefix}{repository}:{_distinct(family, found)}"
        )


def _distinct(family: Family, found: list[Family]) -> str:
    """What tells a model from the others of its repository."""
    same = [other for other in found if other.label == family.label]
    return family.label if family.label and len(same) == 1 else family.stem


def _found(
    prefix: str, repository: str, directory: Path, wanted: str | None, *, link: bool
) -> Found:
    shown = f"{prefix}{repository}"
    found = families(directory)
    family = choose(found, wanted, shown)
    only = len(found) == 1
    return Found(
        source=shown if only else f"{shown}:{_distinct(family, found)}",
        name=f"hf.co/{repository}:{_as_tag(family.label or ('' if only else family.stem))}",
        files=source_files(family, link=link, directory=directory),
    )


def _snapshot(directory: Path, revision: str | None) -> Path | None:
    """The files of a revision in the cache: of a branch or a commit, or of the one used last."""
    snapshots = directory / "snapshots"
    if not snapshots.is_dir():
        return None
    reference = directory / "refs" / (revision or "main")
    commit = revision or ""
    if directory in reference.resolve().parents and reference.is_file():
        commit = reference.read_text("utf-8", "replace").strip()
    there = [path for path in snapshots.iterdir() if path.is_dir()]
    exact = [path for path in there if commit and path.name.startswith(commit)]
    if exact or revision:
        return exact[0] if len(exact) == 1 else None
    return max(there, key=lambda path: path.stat().st_mtime, default=None)


def _split(name: str) -> tuple[str, str | None, str | None]:
    """The repository, what of it is wanted, and the revision."""
    rest, _, revision = name.partition("@")
    rest, _, wanted = rest.partition(":")
    parts = rest.split("/")
    if len(parts) < _REPOSITORY_PARTS or any(part in {"", ".", ".."} for part in parts):
        raise UnsupportedModel(
            f"`{name}` is not like PUBLISHER/REPOSITORY", hint="see `model-runner import --list`"
        )
    repository = "/".join(parts[:_REPOSITORY_PARTS])
    file = "/".join(parts[_REPOSITORY_PARTS:])
    return repository, wanted or Path(file).name or None, revision or None


def _as_name(stem: str) -> str:
    """What comes closest to a file's name and can be a model's, which an ID cannot."""
    parts = re.split("[^a-z0-9._-]+", stem.lower())
    joined = re.sub("[._-]*([._-])[._-]*", r"\1", "-".join(filter(None, parts)))
    name = joined.strip("._-") or "model"
    return f"{names.DEFAULT_ORGANISATION}/{name}" if names.is_id(name) else name


def _as_tag(text: str) -> str:
    return re.sub("[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:128] or "latest"
