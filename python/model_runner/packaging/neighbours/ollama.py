"""Ollama's store: a manifest for each tag, whose layers are files named by their digests."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.errors import InvalidTemplate, ModelNotFound, UnsupportedModel
from model_runner.formats.gguf import read_header
from model_runner.packaging import baking
from model_runner.packaging.neighbours.choosing import source_file
from model_runner.packaging.neighbours.found import Found
from model_runner.store import manifests
from model_runner.store.layout import is_digest
from model_runner.store.modelfile import NUM_CTX, Message, Modelfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PREFIX = "ollama:"

_REGISTRY = "registry.ollama.ai"
_LIBRARY = "library"
# Of a user's own installation, and of the services that Linux distributions and Ollama install.
_PLACES = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")

_KIND = "application/vnd.ollama.image."
_LAYERS = {
    "model": manifests.GGUF,
    "projector": manifests.PROJECTORS[0],
    "adapter": manifests.LORA,
}
_SAID_AS_TEXT = ("template", "system")
_MAX_DOCUMENT = 4 << 20


def roots() -> Iterator[Path]:
    """Where Ollama keeps models on this machine.

    Raises:
        OSError: There is a place that this user may not look into; it comes last.
    """
    looked = [(place, _refusal(place)) for place in _places()]
    yield from (place for place, refusal in looked if refusal is None)
    for _, refusal in looked:
        if refusal:
            raise refusal


def _places() -> list[Path]:
    chosen = os.environ.get("OLLAMA_MODELS", "").strip()
    return [Path(place).expanduser() for place in ([chosen] if chosen else _PLACES)]


def names(root: Path) -> Iterator[str]:
    """The models of a store, each as Ollama shows it."""
    manifests_root = root / "manifests"
    for path in sorted(manifests_root.glob("*/*/*/*")):
        if path.is_file() and not path.name.startswith("."):
            yield _shown(*path.relative_to(manifests_root).parts)


def find(name: str) -> Found:
    """A model by the name that Ollama knows it by.

    Raises:
        ModelNotFound: Ollama does not have it.
        OSError: It may have it where this user may not look.
        UnsupportedModel: It is not a model in GGUF.
    """
    parts = _split(name)
    for root in roots():
        path = root.joinpath("manifests", *parts)
        if ".." not in parts and path.is_file():
            return _read(root, path, parts)
    hint = "see `model-runner import --list`; OLLAMA_MODELS says where else Ollama keeps its models"
    raise ModelNotFound(f"{PREFIX}{name}", hint=hint)


def _read(root: Path, path: Path, parts: tuple[str, str, str, str]) -> Found:
    shown = PREFIX + _shown(*parts)
    layers = _layers(path, shown)
    files = [
        source_file(_blob(root, digest, shown), _LAYERS[kind], name=_file_name(kind, parts, number))
        for number, (kind, digest) in enumerate(layers)
        if kind in _LAYERS
    ]
    kinds = {kind for kind, _ in layers}
    if "model" not in kinds:
        raise UnsupportedModel(
            f"`{shown}` holds no GGUF file",
            hint="it runs in Ollama's cloud or in its own engine only",
        )
    record, notes = _record(root, layers, shown, files[0].path)
    context = record.parameters.get(NUM_CTX)
    return Found(
        source=shown,
        name=_shown(*parts),
        files=files,
        licenses=[_blob(root, digest, shown) for kind, digest in layers if kind == "license"],
        context_size=context if type(context) is int and context > 0 else None,
        record=record,
        notes=[*notes, *_notes_on_vision(files[0].path)],
    )


def _record(
    root: Path, layers: Sequence[tuple[str, str]], shown: str, weights: Path
) -> tuple[Modelfile, list[str]]:
    """What is said of the model, and what of it cannot be taken.

    The file's own template is used if it has one: llama.cpp knows its calls and thoughts.
    """
    texts = {
        kind: _text(_blob(root, digest, shown)) for kind, digest in layers if kind in _SAID_AS_TEXT
    }
    documents = [_json(_blob(root, digest, shown)) for kind, digest in layers if kind == "params"]
    messages = [
        _messages(_blob(root, digest, shown)) for kind, digest in layers if kind == "messages"
    ]
    record = Modelfile(
        template=texts.get("template", ""),
        system=texts.get("system", ""),
        parameters={key: value for document in documents for key, value in document.items()},
        messages=tuple(message for found in messages for message in found),
    )
    if baking.template_of_weights(weights):
        return replace(record, template=""), []
    try:
        baking.baked(record, None)
    except InvalidTemplate as error:
        note = (
            f"the file has no chat template, and Ollama's cannot be taken: {error.message}; "
            "`package --from NAME --chat-template FILE` adds a Jinja template"
        )
        return replace(record, template=""), [note]
    return record, []


def _notes_on_vision(path: Path) -> Iterator[str]:
    metadata = read_header(path).metadata
    architecture = metadata.get("general.architecture")
    if any(key.startswith(f"{architecture}.vision.") for key in metadata):
        yield "its vision part is inside the file, where only Ollama's own engine reads it"


def _layers(path: Path, shown: str) -> Sequence[tuple[str, str]]:
    """What each layer is, and its digest."""
    listed = _json(path).get("layers")
    entries = (
        [layer for layer in listed if isinstance(layer, dict)] if isinstance(listed, list) else []
    )
    layers = [
        (str(layer.get("mediaType")).removeprefix(_KIND), str(layer.get("digest")))
        for layer in entries
    ]
    if not all(is_digest(digest) for _, digest in layers):
        raise UnsupportedModel(f"the manifest of `{shown}` is damaged", hint="pull it with Ollama")
    return layers


def _blob(root: Path, digest: str, shown: str) -> Path:
    # The colon is of Ollama's before 0.1.30.
    for name in (digest.replace(":", "-"), digest):
        path = root / "blobs" / name
        if path.is_file():
            return path
    raise UnsupportedModel(
        f"a file of `{shown}` is missing: `{root / 'blobs' / digest.replace(':', '-')}`",
        hint="let Ollama pull it again",
    )


def _json(path: Path) -> Mapping[str, object]:
    content = _content(path)
    return content if isinstance(content, dict) else {}


def _messages(path: Path) -> list[Message]:
    content = _content(path)
    listed = (
        [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    )
    return [Message(str(item.get("role", "")), str(item.get("content", ""))) for item in listed]


def _content(path: Path) -> object:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"`{path}` cannot be read: {error}") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_DOCUMENT).decode()
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"`{path}` cannot be read: {error}") from error


def _split(name: str) -> tuple[str, str, str, str]:
    """Host, namespace, model and tag, as Ollama fills in what a name leaves out."""
    path, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        path, tag = name, "latest"
    parts = path.split("/")
    host = parts[-3] if len(parts) > 2 else _REGISTRY
    namespace = parts[-2] if len(parts) > 1 else _LIBRARY
    return host, namespace, parts[-1], tag


def _shown(host: str, namespace: str, model: str, tag: str) -> str:
    if host != _REGISTRY:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == _LIBRARY else f"{namespace}/{model}:{tag}"


def _file_name(kind: str, parts: tuple[str, str, str, str], number: int) -> str:
    suffix = "" if kind == "model" and number == 0 else f"-{kind}{number}"
    return f"{parts[2]}-{parts[3]}{suffix}.gguf"


def _refusal(place: Path) -> OSError | None:
    """Why this user may not look into a store, if so."""
    try:
        next((place / "manifests").iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error
    return None
