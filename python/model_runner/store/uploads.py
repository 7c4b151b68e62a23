"""Which blobs were sent by themselves, for a model that is yet to be made of them.

Only these are removed when nothing was made of them in time. Of others that no model needs nobody
knows whose they are: they wait for a clean-up that somebody asks for.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from model_runner.store.files import disk_errors
from model_runner.store.layout import digest_hex, is_hex
from model_runner.store.pruning import Pruned, PruneOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from model_runner.store.layout import Layout

# As long as Ollama leaves them.
_GRACE_SECONDS = 3600.0


class Uploads:
    """Notes of what was sent: an empty file for each blob.

    Args:
        layout: Where they are.
        prune: Cleans the store up.
    """

    def __init__(self, layout: Layout, prune: Callable[[PruneOptions], Sequence[Pruned]]) -> None:
        self._layout = layout
        self._prune = prune

    def note(self, digest: str) -> None:
        """Remember a blob that is sent.

        Raises:
            StoreError: The disk refused.
        """
        with disk_errors(self._layout.root):
            self._layout.uploads.mkdir(exist_ok=True)
            (self._layout.uploads / digest_hex(digest)).touch()

    def prune(self, *, grace: float = _GRACE_SECONDS) -> None:
        """Remove what was sent longer ago than that, in seconds, and of which nothing was made.

        Raises:
            StoreError: The disk refused.
        """
        noted = self._noted()
        if not noted:
            return
        results = self._prune(PruneOptions(grace=grace, only=noted))
        with disk_errors(self._layout.root):
            for digest in noted - {result.name for result in results if result.kept}:
                # It belongs to a model, or is gone.
                (self._layout.uploads / digest_hex(digest)).unlink(missing_ok=True)

    def _noted(self) -> set[str]:
        with contextlib.suppress(OSError):
            names = [path.name for path in self._layout.uploads.iterdir()]
            return {f"sha256:{name}" for name in names if is_hex(name)}
        return set()
