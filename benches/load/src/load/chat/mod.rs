//! Any OpenAI-compatible server: how fast are its chats, by its own count of tokens?

mod events;
mod request;

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use clap::Args;

use super::client::{Client, Opened};
use super::figures::Figures;
use super::options::{Extent, Pattern, Slo};
use super::report::{Circumstances, Report};
use super::stream_times::StreamTimes;
use super::{Connections, Load, Start, Worker};
use crate::transcript::SEEDS;
use events::{Counted, Event, Events, read_whole};
use request::{ChatRequest, Question};

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Closed loop: chats at the same time, each on a connection of its own.
    #[arg(long, default_value_t = 1, conflicts_with = "rate_requests", value_name = "N")]
    connections: u32,
    #[command(flatten)]
    extent: Extent,
    /// Seconds after which a chat without its whole answer has failed.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS")]
    patience: f64,
    /// Chats before the load that are not measured: a model may have to be loaded first. They may take ten minutes.
    #[arg(long, default_value_t = 1, value_name = "N")]
    warm_up: u32,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    question: Question,
    #[command(flatten)]
    pattern: Pattern,
    #[command(flatten)]
    slo: Slo,
}

/// Loading a large model from a slow disk.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn run(options: Options) -> anyhow::Result<Report> {
    let Options { question, pattern, .. } = &options;
    let slo = options.slo.asked();
    ensure!(slo.is_none() || question.stream, "--slo-ttft-ms and --slo-gap-ms need --stream");
    let request = Rc::new(ChatRequest::new(question)?);
    warm_up(&options, &request).await?;
    let load = Load::new(&options.extent, options.patience)?;
    let connections = Connections { number: options.connections, spread: Duration::ZERO };
    let hire = || Chatting::new(&request, &load, options.slo);
    let seconds = load.run(pattern, connections, hire).await?;
    let figures = load.figures.borrow();
    let circumstances = Circumstances {
        mode: "chat",
        seconds,
        connections: &load.connections,
        open_loop: pattern.is_open(),
        slo,
    };
    let report = Report::new(&figures, &circumstances).with_tokens(figures.tokens);
    Ok(if question.stream { report.with_streams(&figures) } else { report })
}

/// A target that cannot answer one chat is not worth a load.
async fn warm_up(options: &Options, request: &Rc<ChatRequest>) -> anyhow::Result<()> {
    let aside = Load::new(&options.extent, options.patience)?;
    let mut worker = Chatting::new(request, &aside, options.slo);
    for number in 0..options.warm_up {
        // From the other end than the load's, so that a cache that knows these prompts does not know those.
        let chat = worker.exchange(Start { seed: SEEDS.end() - number, intended: None });
        let outcome = tokio::time::timeout(WARM_UP_PATIENCE, chat).await;
        outcome.context("no answer to the first chat within ten minutes")?.with_context(|| {
            format!("the first chat with {} failed; nothing was measured", request.described())
        })?;
    }
    Ok(())
}

/// A worker that chats.
struct Chatting {
    client: Client,
    load: Rc<Load>,
    request: Rc<ChatRequest>,
    slo: Slo,
}

impl Worker for Chatting {
    async fn exchange(&mut self, start: Start) -> anyhow::Result<()> {
        let number = start.seed - SEEDS.start();
        let opened = self.client.open(&self.request.bytes(number)?).await?;
        let begin = start.intended.unwrap_or(opened.sent);
        if self.request.stream {
            self.follow(opened, begin).await
        } else {
            self.read(opened, begin).await
        }
    }

    fn give_up(&mut self) {
        self.client.drop_connection();
    }
}

impl Chatting {
    fn new(request: &Rc<ChatRequest>, load: &Rc<Load>, slo: Slo) -> Self {
        Self {
            client: Client::new(request.address.clone(), Rc::clone(load)),
            load: Rc::clone(load),
            request: Rc::clone(request),
            slo,
        }
    }

    async fn read(&mut self, mut opened: Opened, begin: Instant) -> anyhow::Result<()> {
        let mut content = BytesMut::new();
        while !self.client.decode(&mut opened.body, &mut content)? {
            self.client.wait(&mut opened.body).await?;
        }
        let latency = begin.elapsed();
        self.client.finish()?;
        let counted = read_whole(&content)?;
        let mut figures = self.load.figures.borrow_mut();
        figures.answers += 1;
        figures.latency.add(latency);
        note_tokens(&mut figures, counted, 0);
        Ok(())
    }

    async fn follow(&mut self, mut opened: Opened, begin: Instant) -> anyhow::Result<()> {
        // Of a real engine no pace is known, and every connection of it is as good as another.
        let mut times = StreamTimes::new(begin, Duration::ZERO);
        let mut events = Events::default();
        let mut content = BytesMut::with_capacity(4096);
        loop {
            let ended = self.client.decode(&mut opened.body, &mut content)?;
            let now = Instant::now();
            while let Some(event) = events.take(&mut content, ended)? {
                if event == Event::Content {
                    times.note_event(&mut self.load.figures.borrow_mut(), now, true);
                }
            }
            if ended {
                break;
            }
            self.client.wait(&mut opened.body).await?;
        }
        let latency = begin.elapsed();
        if !events.done {
            bail!("the stream ended without [DONE]");
        }
        self.client.finish()?;
        let mut figures = self.load.figures.borrow_mut();
        figures.answers += 1;
        figures.latency.add(latency);
        let tokens = note_tokens(&mut figures, events.counted, events.content);
        times.note_whole(&mut figures, tokens, self.slo);
        Ok(())
    }
}

/// Adds what an answer cost, and says how many tokens it had.
fn note_tokens(figures: &mut Figures, counted: Counted, events: u64) -> u64 {
    let tokens = &mut figures.tokens;
    let (completion, prompt) = match (counted.usage, counted.timings, events) {
        (Some(counts), ..) => {
            tokens.from_usage += 1;
            counts
        }
        (None, Some(counts), _) => {
            tokens.from_timings += 1;
            counts
        }
        // Without any count, nothing is made up.
        (None, None, 0) => (0, 0),
        (None, None, events) => {
            tokens.from_events += 1;
            (events, 0)
        }
    };
    tokens.completion += completion;
    tokens.prompt += prompt;
    completion
}
