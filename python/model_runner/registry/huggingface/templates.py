"""The chat template in the JSON files that models are published with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from model_runner.registry.huggingface.files import MAX_SMALL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from model_runner.registry.huggingface.files import HubFile
    from model_runner.registry.huggingface.selection import Selection
    from model_runner.store import ModelConfig


async def find_template(
    selection: Selection, config: ModelConfig, read: Callable[[HubFile], Awaitable[bytes]]
) -> bytes | None:
    """The chat template out of the model's settings, if its GGUF weights have none themselves.

    Args:
        selection: What is fetched of the repository, and which files may hold a template.
        config: What the weights say.
        read: Fetches one of those files.
    """
    if selection.kind != "gguf" or config.gguf.get("tokenizer.chat_template"):
        return None
    for file in selection.templates:
        if file.size <= MAX_SMALL and (text := template_of(await read(file))):
            return text.encode("utf-8", "replace")
    return None


def template_of(data: bytes) -> str | None:
    """The Jinja text in a `tokenizer_config.json` or `chat_template.json`, if there is one.

    It is one text, or a list of named ones, of which the one called `default` is for chats.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    found = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(found, list):
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) and found.strip() else None
