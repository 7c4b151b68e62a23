//! The answer's way back: forward each frame as it comes, watch it, and close the engine's connection if the client
//! leaves.
//!
//! The body is polled only when the client's socket takes more, so a slow reader stops the engine, not our memory.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::account::{Entry, Operation, Outcome};
use crate::error::Error;
use crate::intake::Inflow;
use crate::observe::Observer;
use crate::pace::Pace;
use crate::recorder::{Capture, Page};
use crate::repair::Mend;
use crate::routes::Lease;
use crate::ticket::Ticket;
use crate::upstream::{BodyError, ControlConnection, EngineConnection};
use crate::usage::{Prompts, Usage};
use crate::waiting::Waiting;
use crate::worker::Worker;

mod translated;
mod whole;

pub(crate) use translated::Translated;
pub(crate) use whole::{Gathered, Whole};

/// An answer cannot be finished; the connection is cut so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short")]
pub(crate) struct CutShort;

/// The body of every response that we send.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Bytes of our own.
    Own(Option<Bytes>),
    /// An engine's answer.
    Engine(Box<Relay>),
    /// What an engine says, in another dialect.
    Translated(Box<Translated>),
    /// The control plane's answer.
    Control(Box<Forward>),
    /// A stream that nobody answers yet.
    Waiting(Box<Waiting>),
    /// What was recorded.
    Records(Box<Page>),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Own(None)
    }
}

impl Answer {
    pub(crate) fn own(bytes: impl Into<Bytes>) -> Self {
        Self::Own(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match &mut *self {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Engine(relay) => relay.poll(context),
            Self::Translated(translated) => translated.poll(context),
            Self::Control(forward) => forward.poll(context),
            Self::Waiting(waiting) => waiting.poll(context),
            Self::Records(page) => {
                page.poll(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Engine(relay) => relay.is_end_stream(),
            Self::Control(forward) => forward.incoming.is_end_stream(),
            Self::Waiting(waiting) => waiting.is_end_stream(),
            // Only asking for it tells.
            Self::Translated(_) => false,
            Self::Records(page) => page.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Engine(relay) => relay.size_hint(),
            Self::Control(forward) => forward.incoming.size_hint(),
            Self::Translated(_) | Self::Waiting(_) | Self::Records(_) => SizeHint::default(),
        }
    }
}

/// The control plane's answer on its way, with the connection it comes on.
#[derive(Debug)]
pub(crate) struct Forward {
    incoming: Incoming,
    connection: ControlConnection<Inflow>,
    ticket: Rc<Ticket>,
}

impl Forward {
    pub(crate) fn new(
        incoming: Incoming,
        connection: ControlConnection<Inflow>,
        ticket: Rc<Ticket>,
    ) -> Self {
        Self { incoming, connection, ticket }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if self.ticket.poll_cancelled(context) {
            return Poll::Ready(Some(Err(CutShort)));
        }
        let mut frame = Pin::new(&mut self.incoming).poll_frame(context);
        if frame.is_pending() {
            // Asking made it known that a frame is wanted; now let the connection read one.
            self.connection.drive(context);
            frame = Pin::new(&mut self.incoming).poll_frame(context);
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(|_| CutShort)))
    }
}

/// When a request came, and when things happened to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The head was there.
    pub(crate) received: Instant,
    /// The body was there, too.
    pub(crate) complete: Instant,
    /// How long it waited for a runner to be ready; `None` if one was.
    pub(crate) load: Option<Duration>,
    pub(crate) leased: Instant,
}

/// An account of one request to an engine. It is booked when it is dropped: as cancelled, unless said otherwise.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) worker: Rc<Worker>,
    pub(crate) ticket: Rc<Ticket>,
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome,
    pub(crate) prompts: Prompts,
    /// `None` if it is not recorded.
    pub(crate) capture: Option<Box<Capture>>,
    entry: Entry,
    clock: Clock,
    /// What the engine has done for the request besides its answer: in vain, before it was asked again.
    before: Usage,
    struck: bool,
}

