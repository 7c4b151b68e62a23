"""What a model can do, until the lifecycle tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_runner.store import manifests

if TYPE_CHECKING:
    from model_runner.store import Model, Store


def of(_store: Store, model: Model) -> tuple[str, ...]:
    """What a model of the store can do."""
    metadata = model.config.gguf
    architecture = metadata.get("general.architecture", "")
    if f"{architecture}.pooling_type" in metadata:
        return ("embedding",)
    found = ["completion"]
    if any(layer.media_type in manifests.PROJECTORS for layer in model.manifest.layers):
        found.append("vision")
    template = metadata.get("tokenizer.chat_template", "")
    if "tools" in template:
        found.append("tools")
    if "</think>" in template:
        found.append("thinking")
    return tuple(found)
