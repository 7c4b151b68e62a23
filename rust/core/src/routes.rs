//! The route table: name and mode to runner, read with one atomic load, and the leases that requests hold on runners.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::Semaphore;

use crate::account::Totals;
use crate::endpoint::Mode;
use crate::snapshot::{ModelTotals, RunnerSnapshot};

pub use capabilities::Capabilities;

/// A ready runner and the names that lead to it, as the control plane publishes it.
#[derive(Clone, Debug)]
pub struct Route {
    /// Never used twice while the process lives.
    pub runner_id: String,
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// Sent to the engine as a bearer token.
    pub api_key: String,
    /// Requests that the engine answers at the same time.
    pub slots: usize,
    /// Tokens of context for each slot.
    pub context_size: u32,
    /// The most that the model can be loaded with: what it was trained for, or what it has, if that is more.
    pub context_limit: u32,
    /// What the model can do.
    pub capabilities: Capabilities,
    /// Whether its engine ends texts at strings that no request has named.
    pub has_stops: bool,
    /// The engine's name.
    pub backend: String,
    /// The model's display name.
    pub model: String,
    /// The model's ID, `sha256:…`.
    pub model_id: String,
    /// The runner's mode.
    pub mode: Mode,
    /// Every spelling of `model` that means this runner.
    pub names: Vec<String>,
}

/// Answers in which the model has no part that a runner gives at the same time. They take milliseconds; more at once
/// would only take threads from the generations, of which llama-server has a fixed number.
const ASIDES: usize = 8;

/// After so many streams in vain, whole answers with probabilities are not asked for as streams any more: a model that
/// thinks, for one, never tells enough.
const VAIN_STREAMS: usize = 3;

/// Why a runner gives no lease.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LeaseError {
    /// It is being stopped: ask the control plane.
    Retired,
    /// Too many requests wait already.
    QueueFull,
}

/// How the turns of a model end.
#[derive(Debug)]
pub(crate) struct Turns {
    /// The tokens that end one, as text.
    pub(crate) ends: Vec<Box<str>>,
    /// The template puts one where an answer begins.
    pub(crate) end_early: bool,
    /// The same in chats with tools.
    pub(crate) end_early_with_tools: bool,
}

/// A live engine process as the data plane sees it.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) slots: usize,
    /// Tokens of context for each slot.
    pub(crate) context_size: u32,
    context_limit: u32,
    pub(crate) has_stops: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) totals: Arc<Totals>,
    pub(crate) model_id: Arc<str>,
    /// The spellings that it was first published with.
    pub(crate) names: Arc<[String]>,
    /// Slots that are free.
    permits: Semaphore,
    asides: Semaphore,
    leases: AtomicUsize,
    queued: AtomicUsize,
    retired: AtomicBool,
    /// The seconds, as bits, for which requests last said that it is to stay; no number until one did.
    keep_alive: AtomicU64,
    /// How the turns of its model end; unknown until it matters.
    pub(crate) turns: OnceLock<Turns>,
    /// How many more streams told too little for a whole answer with probabilities than told enough.
    vain_streams: AtomicUsize,
    epoch: Instant,
    /// Milliseconds after `epoch` at which the last lease ended.
    idle_since: AtomicU64,
}

