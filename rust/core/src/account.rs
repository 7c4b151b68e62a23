//! Counters: one shard a thread, written without contention, summed when somebody asks.
//!
//! The totals of a model outlive its runners, so counters only grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::endpoint::Mode;
use crate::error::Error;
use crate::histogram::{GAP, Histogram, Scale, WAIT, micros};
use crate::pace::Pace;
use crate::snapshot::{self, ModelTotals, OperationTotals};
use crate::usage::Usage;

mod operation;

pub(crate) use operation::Operation;
use operation::OperationShard;

/// How a request to an engine ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole answer was delivered.
    Ok,
    /// The engine refused the request as wrong.
    ClientError,
    /// The engine failed, or died.
    EngineError,
    /// The client left before the end, or somebody cancelled the request.
    #[default]
    Cancelled,
    /// The client took nothing of the answer for too long.
    TimedOut,
}

impl Outcome {
    /// Every outcome, in the order of their indexes.
    pub(crate) const ALL: [Self; 5] =
        [Self::Ok, Self::ClientError, Self::EngineError, Self::Cancelled, Self::TimedOut];

    /// The word that the metrics use.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::EngineError => "engine_error",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

/// One thread's counters of one model in one mode. 128 bytes apart, so that threads do not share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct ModelShard {
    /// By outcome.
    requests: [AtomicU64; Outcome::ALL.len()],
    prompt_tokens: AtomicU64,
    cached_prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    reasoning_tokens: AtomicU64,
    stream_events: AtomicU64,
    queue_micros: AtomicU64,
    duration_micros: AtomicU64,
    first_byte_micros: AtomicU64,
    first_bytes: AtomicU64,
    queue_waits: Histogram,
    load_waits: Histogram,
    gaps: Histogram,
    /// By operation; made when there is something to book.
    operations: [OnceLock<Box<OperationShard>>; Operation::ALL.len()],
}

impl ModelShard {
    fn new() -> Self {
        Self {
            requests: Default::default(),
            prompt_tokens: AtomicU64::new(0),
            cached_prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            reasoning_tokens: AtomicU64::new(0),
            stream_events: AtomicU64::new(0),
            queue_micros: AtomicU64::new(0),
            duration_micros: AtomicU64::new(0),
            first_byte_micros: AtomicU64::new(0),
            first_bytes: AtomicU64::new(0),
            queue_waits: Histogram::new(&WAIT),
            load_waits: Histogram::new(&WAIT),
            gaps: Histogram::new(&GAP),
            operations: Default::default(),
        }
    }
}

/// What one request adds to its model's totals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) operation: Operation,
    pub(crate) usage: Usage,
    /// Choices that said something, where that is known.
    pub(crate) choices: u64,
    pub(crate) stream_events: u64,
    /// The wait for a slot.
    pub(crate) queued: Duration,
    /// The wait for a runner to be ready; `None` if one was.
    pub(crate) load: Option<Duration>,
    /// `None` if there was none.
    pub(crate) first_byte: Option<Duration>,
    /// `None` if there was none, or it cannot be known.
    pub(crate) first_token: Option<Duration>,
    pub(crate) pace: Pace,
    pub(crate) duration: Duration,
}

/// All that was counted for one model in one mode.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) backend: String,
    pub(crate) model: String,
    pub(crate) mode: Mode,
    shards: Box<[ModelShard]>,
}

#[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

impl Totals {
    pub(crate) fn new(backend: String, model: String, mode: Mode, threads: usize) -> Self {
        Self { backend, model, mode, shards: (0..threads).map(|_| ModelShard::new()).collect() }
    }

    /// Book a request that ended. Called by the thread with that index only.
    pub(crate) fn book(&self, thread: usize, outcome: Outcome, entry: &Entry) {
        let Some(shard) = self.shards.get(thread) else { return };
        if let Some(counter) = shard.requests.get(outcome as usize) {
            counter.fetch_add(1, Relaxed);
        }
        shard.prompt_tokens.fetch_add(entry.usage.prompt_tokens, Relaxed);
        shard.cached_prompt_tokens.fetch_add(entry.usage.cached_prompt_tokens, Relaxed);
        shard.completion_tokens.fetch_add(entry.usage.completion_tokens, Relaxed);
        shard.reasoning_tokens.fetch_add(entry.usage.reasoning_tokens, Relaxed);
        shard.stream_events.fetch_add(entry.stream_events, Relaxed);
        let waited = entry.queued + entry.load.unwrap_or_default();
        shard.queue_micros.fetch_add(micros(waited), Relaxed);
        shard.duration_micros.fetch_add(micros(entry.duration), Relaxed);
        if let Some(first_byte) = entry.first_byte {
            shard.first_byte_micros.fetch_add(micros(first_byte), Relaxed);
            shard.first_bytes.fetch_add(1, Relaxed);
        }
        shard.queue_waits.record_time(entry.queued);
        if let Some(load) = entry.load {
            shard.load_waits.record_time(load);
        }
        shard.gaps.add(entry.pace.gaps());
        if let Some(operation) = shard.operations.get(entry.operation as usize) {
            operation.get_or_init(|| Box::new(OperationShard::new())).book(outcome, entry);
        }
    }

