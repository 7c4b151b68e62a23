//! A synthetic llama-server: the same head, pace, writes and connection habits, and no model.

mod answer;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::address::{Address, Listener, Stream};
use crate::http::{Body, Head};
pub(crate) use answer::Defaults;
use answer::Then;

/// llama-server closes a connection that was idle for so long.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// llama-server says `Connection: close` with the hundredth answer of a connection.
const REQUEST_LIMIT: u32 = 100;

#[derive(Args)]
pub(crate) struct Options {
    /// Unix socket to listen on.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// TCP address to listen on; port 0 for one of the system's choice.
    #[arg(long)]
    listen: Option<String>,
    /// Tokens of an answer, unless the request says `x_events`.
    #[arg(long, default_value_t = 64)]
    events: u32,
    /// Events a second of one stream, 0 for as fast as they can be written, unless the request says `x_rate`.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
}

/// What the engine has seen, served at `/x_stats`.
#[derive(Default)]
struct Counters {
    connections_accepted: Cell<u64>,
    connections_open: Cell<u64>,
    requests: Cell<u64>,
    streams_open: Cell<u64>,
    streams_completed: Cell<u64>,
    /// Streams whose reader went away.
    streams_broken: Cell<u64>,
}

#[derive(Serialize)]
struct Stats {
    connections_accepted: u64,
    connections_open: u64,
    requests: u64,
    streams_open: u64,
    streams_completed: u64,
    streams_broken: u64,
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

fn take(counter: &Cell<u64>) {
    counter.set(counter.get().saturating_sub(1));
}

impl Counters {
    fn stats(&self) -> Stats {
        Stats {
            connections_accepted: self.connections_accepted.get(),
            connections_open: self.connections_open.get(),
            requests: self.requests.get(),
            streams_open: self.streams_open.get(),
            streams_completed: self.streams_completed.get(),
            streams_broken: self.streams_broken.get(),
        }
    }
}

/// What all connections share.
struct Engine {
    defaults: Defaults,
    counters: Counters,
}

/// Serves until the process is stopped.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut wanted: Vec<Address> = options.socket.map(Address::Unix).into_iter().collect();
    if let Some(text) = &options.listen {
        wanted.push(text.parse()?);
    }
    anyhow::ensure!(!wanted.is_empty(), "nowhere to listen: give --socket or --listen");
    let defaults = Defaults { events: options.events, rate: options.rate };
    let listeners = wanted.iter().map(Listener::bind).collect::<anyhow::Result<Vec<_>>>()?;
    let addresses = listeners.iter().map(Listener::address).collect::<Result<Vec<_>, _>>()?;
    println!("{}", serde_json::to_string(&addresses)?);
    serve(listeners, defaults).await
}

/// Answers whoever connects to `listeners`. Must run inside a `LocalSet`.
pub(crate) async fn serve(listeners: Vec<Listener>, defaults: Defaults) -> anyhow::Result<()> {
    let engine = Rc::new(Engine { defaults, counters: Counters::default() });
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn_local(accept(listener, Rc::clone(&engine)));
    }
    acceptors.join_next().await.context("no listener")??
}

async fn accept(listener: Listener, engine: Rc<Engine>) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = listener.accept() => {
                let stream = stream.context("cannot accept")?;
                connections.spawn_local(attend(stream, Rc::clone(&engine)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the requests of one connection until one of the reasons to close it.
async fn attend(mut stream: Stream, engine: Rc<Engine>) {
    add(&engine.counters.connections_accepted);
    add(&engine.counters.connections_open);
    let mut inbox = BytesMut::with_capacity(8 * 1024);
    for served in 1..=REQUEST_LIMIT {
        let arrival = tokio::time::timeout(IDLE_LIMIT, read_request(&mut stream, &mut inbox));
        let Ok(Ok(Some(request))) = arrival.await else { break };
        add(&engine.counters.requests);
        let last = served == REQUEST_LIMIT || request.head.close;
        let outcome = answer::answer(&mut stream, &engine, &request, last).await;
        if last || !matches!(outcome, Ok(Then::Keep)) {
            break;
        }
    }
    take(&engine.counters.connections_open);
}

struct Request {
    head: Head,
    body: BytesMut,
}

/// The next request; None if the client closed the connection instead.
async fn read_request(
    stream: &mut Stream,
    inbox: &mut BytesMut,
) -> anyhow::Result<Option<Request>> {
    let head = loop {
        if let Some(head) = Head::take(inbox)? {
            break head;
        }
        if stream.read(inbox).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = BytesMut::new();
    let mut reading = Body::new(head.framing);
    while !reading.decode(inbox, &mut body)? {
        if stream.read(inbox).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Request { head, body }))
}
