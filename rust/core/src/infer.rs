//! The story of an inference request: read it, lease a runner, ask its engine.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, Request, Response, request};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::assemble::{self, Shape};
use crate::control;
use crate::endpoint::Mode;
use crate::engine::{self, Call, Failed};
use crate::error::Error;
use crate::peek::{self, PeekError};
use crate::relay::{Account, Answer, Clock};
use crate::routes::{Lease, LeaseError};
use crate::ticket::Ticket;
use crate::waiting;

const PRELOAD_ONLY: HeaderName = HeaderName::from_static("x-preload-only");

/// How often a request may come back to the route table, because its runner went away under it, before it is refused.
const LEASE_ROUNDS: usize = 4;

/// What the path says of an inference request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) mode: Mode,
    pub(crate) upstream_path: &'static str,
}

/// Have an engine answer the request.
///
/// # Errors
/// Why no engine does; what an engine itself answers, errors included, is a response.
pub(crate) async fn infer(
    ticket: &Rc<Ticket>,
    request: Request<Incoming>,
    target: Target,
) -> Result<Response<Answer>, Error> {
    let asked = Asked::read(ticket, request, target).await?;
    let mut failed_runner = None;
    if let Some(lease) = asked.lease_now() {
        match asked.ask(lease).await {
            Err(Failed::Unread { runner_id }) => failed_runner = Some(runner_id),
            Err(Failed::Finally(error)) => return Err(error),
            Ok(response) => return Ok(response),
        }
    }
    // From here on it can take as long as a load does.
    let heartbeat = ticket.worker().shared.config.heartbeat;
    let heartbeat = heartbeat.filter(|_| asked.stream);
    let pending = Box::pin(asked.ask_when_leased(failed_runner));
    match heartbeat {
        Some(beat) => waiting::patiently(ticket, beat, pending).await,
        None => pending.await,
    }
}

/// A request that was read, and what is known of it.
struct Asked {
    ticket: Rc<Ticket>,
    head: request::Parts,
    target: Target,
    model: String,
    /// The client reads a stream.
    stream: bool,
    /// How many of the engine's slots it takes.
    slots: usize,
    /// As the engine shall see it.
    body: Bytes,
    /// The shape of the whole answer, if the engine is asked for a stream instead.
    assembled: Option<Shape>,
    received: Instant,
    complete: Instant,
    /// How long it has waited for a runner to be ready; `None` if one was.
    load: Cell<Option<Duration>>,
}

impl Asked {
    async fn read(
        ticket: &Rc<Ticket>,
        request: Request<Incoming>,
        target: Target,
    ) -> Result<Self, Error> {
        let received = Instant::now();
        let (head, body) = request.into_parts();
        let config = &ticket.worker().shared.config;
        let body = read_body(body, config.body_limit, config.header_timeout).await?;
        let complete = Instant::now();
        let (model, stream, slots) = peek(&body)?;
        // A stream passes as it is, and its body is not looked at again.
        let (body, assembled) =
            if stream { (body, None) } else { as_engine_is_asked(body, target.upstream_path) };
        Ok(Self {
            ticket: Rc::clone(ticket),
            head,
            target,
            model,
            stream,
            slots,
            body,
            assembled,
            received,
            complete,
            load: Cell::new(None),
        })
    }

    /// Free slots of a ready runner.
    fn lease_now(&self) -> Option<Lease> {
        let routes = &self.ticket.worker().shared.routes;
        routes.find(&self.model, self.target.mode)?.lease_now(self.slots)
    }

    async fn ask(&self, lease: Lease) -> Result<Response<Answer>, Failed> {
        if self.head.headers.get(PRELOAD_ONLY).is_some_and(|value| value == "true") {
            self.ticket.settle(true);
            return Ok(Response::new(Answer::own(Bytes::new())));
        }
        let call = Call {
            path: self.target.upstream_path,
            query: self.head.uri.query(),
            headers: &self.head.headers,
            body: &self.body,
            assembled: self.assembled,
        };
        let (received, complete, load) = (self.received, self.complete, self.load.get());
        let clock = Clock { received, complete, load, leased: Instant::now() };
        engine::ask(call, Account::open(&self.ticket, lease, clock)).await
    }

