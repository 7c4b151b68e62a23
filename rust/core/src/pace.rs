//! When the tokens of one answer came: the first, and the gaps between them.

use std::time::{Duration, Instant};

use crate::histogram::{GAP, Tally, micros};

/// The tokens of one answer in time, as they came from its engine. One look at the clock for each frame with tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When the first and the latest token came.
    span: Option<(Instant, Instant)>,
    gaps: Tally,
}

impl Pace {
    /// So many tokens came just now, in one frame.
    pub(crate) fn note(&mut self, tokens: u64) {
        if tokens > 0 {
            self.note_at(Instant::now(), tokens);
        }
    }

    fn note_at(&mut self, now: Instant, tokens: u64) {
        // What comes in one frame comes at once.
        self.gaps.record(&GAP, 0, u32::try_from(tokens - 1).unwrap_or(u32::MAX));
        if let Some((_, latest)) = &mut self.span {
            self.gaps.record(&GAP, micros(now.duration_since(*latest)), 1);
            *latest = now;
        } else {
            self.span = Some((now, now));
        }
    }

    /// How long after `start` the first token came, if one did.
    pub(crate) fn first_after(&self, start: Instant) -> Option<Duration> {
        self.span.map(|(first, _)| first.duration_since(start))
    }

    /// From the first token to the latest.
    pub(crate) fn span(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, latest)| latest.duration_since(first))
    }

    pub(crate) fn gaps(&self) -> &Tally {
        &self.gaps
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Pace;
    use crate::histogram::{GAP, Histogram};

    #[test]
    fn tokens_of_one_frame_come_at_once_and_frames_have_gaps_between_them() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.first_after(start), None);
        pace.note(0);
        for (millis, tokens) in [(30, 1), (50, 3), (57, 1)] {
            pace.note_at(start + Duration::from_millis(millis), tokens);
        }
        assert_eq!(pace.first_after(start), Some(Duration::from_millis(30)));
        assert_eq!(pace.span(), Duration::from_millis(27));
        let histogram = Histogram::new(&GAP);
        histogram.add(pace.gaps());
        let gaps = Histogram::total(&GAP, [&histogram].into_iter());
        // Five tokens have four gaps: two of none, one of 20 ms, one of 7 ms.
        assert_eq!((gaps.counts[0], gaps.counts[4], gaps.counts[6]), (2, 1, 1));
        assert_eq!((gaps.counts.iter().sum::<u64>(), gaps.sum), (4, 0.027));
    }
}
