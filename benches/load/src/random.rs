//! Random numbers that a seed repeats: the same load twice, and an engine's noise that a test can foresee.

/// `SplitMix64`: eight lines, and as good as arrival times and jitter need.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn share(&mut self) -> f64 {
        // The 53 bits that a float holds.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From `low` to below `high`, each value as likely as another.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.share()
    }

    /// Exponentially distributed: the time to the next of things that happen at random.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        // The share is never 1, so the logarithm is finite.
        -mean * (1.0 - self.share()).ln()
    }
}