    pub(crate) fn sum(&self) -> ModelTotals {
        let sum = |field: fn(&ModelShard) -> &AtomicU64| -> u64 {
            self.shards.iter().map(|shard| field(shard).load(Relaxed)).sum()
        };
        let requests = |outcome: Outcome| -> u64 {
            let of = |shard: &ModelShard| {
                shard.requests.get(outcome as usize).map_or(0, |count| count.load(Relaxed))
            };
            self.shards.iter().map(of).sum()
        };
        ModelTotals {
            backend: self.backend.clone(),
            model: self.model.clone(),
            mode: self.mode.name(),
            requests_ok: requests(Outcome::Ok),
            requests_client_error: requests(Outcome::ClientError),
            requests_engine_error: requests(Outcome::EngineError),
            requests_cancelled: requests(Outcome::Cancelled),
            requests_timed_out: requests(Outcome::TimedOut),
            prompt_tokens: sum(|shard| &shard.prompt_tokens),
            cached_prompt_tokens: sum(|shard| &shard.cached_prompt_tokens),
            completion_tokens: sum(|shard| &shard.completion_tokens),
            reasoning_tokens: sum(|shard| &shard.reasoning_tokens),
            stream_events: sum(|shard| &shard.stream_events),
            queue_seconds: seconds(sum(|shard| &shard.queue_micros)),
            duration_seconds: seconds(sum(|shard| &shard.duration_micros)),
            first_byte_seconds: seconds(sum(|shard| &shard.first_byte_micros)),
            first_bytes: sum(|shard| &shard.first_bytes),
            queue_waits: self.histogram(&WAIT, |shard| &shard.queue_waits),
            load_waits: self.histogram(&WAIT, |shard| &shard.load_waits),
            inter_token_gaps: self.histogram(&GAP, |shard| &shard.gaps),
            operations: self.operations(),
        }
    }

    fn histogram(
        &self,
        scale: &'static Scale,
        field: fn(&ModelShard) -> &Histogram,
    ) -> snapshot::Histogram {
        Histogram::total(scale, self.shards.iter().map(field))
    }

    /// The operations that there were.
    fn operations(&self) -> Vec<OperationTotals> {
        let of = |operation: Operation| {
            let shards: Vec<&OperationShard> = self
                .shards
                .iter()
                .filter_map(|shard| shard.operations.get(operation as usize)?.get())
                .map(|shard| &**shard)
                .collect();
            (!shards.is_empty()).then(|| OperationShard::sum(operation, &shards))
        };
        Operation::ALL.into_iter().filter_map(of).collect()
    }
}

/// One thread's counters that belong to no model.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ServerShard {
    connections_open: AtomicU64,
    in_flight: AtomicU64,
    upstream_opened: AtomicU64,
    upstream_reused: AtomicU64,
    refused: [AtomicU64; Error::CODES.len()],
}

/// Counters that belong to no model.
#[derive(Debug)]
pub(crate) struct Server {
    shards: Box<[ServerShard]>,
}

impl Server {
    pub(crate) fn new(threads: usize) -> Self {
        Self { shards: (0..threads).map(|_| ServerShard::default()).collect() }
    }

    fn sum(&self, field: impl Fn(&ServerShard) -> &AtomicU64) -> u64 {
        // Gauges are raised and lowered by the same thread, so no shard is ever below zero.
        self.shards.iter().map(|shard| field(shard).load(Relaxed)).sum()
    }

    pub(crate) fn connections_open(&self) -> u64 {
        self.sum(|shard| &shard.connections_open)
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.sum(|shard| &shard.in_flight)
    }

    pub(crate) fn upstream_opened(&self) -> u64 {
        self.sum(|shard| &shard.upstream_opened)
    }

    pub(crate) fn upstream_reused(&self) -> u64 {
        self.sum(|shard| &shard.upstream_reused)
    }

    /// Requests that the data plane answered itself, by code; codes that never occurred are left out.
    pub(crate) fn refused(&self) -> Vec<(&'static str, u64)> {
        let count = |index: usize| -> u64 {
            let of = |shard: &ServerShard| shard.refused.get(index).map_or(0, |n| n.load(Relaxed));
            self.shards.iter().map(of).sum()
        };
        Error::CODES
            .iter()
            .enumerate()
            .map(|(index, code)| (*code, count(index)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// A thread's own view of the server's counters.
#[derive(Clone, Debug)]
pub(crate) struct ThreadCounters {
    server: Arc<Server>,
    thread: usize,
}

impl ThreadCounters {
    pub(crate) fn new(server: Arc<Server>, thread: usize) -> Self {
        Self { server, thread }
    }

    fn add(&self, field: impl Fn(&ServerShard) -> Option<&AtomicU64>) {
        if let Some(counter) = self.server.shards.get(self.thread).and_then(field) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Count a request that is answered with this error.
    pub(crate) fn refuse(&self, error: &Error) {
        self.add(|shard| shard.refused.get(error.index()));
    }

    pub(crate) fn upstream_opened(&self) {
        self.add(|shard| Some(&shard.upstream_opened));
    }

    pub(crate) fn upstream_reused(&self) {
        self.add(|shard| Some(&shard.upstream_reused));
    }

    /// Count one client connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> Gauge {
        self.add(|shard| Some(&shard.connections_open));
        Gauge { counters: self.clone(), field: |shard| &shard.connections_open }
    }

    /// Count one request in flight for as long as the guard lives.
    pub(crate) fn request(&self) -> Gauge {
        self.add(|shard| Some(&shard.in_flight));
        Gauge { counters: self.clone(), field: |shard| &shard.in_flight }
    }
}

/// Lowers a gauge again when it is dropped, on whatever path that happens.
#[derive(Debug)]
pub(crate) struct Gauge {
    counters: ThreadCounters,
    field: fn(&ServerShard) -> &AtomicU64,
}

impl Drop for Gauge {
    fn drop(&mut self) {
        if let Some(shard) = self.counters.server.shards.get(self.counters.thread) {
            (self.field)(shard).fetch_sub(1, Relaxed);
        }
    }
}
