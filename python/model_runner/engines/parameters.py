"""What a model's package sets for its engine: the parameters of a Modelfile, as flags.

They are an engine's defaults: they hold in every dialect, and a request that says otherwise wins.
A package comes from strangers: a value that no engine would take is left out, and logged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeGuard

_logger = logging.getLogger(__name__)

_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Number:
    """A parameter with a number.

    Attributes:
        flags: How builds spell it.
        least: What is below is left out; some mean by it what the engine does anyway.
        most: The same for what is above.
        is_whole: Whether fractions are cut off.
    """

    flags: tuple[str, ...]
    least: float
    most: float
    is_whole: bool = False


# How texts are written; these are for completions alone.
_SAMPLING = {
    "temperature": _Number(("--temp", "--temperature"), 0, 1000),
    "top_k": _Number(("--top-k",), 0, _INT_MAX, is_whole=True),
    "top_p": _Number(("--top-p",), 0, 1),
    "min_p": _Number(("--min-p",), 0, 1),
    "typical_p": _Number(("--typical", "--typical-p"), 0, 1),
    "repeat_last_n": _Number(("--repeat-last-n",), -1, _INT_MAX, is_whole=True),
    "repeat_penalty": _Number(("--repeat-penalty",), 0, 1000),
    "presence_penalty": _Number(("--presence-penalty",), -1000, 1000),
    "frequency_penalty": _Number(("--frequency-penalty",), -1000, 1000),
    "seed": _Number(("-s", "--seed"), 0, 2**32 - 1, is_whole=True),
    "num_predict": _Number(("-n", "--predict", "--n-predict"), 1, _INT_MAX, is_whole=True),
    "num_keep": _Number(("--keep",), 0, _INT_MAX, is_whole=True),
    "num_batch": _Number(("-b", "--batch-size"), 1, _INT_MAX, is_whole=True),
}
# Where the model is computed.
_PLACE = {
    "num_gpu": _Number(("-ngl", "--gpu-layers", "--n-gpu-layers"), 0, _INT_MAX, is_whole=True),
    "main_gpu": _Number(("-mg", "--main-gpu"), 0, 1000, is_whole=True),
}
_OTHERS = {
    "num_ctx": _Number((), 1, _INT_MAX, is_whole=True),
    "num_thread": _Number((), 1, 4096, is_whole=True),
}
# What engines do unless they are told not to; a build has one of the flags.
_OFF: dict[str, list[tuple[tuple[str, ...], str | None]]] = {
    "use_mmap": [(("--no-mmap",), None), (("--load-mode",), "none")],
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters that make sense.

    Attributes:
        numbers: By their names in a Modelfile.
        stops: Strings that end a text, unless a request names others.
        switched_off: What engines do unless they are told not to.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    switched_off: tuple[str, ...] = ()

    @property
    def context_size(self) -> int | None:
        """Tokens of context for each slot."""
        return self._whole("num_ctx")

    @property
    def threads(self) -> int | None:
        """Threads of the engine."""
        return self._whole("num_thread")

    def flags(self, mode: str) -> list[tuple[tuple[str, ...], str | None]]:
        """What an engine in that mode is told: the spellings of each flag, and its value if any."""
        known = {**_SAMPLING, **_PLACE} if mode == "completion" else _PLACE
        flags: list[tuple[tuple[str, ...], str | None]] = [
            (known[name].flags, str(value)) for name, value in self.numbers.items() if name in known
        ]
        for name in self.switched_off:
            flags += _OFF[name]
        if mode == "completion":
            # The engine reads escapes in them; what is one in a Modelfile was read before.
            escaped = (stop.replace("\\", "\\\\") for stop in self.stops)
            flags += [(("-r", "--reverse-prompt"), stop) for stop in escaped]
        return flags

    def _whole(self, name: str) -> int | None:
        value = self.numbers.get(name)
        return None if value is None else int(value)


def read(values: Mapping[str, object]) -> Parameters:
    """Take from a Modelfile's parameters what an engine can be told.

    >>> read({"temperature": 0.5, "top_k": 20, "seed": -1}).flags("completion")
    [(('--temp', '--temperature'), '0.5'), (('--top-k',), '20')]
    """
    numbers = {
        name: number
        for name, kind in {**_SAMPLING, **_PLACE, **_OTHERS}.items()
        if name in values and (number := _number(name, kind, values[name])) is not None
    }
    given = values.get("stop", [])
    stops = given if isinstance(given, list) else [given]
    unused = values.keys() - {"stop"} - _SAMPLING.keys() - _PLACE.keys() - _OTHERS.keys()
    if unused := unused - _OFF.keys():
        _logger.info(
            "parameters of the model that mean nothing here: %.200s", ", ".join(sorted(unused))
        )
    return Parameters(
        numbers,
        tuple(stop for stop in stops if _is_stop(stop)),
        tuple(name for name in _OFF if values.get(name) is False),
    )


def _number(name: str, kind: _Number, value: object) -> float | None:
    """The value, if it is a number in range. Negative ones often stand for what is done anyway."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind.least <= value <= kind.most:
            return int(value) if kind.is_whole else value
        if value < 0:
            return None
    _logger.warning("the model's parameter `%s` is left out: it is %.80r", name, value)
    return None


def _is_stop(stop: object) -> TypeGuard[str]:
    # No command line holds a NUL.
    return isinstance(stop, str) and stop != "" and "\0" not in stop
