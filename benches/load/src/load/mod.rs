//! What both kinds of load share: the target, the client's connection, and the figures.

mod client;
mod figures;
pub(crate) mod json;
pub(crate) mod sse;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;

use crate::address::Address;
use crate::transcript::SEEDS;

#[derive(Args, Clone)]
pub(crate) struct Target {
    /// Where to send requests: `http://host:port`, `host:port` or `unix:/path`.
    #[arg(long = "target", value_name = "ADDRESS")]
    address: Address,
    /// The path of every request.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// The model that every request names.
    #[arg(long, default_value = "bench")]
    model: String,
    /// Sent as a bearer token.
    #[arg(long)]
    api_key: Option<String>,
    /// Seconds after which no further request is started.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Requests (streams) in all, after which none is started.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    requests: u64,
    /// Seconds after which a request without its whole answer has failed.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
}

/// How many requests may still be started, and with which seeds. Shared by all workers.
struct Budget {
    end: Instant,
    left: Cell<u64>,
    seed: Cell<u32>,
}

impl Budget {
    fn new(target: &Target) -> Rc<Self> {
        // Different loads of one second get different seeds, so that one's answers are wrong for another.
        let first = SEEDS.start() + std::process::id() % 1000 * 80_000;
        Rc::new(Self {
            end: Instant::now() + Duration::from_secs_f64(target.duration),
            left: Cell::new(target.requests),
            seed: Cell::new(first),
        })
    }

    /// The seed of the next request; None when there is to be no further one.
    fn next(&self) -> Option<u32> {
        let left = self.left.get().checked_sub(1)?;
        if Instant::now() >= self.end {
            return None;
        }
        self.left.set(left);
        let seed = self.seed.get();
        self.seed.set(if seed == *SEEDS.end() { *SEEDS.start() } else { seed + 1 });
        Some(seed)
    }
}
