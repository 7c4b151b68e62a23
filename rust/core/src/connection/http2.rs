//! HTTP/2, after its preface (h2c with prior knowledge) or ALPN's word. Each stream is a task of its own on this thread.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use super::phase::{Phase, Phases};
use super::rewind::Rewind;
use super::{Drain, Site};
use crate::handler;
use crate::relay::Answer;
use crate::ticket::{Present, Ticket};
use crate::worker::Worker;
/// Requests that one client may have under way on one connection.
const STREAMS: u32 = 256;

/// What a stream may have waiting to be written. The engine waits beyond it.
const SEND_BUFFER: usize = 64 * 1024;

/// A client that has vanished without a word is noticed by these, and its engines are stopped.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// Serve a connection to its end. `read`: what was read of it already.
pub(super) async fn serve<S>(site: &Site, stream: S, read: Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let config = &site.worker.shared.config;
    let stalled = Rc::new(Cell::new(false));
    let streams = Rc::new(Streams::new(&site.worker, &stalled));
    let service = {
        let (worker, door, streams) = (Rc::clone(&site.worker), site.door, Rc::clone(&streams));
        service_fn(move |request: Request<Incoming>| {
            let ticket = Ticket::open(&worker, request.headers());
            let offer = streams.offer(&ticket);
            let bodiless = request.method() == Method::HEAD;
            async move {
                let response = handler::handle(ticket, door, request).await;
                Ok::<_, Infallible>(response.map(|answer| Offered { answer, bodiless, offer }))
            }
        })
    };
    let mut connection = pin!(
        http2::Builder::new(Spawner(Rc::downgrade(&streams)))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(config.head_limit).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(TokioIo::new(Rewind::new(read, stream, stalled)), service)
    );
    let mut notified = pin!(site.draining.notified());
    let mut drain = Drain::new(site, notified.as_mut());
    let phases = Phases::default();
    let mut alarm = pin!(sleep(config.idle_timeout));
    let mut asked_to_leave = false;
    poll_fn(|context| {
        if drain.is_due(context) {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            // A connection that fails has no one left to tell.
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            phases.set_busy(streams.poll_count(context) > 0);
            ready!(phases.poll_late(config, alarm.as_mut(), context));
            if asked_to_leave {
                return Poll::Ready(());
            }
            asked_to_leave = true;
            connection.as_mut().graceful_shutdown();
            phases.enter(Phase::Idle);
        }
    })
    .await;
}

/// The streams of one connection. Dropping it ends them all.
#[derive(Debug)]
struct Streams {
    tasks: RefCell<JoinSet<()>>,
    /// Of the request that hyper has just handed over, and of which it spawns the task next.
    newest: RefCell<Option<Rc<Offer>>>,
    worker: Rc<Worker>,
    /// The client takes nothing, of any stream.
    stalled: Rc<Cell<bool>>,
}

impl Streams {
    fn new(worker: &Rc<Worker>, stalled: &Rc<Cell<bool>>) -> Self {
        let (tasks, newest) = (RefCell::default(), RefCell::default());
        Self { tasks, newest, worker: Rc::clone(worker), stalled: Rc::clone(stalled) }
    }

    fn offer(&self, ticket: &Rc<Ticket>) -> Rc<Offer> {
        let offer = Rc::new(Offer::default());
        offer.present.is(ticket);
        self.newest.replace(Some(Rc::clone(&offer)));
        offer
    }

    /// How many are open.
    fn poll_count(&self, context: &mut Context<'_>) -> usize {
        let mut tasks = self.tasks.borrow_mut();
        while let Poll::Ready(Some(_)) = tasks.poll_join_next(context) {}
        tasks.len()
    }
}

/// What hyper spawns streams with. Weak, for every stream keeps one.
#[derive(Clone, Debug)]
struct Spawner(Weak<Streams>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        let Some(streams) = self.0.upgrade() else { return };
        let offer = streams.newest.take().unwrap_or_default();
        let task = Stream {
            future: Some(Box::pin(future)),
            offer,
            worker: Rc::clone(&streams.worker),
            stalled: Rc::clone(&streams.stalled),
            timer: None,
            late: false,
        };
        streams.tasks.borrow_mut().spawn_local(task);
    }
}

/// How an answer's pieces go.
#[derive(Debug, Default)]
struct Offer {
    /// The last one waits for the client to take more.
    waits: Cell<bool>,
    /// One has gone since somebody looked.
    moved: Cell<bool>,
    /// The request that they answer.
    present: Present,
}

impl Offer {
    /// hyper asked for a piece, so the one before has gone; and it got one, or not yet.
    fn note(&self, given: bool) {
        self.waits.set(given);
        self.moved.set(true);
    }
}

/// One request and its answer, given up when the client takes nothing of the answer for too long.
struct Stream<F> {
    /// `None` once it is over.
    future: Option<Pin<Box<F>>>,
    offer: Rc<Offer>,
    worker: Rc<Worker>,
    /// As its connection says.
    stalled: Rc<Cell<bool>>,
    late: bool,
    /// Exists only while something waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        if future.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if self.offer.present.is_stuck() {
            return Poll::Ready(());
        }
        if self.offer.moved.take() {
            self.timer = None;
        }
        if !self.offer.waits.get() {
            return Poll::Pending;
        }
        let limit = self.worker.shared.config.write_timeout;
        ready!(self.timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context));
        self.late = true;
        Poll::Ready(())
    }
}

impl<F> Drop for Stream<F> {
    fn drop(&mut self) {
        // What the future holds is booked when it is dropped.
        let giving_up = self.worker.giving_up();
        giving_up.set(self.late || self.stalled.get());
        self.future = None;
    }
}

/// An answer that notes when hyper has taken a piece and does not ask for the next: the client has no room for it.
#[derive(Debug)]
struct Offered {
    answer: Answer,
    /// hyper leaves the body of an answer to HEAD away in HTTP/1 only.
    bodiless: bool,
    offer: Rc<Offer>,
}

impl Body for Offered {
    type Data = Bytes;
    type Error = <Answer as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.answer).poll_frame(context);
        self.offer.note(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.bodiless || self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
