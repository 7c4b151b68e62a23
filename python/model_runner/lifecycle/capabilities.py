"""What a model can do, as its files say: from headers and templates alone, and kept."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_runner.errors import InvalidTemplate, UnsupportedModel
from model_runner.formats import vocabulary
from model_runner.formats.gguf import describe
from model_runner.formats.go_to_jinja import takes_suffix
from model_runner.lifecycle import policy
from model_runner.store.placement import place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from model_runner.store import Bundle, Model, Store

_logger = logging.getLogger(__name__)

# Every capability, in the order in which they are told.
CAPABILITIES = ("completion", "vision", "audio", "tools", "insert", "thinking", "embedding")

_TEMPLATE = "tokenizer.chat_template"
# A template is some 20 kB; what is longer is none.
_MAX_TEMPLATE = 1 << 20
# How templates speak of thoughts: the tags of most models, and the switches that requests have.
_THINKING = ("<think>", "</think>", "enable_thinking", "reasoning_effort")
# The tokens around what is missing in a text, under today's and under earlier names.
_INSERT = (
    tuple(f"tokenizer.ggml.fim_{part}_token_id" for part in ("pre", "suf", "mid")),
    tuple(f"tokenizer.ggml.{part}_token_id" for part in ("prefix", "suffix", "middle")),
)
# Of so many models it is remembered.
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Sources:
    """What a model's capabilities are read from.

    Attributes:
        metadata: The header of the weights as text; empty if they are no GGUF.
        template: The chat template that is used; empty if there is none.
        projector: The header of the projector as text; None if there is none.
        infills: Whether the vocabulary has tokens for it that the header does not name.
        said: The template that the model was made with in Ollama's way.
    """

    metadata: Mapping[str, str]
    template: str = ""
    projector: Mapping[str, str] | None = None
    infills: bool = False
    said: str = ""


def read(sources: Sources) -> tuple[str, ...]:
    """What a model can do, in the order of `CAPABILITIES`.

    >>> read(Sources({"general.architecture": "llama"}, "{% if tools %}"))
    ('completion', 'tools')
    """
    does = policy.what_it_does(sources.metadata)
    if does != "completion":
        return ("embedding",) if does == "embedding" else ()
    found = {"completion", *_senses(sources.projector)}
    if "tools" in sources.template or "tool_call" in sources.template:
        found.add("tools")
    if any(mark in sources.template for mark in _THINKING):
        found.add("thinking")
    if names_infill(sources.metadata) or sources.infills or _takes_suffix(sources.said):
        found.add("insert")
    return tuple(capability for capability in CAPABILITIES if capability in found)


def names_infill(metadata: Mapping[str, str]) -> bool:
    """Whether the header names the tokens around what is missing in a text."""
    return any(all(key in metadata for key in keys) for keys in _INSERT)


def _takes_suffix(template: str) -> bool:
    try:
        return bool(template) and takes_suffix(template)
    except InvalidTemplate:
        return False  # somebody else wrote the annotation


# A model's files never change under its ID, so what was read of them holds.
_known: OrderedDict[str, tuple[str, ...]] = OrderedDict()


def of(store: Store, model: Model) -> tuple[str, ...]:
    """What a model of the store can do, unpacked or not; what cannot be read counts for nothing.

    It blocks when it is asked about a model for the first time.
    """
    if model.id not in _known:
        try:
            found = read(_sources(model, *_blobs(store, model)))
        except (OSError, UnsupportedModel) as error:
            _logger.warning("what model %s can do cannot be read: %s", model.id, error)
            return ()
        _known[model.id] = found
        if len(_known) > _KEPT:
            _known.popitem(last=False)
    return _known[model.id]


def of_bundle(model: Model, bundle: Bundle) -> tuple[str, ...]:
    """What a model can do that has been unpacked for an engine.

    A header that cannot be read is not judged here: the engine says what is wrong with the file.
    """
    try:
        return read(_sources(model, bundle.gguf, bundle.chat_template, bundle.projector))
    except (OSError, UnsupportedModel):
        return read(Sources(model.config.gguf))


def _blobs(store: Store, model: Model) -> tuple[Path | None, Path | None, Path | None]:
    """Weights, chat template and projector, as far as they are GGUF, and in no archive."""
    placement = place(model.manifest)
    blobs = {file.path: store.blobs.path(file.layer.digest) for file in placement.files}
    gguf, template, projector = placement.gguf, placement.chat_template, placement.projector
    return (
        blobs[gguf] if gguf else None,
        blobs[template] if template else None,
        blobs[projector] if projector else None,
    )


def _sources(
    model: Model, gguf: Path | None, template: Path | None, projector: Path | None
) -> Sources:
    """Read no more than is needed.

    Raises:
        OSError: The template cannot be read.
        UnsupportedModel: A header cannot.
    """
    metadata = model.config.gguf
    if gguf is not None and not (metadata and (template or _TEMPLATE in metadata)):
        # Packages of the CNCF's form do not carry the header, and others not all of it.
        metadata = describe([gguf]).gguf
    if template is not None:
        with template.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_TEMPLATE)
    else:
        text = metadata.get(_TEMPLATE, "")
    senses = describe([projector]).gguf if projector else None
    does_infill = gguf is not None and not names_infill(metadata) and vocabulary.has_tokens(gguf)
    return Sources(metadata, text, senses, does_infill, model.config.modelfile.template)


def _senses(projector: Mapping[str, str] | None) -> set[str]:
    if projector is None:
        return set()
    hears = projector.get("clip.has_audio_encoder") == "true"
    # The first projectors saw, and did not say so.
    sees = projector.get("clip.has_vision_encoder", "false" if hears else "true") == "true"
    return {name for name, has in (("vision", sees), ("audio", hears)) if has}
