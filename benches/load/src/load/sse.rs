//! Concurrent SSE streams, of which every byte is checked and every event is timed.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::{Buf, BytesMut};
use clap::Args;
use memchr::memmem;
use serde::Serialize;
use tokio::task::JoinSet;

use super::client::{Client, Request};
use super::figures::{Connections, Durations, Failures, Percentiles};
use super::json::breathe;
use super::{Budget, Target};
use crate::transcript::{DONE, Transcript};

#[derive(Args, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Streams at the same time, each on a connection of its own.
    #[arg(long, default_value_t = 64)]
    streams: u32,
    /// Token events a second of one stream; 0 for as fast as the engine can.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Token events of one stream.
    #[arg(long, default_value_t = 200)]
    events: u32,
    /// Ask the engine to keep its connection after a stream, which llama-server does not.
    /// Only without a proxy between: the figure to which those of proxies are compared.
    #[arg(long)]
    engine_keep_alive: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mode: &'static str,
    seconds: f64,
    /// Streams that were right to the byte and complete.
    pub(crate) streams: u64,
    #[serde(flatten)]
    pub(crate) failures: Failures,
    /// Token events that arrived; the role, the end and `[DONE]` of a stream are not counted.
    pub(crate) events: u64,
    /// Token events that streams were cut short of.
    pub(crate) missed_events: u64,
    events_per_second: f64,
    pub(crate) connections: Connections,
    /// From the request to its first token event, second and later requests of a connection only.
    ttft_us: Percentiles,
    /// The same for first requests of a connection, without the time to connect.
    ttft_fresh_us: Percentiles,
    /// Between two token events of a stream. Events that arrive in one read are 0 apart.
    gap_us: Percentiles,
}

#[derive(Default)]
struct Tally {
    ttft: Durations,
    ttft_fresh: Durations,
    gaps: Durations,
    streams: u64,
    events: u64,
    missed_events: u64,
    failures: Failures,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<Report> {
    let budget = Budget::new(&options.target);
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for index in 0..options.streams {
        workers.spawn_local(work(options.clone(), index, Rc::clone(&budget)));
    }
    let mut total = Tally::default();
    let mut connections = Connections::default();
    while let Some(ended) = workers.join_next().await {
        let (tally, of_worker) = ended??;
        total.add(tally);
        connections.extend(&of_worker);
    }
    Ok(total.report(start.elapsed().as_secs_f64(), connections))
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.ttft.extend(other.ttft);
        self.ttft_fresh.extend(other.ttft_fresh);
        self.gaps.extend(other.gaps);
        self.streams += other.streams;
        self.events += other.events;
        self.missed_events += other.missed_events;
        self.failures.extend(other.failures);
    }

    fn report(self, seconds: f64, connections: Connections) -> Report {
        Report {
            mode: "sse",
            seconds,
            streams: self.streams,
            failures: self.failures,
            events: self.events,
            missed_events: self.missed_events,
            events_per_second: (self.events as f64 / seconds).round(),
            connections,
            ttft_us: self.ttft.percentiles(),
            ttft_fresh_us: self.ttft_fresh.percentiles(),
            gap_us: self.gaps.percentiles(),
        }
    }
}

async fn work(
    options: Options,
    index: u32,
    budget: Rc<Budget>,
) -> anyhow::Result<(Tally, Connections)> {
    let wishes = format!(
        ",\"stream\":true,\"x_events\":{},\"x_rate\":{},\"x_keep_alive\":{}",
        options.events, options.rate, options.engine_keep_alive
    );
    let mut request = Request::new(&options.target, &wishes)?;
    let mut client = Client::new(options.target.address);
    let patience = Duration::from_secs_f64(options.target.patience);
    if options.rate > 0.0 {
        // Spread over one interval, so that the streams do not all have their events at one moment.
        let phase = f64::from(index) / f64::from(options.streams) / options.rate;
        tokio::time::sleep(Duration::from_secs_f64(phase)).await;
    }
    let mut tally = Tally::default();
    while let Some(seed) = budget.next() {
        let mut reading = Reading::new(seed, options.events);
        let stream = reading.follow(&mut client, &mut request, &mut tally);
        match tokio::time::timeout(patience, stream).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(()) => tally.streams += 1,
            Err(error) => {
                tally.failures.note(&error);
                tally.missed_events += u64::from(options.events - reading.tokens);
                client.drop_connection();
                breathe().await;
            }
        }
        tally.events += u64::from(reading.tokens);
    }
    Ok((tally, client.connections))
}

/// Where one stream is.
struct Reading {
    seed: u32,
    transcript: Transcript,
    expected_tokens: u32,
    /// Token events that have arrived.
    tokens: u32,
    /// Events of any kind that have arrived.
    position: u32,
    last: Option<Instant>,
}

impl Reading {
    fn new(seed: u32, expected_tokens: u32) -> Self {
        let transcript = Transcript::new(seed, expected_tokens);
        Self { seed, transcript, expected_tokens, tokens: 0, position: 0, last: None }
    }

    async fn follow(
        &mut self,
        client: &mut Client,
        request: &mut Request,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let mut opened = client.open(request, self.seed).await?;
        let mut content = BytesMut::with_capacity(4096);
        loop {
            let ended = client.decode(&mut opened.body, &mut content)?;
            let now = Instant::now();
            while let Some(end) = memmem::find(&content, b"\n\n") {
                if self.check(&content[..end + 2])? {
                    let since = self.last.replace(now);
                    match since {
                        Some(earlier) => tally.gaps.add(now - earlier),
                        None if opened.reused => tally.ttft.add(now - opened.sent),
                        None => tally.ttft_fresh.add(now - opened.sent),
                    }
                }
                content.advance(end + 2);
            }
            if ended {
                break;
            }
            client.wait().await?;
        }
        ensure!(content.is_empty(), "a piece of an event at the end of the stream");
        let whole = self.expected_tokens + 3;
        ensure!(self.position == whole, "{} events instead of {whole}", self.position);
        client.finish()
    }

    /// Compares an event with the one that is due, and says whether it was a token.
    fn check(&mut self, event: &[u8]) -> anyhow::Result<bool> {
        let position = self.position;
        let (matches, token) = if position == 0 {
            (self.transcript.role() == event, false)
        } else if position <= self.expected_tokens {
            (self.transcript.delta(position - 1) == event, true)
        } else if position == self.expected_tokens + 1 {
            (self.transcript.finish() == event, false)
        } else {
            (position == self.expected_tokens + 2 && event == DONE, false)
        };
        ensure!(matches, "event {position} is wrong: {}", String::from_utf8_lossy(event));
        self.position += 1;
        self.tokens += u32::from(token);
        Ok(token)
    }
}
