//! Histograms with fixed buckets: one a thread, written without contention, added up when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::snapshot;

#[cfg(test)]
mod tests;

/// The most bounds that a scale has.
const MOST: usize = 16;

/// The buckets of a histogram, by their inclusive upper bounds; there is one more for what lies above.
#[derive(Debug)]
pub(crate) struct Scale {
    bounds: &'static [u64],
    /// What is recorded in microseconds is shown in seconds.
    one: f64,
}

impl Scale {
    const fn micros(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MOST, "a histogram has no room for more");
        Self { bounds, one: 1e6 }
    }

    const fn tokens(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MOST, "a histogram has no room for more");
        Self { bounds, one: 1.0 }
    }

    fn bucket(&self, value: u64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    #[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
    fn shown(&self, value: u64) -> f64 {
        value as f64 / self.one
    }
}

/// `gen_ai.server.request.duration`, as OpenTelemetry advises.
pub(crate) static DURATION: Scale = Scale::micros(&[
    10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000, 2_560_000, 5_120_000,
    10_240_000, 20_480_000, 40_960_000, 81_920_000,
]);

/// `gen_ai.server.time_to_first_token`, as OpenTelemetry advises.
pub(crate) static FIRST_TOKEN: Scale = Scale::micros(&[
    1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 250_000, 500_000, 750_000,
    1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
]);

/// `gen_ai.server.time_per_output_token`, as OpenTelemetry advises.
pub(crate) static PER_TOKEN: Scale = Scale::micros(&[
    10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000, 750_000,
    1_000_000, 2_500_000,
]);

/// `gen_ai.client.token.usage`, as OpenTelemetry advises.
pub(crate) static TOKENS: Scale = Scale::tokens(&[
    1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216,
    67_108_864,
]);

/// Gaps between tokens: small models take less than a millisecond, and a pause of seconds is a stall.
pub(crate) static GAP: Scale = Scale::micros(&[
    500, 1_000, 2_500, 5_000, 10_000, 15_000, 25_000, 35_000, 50_000, 75_000, 100_000, 150_000,
    250_000, 500_000, 1_000_000, 5_000_000,
]);

/// Waits for a slot or a load: from a busy moment to a large model on a slow disk.
pub(crate) static WAIT: Scale = Scale::micros(&[
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
]);

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What one thread has recorded.
#[derive(Debug)]
pub(crate) struct Histogram {
    scale: &'static Scale,
    buckets: [AtomicU64; MOST + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(scale: &'static Scale) -> Self {
        Self { scale, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(self.scale.bucket(value)) {
            bucket.fetch_add(1, Relaxed);
            self.sum.fetch_add(value, Relaxed);
        }
    }

    pub(crate) fn record_time(&self, time: Duration) {
        self.record(micros(time));
    }

    /// Take in what was gathered elsewhere, on the same scale.
    pub(crate) fn add(&self, tally: &Tally) {
        for (bucket, count) in self.buckets.iter().zip(&tally.buckets) {
            if *count > 0 {
                bucket.fetch_add(u64::from(*count), Relaxed);
            }
        }
        self.sum.fetch_add(tally.sum, Relaxed);
    }

    /// All these together; they have one scale.
    pub(crate) fn total<'a>(
        scale: &'static Scale,
        histograms: impl Iterator<Item = &'a Self>,
    ) -> snapshot::Histogram {
        let mut counts = vec![0_u64; scale.bounds.len() + 1];
        let mut sum = 0_u64;
        for histogram in histograms {
            for (count, bucket) in counts.iter_mut().zip(&histogram.buckets) {
                *count += bucket.load(Relaxed);
            }
            sum = sum.saturating_add(histogram.sum.load(Relaxed));
        }
        let bounds = scale.bounds.iter().map(|bound| scale.shown(*bound)).collect();
        snapshot::Histogram { bounds, counts, sum: scale.shown(sum) }
    }
}

/// A histogram of one request's own: plain numbers, nothing allocated.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    buckets: [u32; MOST + 1],
    sum: u64,
}

impl Tally {
    pub(crate) fn record(&mut self, scale: &Scale, value: u64, times: u32) {
        if let Some(bucket) = self.buckets.get_mut(scale.bucket(value)) {
            *bucket = bucket.saturating_add(times);
            self.sum = self.sum.saturating_add(value.saturating_mul(u64::from(times)));
        }
    }
}
