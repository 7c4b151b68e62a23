//! A closed loop: each connection sends its next request when it has its answer, or some time after it.
//!
//! It tells what a target can do. What its users would wait for is told by an open loop: here, a target
//! that stops is asked for nothing meanwhile.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::options::{ClosedLoop, Pause};
use super::{Connections, Load, Start, Worker};
use crate::random::Random;

pub(super) async fn run<W: Worker>(
    load: &Rc<Load>,
    pattern: ClosedLoop,
    connections: Connections,
    mut hire: impl FnMut() -> W,
) -> anyhow::Result<()> {
    let mut workers = JoinSet::new();
    for index in 0..connections.number {
        let phase = connections.spread.mul_f64(f64::from(index) / f64::from(connections.number));
        let pauses = Pauses::new(pattern, index);
        workers.spawn_local(work(hire(), Rc::clone(load), pauses, phase));
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    Ok(())
}

async fn work<W: Worker>(mut worker: W, load: Rc<Load>, mut pauses: Pauses, phase: Duration) {
    let mut pause = phase + pauses.first();
    loop {
        // A request that would start after the end is not waited for.
        if load.budget.is_over(Instant::now() + pause) {
            return;
        }
        if pause > Duration::ZERO {
            tokio::time::sleep(pause).await;
        }
        let Some(seed) = load.budget.next(Instant::now()) else { return };
        load.perform(&mut worker, Start { seed, intended: None }).await;
        pause = pauses.next();
    }
}

/// The pauses of one connection.
struct Pauses {
    pattern: ClosedLoop,
    random: Random,
    /// Requests since the last one.
    requests: u32,
}

impl Pauses {
    fn new(pattern: ClosedLoop, index: u32) -> Self {
        let own = if pattern.together { 0 } else { u64::from(index) << 32 };
        Self { pattern, random: Random::new(pattern.seed ^ own), requests: 0 }
    }

    /// Connections that do not act together do not begin together either.
    fn first(&mut self) -> Duration {
        if self.pattern.together {
            return Duration::ZERO;
        }
        self.draw().mul_f64(self.random.share())
    }

    /// What follows a request.
    fn next(&mut self) -> Duration {
        self.requests += 1;
        if self.requests < self.pattern.every {
            return Duration::ZERO;
        }
        self.requests = 0;
        self.draw()
    }

    fn draw(&mut self) -> Duration {
        Duration::from_secs_f64(match self.pattern.pause {
            Pause::None => return Duration::ZERO,
            Pause::Fixed(seconds) => seconds,
            Pause::Exponential(mean) => self.random.exponential(mean),
            Pause::Between(range) => self.random.between(range.from, range.to),
        })
    }
}