impl Runner {
    fn new(route: &Route, totals: Arc<Totals>) -> Self {
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", route.api_key))
            .ok()
            .filter(|_| !route.api_key.is_empty());
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let slots = route.slots.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            id: route.runner_id.clone(),
            socket: route.socket.clone(),
            authorization,
            slots,
            context_size: route.context_size,
            context_limit: route.context_limit,
            has_stops: route.has_stops,
            capabilities: route.capabilities,
            totals,
            model_id: route.model_id.as_str().into(),
            names: route.names.as_slice().into(),
            permits: Semaphore::new(slots),
            asides: Semaphore::new(ASIDES),
            leases: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            keep_alive: AtomicU64::new(f64::NAN.to_bits()),
            turns: OnceLock::new(),
            vain_streams: AtomicUsize::new(0),
            epoch: Instant::now(),
            idle_since: AtomicU64::new(0),
        }
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        // Wakes every request that waits for a slot; each asks for a lease anew.
        self.permits.close();
        self.asides.close();
    }

    /// Whether it has that much context for a request, or as much as the model can be loaded with.
    pub(crate) fn has_context(&self, wanted: u32) -> bool {
        wanted.min(self.context_limit) <= self.context_size
    }

    /// Note for how long it is to stay when it has nothing to do, in seconds; say whether that is news.
    pub(crate) fn note_keep_alive(&self, seconds: f64) -> bool {
        self.keep_alive.swap(seconds.to_bits(), Ordering::Relaxed) != seconds.to_bits()
    }

    /// Whether its streams have mostly told too little for whole answers with probabilities.
    pub(crate) fn is_streamed_in_vain(&self) -> bool {
        self.vain_streams.load(Ordering::Relaxed) >= VAIN_STREAMS
    }

    /// Note whether a stream told enough for a whole answer with probabilities.
    pub(crate) fn note_stream(&self, enough: bool) {
        let change = |vain: usize| {
            Some(if enough { vain.saturating_sub(1) } else { vain.saturating_add(1) })
        };
        _ = self.vain_streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    fn leases(&self) -> usize {
        self.leases.load(Ordering::SeqCst)
    }

    /// That many slots, if they are free and nobody waits for them; with none, leave to ask for what takes no slot.
    pub(crate) fn lease_now(self: &Arc<Self>, slots: usize) -> Option<Lease> {
        let slots = self.available(slots);
        self.permits(slots).try_acquire_many(slots.max(1)).ok()?.forget();
        Lease::new(Arc::clone(self), slots).ok()
    }

    /// More slots than there are, the engine refuses or takes one after the other.
    fn available(&self, slots: usize) -> u32 {
        u32::try_from(slots.min(self.slots)).unwrap_or(u32::MAX)
    }

    fn permits(&self, slots: u32) -> &Semaphore {
        if slots == 0 { &self.asides } else { &self.permits }
    }

    /// Wait for that many slots, first come first served, behind at most `queue_limit` others.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        slots: usize,
        queue_limit: usize,
    ) -> Result<Lease, LeaseError> {
        if let Some(lease) = self.lease_now(slots) {
            return Ok(lease);
        }
        let place = Place::take(self, queue_limit).ok_or(LeaseError::QueueFull)?;
        let slots = self.available(slots);
        let permit = self.permits(slots).acquire_many(slots.max(1)).await;
        permit.map_err(|_| LeaseError::Retired)?.forget();
        drop(place);
        Lease::new(Arc::clone(self), slots)
    }

    fn snapshot(&self) -> RunnerSnapshot {
        let leases = self.leases();
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let idle = now.saturating_sub(self.idle_since.load(Ordering::Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of one uptime fit 53 bits")]
        let idle_seconds = if leases > 0 { 0.0 } else { idle as f64 / 1e3 };
        RunnerSnapshot {
            runner_id: self.id.clone(),
            leases,
            queued: self.queued.load(Ordering::Relaxed),
            idle_seconds,
            slots: self.slots,
        }
    }
}

/// A place in a runner's queue; given up on drop, also when the client leaves while it waits.
struct Place<'a>(&'a Runner);

