//! Concurrent SSE streams, of which every byte is checked and every event is timed.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::{Buf, BytesMut};
use clap::Args;
use memchr::memmem;

use super::client::Client;
use super::dialect::Dialect;
use super::engine_stats::Stats;
use super::options::{Pattern, Slo, Target};
use super::report::{Circumstances, Report};
use super::request::Request;
use super::stream_times::StreamTimes;
use super::{Connections, Load, Start, Worker, stuck};
use crate::transcript::{DONE, SEEDS, Transcript};

/// Events that a stuck stream asks for: 250 MB, more than the buffers on its way can hold.
const STUCK_EVENTS: u32 = 1_000_000;

#[derive(Args, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Closed loop: streams at the same time, each on a connection of its own.
    #[arg(long, default_value_t = 64, conflicts_with = "rate_requests", value_name = "N")]
    streams: u32,
    /// Token events a second of one stream; 0 for as fast as the engine can.
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Token events of one stream.
    #[arg(long, default_value_t = 200, value_name = "N")]
    events: u32,
    /// In whose words to ask, with `--path` as these have it. In others than the engine's, texts alone are compared.
    #[arg(long, value_enum, default_value_t = Dialect::Chat)]
    dialect: Dialect,
    /// Ask the engine to keep its connection after a stream, which llama-server does not.
    /// Only without a proxy between: the figure to which those of proxies are compared.
    #[arg(long)]
    engine_keep_alive: bool,
    /// Besides the load, streams that nobody reads after their first event, until the duration is over. The engine
    /// writes them as fast as it can.
    #[arg(long, default_value_t = 0, value_name = "N")]
    stuck: u32,
    #[command(flatten)]
    pattern: Pattern,
    #[command(flatten)]
    slo: Slo,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<Report> {
    let Options { target, pattern, rate, events, engine_keep_alive, .. } = &options;
    ensure!(*rate >= 0.0 && rate.is_finite(), "--rate must be 0 or more");
    let wishes = format!(
        ",\"stream\":true,\"chat_template_kwargs\":{{\"x_events\":{events},\"x_rate\":{rate}}},\
         \"x_keep_alive\":{engine_keep_alive}"
    );
    let request = match options.dialect.body(target, *events, *rate) {
        Some(body) => Request::with_body(target, &body)?,
        None => Request::new(target, &wishes)?,
    };
    let earlier = match &target.engine {
        Some(engine) => Some((engine, Stats::of(engine).await?)),
        None => None,
    };
    let held = hold_stuck(&options).await?;
    let load = Load::new(&target.extent, target.patience)?;
    // Spread over one interval, so that the streams do not all have their events at one moment.
    let interval =
        if *rate > 0.0 { Duration::try_from_secs_f64(1.0 / rate)? } else { Duration::ZERO };
    let connections = Connections { number: options.streams, spread: interval };
    let hire = || Following {
        client: Client::new(target.address.clone(), Rc::clone(&load)),
        load: Rc::clone(&load),
        request: request.clone(),
        expected_tokens: *events,
        remade: target.remade || options.dialect != Dialect::Chat,
        separator: options.dialect.separator(),
        interval,
        slo: options.slo,
        missing: 0,
    };
    let seconds = load.run(pattern, connections, hire).await?;
    let stuck = if let Some(held) = held {
        tokio::time::sleep_until(load.budget.end.into()).await;
        Some(held.release())
    } else {
        None
    };
    let mut report = options.report(&load, seconds);
    report.stuck = stuck;
    if let Some((engine, earlier)) = earlier {
        report.engine = Some(Stats::of(engine).await?.since(earlier));
    }
    Ok(report)
}

async fn hold_stuck(options: &Options) -> anyhow::Result<Option<stuck::Held>> {
    if options.stuck == 0 {
        return Ok(None);
    }
    let wishes = format!(",\"stream\":true,\"x_events\":{STUCK_EVENTS},\"x_rate\":0");
    let mut request = Request::new(&options.target, &wishes)?;
    // Not those of the load, which are further up.
    let seeds = *SEEDS.start()..;
    let requests = seeds.take(options.stuck as usize).map(|seed| request.with_seed(seed).to_vec());
    let aside = Load::new(&options.target.extent, options.target.patience)?;
    stuck::hold(&aside, &options.target.address, requests).await.map(Some)
}

