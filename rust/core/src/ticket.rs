//! One request from its arrival to its last byte: under which ID it is known, and whether somebody cancelled it.
//!
//! Tickets stay on their thread. To cancel by ID, every thread is asked to look through its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use crate::account::Gauge;
use crate::dialect::Dialect;
use crate::error::Error;
use crate::worker::Worker;

/// The header that names a request, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer IDs of clients are replaced: they go into logs and records.
const LONGEST_ID: usize = 128;

/// A request that has arrived. Whatever is done for it holds the ticket; the last who drops it ends the request.
#[derive(Debug)]
pub(crate) struct Ticket {
    worker: Rc<Worker>,
    id: HeaderValue,
    /// What it goes on under without its client.
    also: RefCell<Option<String>>,
    /// Where the thread's list has it.
    place: Cell<usize>,
    cancelled: Cell<bool>,
    /// It cannot be cancelled: it is one that cancels.
    exempt: Cell<bool>,
    /// Who is to be woken when it is cancelled.
    waker: RefCell<Option<Waker>>,
    dialect: Cell<Dialect>,
    /// What became of it is counted, or will be on a model's account.
    settled: Cell<bool>,
    /// All of the request has come.
    complete: Cell<bool>,
    _in_flight: Gauge,
}

impl Ticket {
    /// Note that a request has arrived.
    pub(crate) fn open(worker: &Rc<Worker>, headers: &HeaderMap) -> Rc<Self> {
        let given = headers.get(REQUEST_ID).filter(|id| is_sane(id.as_bytes()));
        let ticket = Rc::new(Self {
            worker: Rc::clone(worker),
            id: given.cloned().unwrap_or_else(|| worker.tickets.fresh_id()),
            also: RefCell::new(None),
            place: Cell::new(0),
            cancelled: Cell::new(false),
            exempt: Cell::new(false),
            waker: RefCell::new(None),
            dialect: Cell::new(Dialect::default()),
            settled: Cell::new(false),
            complete: Cell::new(false),
            _in_flight: worker.counters.request(),
        });
        ticket.place.set(worker.tickets.open.borrow_mut().insert(Rc::downgrade(&ticket)));
        ticket
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub(crate) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// Note what else it can be cancelled by.
    pub(crate) fn is_also(&self, id: String) {
        self.also.replace(Some(id));
    }

    fn is_called(&self, id: &str) -> bool {
        self.id.as_bytes() == id.as_bytes() || self.also.borrow().as_deref() == Some(id)
    }

    /// Note whose words its client reads.
    pub(crate) fn speaks(&self, dialect: Dialect) {
        self.dialect.set(dialect);
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect.get()
    }

    /// An error as its client reads it, in place of an answer.
    pub(crate) fn document(&self, error: &Error) -> Bytes {
        self.dialect().document(error, &self.id)
    }

    /// An error as its client reads it, at the end of a stream that has begun.
    pub(crate) fn event(&self, error: &Error) -> Bytes {
        self.dialect().event(error, &self.id)
    }

    /// All of the request has come: its client has nothing to do but to wait for the answer.
    pub(crate) fn complete(&self) {
        self.complete.set(true);
    }

    /// What became of the request is counted, or is not any more.
    pub(crate) fn settle(&self, settled: bool) {
        self.settled.set(settled);
    }

    /// Count an error that the request is answered with, unless what became of it is counted elsewhere.
    pub(crate) fn refuse(&self, error: &Error) {
        // A cancelled request that an engine was working on stands on its model's account.
        if !(matches!(error, Error::Cancelled | Error::Stopping) && self.settled.get()) {
            self.worker.counters.refuse(error);
        }
        self.settle(true);
    }

    /// Whether it was cancelled; if not yet, the task of `context` is woken once it is.
    pub(crate) fn poll_cancelled(&self, context: &Context<'_>) -> bool {
        if self.cancelled.get() {
            return true;
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        false
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Do the work, but drop it as soon as the request is cancelled.
    ///
    /// # Errors
    /// [`Error::Cancelled`] or [`Error::Stopping`], besides those of the work.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.poll_cancelled(context) {
                return Poll::Ready(Err(self.end()));
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Why it was cancelled: by its ID, or with all others since the server stops.
    pub(crate) fn end(&self) -> Error {
        if self.worker.tickets.all_cancelled.get() { Error::Stopping } else { Error::Cancelled }
    }

    fn cancel(&self) {
        self.cancelled.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.worker.tickets.open.borrow_mut().try_remove(self.place.get());
        // Dropped before there was an answer, which means that the client left.
        if !self.settled.get() {
            self.worker.counters.refuse(&Error::ClientLeft);
        }
    }
}

/// The request that a connection, or a stream of one, is at.
#[derive(Debug, Default)]
pub(crate) struct Present(RefCell<Weak<Ticket>>);

impl Present {
    pub(crate) fn is(&self, ticket: &Rc<Ticket>) {
        self.0.replace(Rc::downgrade(ticket));
    }

    /// Whether there was no request yet.
    pub(crate) fn is_none_yet(&self) -> bool {
        self.0.borrow().ptr_eq(&Weak::new())
    }

    /// Whether it was cancelled, and yet goes on. Asked after its task has done what it can: then nobody can tell the client, for
    /// it takes nothing.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.borrow().upgrade().is_some_and(|ticket| ticket.is_cancelled())
    }

    /// Whether all of it has come, and it is still worked on.
    pub(crate) fn is_owed_an_answer(&self) -> bool {
        self.0.borrow().upgrade().is_some_and(|ticket| ticket.complete.get())
    }
}

/// Whether an ID may go into headers, paths, logs and records as it is.
fn is_sane(id: &[u8]) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:~=@+".contains(byte))
}

/// One thread's requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    open: RefCell<Slab<Weak<Ticket>>>,
    /// Keyed at random, so that nobody can guess the ID of another's request, and cancel it.
    random: [RandomState; 2],
    made: Cell<u64>,
    /// The server stops, and the time that it gave is over.
    all_cancelled: Cell<bool>,
}

