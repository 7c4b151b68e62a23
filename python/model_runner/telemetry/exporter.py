"""The page that Prometheus scrapes: our metrics, our process's, every running engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from model_runner.telemetry.collector import ModelRunnerCollector
from model_runner.telemetry.exposition import Exposition
from model_runner.telemetry.histograms import LABELS
from model_runner.telemetry.scrape import scrape

if TYPE_CHECKING:
    from model_runner.telemetry.sources import Sources

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exporter:
    """Renders `/metrics`.

    Args:
        sources: Where the numbers are.
        timeout: Seconds that an engine has to answer: it takes a millisecond or two, and one that
            is dying must not hold up the page.
    """

    def __init__(self, sources: Sources, *, timeout: float = 2.0) -> None:
        self._sources = sources
        self._timeout = timeout
        # A registry of our own: the library's global one would show what other code registers.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ModelRunnerCollector(sources))
        ProcessCollector(registry=self._registry)

    async def render(self) -> str:
        """The whole page. Only ready runners are asked; one that does not answer is left out."""
        ready = {
            (runner.backend, runner.model, runner.mode): runner
            for runner in self._sources.runners()
            if runner.state == "ready"
        }
        engines = Exposition()
        for runner, text in await scrape(ready.values(), self._timeout):
            values = (runner.backend, runner.model, runner.mode)
            engines.add(text, dict(zip(LABELS, values, strict=True)))
        return generate_latest(self._registry).decode("utf-8") + engines.render()
