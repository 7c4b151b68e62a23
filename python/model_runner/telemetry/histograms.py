"""Histograms: OpenTelemetry's for generative AI where they fit, and our own for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from model_runner._core import Histogram, ModelTotals, OperationTotals

LABELS = ("backend", "model", "mode")

# The convention's attributes, dots as underscores as OpenTelemetry's Prometheus exporters do it.
GEN_AI_LABELS = ("gen_ai_provider_name", "gen_ai_request_model", "gen_ai_operation_name")

_WAITS: tuple[tuple[str, str, Callable[[ModelTotals], Histogram]], ...] = (
    (
        "queue_wait_seconds",
        "Time that requests waited for a slot of a runner that was ready.",
        lambda totals: totals.queue_waits,
    ),
    (
        "load_wait_seconds",
        "Time that requests waited for a runner to be ready; without those that found one.",
        lambda totals: totals.load_waits,
    ),
    (
        "inter_token_gap_seconds",
        "Time between one token and the next of an answer that the engine streamed.",
        lambda totals: totals.inter_token_gaps,
    ),
)

_RESPONSES: tuple[tuple[str, str, Callable[[OperationTotals], Histogram]], ...] = (
    (
        "time_to_first_token_seconds",
        "Time from a request's arrival to its first token, of successful responses.",
        lambda totals: totals.time_to_first_token,
    ),
    (
        "time_per_output_token_seconds",
        "Time per output token after the first, of successful responses.",
        lambda totals: totals.time_per_output_token,
    ),
)


def waits(models: Sequence[ModelTotals]) -> Iterator[HistogramMetricFamily]:
    """What there is no convention for."""
    for name, meaning, histogram in _WAITS:
        family = HistogramMetricFamily(f"model_runner_{name}", meaning, labels=LABELS)
        for totals in models:
            _add(family, (totals.backend, totals.model, totals.mode), histogram(totals))
        yield family


def gen_ai(models: Sequence[ModelTotals]) -> Iterator[HistogramMetricFamily]:
    """What OpenTelemetry's semantic conventions for generative AI name."""
    operations = [
        ((totals.backend, totals.model, operation.operation), operation)
        for totals in models
        for operation in totals.operations
    ]
    duration = HistogramMetricFamily(
        "gen_ai_server_request_duration_seconds",
        "Time from a request's arrival to the last byte of its answer.",
        labels=[*GEN_AI_LABELS, "error_type"],
    )
    for labels, operation in operations:
        for outcome, seconds in sorted(operation.durations.items()):
            if any(seconds.counts):
                # To Prometheus an empty label is none, as the convention wants it of a success.
                _add(duration, (*labels, "" if outcome == "ok" else outcome), seconds)
    yield duration
    for name, meaning, histogram in _RESPONSES:
        family = HistogramMetricFamily(f"gen_ai_server_{name}", meaning, labels=GEN_AI_LABELS)
        for labels, operation in operations:
            _add(family, labels, histogram(operation))
        yield family
    tokens = HistogramMetricFamily(
        "gen_ai_client_token_usage",
        "Tokens of requests that used any, by type.",
        labels=[*GEN_AI_LABELS, "gen_ai_token_type"],
    )
    for labels, operation in operations:
        _add(tokens, (*labels, "input"), operation.input_tokens)
        _add(tokens, (*labels, "output"), operation.output_tokens)
    yield tokens


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    # Prometheus' buckets are cumulative.
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip(bounds, histogram.counts, strict=True):
        below += count
        buckets.append((bound, below))
    family.add_metric(labels, buckets, histogram.sum)
