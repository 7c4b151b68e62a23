//! What one relaying thread has at hand. Everything here is the thread's own, but for the shared table and counters.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_local;

use crate::account::{Server, ThreadCounters};
use crate::admit::Admission;
use crate::config::Config;
use crate::recorder::Recorder;
use crate::routes::{Routes, Runner};
use crate::ticket::{Cancel, Tickets};
use crate::tls::Tls;
use crate::upstream::{EngineConnection, Pool};

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Tcp,
    Unix,
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) routes: Routes,
    pub(crate) server: Arc<Server>,
    pub(crate) admission: Admission,
    /// `None` if nothing is recorded.
    pub(crate) recorder: Option<Arc<Recorder>>,
    pub(crate) tls: Option<Tls>,
    /// The TCP listeners can be reached from this machine only.
    pub(crate) loopback: bool,
    /// Orders to each thread to cancel a request.
    pub(crate) cancels: Box<[UnboundedSender<Cancel>]>,
}

/// One thread's share of the work.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: ThreadCounters,
    pub(crate) pool: Pool,
    pub(crate) tickets: Tickets,
    draining: Cell<bool>,
    given_up: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        let counters = ThreadCounters::new(Arc::clone(&shared.server), index);
        Rc::new(Self {
            index,
            shared,
            counters,
            pool: Pool::default(),
            tickets: Tickets::default(),
            draining: Cell::new(false),
            given_up: Cell::new(false),
        })
    }

    /// From now on connections close after the request they are in.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        if let Some(recorder) = &self.shared.recorder {
            recorder.close();
        }
    }

    /// Open a connection for the runner's next request, once this thread has done what it is at. The task waits for nothing, so
    /// nobody needs to wait for it.
    pub(crate) fn prepare(self: &Rc<Self>, runner: &Arc<Runner>) {
        // Streams ask when they begin and when they end: mostly there is one already, which is no reason for a task.
        if !self.pool.lacks(runner) {
            return;
        }
        let (worker, runner) = (Rc::clone(self), Arc::clone(runner));
        spawn_local(async move {
            if worker.draining() || runner.is_retired() || !worker.pool.lacks(&runner) {
                return;
            }
            // Who cannot be reached now is asked when there is a request for it.
            if let Ok(connection) = EngineConnection::open_now(&runner.socket) {
                worker.counters.upstream_opened();
                worker.pool.put(&runner, connection);
            }
        });
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether the connection that is being dropped right now is dropped because its client took nothing for too long.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.get()
    }

    /// With which it is said, until the guard is dropped.
    pub(crate) fn giving_up(&self) -> GivingUp<'_> {
        GivingUp(&self.given_up)
    }
}

/// Unsays it on drop. What is declared before the connection is dropped after it.
#[derive(Debug)]
pub(crate) struct GivingUp<'a>(&'a Cell<bool>);

impl GivingUp<'_> {
    pub(crate) fn set(&self, given_up: bool) {
        self.0.set(given_up);
    }
}

impl Drop for GivingUp<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
