"""What lists say of a model: family, size, quantization, context, as its package or file has it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import BaseModel

from model_runner.api.ollama import naming
from model_runner.errors import UnsupportedModel
from model_runner.formats.gguf import describe
from model_runner.store.placement import place

if TYPE_CHECKING:
    from pathlib import Path

    from model_runner.formats.gguf import ModelMetadata
    from model_runner.store import Model, Store


class Details(BaseModel):
    """What a model is made of."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: list[str] | None = None
    parameter_size: str = ""
    quantization_level: str = ""


class SizedDetails(Details):
    """The same, with two lengths; lists of models have them, and other answers do not."""

    context_length: int | None = None
    embedding_length: int | None = None


def details(store: Store, model: Model) -> SizedDetails:
    """What a model is made of. It blocks when it is asked about a model for the first time.

    Packages of the CNCF's form leave much of it to the header of the file.
    """
    config = model.config
    header = None if config.gguf else _header(store, model)
    metadata = config.gguf or (header.gguf if header else {})
    architecture = config.architecture or (header.architecture if header else "")
    parameters = config.parameters or (header.parameters if header else "")
    quantization = config.quantization or (header.quantization if header else "")
    return SizedDetails(
        parent_model=_parent(store, model),
        format=config.format,
        family=architecture,
        families=[architecture] if architecture else None,
        parameter_size=parameters.replace(" ", ""),
        quantization_level=quantization.removeprefix("MOSTLY_"),
        context_length=_number(metadata.get(f"{architecture}.context_length")),
        embedding_length=_number(metadata.get(f"{architecture}.embedding_length")),
    )


def brief(sized: SizedDetails) -> Details:
    """The same without the lengths."""
    return Details(**sized.model_dump(exclude={"context_length", "embedding_length"}))


def weights(store: Store, model: Model) -> list[Path]:
    """The GGUF files of a model, its shards in order; none if it has other weights."""
    try:
        files = place(model.manifest).files
    except UnsupportedModel:
        return []
    found = [file for file in files if file.role == "weights" and file.path.endswith(".gguf")]
    return [store.blobs.path(file.layer.digest) for file in sorted(found, key=lambda f: f.path)]


def projector(store: Store, model: Model) -> Path | None:
    """The multimodal projector of a model, if it has one."""
    try:
        placement = place(model.manifest)
    except UnsupportedModel:
        return None
    return next(
        (
            store.blobs.path(file.layer.digest)
            for file in placement.files
            if file.path == placement.projector
        ),
        None,
    )


def _parent(store: Store, model: Model) -> str:
    parent = model.config.modelfile.source
    return naming.shown(store, parent) if parent else ""


def _header(store: Store, model: Model) -> ModelMetadata | None:
    try:
        return _described(tuple(weights(store, model)))
    except UnsupportedModel:
        return None  # its file is missing, or damaged


# A file never changes under its digest. Of so many models it is remembered.
@lru_cache(maxsize=256)
def _described(paths: tuple[Path, ...]) -> ModelMetadata:
    return describe(paths)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 12 else None
