"""What clients have called a model, beyond the usual spellings of its tags and its ID."""

from __future__ import annotations

from collections import OrderedDict

# A client can spell one model in unboundedly many ways (`AI/x`, `ai/X`, …); the least recent ones
# are forgotten, and cost a lease call when they come again.
_LEARNED_LIMIT = 64


class Spellings:
    """What requests have called each model, as far as it resolved to it."""

    def __init__(self) -> None:
        self._learned: dict[str, OrderedDict[str, None]] = {}

    def learn(self, model_id: str, spelling: str) -> bool:
        """Note that this spelling was resolved to this model, and so to no other one.

        Returns:
            Whether that is news.
        """
        for other, spellings in self._learned.items():
            if other != model_id:
                spellings.pop(spelling, None)
        mine = self._learned.setdefault(model_id, OrderedDict())
        is_news = spelling not in mine
        mine[spelling] = None
        mine.move_to_end(spelling)
        if len(mine) > _LEARNED_LIMIT:
            mine.popitem(last=False)
        return is_news

    def learned(self, model_id: str) -> tuple[str, ...]:
        """The spellings learned for a model."""
        return tuple(self._learned.get(model_id, ()))

    def forget(self, model_id: str, spelling: str | None = None) -> None:
        """Forget one spelling of a model, or all."""
        if spelling is None:
            self._learned.pop(model_id, None)
        elif model_id in self._learned:
            self._learned[model_id].pop(spelling, None)