impl<'a> Place<'a> {
    fn take(runner: &'a Runner, limit: usize) -> Option<Self> {
        let taken = runner.queued.fetch_add(1, Ordering::Relaxed);
        let place = Self(runner);
        (taken < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's hold on a runner, from admission to the last byte.
#[derive(Debug)]
pub(crate) struct Lease {
    runner: Arc<Runner>,
    slots: u32,
}

impl Lease {
    /// Called with the permits for these slots in hand.
    fn new(runner: Arc<Runner>, slots: u32) -> Result<Self, LeaseError> {
        // The order matters: count first, then look. `retire` sets first, then counts. So either we see that the runner
        // is retired, or the one who retires it sees our lease.
        runner.leases.fetch_add(1, Ordering::SeqCst);
        let lease = Self { runner, slots };
        if lease.runner.is_retired() {
            return Err(LeaseError::Retired);
        }
        Ok(lease)
    }

    pub(crate) fn runner(&self) -> &Arc<Runner> {
        &self.runner
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.runner.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.runner.idle_since.store(elapsed, Ordering::Relaxed);
        self.runner.leases.fetch_sub(1, Ordering::SeqCst);
        self.runner.permits(self.slots).add_permits(self.slots.max(1) as usize);
    }
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// One map a mode, so that a look-up needs no key to be built.
    by_name: [HashMap<String, Arc<Runner>>; Mode::ALL.len()],
    /// Published runners, and retired ones that still hold leases.
    by_id: HashMap<String, Arc<Runner>>,
    /// Totals of every model that ever had a runner.
    totals: Vec<Arc<Totals>>,
}

/// The table that all threads read, and the two ways to change it.
#[derive(Debug)]
pub struct Routes {
    table: ArcSwap<Table>,
    threads: usize,
}

impl Routes {
    /// An empty table for that many relaying threads.
    pub fn new(threads: usize) -> Self {
        Self { table: ArcSwap::from_pointee(Table::default()), threads }
    }

    pub(crate) fn find(&self, name: &str, mode: Mode) -> Option<Arc<Runner>> {
        self.table.load().by_name.get(mode as usize)?.get(name).cloned()
    }

    pub(crate) fn by_id(&self, runner_id: &str) -> Option<Arc<Runner>> {
        self.table.load().by_id.get(runner_id).cloned()
    }

    /// Replace the whole table. Runners that stay keep their leases and their queue; runners that are not in `routes`
    /// are retired.
    pub fn publish(&self, routes: &[Route]) {
        // The table first: a request that a retired runner turns away then finds the new table, not the runner again.
        self.table.rcu(|old| self.next(old, routes));
        for runner in self.table.load().by_id.values() {
            if !routes.iter().any(|route| route.runner_id == runner.id) {
                runner.retire();
            }
        }
        // Forgotten last: until it is retired, a runner without leases may still get one that `retire` has to count.
        self.table.rcu(|old| {
            let mut table = Table::clone(old);
            table.by_id.retain(|_, runner| !runner.is_retired() || runner.leases() > 0);
            table
        });
    }

    fn next(&self, old: &Table, routes: &[Route]) -> Table {
        let mut table =
            Table { by_id: old.by_id.clone(), totals: old.totals.clone(), ..Table::default() };
        for route in routes {
            let runner = match old.by_id.get(&route.runner_id) {
                // A retired runner never comes back: its identity is not used twice.
                Some(known) if known.is_retired() => continue,
                Some(known) => Arc::clone(known),
                None => Arc::new(Runner::new(route, self.totals(&mut table, route))),
            };
            if let Some(names) = table.by_name.get_mut(route.mode as usize) {
                names.extend(route.names.iter().map(|name| (name.clone(), Arc::clone(&runner))));
            }
            table.by_id.insert(runner.id.clone(), runner);
        }
        table
    }

    fn totals(&self, table: &mut Table, route: &Route) -> Arc<Totals> {
        let same = |totals: &&Arc<Totals>| {
            totals.model == route.model
                && totals.mode == route.mode
                && totals.backend == route.backend
        };
        if let Some(known) = table.totals.iter().find(same) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(Totals::new(
            route.backend.clone(),
            route.model.clone(),
            route.mode,
            self.threads,
        ));
        table.totals.push(Arc::clone(&fresh));
        fresh
    }

    /// Take a runner off the table and say how many leases it still holds.
    pub fn retire(&self, runner_id: &str) -> usize {
        let Some(runner) = self.by_id(runner_id) else { return 0 };
        // In the order of `publish`, and for the same reasons.
        self.table.rcu(|old| {
            let mut table = Table::clone(old);
            for names in &mut table.by_name {
                names.retain(|_, other| other.id != runner_id);
            }
            table
        });
        runner.retire();
        let leases = runner.leases();
        if leases == 0 {
            self.table.rcu(|old| {
                let mut table = Table::clone(old);
                table.by_id.remove(runner_id);
                table
            });
        }
        leases
    }

    pub(crate) fn runners(&self) -> Vec<RunnerSnapshot> {
        self.table.load().by_id.values().map(|runner| runner.snapshot()).collect()
    }

    /// The IDs of the models that are published, with names that lead to them.
    pub(crate) fn loaded(&self) -> Vec<(Arc<str>, Arc<[String]>)> {
        let table = self.table.load();
        let published = table.by_id.values().filter(|runner| !runner.is_retired());
        published.map(|runner| (Arc::clone(&runner.model_id), Arc::clone(&runner.names))).collect()
    }

    pub(crate) fn models(&self) -> Vec<ModelTotals> {
        self.table.load().totals.iter().map(|totals| totals.sum()).collect()
    }
}

mod capabilities;
#[cfg(test)]
mod tests;
