//! What Python gets: plain values, copied.

use std::collections::HashMap;

use model_runner_core::snapshot as core;
use pyo3::prelude::*;

/// What one runner is doing.
#[pyclass(frozen, get_all, skip_from_py_object, module = "model_runner._core")]
#[derive(Clone)]
pub(crate) struct RunnerSnapshot {
    runner_id: String,
    leases: usize,
    queued: usize,
    idle_seconds: f64,
    slots: usize,
}

/// What was counted for one model in one mode.
#[pyclass(frozen, get_all, skip_from_py_object, module = "model_runner._core")]
#[derive(Clone)]
pub(crate) struct ModelTotals {
    backend: String,
    model: String,
    mode: &'static str,
    requests_ok: u64,
    requests_client_error: u64,
    requests_engine_error: u64,
    requests_cancelled: u64,
    requests_timed_out: u64,
    prompt_tokens: u64,
    cached_prompt_tokens: u64,
    completion_tokens: u64,
    reasoning_tokens: u64,
    stream_events: u64,
    queue_seconds: f64,
    duration_seconds: f64,
    first_byte_seconds: f64,
    first_bytes: u64,
    queue_waits: Histogram,
    load_waits: Histogram,
    inter_token_gaps: Histogram,
    operations: Vec<OperationTotals>,
}

/// What was measured of one operation of a model.
#[pyclass(frozen, get_all, skip_from_py_object, module = "model_runner._core")]
#[derive(Clone)]
pub(crate) struct OperationTotals {
    operation: &'static str,
    durations: HashMap<&'static str, Histogram>,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
}

/// How often values lay between bounds.
#[pyclass(frozen, get_all, skip_from_py_object, module = "model_runner._core")]
#[derive(Clone)]
pub(crate) struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

/// All of it.
#[pyclass(frozen, get_all, module = "model_runner._core")]
pub(crate) struct Snapshot {
    runners: Vec<RunnerSnapshot>,
    models: Vec<ModelTotals>,
    open_connections: u64,
    requests_in_flight: u64,
    requests_refused: HashMap<String, u64>,
    upstream_connections_opened: u64,
    upstream_connections_reused: u64,
}

impl From<core::RunnerSnapshot> for RunnerSnapshot {
    fn from(runner: core::RunnerSnapshot) -> Self {
        Self {
            runner_id: runner.runner_id,
            leases: runner.leases,
            queued: runner.queued,
            idle_seconds: runner.idle_seconds,
            slots: runner.slots,
        }
    }
}

impl From<core::ModelTotals> for ModelTotals {
    fn from(totals: core::ModelTotals) -> Self {
        Self {
            backend: totals.backend,
            model: totals.model,
            mode: totals.mode,
            requests_ok: totals.requests_ok,
            requests_client_error: totals.requests_client_error,
            requests_engine_error: totals.requests_engine_error,
            requests_cancelled: totals.requests_cancelled,
            requests_timed_out: totals.requests_timed_out,
            prompt_tokens: totals.prompt_tokens,
            cached_prompt_tokens: totals.cached_prompt_tokens,
            completion_tokens: totals.completion_tokens,
            reasoning_tokens: totals.reasoning_tokens,
            stream_events: totals.stream_events,
            queue_seconds: totals.queue_seconds,
            duration_seconds: totals.duration_seconds,
            first_byte_seconds: totals.first_byte_seconds,
            first_bytes: totals.first_bytes,
            queue_waits: totals.queue_waits.into(),
            load_waits: totals.load_waits.into(),
            inter_token_gaps: totals.inter_token_gaps.into(),
            operations: totals.operations.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<core::OperationTotals> for OperationTotals {
    fn from(totals: core::OperationTotals) -> Self {
        let durations = totals.durations.into_iter();
        Self {
            operation: totals.operation,
            durations: durations.map(|(outcome, seconds)| (outcome, seconds.into())).collect(),
            time_to_first_token: totals.time_to_first_token.into(),
            time_per_output_token: totals.time_per_output_token.into(),
            input_tokens: totals.input_tokens.into(),
            output_tokens: totals.output_tokens.into(),
        }
    }
}

impl From<core::Histogram> for Histogram {
    fn from(histogram: core::Histogram) -> Self {
        Self { bounds: histogram.bounds, counts: histogram.counts, sum: histogram.sum }
    }
}

impl From<core::Snapshot> for Snapshot {
    fn from(snapshot: core::Snapshot) -> Self {
        Self {
            runners: snapshot.runners.into_iter().map(Into::into).collect(),
            models: snapshot.models.into_iter().map(Into::into).collect(),
            open_connections: snapshot.open_connections,
            requests_in_flight: snapshot.requests_in_flight,
            requests_refused: snapshot
                .requests_refused
                .into_iter()
                .map(|(code, count)| (code.to_owned(), count))
                .collect(),
            upstream_connections_opened: snapshot.upstream_connections_opened,
            upstream_connections_reused: snapshot.upstream_connections_reused,
        }
    }
}
