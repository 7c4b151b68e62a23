//! The figures that a load gathers, all workers together: they share one thread.

use std::cell::Cell;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Enough to see what went wrong, and no flood when everything does.
const SAMPLE_LIMIT: usize = 5;

/// Three digits, whatever the size: 46.0 µs and 4,600 µs are each told from the next tenth of a percent.
const DIGITS: u8 = 3;

/// Nanoseconds, one a measurement, in a histogram that grows with the largest.
pub(super) struct Durations {
    histogram: Histogram<u64>,
    largest: Duration,
}

impl Default for Durations {
    fn default() -> Self {
        // Cannot fail: 0 to 5 digits are allowed.
        let histogram = Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!());
        Self { histogram, largest: Duration::ZERO }
    }
}

impl Durations {
    pub(super) fn add(&mut self, duration: Duration) {
        // Cannot fail: the histogram grows as far as 2^64 nanoseconds, which are 584 years.
        let _ = self.histogram.record(duration.as_nanos() as u64);
        self.largest = self.largest.max(duration);
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let microseconds = |nanoseconds: f64| Some((nanoseconds / 100.0).round() / 10.0);
        let at = |share: f64| {
            if self.histogram.is_empty() {
                return None;
            }
            // The middle of a bucket; never more than what was seen.
            let value = self.histogram.value_at_quantile(share);
            let value = self.histogram.median_equivalent(value) as f64;
            microseconds(value.min(self.largest.as_nanos() as f64))
        };
        Percentiles {
            count: self.histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0).and_then(|_| microseconds(self.largest.as_nanos() as f64)),
        }
    }
}

/// Microseconds; null where nothing was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// All that is counted and timed. What a kind of load does not measure stays empty.
#[derive(Default)]
pub(super) struct Figures {
    /// Answers that were whole and right.
    pub(super) answers: u64,
    pub(super) failures: Failures,
    pub(super) events: u64,
    pub(super) missed_events: u64,
    pub(super) tokens: Tokens,
    /// Streams that were fast enough.
    pub(super) good: u64,
    pub(super) latency: Durations,
    pub(super) ttft: Durations,
    pub(super) ttft_fresh: Durations,
    pub(super) gap: Durations,
    pub(super) lag: Durations,
    pub(super) tpot: Durations,
    pub(super) starts: Starts,
}

/// How requests of an open loop were started.
#[derive(Default)]
pub(super) struct Starts {
    pub(super) intended: u64,
    pub(super) late: u64,
    pub(super) dropped: u64,
    pub(super) lateness: Durations,
}

/// Tokens as the server counts them, and where its counts were found.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Tokens {
    pub(crate) completion: u64,
    pub(crate) prompt: u64,
    /// Answers whose count was in `usage`, in `timings`, or was that of their events, for want of both.
    pub(crate) from_usage: u64,
    pub(crate) from_timings: u64,
    pub(crate) from_events: u64,
}

/// Requests that failed, and the first few reasons.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Failures {
    pub(crate) errors: u64,
    pub(crate) error_samples: Vec<String>,
}

impl Failures {
    pub(super) fn note(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        if self.error_samples.len() < SAMPLE_LIMIT {
            self.error_samples.push(format!("{error:#}"));
        }
    }
}

/// How the clients' connections fared.
#[derive(Default)]
pub(super) struct ConnectionCounts {
    pub(super) opened: Cell<u64>,
    pub(super) stale: Cell<u64>,
}
