//! What a load has measured: as JSON for programs, and as a table for people.

use std::fmt::Write;

use serde::Serialize;

use super::figures::{ConnectionCounts, Failures, Figures, Percentiles, Starts, Tokens};
use super::options::Slo;

/// Fields that a kind of load does not measure are left out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) mode: &'static str,
    pub(crate) seconds: f64,
    /// Answers that were whole and right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<u64>,
    /// Streams that were whole and right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) streams: Option<u64>,
    #[serde(flatten)]
    pub(crate) failures: Failures,
    pub(crate) requests_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) starts: Option<StartsReport>,
    #[serde(flatten)]
    pub(crate) streamed: Option<Streamed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goodput: Option<Goodput>,
    pub(crate) connections: Connections,
    /// Of the synthetic engine behind the target, by its own count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) engine: Option<EngineReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stuck: Option<Stuck>,
    /// From its start to the last byte of an answer. The start of an open loop is the intended one.
    pub(crate) latency_us: Percentiles,
}

/// What is measured of streams only.
#[derive(Debug, Serialize)]
pub(crate) struct Streamed {
    /// Token events that arrived; the role, the end and `[DONE]` of a stream are not counted.
    pub(crate) events: u64,
    /// Token events that streams were cut short of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missed_events: Option<u64>,
    pub(crate) events_per_second: f64,
    /// From the start to the first token event; of `sse` on connections used before only.
    pub(crate) ttft_us: Percentiles,
    /// The same for first requests of a connection: of a closed loop, without the time to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttft_fresh_us: Option<Percentiles>,
    /// Between two token events of a stream. Events that arrive in one read are 0 apart.
    pub(crate) gap_us: Percentiles,
    /// How far behind the engine's pace each token event came: a stall counts for all it delayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag_us: Option<Percentiles>,
    /// Of each stream: the time after its first token event, for each token that came after it.
    pub(crate) tpot_us: Percentiles,
}

/// How the requests of an open loop were started.
#[derive(Debug, Serialize)]
pub(crate) struct StartsReport {
    /// Requests whose time came.
    pub(crate) intended: u64,
    /// Started more than a millisecond after their time.
    pub(crate) late: u64,
    /// Never sent, because none of those before them ended in time. In no other figure.
    pub(crate) dropped: u64,
    /// From the intended start to the real one.
    pub(crate) lateness_us: Percentiles,
}

impl StartsReport {
    fn new(starts: &Starts) -> Self {
        Self {
            intended: starts.intended,
            late: starts.late,
            dropped: starts.dropped,
            lateness_us: starts.lateness.percentiles(),
        }
    }
}

/// Streams that were as fast as asked for, of all that were started.
#[derive(Debug, Serialize)]
pub(crate) struct Goodput {
    pub(crate) streams: u64,
    pub(crate) share: f64,
    pub(crate) streams_per_second: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    /// Kept connections that turned out to be closed when the next request was sent on them.
    pub(crate) stale: u64,
}

/// What the synthetic engine counted while the load ran.
#[derive(Debug, Serialize)]
pub(crate) struct EngineReport {
    pub(crate) requests: u64,
    pub(crate) connections: u64,
    /// The share of requests that came on a connection that had carried one before.
    pub(crate) reuse: f64,
}

/// Streams that stopped reading after their first event.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Stuck {
    pub(crate) held: u64,
    /// Ended by the other side before the load was over.
    pub(crate) ended: u64,
}

/// What is reported besides the figures.
pub(super) struct Circumstances<'a> {
    pub(super) mode: &'static str,
    pub(super) seconds: f64,
    pub(super) connections: &'a ConnectionCounts,
    pub(super) open_loop: bool,
    pub(super) slo: Option<Slo>,
}

impl Report {
    pub(super) fn new(figures: &Figures, of: &Circumstances<'_>) -> Self {
        let per_second = |count: u64| rounded(count as f64 / of.seconds);
        let started = figures.answers + figures.failures.errors + figures.starts.dropped;
        Self {
            mode: of.mode,
            seconds: of.seconds,
            requests: Some(figures.answers),
            streams: None,
            failures: figures.failures.clone(),
            requests_per_second: per_second(figures.answers),
            starts: of.open_loop.then(|| StartsReport::new(&figures.starts)),
            streamed: None,
            tokens: None,
            tokens_per_second: None,
            goodput: of.slo.map(|_| Goodput {
                streams: figures.good,
                share: figures.good as f64 / started.max(1) as f64,
                streams_per_second: per_second(figures.good),
            }),
            connections: Connections {
                opened: of.connections.opened.get(),
                stale: of.connections.stale.get(),
            },
            engine: None,
            stuck: None,
            latency_us: figures.latency.percentiles(),
        }
    }

    /// Adds what is measured of streams.
    pub(super) fn with_streams(mut self, figures: &Figures) -> Self {
        self.streamed = Some(Streamed {
            events: figures.events,
            missed_events: None,
            events_per_second: rounded(figures.events as f64 / self.seconds),
            ttft_us: figures.ttft.percentiles(),
            ttft_fresh_us: None,
            gap_us: figures.gap.percentiles(),
            lag_us: None,
            tpot_us: figures.tpot.percentiles(),
        });
        self
    }

