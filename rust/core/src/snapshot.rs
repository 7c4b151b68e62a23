//! Everything counted, copied out at one moment.

/// What one runner is doing.
#[derive(Clone, Debug)]
pub struct RunnerSnapshot {
    /// The runner.
    pub runner_id: String,
    /// Requests that it is answering.
    pub leases: usize,
    /// Requests that wait for one of its slots.
    pub queued: usize,
    /// Seconds since its last lease ended, or since it was published; 0.0 while it has leases.
    pub idle_seconds: f64,
    /// Requests that it answers at the same time.
    pub slots: usize,
}

/// What was counted for one model in one mode.
#[derive(Clone, Debug)]
pub struct ModelTotals {
    /// The engine's name.
    pub backend: String,
    /// The model's display name.
    pub model: String,
    /// The mode's name.
    pub mode: &'static str,
    /// Requests answered in full.
    pub requests_ok: u64,
    /// Requests that the engine refused as wrong.
    pub requests_client_error: u64,
    /// Requests that the engine failed.
    pub requests_engine_error: u64,
    /// Requests whose client left, or that were cancelled.
    pub requests_cancelled: u64,
    /// Requests whose client took nothing of the answer for too long.
    pub requests_timed_out: u64,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens that the engine had cached.
    pub cached_prompt_tokens: u64,
    /// Tokens produced.
    pub completion_tokens: u64,
    /// Those of them that were thoughts, as far as it was seen.
    pub reasoning_tokens: u64,
    /// Server-sent events relayed.
    pub stream_events: u64,
    /// Seconds spent waiting for a runner to load, and for one of its slots.
    pub queue_seconds: f64,
    /// Seconds from the request's arrival to the last byte of its answer.
    pub duration_seconds: f64,
    /// Seconds from the request's arrival to the first byte of its answer's body.
    pub first_byte_seconds: f64,
    /// Requests that had such a first byte.
    pub first_bytes: u64,
    /// Seconds that requests waited for a slot.
    pub queue_waits: Histogram,
    /// Seconds that requests waited for a runner to be ready; without those that found one.
    pub load_waits: Histogram,
    /// Seconds between one token and the next of a streamed answer.
    pub inter_token_gaps: Histogram,
    /// What OpenTelemetry's conventions measure, for each operation that there was.
    pub operations: Vec<OperationTotals>,
}

/// What was measured of one operation of a model.
#[derive(Clone, Debug)]
pub struct OperationTotals {
    /// `gen_ai.operation.name`.
    pub operation: &'static str,
    /// Seconds from arrival to last byte, by outcome.
    pub durations: Vec<(&'static str, Histogram)>,
    /// Seconds from arrival to the first token, of answers that were delivered whole.
    pub time_to_first_token: Histogram,
    /// Seconds for each token after the first, of answers that were delivered whole.
    pub time_per_output_token: Histogram,
    /// Prompt tokens of a request.
    pub input_tokens: Histogram,
    /// Tokens produced for a request.
    pub output_tokens: Histogram,
}

/// How often values lay between bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Inclusive upper bounds, ascending.
    pub bounds: Vec<f64>,
    /// Values above the bound before and up to this one; the last count is of those above all bounds.
    pub counts: Vec<u64>,
    /// All values added up.
    pub sum: f64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Runners that are published, or retired with leases left.
    pub runners: Vec<RunnerSnapshot>,
    /// Totals, never forgotten.
    pub models: Vec<ModelTotals>,
    /// Client connections.
    pub open_connections: u64,
    /// Requests that have not been answered in full.
    pub requests_in_flight: u64,
    /// Requests that the data plane answered itself, by code.
    pub requests_refused: Vec<(&'static str, u64)>,
    /// Connections opened to engines.
    pub upstream_connections_opened: u64,
    /// Requests sent on a connection that had been used before.
    pub upstream_connections_reused: u64,
}
