"""Decisions without effects: which runner has to go and when, how much context one gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Between the answer to a lease call and the lease itself the data plane needs a few milliseconds,
# more on a host that is short of CPU. For this long a runner that was just named to a caller does
# not count as idle.
HANDOVER_SECONDS = 1.0
# Context costs memory for every slot, and models are trained for 128 Ki tokens and more.
DEFAULT_CONTEXT_LIMIT = 8192
# Where requests want more, it is a multiple of this.
_CONTEXT_STEP = 2048
# What llama.cpp can count.
MAX_CONTEXT = 2**31 - 1
# No context has more, and beyond 4300 Python refuses to make a number of them.
_MAX_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Activity:
    """How busy a ready runner is.

    Attributes:
        runner_id: Which runner.
        busy: Whether it holds leases, or requests wait for one of its slots.
        idle_seconds: Since its last lease ended, or since it was published.
        named_seconds: Since a lease call was last answered with it.
        used: Whether a request to it has ended since then.
    """

    runner_id: str
    busy: bool
    idle_seconds: float
    named_seconds: float
    used: bool

    @property
    def awaited(self) -> bool:
        """Whether a caller was told of it and has not used it yet."""
        return not self.used and self.named_seconds < HANDOVER_SECONDS

    @property
    def idle(self) -> bool:
        """Whether it could be stopped without anyone noticing."""
        return not self.busy and not self.awaited


def eviction_victim(activities: Iterable[Activity]) -> str | None:
    """The idle runner that was used least recently; None if none is idle."""
    idle = [activity for activity in activities if activity.idle]
    if not idle:
        return None
    return max(idle, key=lambda activity: activity.idle_seconds).runner_id


def seconds_to_expiry(activity: Activity, keep_alive: float) -> float | None:
    """When to look at a runner again; zero or less: it has been idle for long enough.

    Args:
        activity: How busy it is now.
        keep_alive: Seconds that an idle runner stays loaded; negative: for ever.

    Returns:
        Seconds, or None for never. For a busy runner, the earliest moment at which it can expire.
    """
    if keep_alive < 0:
        return None
    if activity.busy:
        return keep_alive
    left = keep_alive - activity.idle_seconds
    return max(left, HANDOVER_SECONDS - activity.named_seconds) if activity.awaited else left


def context_size(
    configured: int | None,
    packaged: int | None,
    metadata: Mapping[str, str],
    *,
    chosen: bool = False,
    parameter: int | None = None,
) -> int:
    """Tokens of context for each slot.

    What somebody chose holds; only what a model was merely trained for is limited.

    Args:
        configured: What the operator set; taken as it is.
        packaged: What the model was packaged with. Packages that nobody chose a size for say what
            the model was trained for; anything else was chosen, more than the model was trained
            for included, which rope scaling allows.
        metadata: The GGUF header, which has the size that the model was trained for.
        chosen: Whether the package says that somebody chose its size.
        parameter: What the model's Modelfile sets, which is cut to what the model was trained for.
    """
    if configured is not None:
        return configured
    trained = trained_context(metadata)
    if parameter is not None:
        return min(parameter, trained or parameter)
    if packaged and packaged > 0 and (chosen or packaged != trained):
        return packaged
    return min(trained or DEFAULT_CONTEXT_LIMIT, DEFAULT_CONTEXT_LIMIT)


def context_limit(metadata: Mapping[str, str], context_size: int) -> int:
    """The most that requests get: what the model was trained for, or has, if that is more."""
    return max(trained_context(metadata) or MAX_CONTEXT, context_size)


def granted_context(usual: int, wanted: int, limit: int) -> int:
    """Tokens of context for each slot, when requests want more than the usual.

    A little more is granted than is wanted, or a conversation whose every request wants some more
    would have its model loaded anew each time.

    >>> granted_context(8192, 4096, 32768), granted_context(8192, 65536, 32768)
    (8192, 32768)
    >>> granted_context(8192, 8200, 32768)
    10240
    """
    if wanted <= usual:
        return usual
    return max(usual, min(-(-wanted // _CONTEXT_STEP) * _CONTEXT_STEP, limit))


# llama.cpp's numbers for how the vectors of tokens become one.
_NO_POOLING = "0"
_DOES = {"1": "embedding", "2": "embedding", "3": "embedding", "4": "reranking"}


def has_own_pooling(metadata: Mapping[str, str]) -> bool:
    """Whether the GGUF header says how embeddings are pooled."""
    return _architecture_key(metadata, "pooling_type") in metadata


def what_it_does(metadata: Mapping[str, str]) -> str:
    """What a model was made for, as its GGUF header has it: one of the modes."""
    pooling = metadata.get(_architecture_key(metadata, "pooling_type"), _NO_POOLING)
    return _DOES.get(pooling, "embedding" if _is_encoder(metadata) else "completion")


def what_else(metadata: Mapping[str, str], mode: str) -> str | None:
    """What a model does instead, if its GGUF header says that it does not do what `mode` wants.

    An engine would start all the same, and answer with an error of its own (text from an encoder)
    or with numbers that mean nothing (vectors from a model that ranks, ranks from one that does
    not).
    """
    does, is_encoder = what_it_does(metadata), _is_encoder(metadata)
    pooling = metadata.get(_architecture_key(metadata, "pooling_type"), _NO_POOLING)
    suited = {
        "completion": not (is_encoder and pooling != _NO_POOLING),
        "embedding": does != "reranking",
        # Models that rank were converted without saying so until 2025; those were encoders.
        "reranking": does == "reranking" or (is_encoder and pooling == _NO_POOLING),
    }
    return None if suited[mode] else does


def trained_context(metadata: Mapping[str, str]) -> int | None:
    """Tokens that a model was trained for, if its GGUF header says."""
    text = metadata.get(_architecture_key(metadata, "context_length"), "")
    known = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if known else None


def _is_encoder(metadata: Mapping[str, str]) -> bool:
    return metadata.get(_architecture_key(metadata, "attention.causal")) == "false"


def _architecture_key(metadata: Mapping[str, str], name: str) -> str:
    return f"{metadata.get('general.architecture', '')}.{name}"
