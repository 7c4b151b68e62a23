//! Counters: one shard a thread, written without contention, summed when somebody asks.
//!
//! The totals of a model outlive its runners, so counters only grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::endpoint::Mode;
use crate::error::Error;
use crate::snapshot::ModelTotals;
use crate::usage::Usage;

/// How a request to an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole answer was delivered.
    Ok,
    /// The engine refused the request as wrong.
    ClientError,
    /// The engine failed, or died.
    EngineError,
    /// The client left before the end.
    Cancelled,
}

/// One thread's counters of one model in one mode. 128 bytes apart, so that threads do not share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ModelShard {
    ok: AtomicU64,
    client_error: AtomicU64,
    engine_error: AtomicU64,
    cancelled: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    stream_events: AtomicU64,
    queue_micros: AtomicU64,
    duration_micros: AtomicU64,
    first_byte_micros: AtomicU64,
    first_bytes: AtomicU64,
}

/// What one request adds to its model's totals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) usage: Usage,
    pub(crate) stream_events: u64,
    pub(crate) queued: Duration,
    /// `None` if there was none.
    pub(crate) first_byte: Option<Duration>,
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

impl Totals {
    pub(crate) fn new(backend: String, model: String, mode: Mode, threads: usize) -> Self {
        Self { backend, model, mode, shards: (0..threads).map(|_| ModelShard::default()).collect() }
    }

    /// Book a request that ended. Called by the thread with that index only.
    pub(crate) fn book(&self, thread: usize, outcome: Outcome, entry: &Entry) {
        let Some(shard) = self.shards.get(thread) else { return };
        let counter = match outcome {
            Outcome::Ok => &shard.ok,
            Outcome::ClientError => &shard.client_error,
            Outcome::EngineError => &shard.engine_error,
            Outcome::Cancelled => &shard.cancelled,
        };
        counter.fetch_add(1, Relaxed);
        shard.prompt_tokens.fetch_add(entry.usage.prompt_tokens, Relaxed);
        shard.cached_prompt_tokens.fetch_add(entry.usage.cached_prompt_tokens, Relaxed);
        shard.completion_tokens.fetch_add(entry.usage.completion_tokens, Relaxed);
        shard.stream_events.fetch_add(entry.stream_events, Relaxed);
        shard.queue_micros.fetch_add(micros(entry.queued), Relaxed);
        shard.duration_micros.fetch_add(micros(entry.duration), Relaxed);
        if let Some(first_byte) = entry.first_byte {
            shard.first_byte_micros.fetch_add(micros(first_byte), Relaxed);
            shard.first_bytes.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn sum(&self) -> ModelTotals {
        let sum = |field: fn(&ModelShard) -> &AtomicU64| -> u64 {
            self.shards.iter().map(|shard| field(shard).load(Relaxed)).sum()
        };
        ModelTotals {
            backend: self.backend.clone(),
            model: self.model.clone(),
            mode: self.mode.name(),
            requests_ok: sum(|shard| &shard.ok),
            requests_client_error: sum(|shard| &shard.client_error),
            requests_engine_error: sum(|shard| &shard.engine_error),
            requests_cancelled: sum(|shard| &shard.cancelled),
            prompt_tokens: sum(|shard| &shard.prompt_tokens),
            cached_prompt_tokens: sum(|shard| &shard.cached_prompt_tokens),
            completion_tokens: sum(|shard| &shard.completion_tokens),
            stream_events: sum(|shard| &shard.stream_events),
            queue_seconds: seconds(sum(|shard| &shard.queue_micros)),
            duration_seconds: seconds(sum(|shard| &shard.duration_micros)),
            first_byte_seconds: seconds(sum(|shard| &shard.first_byte_micros)),
            first_bytes: sum(|shard| &shard.first_bytes),
        }
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
