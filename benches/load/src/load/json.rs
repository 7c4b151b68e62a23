//! Whole JSON answers, of which every byte is checked.

use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use bytes::BytesMut;
use clap::Args;

use super::client::Client;
use super::engine_stats::Stats;
use super::options::{Pattern, Target};
use super::report::{Circumstances, Report};
use super::request::Request;
use super::{Connections, Load, Start, Worker};
use crate::transcript::{self, Transcript, embeddings};

/// Tokens that every answer claims to have.
const TOKENS: u32 = 64;

#[derive(Args, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Closed loop: connections, each with one request at a time.
    #[arg(long, default_value_t = 32, conflicts_with = "rate_requests", value_name = "N")]
    connections: u32,
    /// Milliseconds that the engine waits before each answer.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    stall: u64,
    /// Ask for answers of so many bytes, as `/v1/embeddings` gives them.
    #[arg(long, value_name = "N")]
    bytes: Option<usize>,
    #[command(flatten)]
    pattern: Pattern,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<Report> {
    let Options { target, pattern, bytes, .. } = &options;
    let size = bytes.map(|bytes| format!(",\"x_bytes\":{bytes}")).unwrap_or_default();
    let wishes = format!(
        ",\"chat_template_kwargs\":{{\"x_events\":{TOKENS}}},\"x_stall_ms\":{}{size}",
        options.stall
    );
    let request = Request::new(target, &wishes)?;
    let earlier = match &target.engine {
        Some(engine) => Some((engine, Stats::of(engine).await?)),
        None => None,
    };
    let load = Load::new(&target.extent, target.patience)?;
    let connections = Connections { number: options.connections, spread: Duration::ZERO };
    let hire = || Asking {
        client: Client::new(target.address.clone(), Rc::clone(&load)),
        load: Rc::clone(&load),
        request: request.clone(),
        bytes: *bytes,
        remade: target.remade,
        content: BytesMut::with_capacity(1024),
    };
    let seconds = load.run(pattern, connections, hire).await?;
    let circumstances = Circumstances {
        mode: "json",
        seconds,
        connections: &load.connections,
        open_loop: pattern.is_open(),
        slo: None,
    };
    let mut report = Report::new(&load.figures.borrow(), &circumstances);
    if let Some((engine, earlier)) = earlier {
        report.engine = Some(Stats::of(engine).await?.since(earlier));
    }
    Ok(report)
}

/// A worker that asks for whole answers.
struct Asking {
    client: Client,
    load: Rc<Load>,
    request: Request,
    bytes: Option<usize>,
    remade: bool,
    content: BytesMut,
}

impl Worker for Asking {
    async fn exchange(&mut self, start: Start) -> anyhow::Result<()> {
        let Self { client, content, .. } = self;
        content.clear();
        let mut opened = client.open(self.request.with_seed(start.seed)).await?;
        while !client.decode(&mut opened.body, content)? {
            client.wait(&mut opened.body).await?;
        }
        let latency = start.intended.unwrap_or(opened.sent).elapsed();
        client.finish()?;
        let right = match self.bytes {
            Some(length) => embeddings(start.seed, length) == *content,
            None if self.remade => transcript::has_answer(content, start.seed),
            None => Transcript::new(start.seed, TOKENS).json() == *content,
        };
        ensure!(right, "a wrong answer: {}", beginning(content));
        let mut figures = self.load.figures.borrow_mut();
        figures.answers += 1;
        figures.latency.add(latency);
        Ok(())
    }

    fn give_up(&mut self) {
        self.client.drop_connection();
    }
}

/// Of an answer of megabytes, nobody wants to read all.
fn beginning(content: &[u8]) -> String {
    String::from_utf8_lossy(&content[..content.len().min(500)]).into_owned()
}