impl Account {
    /// Boxed: it goes through many hands, and has some 450 bytes.
    pub(crate) fn open(ticket: &Rc<Ticket>, lease: Lease, clock: Clock) -> Box<Self> {
        ticket.settle(true);
        Box::new(Self {
            worker: Rc::clone(ticket.worker()),
            ticket: Rc::clone(ticket),
            lease,
            outcome: Outcome::Cancelled,
            prompts: Prompts::One,
            capture: None,
            entry: Entry::default(),
            clock,
            before: Usage::default(),
            struck: false,
        })
    }

    /// Say what the engine is asked.
    pub(crate) fn asked(&mut self, path: &str, body: &[u8]) {
        self.entry.operation = Operation::of(path);
        self.prompts = Prompts::asked(path, body);
    }

    /// Note that the engine, which produced `usage` for the request, is asked again.
    pub(crate) fn once_more(&mut self, usage: Usage) {
        self.besides(usage);
        self.entry.pace = Pace::default();
    }

    /// Note that the engine produced `usage` for the request besides.
    pub(crate) fn besides(&mut self, usage: Usage) {
        self.before = self.before + usage;
    }

    /// Book nothing, unless an engine has worked for the request before: this one never saw it.
    pub(crate) fn strike(mut self) {
        if self.before != Usage::default() {
            self.outcome = Outcome::EngineError;
            if let Some(capture) = &mut self.capture {
                capture.refused(&Error::EngineDied);
            }
            return;
        }
        self.struck = true;
        if let Some(mut capture) = self.capture.take() {
            capture.strike();
        }
        self.ticket.settle(false);
    }

    /// Note a whole answer of these bytes, which is on its way.
    pub(crate) fn answered(&mut self, status: StatusCode, document: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.answers(status, false, "");
            capture.push(document);
        }
        self.entry.first_byte = Some(self.clock.received.elapsed());
    }

    fn record(&mut self, bytes: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.push(bytes);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.struck {
            return;
        }
        let waited = self.clock.leased - self.clock.complete;
        self.entry.load = self.clock.load;
        self.entry.queued = waited.saturating_sub(self.clock.load.unwrap_or_default());
        self.entry.duration = self.clock.received.elapsed();
        self.entry.usage = self.entry.usage + self.before;
        self.entry.first_token = self.entry.pace.first_after(self.clock.received);
        let given_up = self.worker.is_given_up() && !self.ticket.is_cancelled();
        if self.outcome == Outcome::Cancelled && given_up {
            self.outcome = Outcome::TimedOut;
        }
        self.lease.runner().totals.book(self.worker.index, self.outcome, &self.entry);
        if let Some(mut capture) = self.capture.take() {
            if self.ticket.is_cancelled() {
                capture.refused(&self.ticket.end());
            }
            capture.close(self.outcome, &self.entry);
        }
    }
}

/// Where an engine's answer stands.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Flowing,
    /// The error event was handed over; it is given one round to reach the socket before the connection is cut.
    Reported,
    Cutting,
    Complete,
}

/// An engine's answer on its way to the client.
#[derive(Debug)]
pub(crate) struct Relay {
    /// `None` once the answer has passed, or the engine has died.
    connection: Option<EngineConnection>,
    poolable: bool,
    observer: Observer,
    /// `None` once nothing can be wrong with the rest.
    mend: Option<Box<Mend>>,
    stage: Stage,
    account: Box<Account>,
}

impl Relay {
    /// `poolable`: the engine will keep the connection open after this answer.
    pub(crate) fn new(
        connection: EngineConnection,
        poolable: bool,
        observer: Observer,
        account: Box<Account>,
    ) -> Self {
        let (connection, stage) = (Some(connection), Stage::Flowing);
        Self { connection, poolable, observer, mend: None, stage, account }
    }

    /// See to what is wrong with the stream on its way.
    pub(crate) fn mended(mut self, mend: Option<Mend>) -> Self {
        self.mend = mend.map(Box::new);
        self
    }