impl Tickets {
    fn fresh_id(&self) -> HeaderValue {
        let number = self.made.get();
        self.made.set(number.wrapping_add(1));
        let [first, second] = &self.random;
        let id = format!("req_{:016x}{:016x}", first.hash_one(number), second.hash_one(number));
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("req_0"))
    }

    /// Cancel this thread's requests with that ID, and answer how many there were.
    pub(crate) fn cancel(&self, order: Cancel) {
        let cancelled =
            self.cancel_those(|ticket| ticket.is_called(&order.id) && !ticket.exempt.get());
        // Whoever asked may be gone.
        let _ = order.answer.send(cancelled);
    }

    /// Cancel all of this thread's requests.
    pub(crate) fn cancel_all(&self) {
        self.all_cancelled.set(true);
        self.cancel_those(|_| true);
    }

    fn cancel_those(&self, meant: impl Fn(&Ticket) -> bool) -> usize {
        let open = self.open.borrow();
        let found: Vec<_> = open
            .iter()
            .filter_map(|(_, ticket)| ticket.upgrade())
            .filter(|ticket| meant(ticket))
            .collect();
        // Dropping one looks at the list.
        drop(open);
        for ticket in &found {
            ticket.cancel();
        }
        found.len()
    }
}

/// One thread is asked to cancel what it has under an ID.
#[derive(Debug)]
pub(crate) struct Cancel {
    id: String,
    answer: oneshot::Sender<usize>,
}

/// Takes the orders of one thread.
pub(crate) type Cancels = mpsc::UnboundedReceiver<Cancel>;

/// Cancel all requests in flight with that ID, whatever they wait for.
///
/// # Errors
/// [`Error::RequestNotFound`] if there is none.
pub(crate) async fn cancel(asking: &Ticket, id: &str) -> Result<usize, Error> {
    // It may have been given the ID of the one that it cancels.
    asking.exempt.set(true);
    let shared = &asking.worker.shared;
    let mut answers = Vec::with_capacity(shared.cancels.len());
    for thread in &shared.cancels {
        let (answer, answered) = oneshot::channel();
        // A thread that has stopped has nothing in flight.
        if thread.send(Cancel { id: id.to_owned(), answer }).is_ok() {
            answers.push(answered);
        }
    }
    let mut cancelled = 0;
    for answer in answers {
        cancelled += answer.await.unwrap_or_default();
    }
    if cancelled == 0 { Err(Error::RequestNotFound(id.to_owned())) } else { Ok(cancelled) }
}

#[cfg(test)]
mod tests {
    use super::is_sane;

    #[test]
    fn an_id_of_a_client_is_kept_if_it_is_harmless() {
        assert!(is_sane(b"7f3c-42"));
        assert!(is_sane(b"req_011CSHoEeqs5C35K2UUqR7Fy"));
        assert!(is_sane("x".repeat(128).as_bytes()));
        for bad in ["", "two words", "a/b", "line\nfeed", "\"quoted\"", "\u{fc}", &"x".repeat(129)]
        {
            assert!(!is_sane(bad.as_bytes()), "{bad}");
        }
    }
}
