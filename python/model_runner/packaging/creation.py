"""Makes models as a Modelfile says: of a model, or of files that were sent, and of what is said.

Weights are shared with what they came from. What engines read goes into layers; what was said, as
it was said, goes along as an annotation.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.errors import InvalidRequest, UnsupportedModel
from model_runner.formats.gguf import read_header
from model_runner.packaging import baking
from model_runner.packaging.artifact import trained_context
from model_runner.packaging.build import Weights, package_weights
from model_runner.packaging.directory import describe_safetensors_files
from model_runner.packaging.extras import Extras
from model_runner.packaging.gguf import describe_gguf
from model_runner.packaging.layers import SourceFile
from model_runner.packaging.layout import docker_type
from model_runner.packaging.variant import package_variant
from model_runner.store import manifests
from model_runner.store.modelfile import NUM_CTX, Modelfile
from model_runner.store.placement import safe_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model_runner.store import Model, ModelConfig, Store

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Order:
    """What a model is to be.

    Attributes:
        said: What is said of it; of another model's, what is different.
        files: What it is made of, if not of a model: names and the digests of blobs.
        adapters: LoRA adapters likewise.
        quantize: The type that its weights are to have; empty for what they have.
    """

    said: Modelfile = field(default_factory=Modelfile)
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    quantize: str = ""


@dataclass(frozen=True, slots=True)
class _Sent:
    """Blobs by the names that they were sent for. Two names may have one blob."""

    paths: Mapping[str, Path]

    @property
    def names(self) -> dict[Path, str]:
        """A name for each blob."""
        return {path: name for name, path in self.paths.items()}

    @classmethod
    def of(cls, store: Store, files: Mapping[str, str]) -> _Sent:
        for name, digest in files.items():
            if not store.blobs.has(digest):
                raise InvalidRequest(
                    f"the file `{name}` is not here: there is no blob `{digest}`",
                    hint=f"send it first: `POST /api/blobs/{digest}`",
                )
        return cls({safe_path(name): store.blobs.path(digest) for name, digest in files.items()})

    def named(self, error: UnsupportedModel) -> UnsupportedModel:
        """An error about one of them, which calls it by its name."""
        message = error.message
        for path, name in self.names.items():
            message = message.replace(str(path), name).replace(path.name, name)
        return UnsupportedModel(message, hint=error.hint)

    def source(self, name: str, kind: str) -> SourceFile:
        """One of them as a file of a package."""
        path = self.paths[name]
        return SourceFile(path, kind, name, digest=f"sha256:{path.name}")


def create_from_model(store: Store, model: Model, tag: str, order: Order) -> Model:
    """Make a model of one that is in the store.

    Args:
        store: Where both are.
        model: What it is made of.
        tag: Its name, in any spelling.
        order: What is different.

    Raises:
        InvalidReference: The name is outside the grammar.
        InvalidRequest: Something that is said cannot be.
        UnsupportedModel: A file is not what it should be.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    record = model.config.modelfile.merged(order.said)
    _check(order, model.config)
    needs_base = not record.template and (record.system or record.messages)
    base = baking.template_of_model(store, model) if needs_base else None
    adapters = _Sent.of(store, order.adapters)
    with tempfile.TemporaryDirectory() as directory:
        extras = replace(
            _extras(record, baking.baked(record, base), order, Path(directory)),
            context_size=_context(order.said, model.config),
            source_date_epoch=model.created,
            adapters=list(adapters.paths.values()),
            stored=adapters.names,
        )
        try:
            return package_variant(store, model.id, tag, extras)
        except UnsupportedModel as error:
            raise adapters.named(error) from error


def create_from_files(store: Store, tag: str, order: Order) -> Model:
    """Make a model of blobs that were sent. What it raises is as above."""
    files = _Sent.of(store, order.files)
    adapters = _Sent.of(store, order.adapters)
    try:
        weights, projector, base = _weights(files)
        _check(order, weights.config)
        moment = weights.files[0].path.stat().st_mtime
        with tempfile.TemporaryDirectory() as directory:
            extras = replace(
                _extras(order.said, baking.baked(order.said, base), order, Path(directory)),
                context_size=_context(order.said, weights.config),
                source_date_epoch=int(moment),
                projector=projector,
                adapters=list(adapters.paths.values()),
                stored={**files.names, **adapters.names},
            )
            return package_weights(store, weights, tag, extras)
    except UnsupportedModel as error:
        raise adapters.named(files.named(error)) from error