    /// Whether the engine answers with a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.observer.is_stream()
    }

    fn is_end_stream(&self) -> bool {
        match self.stage {
            Stage::Flowing => self.connection.as_ref().is_none_or(EngineConnection::is_end_stream),
            Stage::Complete => true,
            Stage::Reported | Stage::Cutting => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.stage, &self.connection) {
            (Stage::Flowing, Some(connection)) => connection.size_hint(),
            (Stage::Complete, _) => SizeHint::with_exact(0),
            _ => SizeHint::new(),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.stage {
            Stage::Flowing => self.poll_flowing(context),
            Stage::Reported => {
                // hyper drops what it has not written when a body fails. Pending once makes it flush first.
                self.stage = Stage::Cutting;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Stage::Cutting => Poll::Ready(Some(Err(CutShort))),
            Stage::Complete => Poll::Ready(None),
        }
    }

    fn poll_flowing(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if self.account.ticket.poll_cancelled(context) {
            return Poll::Ready(Some(self.cancelled()));
        }
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match std::task::ready!(connection.poll_data(context)) {
                Some(Ok(chunk)) => {
                    let chunk = self.pass(chunk);
                    if !chunk.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(chunk))));
                    }
                }
                Some(Err(BodyError::Cut | BodyError::Malformed)) => {
                    return Poll::Ready(Some(self.engine_died()));
                }
                None => {
                    self.complete();
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Learn from the next chunk what there is to learn, and say what the client gets of it.
    fn pass(&mut self, mut chunk: Bytes) -> Bytes {
        self.note_first_byte();
        let before = self.observer.content_events();
        self.observer.observe(&chunk);
        self.account.entry.pace.note(self.observer.content_events() - before);
        if let Some(mend) = &mut self.mend {
            chunk = mend.pass(chunk, || self.observer.findings().usage);
            if mend.is_done() {
                self.mend = None;
            }
        }
        self.account.record(&chunk);
        chunk
    }

    fn note_first_byte(&mut self) {
        if self.account.entry.first_byte.is_some() {
            return;
        }
        self.account.entry.first_byte = Some(self.account.clock.received.elapsed());
        if !self.poolable {
            // This connection ends with the stream. The next one is opened while there is time.
            self.account.worker.prepare(self.account.lease.runner());
        }
    }

    /// Somebody cancelled it by its ID: a stream says so and ends, anything else is cut.
    fn cancelled(&mut self) -> Result<Frame<Bytes>, CutShort> {
        self.connection = None;
        if self.observer.is_stream() {
            self.stage = Stage::Complete;
            let event = self.observer.on_new_line(self.account.ticket.end().to_event());
            self.account.record(&event);
            Ok(Frame::data(event))
        } else {
            self.stage = Stage::Cutting;
            Err(CutShort)
        }
    }

    fn engine_died(&mut self) -> Result<Frame<Bytes>, CutShort> {
        self.account.outcome = Outcome::EngineError;
        self.connection = None;
        if self.observer.is_stream() {
            self.stage = Stage::Reported;
            let event = self.observer.on_new_line(Error::EngineDied.to_event());
            self.account.record(&event);
            Ok(Frame::data(event))
        } else {
            self.stage = Stage::Cutting;
            Err(CutShort)
        }
    }

    /// The whole answer has passed.
    fn complete(&mut self) {
        self.stage = Stage::Complete;
        if self.account.outcome == Outcome::Cancelled {
            let failed = self.observer.is_stream() && self.observer.findings().error;
            self.account.outcome = if failed { Outcome::EngineError } else { Outcome::Ok };
        }
        let Some(connection) = self.connection.take() else { return };
        let (worker, runner) = (&self.account.worker, self.account.lease.runner());
        if self.poolable {
            worker.pool.put(runner, connection);
        } else if self.account.outcome == Outcome::Ok {
            worker.prepare(runner);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // hyper drops a body of known length without asking for its end, so the end is noticed here.
        if self.stage == Stage::Flowing && self.is_end_stream() {
            self.complete();
        }
        let findings = self.observer.findings();
        // Many clients leave at `[DONE]`, before the chunked body has ended: they have it all.
        if self.stage == Stage::Flowing && self.observer.is_stream() && !findings.error {
            self.account.outcome = Outcome::Ok;
        }
        self.account.entry.usage = findings.usage;
        self.account.entry.choices = findings.choices;
        self.account.entry.stream_events = findings.stream_events;
        // A connection that is still here carries an unfinished answer: dropping it closes it, and the engine stops.
    }
}
