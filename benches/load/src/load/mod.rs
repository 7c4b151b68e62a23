//! What all kinds of load share: how much there is to do, and what one worker does of it.

pub(crate) mod chat;
mod client;
mod closed;
mod dialect;
mod engine_stats;
mod figures;
pub(crate) mod json;
mod open;
pub(crate) mod options;
pub(crate) mod report;
mod request;
pub(crate) mod sse;
mod stream_times;
mod stuck;
mod timer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::transcript::SEEDS;
use figures::{ConnectionCounts, Figures};
use options::{Extent, Loop, Pattern};

/// A request that is to be made.
#[derive(Clone, Copy)]
struct Start {
    seed: u32,
    /// When it was due, in an open loop. Its times count from there.
    intended: Option<Instant>,
}

/// A client that makes one request at a time.
trait Worker: 'static {
    /// One request, from its start to the end of a right answer.
    async fn exchange(&mut self, start: Start) -> anyhow::Result<()>;

    /// Nothing more is to come of the last request: it failed, or took too long.
    fn give_up(&mut self);
}

/// What the workers of a load share.
struct Load {
    budget: Budget,
    patience: Duration,
    figures: RefCell<Figures>,
    connections: ConnectionCounts,
}

impl Load {
    fn new(extent: &Extent, patience: f64) -> anyhow::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            budget: Budget::new(extent)?,
            patience: Duration::try_from_secs_f64(patience).context("--patience")?,
            figures: RefCell::default(),
            connections: ConnectionCounts::default(),
        }))
    }

    /// One request of a worker, and what came of it.
    async fn perform<W: Worker>(&self, worker: &mut W, start: Start) {
        let outcome = tokio::time::timeout(self.patience, worker.exchange(start)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            Err(anyhow!("no whole answer within {} s", self.patience.as_secs_f64()))
        });
        if let Err(error) = outcome {
            self.figures.borrow_mut().failures.note(&error);
            worker.give_up();
            // A target that refuses everything must not be hammered as fast as it can refuse.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All requests, and the seconds that they took. `phase` is how far apart connections of a closed loop begin.
    async fn run<W: Worker>(
        self: &Rc<Self>,
        pattern: &Pattern,
        connections: Connections,
        hire: impl FnMut() -> W,
    ) -> anyhow::Result<f64> {
        let begin = Instant::now();
        match pattern.checked()? {
            Loop::Open(pattern) => open::run(self, pattern, hire).await?,
            Loop::Closed(pattern) => closed::run(self, pattern, connections, hire).await?,
        }
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// The connections of a closed loop.
#[derive(Clone, Copy)]
struct Connections {
    number: u32,
    /// How long after the first one the last one begins.
    spread: Duration,
}

/// How many requests may still be started, and with which seeds.
struct Budget {
    end: Instant,
    left: Cell<u64>,
    seed: Cell<u32>,
}

impl Budget {
    fn new(extent: &Extent) -> anyhow::Result<Self> {
        let duration = Duration::try_from_secs_f64(extent.duration).context("--duration")?;
        // Different loads of one second get different seeds, so that one's answers are wrong for another.
        let first = SEEDS.start() + std::process::id() % 1000 * 80_000;
        Ok(Self {
            end: Instant::now().checked_add(duration).context("--duration")?,
            left: Cell::new(extent.requests),
            seed: Cell::new(first),
        })
    }

    /// No request is to be started at `moment` any more.
    fn is_over(&self, moment: Instant) -> bool {
        self.left.get() == 0 || moment >= self.end
    }

    /// The seed of a request that starts at `moment`; None when there is to be no further one.
    fn next(&self, moment: Instant) -> Option<u32> {
        if self.is_over(moment) {
            return None;
        }
        self.left.set(self.left.get() - 1);
        let seed = self.seed.get();
        self.seed.set(if seed == *SEEDS.end() { *SEEDS.start() } else { seed + 1 });
        Some(seed)
    }
}
