"""Packages DDUF files: diffusion models, each a ZIP archive of all that it needs."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.formats.safetensors import decimal_size
from model_runner.packaging.build import NO_EXTRAS, Weights, package_weights
from model_runner.packaging.layers import SourceFile
from model_runner.store import ModelConfig, manifests

if TYPE_CHECKING:
    from pathlib import Path

    from model_runner.packaging.extras import Extras
    from model_runner.store import Model, Store

_MAGIC = b"PK\x03\x04"


def package_dduf(store: Store, path: Path, tag: str, extras: Extras = NO_EXTRAS) -> Model:
    """Make a model of a DDUF file.

    Raises:
        InvalidReference: The name is outside the grammar.
        InvalidRequest: Something in `extras` cannot be.
        UnsupportedModel: It is no DDUF file, or is cut short.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    files = [SourceFile(path, manifests.DDUF, path.name)]
    return package_weights(store, Weights(describe_dduf(path), files), tag, extras)


def describe_dduf(path: Path) -> ModelConfig:
    """What a package says about a DDUF file.

    Raises:
        UnsupportedModel: It is no DDUF file, or is cut short.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC)) == _MAGIC
            # The directory of the archive is at its end: what has both is most likely whole.
            whole = begins and zipfile.is_zipfile(file)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnsupportedModel(f"`{path}` cannot be read: {reason}") from error
    if begins and not whole:
        raise UnsupportedModel(f"`{path.name}` is truncated", hint="download it again")
    return dduf_config(path.name, _MAGIC if begins else b"", path.stat().st_size)


def dduf_config(name: str, beginning: bytes, size: int) -> ModelConfig:
    """What a package says about a DDUF file of which the first bytes are here.

    Raises:
        UnsupportedModel: It is no DDUF file.
    """
    if not beginning.startswith(_MAGIC):
        raise UnsupportedModel(f"`{name}` is not a DDUF file")
    return ModelConfig(
        format="dduf",
        architecture="diffusers",
        size=decimal_size(size),
        diffusers={"layout": "dduf", "dduf_file": name},
    )