    /// Ask as soon as there is a runner with a slot; of another one, if a runner fails before it has read the request.
    async fn ask_when_leased(
        self,
        mut failed_runner: Option<String>,
    ) -> Result<Response<Answer>, Error> {
        for _ in 0..LEASE_ROUNDS {
            let lease = self.lease(failed_runner.as_deref()).await?;
            match self.ask(lease).await {
                Ok(response) => return Ok(response),
                Err(Failed::Unread { runner_id }) => failed_runner = Some(runner_id),
                Err(Failed::Finally(error)) => return Err(error),
            }
        }
        Err(Error::EngineUnreachable("it went away each time it was asked".to_owned()))
    }

    /// Slots of a runner that serves the model; waits for the runner to be started, and for the slots.
    async fn lease(&self, failed_runner: Option<&str>) -> Result<Lease, Error> {
        let worker = self.ticket.worker();
        let routes = &worker.shared.routes;
        let queue_limit = worker.shared.config.queue_limit;
        let (model, mode) = (self.model.as_str(), self.target.mode);
        let mut warm = if failed_runner.is_none() { routes.find(model, mode) } else { None };
        for _ in 0..LEASE_ROUNDS {
            let runner = if let Some(runner) = warm.take() {
                runner
            } else {
                let asked = Instant::now();
                let runner_id = control::lease(worker, model, mode, failed_runner).await?;
                self.load.set(Some(self.load.get().unwrap_or_default() + asked.elapsed()));
                // It may be gone again already; then the next round asks anew.
                let Some(runner) = routes.by_id(&runner_id) else { continue };
                runner
            };
            match runner.lease(self.slots, queue_limit).await {
                Ok(lease) => return Ok(lease),
                Err(LeaseError::QueueFull) => return Err(Error::QueueFull { limit: queue_limit }),
                Err(LeaseError::Retired) => warm = routes.find(model, mode),
            }
        }
        Err(Error::EngineUnreachable("it was stopped each time it became ready".to_owned()))
    }
}

/// The whole body, if each piece comes within `patience`.
async fn read_body(mut body: Incoming, limit: usize, patience: Duration) -> Result<Bytes, Error> {
    // A length that is too large is refused before the client is told to go on sending.
    if body.size_hint().lower() > limit as u64 {
        return Err(Error::BodyTooLarge { limit });
    }
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(frame) = timeout(patience, body.frame()).await.map_err(|_| Error::BodyTimeout)? {
        let Ok(piece) = frame.map_err(|_| Error::BodyIncomplete)?.into_data() else { continue };
        length += piece.len();
        if length > limit {
            return Err(Error::BodyTooLarge { limit });
        }
        pieces.push(piece);
    }
    match pieces.as_mut_slice() {
        [only] => Ok(std::mem::take(only)),
        pieces => Ok(Bytes::from(pieces.concat())),
    }
}

/// What the body says of itself: which model it is for, whether it asks for a stream, and for how many at once.
fn peek(body: &[u8]) -> Result<(String, bool, usize), Error> {
    let peeked = peek::peek(body).map_err(|error| match error {
        PeekError::ModelNotAString => Error::ModelNotAString,
        other => Error::MalformedBody(other.to_string()),
    })?;
    match peeked.model {
        Some(model) if !model.trim().is_empty() => {
            Ok((model.into_owned(), peeked.stream, peeked.sequences))
        }
        _ => Err(Error::MissingModel),
    }
}

/// The body for the engine, and the shape of the whole answer if that body asks for a stream instead.
///
/// llama-server notices at once that the reader of a stream has left, but that somebody who waits for a whole answer has
/// left only while nobody gets tokens from it. So it is asked for a stream, wherever that can become the same answer.
fn as_engine_is_asked(body: Bytes, path: &str) -> (Bytes, Option<Shape>) {
    let streamed = Shape::of(path).and_then(|shape| {
        assemble::as_stream(&body, shape).map(|edited| (edited.into(), Some(shape)))
    });
    streamed.unwrap_or((body, None))
}
