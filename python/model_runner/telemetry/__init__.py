"""What can be measured: our own counters and every engine's, as Prometheus text."""

from model_runner.telemetry.exporter import CONTENT_TYPE, Exporter
from model_runner.telemetry.sources import Sources

__all__ = ["CONTENT_TYPE", "Exporter", "Sources"]
