"""Run AI models on your own machine behind one address."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    # Asking the installation takes 30 ms, which every `model-runner --help` would pay.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("model-runner")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0+source"
