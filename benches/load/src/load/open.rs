//! An open loop: requests are started when they are due, whatever became of those before them.
//!
//! Every request is timed from when it was due. One that finds too many before it waits for its turn and
//! is as slow as that made it, instead of not being asked: no coordinated omission.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::options::{Arrivals, OpenLoop};
use super::timer::Timer;
use super::{Budget, Load, Start, Worker};
use crate::random::Random;

/// A start that is later than this is reported as late.
const LATE: Duration = Duration::from_millis(1);

pub(super) async fn run<W: Worker>(
    load: &Rc<Load>,
    pattern: OpenLoop,
    hire: impl FnMut() -> W,
) -> anyhow::Result<()> {
    let mut schedule = Schedule::new(pattern);
    let mut timer = Timer::new()?;
    let mut crew = Crew {
        load: Rc::clone(load),
        hire,
        hired: 0,
        limit: pattern.max_outstanding,
        idle: Vec::new(),
        waiting: VecDeque::new(),
        running: JoinSet::new(),
    };
    let mut due = schedule.next(&load.budget);
    loop {
        while let Some((moment, start)) = due.filter(|(moment, _)| *moment <= Instant::now()) {
            crew.take(moment, start);
            due = schedule.next(&load.budget);
        }
        if due.is_none() && crew.running.is_empty() {
            return Ok(());
        }
        let moment = due.map_or_else(Instant::now, |(moment, _)| moment);
        tokio::select! {
            waited = timer.until(moment), if due.is_some() => waited?,
            Some(worker) = crew.running.join_next() => crew.give_back(worker?),
        }
    }
}

/// When requests are due.
struct Schedule {
    pattern: OpenLoop,
    begin: Instant,
    /// Seconds after the beginning.
    offset: f64,
    number: u64,
    random: Random,
}

impl Schedule {
    fn new(pattern: OpenLoop) -> Self {
        let random = Random::new(pattern.seed);
        Self { pattern, begin: Instant::now(), offset: 0.0, number: 0, random }
    }

    fn next(&mut self, budget: &Budget) -> Option<(Instant, Start)> {
        match self.pattern.arrivals {
            // Not a sum of intervals, whose errors would add up.
            Arrivals::Constant => self.offset = self.number as f64 / self.pattern.per_second,
            Arrivals::Poisson => {
                self.offset += self.random.exponential(1.0 / self.pattern.per_second);
            }
        }
        self.number += 1;
        let offset = Duration::try_from_secs_f64(self.offset).ok()?;
        let moment = self.begin.checked_add(offset)?;
        let seed = budget.next(moment)?;
        Some((moment, Start { seed, intended: Some(moment) }))
    }
}

/// The workers, and the requests that wait for one.
struct Crew<W, H> {
    load: Rc<Load>,
    hire: H,
    hired: u32,
    limit: u32,
    /// The last one to end is the first to work again, so that few connections are kept busy.
    idle: Vec<W>,
    waiting: VecDeque<(Instant, Start)>,
    running: JoinSet<W>,
}

impl<W: Worker, H: FnMut() -> W> Crew<W, H> {
    /// Starts a request that is due, or lets it wait.
    fn take(&mut self, moment: Instant, start: Start) {
        self.load.figures.borrow_mut().starts.intended += 1;
        match self.idle.pop() {
            Some(worker) => self.set_to_work(worker, moment, start),
            None if self.hired < self.limit => {
                self.hired += 1;
                let worker = (self.hire)();
                self.set_to_work(worker, moment, start);
            }
            None => self.waiting.push_back((moment, start)),
        }
    }

    /// A worker has its answer: the request that waits for longest is next, unless it waited for too long.
    fn give_back(&mut self, worker: W) {
        while let Some((moment, start)) = self.waiting.pop_front() {
            if moment.elapsed() <= self.load.patience {
                return self.set_to_work(worker, moment, start);
            }
            self.load.figures.borrow_mut().starts.dropped += 1;
        }
        self.idle.push(worker);
    }

    fn set_to_work(&mut self, mut worker: W, moment: Instant, start: Start) {
        let lateness = moment.elapsed();
        let mut figures = self.load.figures.borrow_mut();
        figures.starts.late += u64::from(lateness > LATE);
        figures.starts.lateness.add(lateness);
        drop(figures);
        let load = Rc::clone(&self.load);
        self.running.spawn_local(async move {
            load.perform(&mut worker, start).await;
            worker
        });
    }
}
