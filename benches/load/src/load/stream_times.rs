//! When the token events of one stream came, and what that says.

use std::time::{Duration, Instant};

use super::figures::Figures;
use super::options::Slo;

pub(super) struct StreamTimes {
    begin: Instant,
    /// Between two token events at the engine; zero if it keeps no pace that is known.
    interval: Duration,
    first: Option<Instant>,
    last: Option<Instant>,
    widest_gap: Duration,
    /// Token events so far.
    events: u32,
    /// When the first event would have come, had it been on its way for as short a time as any.
    anchor: Option<Instant>,
}

impl StreamTimes {
    /// `begin` is when the stream was asked for, or should have been.
    pub(super) fn new(begin: Instant, interval: Duration) -> Self {
        Self {
            begin,
            interval,
            first: None,
            last: None,
            widest_gap: Duration::ZERO,
            events: 0,
            anchor: None,
        }
    }

    pub(super) fn note_event(&mut self, figures: &mut Figures, now: Instant, reused: bool) {
        figures.events += 1;
        if let Some(earlier) = self.last.replace(now) {
            let gap = now - earlier;
            self.widest_gap = self.widest_gap.max(gap);
            figures.gap.add(gap);
        } else {
            self.first = Some(now);
            let ttft = now.saturating_duration_since(self.begin);
            let times = if reused { &mut figures.ttft } else { &mut figures.ttft_fresh };
            times.add(ttft);
        }
        if self.interval > Duration::ZERO {
            figures.lag.add(self.lag(now));
        }
        self.events += 1;
    }

    /// How far behind the pace an event is that comes now.
    fn lag(&mut self, now: Instant) -> Duration {
        let due_after = self.interval * self.events;
        // Before the clock's beginning there is no earlier anchor.
        let Some(implied) = now.checked_sub(due_after) else { return Duration::ZERO };
        let anchor = self.anchor.map_or(implied, |anchor| anchor.min(implied));
        self.anchor = Some(anchor);
        implied - anchor
    }

    /// The stream has ended as it should, with so many tokens.
    pub(super) fn note_whole(&self, figures: &mut Figures, tokens: u64, slo: Slo) {
        let (Some(first), Some(last)) = (self.first, self.last) else { return };
        if tokens > 1 && self.events > 1 {
            figures.tpot.add((last - first).div_f64((tokens - 1) as f64));
        }
        let ttft = first.saturating_duration_since(self.begin);
        figures.good += u64::from(slo.is_met(ttft, self.widest_gap));
    }
}
