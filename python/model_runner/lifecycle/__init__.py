"""The lives of engine processes: loading, leasing, idling, eviction, crashes, the end."""

from model_runner.lifecycle.plane import DataPlane, Route
from model_runner.lifecycle.runner import RunnerInfo
from model_runner.lifecycle.scheduler import Scheduler
from model_runner.lifecycle.totals import Totals

__all__ = ["DataPlane", "Route", "RunnerInfo", "Scheduler", "Totals"]
