"""Packages a directory of model files, each a layer under its own path (v0.2)."""

from __future__ import annotations

import fnmatch
import os
import posixpath
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.packaging.build import NO_EXTRAS, Weights, package_weights
from model_runner.packaging.dduf import describe_dduf
from model_runner.packaging.gguf import describe_gguf, shard_names
from model_runner.packaging.layers import SourceFile
from model_runner.packaging.layout import docker_type
from model_runner.packaging.safetensors import describe_safetensors
from model_runner.store import ModelConfig, manifests
from model_runner.store.placement import safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from model_runner.packaging.extras import Extras
    from model_runner.store import Model, Store

# Far more than any model has, and far less than a home directory.
_MAX_FILES = 5000


def package_directory(
    store: Store,
    directory: Path,
    tag: str,
    extras: Extras = NO_EXTRAS,
    *,
    exclude: Sequence[str] = (),
) -> Model:
    """Make a model of all files below a directory, but hidden ones.

    Args:
        store: Where the model goes.
        directory: Of a safetensors model, most often; a snapshot in a Hugging Face cache is fine.
        tag: The model's name, in any spelling.
        extras: What goes along. A file of the same name takes the place of the directory's.
        exclude: What to leave out: names, paths, patterns like `*.bin`, directories like `runs/`.

    Raises:
        InvalidReference: The name is outside the grammar.
        InvalidRequest: Something in `extras` cannot be.
        UnsupportedModel: It holds no weights, or files that cannot be packaged.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    files = list_files(directory, exclude=exclude)
    config = _describe(directory, files)
    return package_weights(store, Weights(config, files, by_path=True), tag, extras)


def list_files(directory: Path, *, exclude: Sequence[str] = ()) -> list[SourceFile]:
    """The files below a directory, in the order of their layers.

    Raises:
        UnsupportedModel: The directory cannot be read, holds far too many files, or what cannot be
            packaged.
    """
    try:
        root = directory.resolve(strict=True)
        return [
            SourceFile(path, docker_type(name), name)
            for name, path in _walk(root, _link_targets(root), exclude)
        ]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnsupportedModel(f"`{error.filename}` cannot be read: {reason}") from error


def _walk(
    root: Path, link_targets: Sequence[Path], exclude: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    """Names and paths in the order of the names' bytes, what a directory holds in its place."""
    pending, count = [("", root)], 0
    while pending:
        name, path = pending.pop()
        if path.is_symlink() and name:
            path = _target(path, name, link_targets)
        if not path.is_dir():
            count += 1
            if count > _MAX_FILES:
                raise UnsupportedModel(
                    f"`{root}` holds more than {_MAX_FILES} files",
                    hint="is it the right directory? Others can be left out with --exclude",
                )
            yield _checked(name, path), path
            continue
        entries = sorted(path.iterdir(), key=lambda entry: os.fsencode(entry.name), reverse=True)
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            if not entry.name.startswith(".") and not _excluded(below, entry, exclude):
                pending.append((below, entry))


def _checked(name: str, path: Path) -> str:
    """A name that everybody who unpacks the package can use."""
    if not path.is_file():
        raise UnsupportedModel(f"`{path}` is not a file", hint="leave it out with --exclude")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise UnsupportedModel(f"the name of `{name!a}` is not UTF-8", hint="rename it")
    return safe_path(name)


def _link_targets(root: Path) -> list[Path]:
    """Where links may lead: into the directory itself, and to the blobs of a Hugging Face cache.

    In such a cache `models--org--name/snapshots/<revision>/` holds links to
    `models--org--name/blobs/`. Any other link could bring in files that nobody meant to publish.
    """
    repository = root.parent.parent
    is_snapshot = root.parent.name == "snapshots" and "--" in repository.name
    return [root, repository / "blobs"] if is_snapshot else [root]


def _target(link: Path, name: str, places: Sequence[Path]) -> Path:
    """The file that a link stands for."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        target = None
    if target and target.is_file() and any(target.is_relative_to(place) for place in places):
        return target
    raise UnsupportedModel(
        f"`{name}` is a link that leads out of the directory, to a directory, or nowhere",
        hint="put the file itself there, or leave it out with --exclude",
    )


def _excluded(name: str, path: Path, patterns: Sequence[str]) -> bool:
    """By Docker's rules: `runs/` is a directory, `a/b` a path or what is below it, others names."""
    for pattern in patterns:
        if pattern.endswith("/"):
            if path.is_dir() and pattern[:-1] in (name, path.name):
                return True
        elif "/" in pattern:
            if name == pattern or name.startswith(f"{pattern}/"):
                return True
        elif fnmatch.fnmatchcase(path.name, pattern):
            return True
    return False


def _describe(directory: Path, files: Sequence[SourceFile]) -> ModelConfig:
    """By the weights; of several kinds the first one counts."""
    kinds = (manifests.SAFETENSORS, manifests.GGUF, manifests.DDUF)
    first = next((file for file in files if file.media_type in kinds), None)
    if first is None:
        raise UnsupportedModel(
            f"`{directory}` holds no weights: no .safetensors, .gguf or .dduf file",
            hint="hidden files and those that were left out do not count",
        )
    if first.media_type == manifests.SAFETENSORS:
        return describe_safetensors_files(files)
    if first.media_type == manifests.DDUF:
        return describe_dduf(first.path)
    return describe_gguf([file.path for file in _family(first, files)])


def _family(first: SourceFile, files: Sequence[SourceFile]) -> list[SourceFile]:
    """The shards of which a file is the first, by the names here: a cache has others for them."""
    there = {file.name: file for file in files}
    names = shard_names(first.name)
    missing = [name for name in names if name not in there]
    if missing:
        raise UnsupportedModel(
            f"`{first.name}` is one of {len(names)} shards, and {len(missing)} of them are missing",
            hint=f"put `{missing[0]}` beside it, or leave the others out with --exclude",
        )
    return [there[name] for name in names]


def describe_safetensors_files(files: Sequence[SourceFile]) -> ModelConfig:
    """What a package says about the safetensors model among these files.

    Raises:
        UnsupportedModel: The weights are damaged.
    """
    weights = [file for file in files if file.media_type == manifests.SAFETENSORS]
    paths = {file.name: file.path for file in files}
    beside = (posixpath.join(posixpath.dirname(file.name), "config.json") for file in weights)
    config = next((paths[name] for name in beside if name in paths), None)
    return describe_safetensors(_counted(weights), config)


def _counted(weights: Sequence[SourceFile]) -> list[Path]:
    """Some repositories hold the weights twice, the second time in files called consolidated."""
    once = [
        file for file in weights if not posixpath.basename(file.name).startswith("consolidated")
    ]
    return [file.path for file in once or weights]
