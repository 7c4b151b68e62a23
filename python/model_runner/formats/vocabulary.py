"""Looks for tokens in the vocabulary of a GGUF file, without building any of its thousands."""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What llama.cpp takes, by their texts, for the tokens around what is missing in a text: before the
# beginning, before the end, before what is to be written.
INFILL = (
    (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim▁begin\uff5c>", "<PRE>"),
        *("▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
    ),
    (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim▁hole\uff5c>", "<SUF>"),
        *("▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
    ),
    (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim▁end\uff5c>", "<MID>"),
        *("▁<MID>", "<|code_middle|>", "<|middle|>"),
    ),
)

_KEY = b"tokenizer.ggml.tokens"
_NEXT_KEY = b"tokenizer."
# The key comes before the tensors, and the largest vocabularies take 6 MB.
_KEY_WITHIN, _MAX_BYTES = 64 << 20, 32 << 20


def has_tokens(path: Path, groups: Sequence[Sequence[str]] = INFILL) -> bool:
    """Whether the vocabulary has one token of each group. It blocks on the disk.

    Raises:
        UnsupportedModel: The file cannot be read.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            begin = mapped.find(_KEY, 0, _KEY_WITHIN)
            if begin < 0:
                return False
            begin += len(_KEY)
            end = mapped.find(_NEXT_KEY, begin, begin + _MAX_BYTES)
            # What follows an array of strings is mostly another key of the tokenizer.
            words = mapped[begin : end if end >= 0 else begin + _MAX_BYTES]
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise UnsupportedModel(f"`{path}` cannot be read: {error}") from error
    return all(any(_stored(token) in words for token in group) for group in groups)


def _stored(token: str) -> bytes:
    """A string as the file has it, so that it is no part of a longer one."""
    text = token.encode()
    return struct.pack("<Q", len(text)) + text
