//! The options that kinds of load share, and what they mean.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::address::Address;

#[derive(Args, Clone)]
pub(crate) struct Target {
    /// Where to send requests: `http://host:port`, `host:port` or `unix:/path`.
    #[arg(long = "target", value_name = "ADDRESS")]
    pub(super) address: Address,
    /// The path of every request.
    #[arg(long, default_value = "/v1/chat/completions")]
    pub(super) path: String,
    /// The model that every request names.
    #[arg(long, default_value = "bench")]
    pub(super) model: String,
    /// The target makes answers anew, as litellm does: their texts are compared, and not their bytes.
    #[arg(long)]
    pub(super) remade: bool,
    /// Sent as a bearer token.
    #[arg(long)]
    pub(super) api_key: Option<String>,
    #[command(flatten)]
    pub(super) extent: Extent,
    /// Seconds after which a request without its whole answer has failed.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub(super) patience: f64,
    /// Address of the synthetic engine behind the target: its own counts of requests and connections are reported.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) engine: Option<Address>,
    /// A table for people instead of JSON.
    #[arg(long)]
    pub(crate) text: bool,
}

/// How long a load goes on.
#[derive(Args, Clone)]
pub(crate) struct Extent {
    /// Seconds after which no further request is started.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub(super) duration: f64,
    /// Requests (streams) in all, after which none is started.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "N")]
    pub(super) requests: u64,
}

/// When requests are started.
#[derive(Args, Clone)]
#[command(next_help_heading = "When requests are started")]
pub(crate) struct Pattern {
    /// Open loop: start so many requests a second, whatever becomes of those before them. Times then count from
    /// the moment at which a request was due, so that one that had to wait is as slow as its user finds it.
    /// Without this, each connection starts its next request after its last answer (closed loop).
    #[arg(long, value_name = "PER_SECOND")]
    pub(super) rate_requests: Option<f64>,
    /// Open loop: at equal distances, or at random as those of users who do not know of each other.
    #[arg(long, value_enum, default_value_t = Arrivals::Constant, requires = "rate_requests")]
    arrivals: Arrivals,
    /// Open loop: at most so many unanswered requests, each on a connection. Those that are due beyond that wait and
    /// are reported as late; those that wait longer than the patience are dropped, and reported as that.
    #[arg(long, default_value_t = 1000, value_name = "N", requires = "rate_requests")]
    max_outstanding: u32,
    /// Closed loop: milliseconds between an answer and the next request of its connection.
    #[arg(long, value_name = "MS", conflicts_with_all = ["rate_requests", "gap_between"])]
    think: Option<f64>,
    /// Think times that are exponentially distributed, with `--think` as their mean.
    #[arg(long, requires = "think")]
    think_exponential: bool,
    /// Closed loop: idle for a random time of this range of seconds, such as `4.9..5.1`, then go on.
    #[arg(long, value_name = "FROM..TO", conflicts_with = "rate_requests")]
    gap_between: Option<Range>,
    /// Requests of a connection between two of its gaps.
    #[arg(long, default_value_t = 1, value_name = "N", requires = "gap_between")]
    gap_every: u32,
    /// All connections have the same gaps, so that they idle and come back together.
    #[arg(long, requires = "gap_between")]
    gap_together: bool,
    /// Seed of whatever is random above.
    #[arg(long, default_value_t = 1, value_name = "N")]
    random_seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Arrivals {
    Constant,
    Poisson,
}

/// `4.9..5.1`
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl FromStr for Range {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once("..").context("two numbers with `..` between them")?;
        let (from, to) = (from.trim().parse()?, to.trim().parse()?);
        ensure!(0.0 <= from && from <= to, "the first number must be the smaller one");
        // Finite, and no longer than a duration can be.
        Duration::try_from_secs_f64(to)?;
        Ok(Self { from, to })
    }
}

/// What a user calls fast enough.
#[derive(Args, Clone, Copy)]
#[command(next_help_heading = "Goodput")]
pub(crate) struct Slo {
    /// A good stream has its first token within so many milliseconds.
    #[arg(long, value_name = "MS")]
    slo_ttft_ms: Option<f64>,
    /// A good stream has no two token events further apart than this.
    #[arg(long, value_name = "MS")]
    slo_gap_ms: Option<f64>,
}

impl Slo {
    /// None if nothing was asked for.
    pub(super) fn asked(self) -> Option<Self> {
        (self.slo_ttft_ms.is_some() || self.slo_gap_ms.is_some()).then_some(self)
    }

    pub(super) fn is_met(self, ttft: Duration, widest_gap: Duration) -> bool {
        let within = |limit: Option<f64>, time: Duration| {
            limit.is_none_or(|limit| time.as_secs_f64() * 1000.0 <= limit)
        };
        within(self.slo_ttft_ms, ttft) && within(self.slo_gap_ms, widest_gap)
    }
}

/// An open loop, checked.
#[derive(Clone, Copy)]
pub(super) struct OpenLoop {
    pub(super) per_second: f64,
    pub(super) arrivals: Arrivals,
    pub(super) max_outstanding: u32,
    pub(super) seed: u64,
}

/// A closed loop, checked.
#[derive(Clone, Copy)]
pub(super) struct ClosedLoop {
    pub(super) pause: Pause,
    /// Requests between two pauses.
    pub(super) every: u32,
    pub(super) together: bool,
    pub(super) seed: u64,
}

/// What a connection of a closed loop does between two requests; seconds.
#[derive(Clone, Copy)]
pub(super) enum Pause {
    None,
    Fixed(f64),
    Exponential(f64),
    Between(Range),
}

pub(super) enum Loop {
    Open(OpenLoop),
    Closed(ClosedLoop),
}

impl Pattern {
    pub(super) fn is_open(&self) -> bool {
        self.rate_requests.is_some()
    }

    pub(super) fn checked(&self) -> anyhow::Result<Loop> {
        let seed = self.random_seed;
        if let Some(per_second) = self.rate_requests {
            ensure!(per_second > 0.0 && per_second.is_finite(), "--rate-requests must be above 0");
            ensure!(self.max_outstanding > 0, "--max-outstanding must be at least 1");
            let Self { arrivals, max_outstanding, .. } = *self;
            return Ok(Loop::Open(OpenLoop { per_second, arrivals, max_outstanding, seed }));
        }
        ensure!(self.gap_every > 0, "--gap-every must be at least 1");
        let pause = match (self.think, self.gap_between) {
            (None, None) => Pause::None,
            (_, Some(range)) => Pause::Between(range),
            (Some(think), None) => {
                let seconds = think / 1000.0;
                Duration::try_from_secs_f64(seconds).context("--think")?;
                if self.think_exponential {
                    Pause::Exponential(seconds)
                } else {
                    Pause::Fixed(seconds)
                }
            }
        };
        let Self { gap_every: every, gap_together: together, .. } = *self;
        Ok(Loop::Closed(ClosedLoop { pause, every, together, seed }))
    }
}