def _extras(record: Modelfile, template: str | None, order: Order, directory: Path) -> Extras:
    """What goes along, as far as it is text."""
    return Extras(
        licenses=[_license(text, directory) for text in dict.fromkeys(order.said.license)],
        chat_template=baking.written(template, directory),
        annotations={manifests.MODELFILE: record.encode()},
    )


def _license(text: str, directory: Path) -> Path:
    """A licence under a name of its own: it must not take the place of another one."""
    content = text.encode()
    path = directory / f"LICENSE-{sha256(content).hexdigest()[:12]}"
    path.write_bytes(content)
    return path


def _context(said: Modelfile, config: ModelConfig) -> int | None:
    """The context that was chosen; not more than the model was trained for, as Ollama has it."""
    size = said.parameters.get(NUM_CTX)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidRequest(f"the parameter `{NUM_CTX}` is no number of tokens")
    return min(size, trained_context(config.gguf) or size)


def _check(order: Order, config: ModelConfig) -> None:
    for message in order.said.messages:
        if message.role not in _ROLES:
            raise InvalidRequest(
                f"a message has the role `{message.role}`", hint=f"roles are {', '.join(_ROLES)}"
            )
    has = config.quantization.removeprefix("MOSTLY_")
    if order.quantize and order.quantize.upper() != has.upper():
        raise InvalidRequest(
            f"the weights are {has or 'of an unknown type'} and cannot be made "
            f"{order.quantize.upper()}: model-runner does not quantize",
            hint="quantize them with llama.cpp's llama-quantize, or pull a model of that type",
        )


def _weights(files: _Sent) -> tuple[Weights, Path | None, str | None]:
    """The weights, a projector, and the chat template in them.

    Raises:
        InvalidRequest: There are none, or several.
        UnsupportedModel: They are damaged.
    """
    suffixes = Counter(Path(name).suffix.lower() for name in files.paths)
    if suffixes[".safetensors"]:
        return _of_safetensors(files)
    if not any(map(_is_gguf, files.paths.values())):
        if suffixes[".gguf"]:
            raise InvalidRequest("supplied file was not in GGUF format")
        raise InvalidRequest("unknown type", hint="files are .gguf or .safetensors")
    others = [name for name, path in files.paths.items() if not _is_gguf(path)]
    if others:
        raise InvalidRequest(f"`{others[0]}` is neither weights nor a projector in GGUF")
    projectors = [name for name, path in files.paths.items() if _is_projector(path)]
    ggufs = [name for name in files.paths if name not in projectors]
    if len(projectors) > 1 or not ggufs:
        raise InvalidRequest(f"there are {len(ggufs)} weights and {len(projectors)} projectors")
    sources = [files.source(name, manifests.GGUF) for name in _in_order(ggufs)]
    weights = Weights(describe_gguf([source.path for source in sources]), sources)
    projector = files.paths[projectors[0]] if projectors else None
    return weights, projector, baking.template_of_weights(sources[0].path)


def _of_safetensors(files: _Sent) -> tuple[Weights, None, str | None]:
    sources = [files.source(name, docker_type(name)) for name in sorted(files.paths)]
    config = describe_safetensors_files(sources)
    own = files.paths.get("chat_template.jinja")
    template = own.read_text("utf-8", "replace") if own else None
    return Weights(config, sources, by_path=True), None, template


def _in_order(names: Sequence[str]) -> list[str]:
    """All shards of one model.

    Raises:
        InvalidRequest: These are several models, or shards are missing.
    """
    shards = {name: _SHARD.fullmatch(Path(name).name) for name in names}
    families = {(match[1], int(match[3])) for match in shards.values() if match}
    if not families and len(names) == 1:
        return list(names)
    if len(families) != 1 or not all(shards.values()):
        raise InvalidRequest(
            f"there are {len(names)} weights: {', '.join(names)}",
            hint="only the shards of one model (…-00001-of-00003.gguf) can be sent together",
        )
    ((_, count),) = families
    ordered = {int(match[2]): name for name, match in shards.items() if match}
    missing = [number for number in range(1, count + 1) if number not in ordered]
    if missing:
        raise InvalidRequest(f"shard {missing[0]} of {count} is missing", hint="send all of them")
    return [ordered[number] for number in range(1, count + 1)]


def _is_projector(path: Path) -> bool:
    return read_header(path).metadata.get("general.architecture") == "clip"


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
