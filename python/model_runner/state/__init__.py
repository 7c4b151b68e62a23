"""What the server keeps beside the models: one database, in which responses are stored."""

from __future__ import annotations

from model_runner.state.database import Database
from model_runner.state.responses import Bounds, Page, Responses, Submission

__all__ = ["Bounds", "Database", "Page", "Responses", "Submission"]
