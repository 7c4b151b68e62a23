//! Whole JSON answers in a closed loop: each connection sends its next request when it has its answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::BytesMut;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::client::{Client, Request};
use super::figures::{Connections, Durations, Failures, Percentiles};
use super::{Budget, Target};
use crate::transcript::Transcript;

/// Tokens that every answer claims to have.
const TOKENS: u32 = 64;

#[derive(Args, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Milliseconds that the engine waits before each answer.
    #[arg(long, default_value_t = 0)]
    stall: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mode: &'static str,
    seconds: f64,
    /// Answers that were right to the byte.
    pub(crate) requests: u64,
    #[serde(flatten)]
    pub(crate) failures: Failures,
    requests_per_second: f64,
    pub(crate) connections: Connections,
    latency_us: Percentiles,
}

#[derive(Default)]
struct Tally {
    latencies: Durations,
    requests: u64,
    failures: Failures,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<Report> {
    let budget = Budget::new(&options.target);
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..options.connections {
        workers.spawn_local(work(options.clone(), Rc::clone(&budget)));
    }
    let mut total = Tally::default();
    let mut connections = Connections::default();
    while let Some(ended) = workers.join_next().await {
        let (tally, of_worker) = ended??;
        total.latencies.extend(tally.latencies);
        total.requests += tally.requests;
        total.failures.extend(tally.failures);
        connections.extend(&of_worker);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report {
        mode: "json",
        seconds,
        requests: total.requests,
        failures: total.failures,
        requests_per_second: (total.requests as f64 / seconds).round(),
        connections,
        latency_us: total.latencies.percentiles(),
    })
}

async fn work(options: Options, budget: Rc<Budget>) -> anyhow::Result<(Tally, Connections)> {
    let wishes = format!(",\"x_events\":{TOKENS},\"x_stall_ms\":{}", options.stall);
    let mut request = Request::new(&options.target, &wishes)?;
    let mut client = Client::new(options.target.address);
    let patience = Duration::from_secs_f64(options.target.patience);
    let mut tally = Tally::default();
    let mut content = BytesMut::with_capacity(1024);
    while let Some(seed) = budget.next() {
        content.clear();
        let answer = ask(&mut client, &mut request, seed, &mut content);
        match tokio::time::timeout(patience, answer).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(latency) => {
                tally.requests += 1;
                tally.latencies.add(latency);
            }
            Err(error) => {
                tally.failures.note(&error);
                client.drop_connection();
                breathe().await;
            }
        }
    }
    Ok((tally, client.connections))
}

/// A target that refuses everything must not be hammered as fast as it can refuse.
pub(super) async fn breathe() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// One request and its answer, which must be the one that belongs to `seed`.
async fn ask(
    client: &mut Client,
    request: &mut Request,
    seed: u32,
    content: &mut BytesMut,
) -> anyhow::Result<Duration> {
    let mut opened = client.open(request, seed).await?;
    while !client.decode(&mut opened.body, content)? {
        client.wait().await?;
    }
    let latency = opened.sent.elapsed();
    client.finish()?;
    let expected = Transcript::new(seed, TOKENS).json();
    ensure!(expected == *content, "a wrong answer: {}", String::from_utf8_lossy(content));
    Ok(latency)
}
