"""What goes into a package beside its weights, looked at before anything is copied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from model_runner.errors import InvalidRequest, UnsupportedModel
from model_runner.formats.gguf import read_header
from model_runner.packaging.layers import SourceFile
from model_runner.packaging.layout import path_in_directory
from model_runner.store import manifests
from model_runner.store.models import MAX_CONTEXT
from model_runner.store.placement import safe_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from model_runner.packaging.layers import Report
    from model_runner.store import ModelConfig

Format = Literal["docker", "cncf"]

# Real ones have at most some 20 kB.
_MAX_TEMPLATE = 1 << 20


@dataclass(frozen=True, slots=True)
class Extras:
    """What goes into a package beside its weights, and how it is made.

    Attributes:
        licenses: Texts that travel with the model.
        chat_template: A Jinja template to use instead of the one in the file.
        context_size: Tokens of context to run it with; what the file says if not given.
        created: When the package was made; now, or `source_date_epoch`, if not given.
        projector: The multimodal projector, a GGUF file.
        adapters: LoRA adapters, GGUF files.
        format: Whose format the package has. Of a model that is a package already, its own if not
            given; else Docker's.
        source_date_epoch: Seconds since 1970, which are then the time of everything: packages of
            the same bytes have the same ID, wherever and whenever they are made.
        annotations: Of the manifest.
        report: Told while files are copied.
        stored: Which of these files are blobs of the store, each with the name that it is to have.
    """

    licenses: Sequence[Path] = ()
    chat_template: Path | None = None
    context_size: int | None = None
    created: datetime | None = None
    projector: Path | None = None
    adapters: Sequence[Path] = ()
    format: Format | None = None
    source_date_epoch: int | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    report: Report | None = None
    stored: Mapping[Path, str] = field(default_factory=dict)

    def check(self, model: ModelConfig) -> None:
        """Look at all of it, before gigabytes are copied.

        Args:
            model: What it goes with.

        Raises:
            InvalidRequest: Something cannot be.
            UnsupportedModel: A file is not what it should be, or does not go with the model.
        """
        if (self.projector or self.adapters) and model.format not in ("", "gguf"):
            raise UnsupportedModel(
                f"projectors and adapters are for GGUF weights, and the model's are {model.format}"
            )
        for licence in self.licenses:
            if not licence.is_file():
                raise UnsupportedModel(f"the licence `{licence}` is not a file")
        if self.chat_template:
            _check_template(self.chat_template)
        if self.projector:
            _check_projector(self.projector)
        for adapter in self.adapters:
            _check_adapter(adapter, model.architecture)
        check_context(self.context_size)
        _check_annotations(self.annotations)

    def files(self, *, by_path: bool) -> list[SourceFile]:
        """All files in the order in which Docker's tools append them.

        Args:
            by_path: Whether what they are shows in their names.

        Raises:
            InvalidRequest: Two have the same name.
            UnsupportedModel: A name cannot be a path in a package.
        """
        templates = [self.chat_template] if self.chat_template else []
        projectors = [self.projector] if self.projector else []
        kinds = (
            (manifests.LICENSE, self.licenses),
            (manifests.CHAT_TEMPLATE, templates),
            (manifests.PROJECTORS[0], projectors),
            (manifests.LORA, self.adapters),
        )
        files = [
            self._source(path, kind, by_path=by_path) for kind, paths in kinds for path in paths
        ]
        for name, count in Counter(file.name for file in files).items():
            if count > 1:
                raise InvalidRequest(
                    f"{count} of the files are called `{name}`", hint="rename all but one of them"
                )
        return files

    def _source(self, path: Path, kind: str, *, by_path: bool) -> SourceFile:
        name = self.stored.get(path, path.name)
        digest = f"sha256:{path.name}" if path in self.stored else None
        shown = _path_of(kind, name) if by_path else name
        return SourceFile(path, kind, shown, digest=digest)


def _path_of(media_type: str, name: str) -> str:
    return path_in_directory(media_type, safe_path(name))


def check_context(size: int | None) -> None:
    """Refuse a context that no package can name.

    Raises:
        InvalidRequest: It is not between 1 and 2147483647.
    """
    if size is not None and not 0 < size <= MAX_CONTEXT:
        raise InvalidRequest(f"a context of {size} tokens is not between 1 and {MAX_CONTEXT}")


def _check_template(path: Path) -> None:
    if not path.is_file():
        hint = "pipes cannot be read twice: write it to a file"
        raise UnsupportedModel(f"the chat template `{path}` is not a file", hint=hint)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TEMPLATE + 1).decode()
    except OSError as error:
        raise UnsupportedModel(f"the chat template `{path}` cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UnsupportedModel(f"the chat template `{path}` is not text in UTF-8") from error
    if not text.strip():
        raise UnsupportedModel(f"the chat template `{path}` is empty")
    if len(text) > _MAX_TEMPLATE:
        raise UnsupportedModel(f"the chat template `{path}` has more than {_MAX_TEMPLATE} bytes")
    if path.suffix.lower() == ".json":
        raise UnsupportedModel(
            f"the chat template `{path}` is JSON, not Jinja",
            hint="take the text of its member `chat_template`, with a name that ends in .jinja",
        )


def _check_projector(path: Path) -> None:
    architecture = read_header(path).metadata.get("general.architecture")
    if architecture != "clip":
        raise UnsupportedModel(
            f"`{path.name}` is not a multimodal projector: its architecture is `{architecture}`",
            hint="projectors are called mmproj-….gguf where models are published",
        )


def _check_adapter(path: Path, architecture: str) -> None:
    metadata = read_header(path).metadata
    if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
        raise UnsupportedModel(
            f"`{path.name}` is not a LoRA adapter for llama.cpp",
            hint="convert it with llama.cpp's convert_lora_to_gguf.py",
        )
    other = metadata.get("general.architecture")
    if architecture and other and other != architecture:
        raise UnsupportedModel(
            f"the adapter `{path.name}` is for a `{other}` model, and this one is `{architecture}`"
        )


def _check_annotations(annotations: Mapping[str, str]) -> None:
    for key in annotations:
        if not key or key != key.strip():
            raise InvalidRequest(f"`{key}` is no key of an annotation")
        if key == manifests.CONTEXT_SIZE:
            raise InvalidRequest(
                f"the annotation `{key}` is written with the context size",
                hint="give the context size itself",
            )