impl Options {
    fn report(&self, load: &Load, seconds: f64) -> Report {
        let figures = load.figures.borrow();
        let circumstances = Circumstances {
            mode: "sse",
            seconds,
            connections: &load.connections,
            open_loop: self.pattern.is_open(),
            slo: self.slo.asked(),
        };
        let mut report = Report::new(&figures, &circumstances).with_streams(&figures);
        report.streams = report.requests.take();
        if let Some(streamed) = &mut report.streamed {
            streamed.missed_events = Some(figures.missed_events);
            streamed.ttft_fresh_us = Some(figures.ttft_fresh.percentiles());
            streamed.lag_us = (self.rate > 0.0).then(|| figures.lag.percentiles());
        }
        report
    }
}

/// A worker that follows streams.
struct Following {
    client: Client,
    load: Rc<Load>,
    request: Request,
    expected_tokens: u32,
    remade: bool,
    /// Between two events.
    separator: &'static [u8],
    /// Between two token events, as the engine is asked to send them.
    interval: Duration,
    slo: Slo,
    /// Token events that are still to come.
    missing: u32,
}

impl Worker for Following {
    async fn exchange(&mut self, start: Start) -> anyhow::Result<()> {
        self.missing = self.expected_tokens;
        let mut opened = self.client.open(self.request.with_seed(start.seed)).await?;
        let begin = start.intended.unwrap_or(opened.sent);
        let mut times = StreamTimes::new(begin, self.interval);
        let mut reading = Reading::new(start.seed, self.expected_tokens, self.remade);
        let mut content = BytesMut::with_capacity(4096);
        loop {
            let ended = self.client.decode(&mut opened.body, &mut content)?;
            self.take_events(&mut content, &mut reading, &mut times, opened.reused)?;
            if ended {
                break;
            }
            self.client.wait(&mut opened.body).await?;
        }
        let latency = begin.elapsed();
        ensure!(content.is_empty(), "a piece of an event at the end of the stream");
        reading.ensure_complete()?;
        self.client.finish()?;
        let mut figures = self.load.figures.borrow_mut();
        figures.answers += 1;
        figures.latency.add(latency);
        times.note_whole(&mut figures, u64::from(self.expected_tokens), self.slo);
        Ok(())
    }

    fn give_up(&mut self) {
        self.load.figures.borrow_mut().missed_events += u64::from(self.missing);
        self.client.drop_connection();
    }
}

impl Following {
    /// Checks and times the whole events at the front of `content`.
    fn take_events(
        &mut self,
        content: &mut BytesMut,
        reading: &mut Reading,
        times: &mut StreamTimes,
        reused: bool,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut figures = self.load.figures.borrow_mut();
        while let Some(end) = memmem::find(content, self.separator) {
            let end = end + self.separator.len();
            if reading.check(&content[..end])? {
                self.missing -= 1;
                times.note_event(&mut figures, now, reused);
            }
            content.advance(end);
        }
        Ok(())
    }
}

/// Where one stream is.
struct Reading {
    transcript: Transcript,
    expected_tokens: u32,
    /// Events are compared by their texts, and others than tokens may come and go.
    remade: bool,
    /// Events of any kind that have arrived.
    position: u32,
}

impl Reading {
    fn new(seed: u32, expected_tokens: u32, remade: bool) -> Self {
        let transcript = Transcript::new(seed, expected_tokens);
        Self { transcript, expected_tokens, remade, position: 0 }
    }

    /// Compares an event with the one that is due, and says whether it was a token.
    fn check(&mut self, event: &[u8]) -> anyhow::Result<bool> {
        let position = self.position;
        if self.remade {
            let token = self.transcript.has_token(position, event);
            self.position += u32::from(token);
            return Ok(token);
        }
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
        Ok(token)
    }

    fn ensure_complete(&self) -> anyhow::Result<()> {
        let whole = self.expected_tokens + if self.remade { 0 } else { 3 };
        ensure!(self.position == whole, "{} events instead of {whole}", self.position);
        Ok(())
    }
}
