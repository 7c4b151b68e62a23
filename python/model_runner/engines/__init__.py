"""Inference engines: which there are, what state they are in, and how one is launched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_runner.engines.base import MODES, Engine, EngineStatus, LaunchPlan, LaunchRequest

if TYPE_CHECKING:
    from model_runner.config import Settings

__all__ = ["MODES", "Engine", "EngineStatus", "LaunchPlan", "LaunchRequest", "discover"]


def discover(settings: Settings) -> Engine:
    """The engine to use.

    Never raises: a missing engine says so in its status, and when it is to be launched.
    """
    # Imported here, because the embedded engine's process imports this package and pays for all it
    # imports.
    from model_runner.engines.llamacpp import LlamaCpp

    return LlamaCpp(settings)
