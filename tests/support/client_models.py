"""The models that the official SDKs are driven with, by what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.server import wait_until
from support.spoken_models import tiny_caller, tiny_emoji, tiny_json, tiny_thinker, tiny_tools
from support.tiny_gguf import SCRIPT, tiny_embed, tiny_random, tiny_script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.server import Server

SPEAKER = "ai/tiny-script"
CALLER = "ai/tiny-tools"
TWICE_CALLER = "ai/tiny-caller"
THINKER = "ai/tiny-thinker"
JSON_SPEAKER = "ai/tiny-json"
EMOJI_SPEAKER = "ai/tiny-emoji"
CHATTERBOX = "ai/tiny-random"
ENCODER = "ai/tiny-embed"
ABSENT = "ai/absent"

MODELS: dict[str, Callable[[Path], Path]] = {
    SPEAKER: tiny_script,
    CALLER: tiny_tools,
    TWICE_CALLER: tiny_caller,
    THINKER: tiny_thinker,
    JSON_SPEAKER: tiny_json,
    EMOJI_SPEAKER: tiny_emoji,
    CHATTERBOX: tiny_random,
    ENCODER: tiny_embed,
}

# What SPEAKER and EMOJI_SPEAKER say, without the blank that a first word begins with.
SPOKEN = SCRIPT
EMOJI_SPOKEN = "🌞 sunny日"

# The arguments of CALLER's call, and what JSON_SPEAKER says.
CALLED_WITH = {"city": "Paris", "days": 3}

# A picture of one pixel.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

# More tokens than any of the models has context for.
TOO_LONG = "the " * 5000


def cancelled(server: Server) -> float:
    """How many requests were ended by their clients so far."""
    return server.metric("model_runner_requests_total", outcome="cancelled")


def wait_for_cancellation(server: Server, before: float) -> None:
    """Wait until the server has noticed that a client left, which frees the slot."""
    wait_until(lambda: cancelled(server) > before, "the request to be booked as cancelled")