    /// Adds the tokens that the server says it made.
    pub(super) fn with_tokens(mut self, tokens: Tokens) -> Self {
        if tokens.from_usage + tokens.from_timings + tokens.from_events > 0 {
            self.tokens_per_second = Some(rounded(tokens.completion as f64 / self.seconds));
            self.tokens = Some(tokens);
        }
        self
    }

    /// A table for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_counts(&mut text);
        let _ = self.write_times(&mut text);
        let _ = self.write_remarks(&mut text);
        text
    }

    fn write_counts(&self, text: &mut String) -> std::fmt::Result {
        let answers = self.requests.or(self.streams).unwrap_or(0);
        let (errors, rate) = (self.failures.errors, self.requests_per_second);
        writeln!(
            text,
            "requests     {answers} answered, {errors} failed in {:.1} s, {rate}/s",
            self.seconds
        )?;
        if let (Some(tokens), Some(rate)) = (&self.tokens, self.tokens_per_second) {
            let Tokens { completion, prompt, .. } = tokens;
            writeln!(text, "tokens       {completion} made, {prompt} of prompts, {rate} made/s")?;
        }
        if let Some(streamed) = &self.streamed {
            writeln!(text, "events       {}, {}/s", streamed.events, streamed.events_per_second)?;
        }
        if let Some(starts) = &self.starts {
            let StartsReport { intended, late, dropped, .. } = starts;
            writeln!(text, "starts       {intended} intended, {late} late, {dropped} never sent")?;
        }
        if let Some(goodput) = &self.goodput {
            let Goodput { streams, share, streams_per_second } = goodput;
            let share = share * 100.0;
            writeln!(text, "good streams {streams} ({share:.1} %), {streams_per_second}/s")?;
        }
        let Connections { opened, stale } = self.connections;
        writeln!(text, "connections  {opened} opened, {stale} found closed when used again")?;
        if let Some(EngineReport { requests, connections, reuse }) = &self.engine {
            let reuse = reuse * 100.0;
            writeln!(
                text,
                "engine       {requests} requests on {connections} new connections, {reuse:.2} % on used ones"
            )?;
        }
        if let Some(Stuck { held, ended }) = &self.stuck {
            writeln!(
                text,
                "stuck        {held} streams unread, {ended} of them ended by the server"
            )?;
        }
        Ok(())
    }

    fn write_times(&self, text: &mut String) -> std::fmt::Result {
        let columns = ["p50", "p90", "p99", "p99.9", "max", "count"];
        write!(text, "\n{:<20}", "milliseconds")?;
        columns.iter().try_for_each(|column| write!(text, "{column:>10}"))?;
        writeln!(text)?;
        let mut rows = Vec::new();
        if let Some(streamed) = &self.streamed {
            rows.push(("first token", &streamed.ttft_us));
            rows.extend(streamed.ttft_fresh_us.as_ref().map(|times| ("  new connection", times)));
            rows.push(("between events", &streamed.gap_us));
            rows.extend(streamed.lag_us.as_ref().map(|times| ("behind the pace", times)));
            rows.push(("per token", &streamed.tpot_us));
        }
        rows.push(("whole answer", &self.latency_us));
        rows.extend(self.starts.as_ref().map(|starts| ("late starts by", &starts.lateness_us)));
        for (name, times) in rows.into_iter().filter(|(_, times)| times.count > 0) {
            write!(text, "{name:<20}")?;
            for value in [times.p50, times.p90, times.p99, times.p999, times.max] {
                match value {
                    Some(value) => write!(text, "{:>10.2}", value / 1000.0)?,
                    None => write!(text, "{:>10}", "-")?,
                }
            }
            writeln!(text, "{:>10}", times.count)?;
        }
        Ok(())
    }

    fn write_remarks(&self, text: &mut String) -> std::fmt::Result {
        for sample in &self.failures.error_samples {
            write!(text, "\nfailed: {sample}")?;
        }
        if self.tokens.is_some_and(|tokens| tokens.from_events > 0) {
            write!(
                text,
                "\nThe server did not count the tokens of all answers: there, each event is one."
            )?;
        }
        if let Some(StartsReport { late, dropped, .. }) = self.starts {
            if late > 0 {
                write!(
                    text,
                    "\nLate starts: times count from when a request was due, also where it was sent later."
                )?;
            }
            if dropped > 0 {
                write!(
                    text,
                    "\nNever sent: these requests have no times, so the true ones are worse than those above."
                )?;
            }
        }
        if !text.ends_with('\n') {
            writeln!(text)?;
        }
        Ok(())
    }
}

/// Whole numbers for what is large, two digits after the point for what is small.
fn rounded(value: f64) -> f64 {
    if value >= 100.0 { value.round() } else { (value * 100.0).round() / 100.0 }
}
