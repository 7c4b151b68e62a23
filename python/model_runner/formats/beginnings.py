"""What readers of headers have before them: the first bytes of a file, mapped or fetched."""

from __future__ import annotations

import mmap
from typing import TypeAlias

Beginning: TypeAlias = mmap.mmap | bytes | bytearray


class HeaderGoesOn(Exception):
    """The header goes on beyond the bytes that are here, though not beyond the end of the file.

    Args:
        needed: How many bytes from the start on it takes at least.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(f"it takes {needed} bytes")
        self.needed = needed
