//! The figures that a load reports.

use std::time::Duration;

use serde::Serialize;

/// Enough to see what went wrong, and no flood when everything does.
const SAMPLE_LIMIT: usize = 5;

/// Microseconds, one a measurement.
#[derive(Default)]
pub(super) struct Durations(Vec<f32>);

impl Durations {
    pub(super) fn add(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f32() * 1e6);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn percentiles(mut self) -> Percentiles {
        self.0.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| {
            let last = self.0.len().saturating_sub(1);
            let index = (last as f64 * share).round() as usize;
            self.0.get(index).map(|&value| (f64::from(value) * 10.0).round() / 10.0)
        };
        Percentiles { count: self.0.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

/// Microseconds; null where nothing was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: usize,
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// Requests that failed, and the first few reasons.
#[derive(Debug, Default, Serialize)]
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

    pub(super) fn extend(&mut self, other: Self) {
        self.errors += other.errors;
        self.error_samples.extend(other.error_samples);
        self.error_samples.truncate(SAMPLE_LIMIT);
    }
}

/// How the client's connections fared.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    /// Kept connections that turned out to be closed when the next request was sent on them.
    pub(crate) stale: u64,
}

impl Connections {
    pub(super) fn extend(&mut self, other: &Self) {
        self.opened += other.opened;
        self.stale += other.stale;
    }
}
