"""Our own counters and gauges, read from the data plane and the scheduler at each scrape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model_runner import __version__
from model_runner.telemetry.histograms import LABELS, gen_ai, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from model_runner._core import ModelTotals, RunnerSnapshot, Snapshot
    from model_runner.telemetry.sources import Labelled, LifecycleTotals, Runner, Sources

    # Names are without `model_runner_` and without `_total`.
    Counts = tuple[tuple[str, str, Callable[[ModelTotals], float]], ...]
    Gauges = tuple[tuple[str, str, Callable[[RunnerSnapshot], int]], ...]
    LifecycleCounts = tuple[tuple[str, str, Callable[[LifecycleTotals], float]], ...]

Labels = tuple[str, str, str]

_PER_MODEL: Counts = (
    (
        "prompt_tokens",
        "Tokens of prompts, cached ones included.",
        lambda totals: totals.prompt_tokens,
    ),
    (
        "cached_prompt_tokens",
        "Tokens of prompts that the engine still had in its cache.",
        lambda totals: totals.cached_prompt_tokens,
    ),
    (
        "completion_tokens",
        "Tokens that were generated, as far as the engine reported them.",
        lambda totals: totals.completion_tokens,
    ),
    (
        "reasoning_tokens",
        "Generated tokens that were thoughts, as far as it was seen.",
        lambda totals: totals.reasoning_tokens,
    ),
    (
        "stream_events",
        "Server-sent events that were relayed to clients.",
        lambda totals: totals.stream_events,
    ),
    (
        "request_queue_seconds",
        "Time that requests waited for their runner to load and for a slot.",
        lambda totals: totals.queue_seconds,
    ),
    (
        "request_first_byte_seconds",
        "Time from requests' arrivals to the first bytes of their answers' bodies.",
        lambda totals: totals.first_byte_seconds,
    ),
    (
        "request_first_bytes",
        "Requests whose answer's body began.",
        lambda totals: totals.first_bytes,
    ),
    (
        "request_duration_seconds",
        "Time from requests' arrivals to the last bytes of their answers.",
        lambda totals: totals.duration_seconds,
    ),
)

_OUTCOMES: tuple[tuple[str, Callable[[ModelTotals], int]], ...] = (
    ("ok", lambda totals: totals.requests_ok),
    ("client_error", lambda totals: totals.requests_client_error),
    ("engine_error", lambda totals: totals.requests_engine_error),
    ("cancelled", lambda totals: totals.requests_cancelled),
    ("timed_out", lambda totals: totals.requests_timed_out),
)

_PER_RUNNER: Gauges = (
    ("slots", "Requests that can be answered at the same time.", lambda runner: runner.slots),
    ("leases", "Requests that are being answered.", lambda runner: runner.leases),
    ("queued_requests", "Requests that wait for a slot.", lambda runner: runner.queued),
)

_LIFECYCLE: LifecycleCounts = (
    ("loads", "Runners that became ready.", lambda totals: totals.loads),
    ("load_failures", "Runners that never became ready.", lambda totals: totals.load_failures),
    (
        "load_seconds",
        "Time that runners took to become ready, once there was room for them.",
        lambda totals: totals.load_seconds,
    ),
    ("evictions", "Idle runners that were stopped to make room.", lambda totals: totals.evictions),
    (
        "idle_unloads",
        "Runners that were stopped after their keep-alive.",
        lambda totals: totals.idle_unloads,
    ),
    ("crashes", "Runners whose engine died by itself.", lambda totals: totals.crashes),
)


class ModelRunnerCollector(Collector):
    """Exports what `Sources` say under stable names, `model_runner_…` and `gen_ai_…`."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """All families, at this moment."""
        info = GaugeMetricFamily(
            "model_runner_build_info", "Version of this server; always 1.", labels=["version"]
        )
        info.add_metric([__version__], 1)
        yield info
        snapshot = self._sources.snapshot()
        yield from _requests(snapshot)
        yield from waits(snapshot.models)
        yield from gen_ai(snapshot.models)
        yield from _connections(snapshot)
        yield from _runners(self._sources.runners(), snapshot.runners)
        yield from _lifecycle(self._sources.totals())


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "model_runner_requests",
        "Inference requests that reached an engine, by how they ended.",
        labels=[*LABELS, "outcome"],
    )
    for totals in snapshot.models:
        for outcome, count in _OUTCOMES:
            requests.add_metric([*_labels(totals), outcome], count(totals))
    yield requests
    for name, meaning, amount in _PER_MODEL:
        family = CounterMetricFamily(f"model_runner_{name}", meaning, labels=LABELS)
        for totals in snapshot.models:
            family.add_metric(_labels(totals), amount(totals))
        yield family
    refused = CounterMetricFamily(
        "model_runner_refused_requests",
        "Requests that ended without an engine's answer, by code.",
        labels=["code"],
    )
    for code, number in sorted(snapshot.requests_refused.items()):
        refused.add_metric([code], number)
    yield refused


def _connections(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "model_runner_open_connections",
        "Connections of clients that are open.",
        value=snapshot.open_connections,
    )
    yield GaugeMetricFamily(
        "model_runner_requests_in_flight",
        "Requests of any kind that are being answered.",
        value=snapshot.requests_in_flight,
    )
    yield CounterMetricFamily(
        "model_runner_upstream_connections_opened",
        "Connections that were opened to engines.",
        value=snapshot.upstream_connections_opened,
    )
    yield CounterMetricFamily(
        "model_runner_upstream_connections_reused",
        "Requests that went over a connection to an engine that another request had used.",
        value=snapshot.upstream_connections_reused,
    )


def _runners(runners: Sequence[Runner], activity: Sequence[RunnerSnapshot]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "model_runner_runners", "Engine processes, by state.", labels=[*LABELS, "state"]
    )
    counted = Counter((*_labels(runner), runner.state) for runner in runners)
    for labels, count in sorted(counted.items()):
        states.add_metric(labels, count)
    yield states
    by_id = {item.runner_id: item for item in activity}
    for name, meaning, gauge in _PER_RUNNER:
        # Summed: while one runner of a model drains, another may already serve.
        sums: Counter[Labels] = Counter()
        for runner in runners:
            item = by_id.get(runner.runner_id)
            if item is not None:
                sums[_labels(runner)] += gauge(item)
        family = GaugeMetricFamily(f"model_runner_runner_{name}", meaning, labels=LABELS)
        for labels3, value in sorted(sums.items()):
            family.add_metric(labels3, value)
        yield family


def _lifecycle(totals: Iterable[LifecycleTotals]) -> Iterator[Metric]:
    known = list(totals)
    for name, meaning, amount in _LIFECYCLE:
        family = CounterMetricFamily(f"model_runner_{name}", meaning, labels=LABELS)
        for item in known:
            family.add_metric(_labels(item), amount(item))
        yield family


def _labels(item: Labelled | ModelTotals) -> Labels:
    return item.backend, item.model, item.mode
