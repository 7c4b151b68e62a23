//! The story of a request, from top to bottom.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, SERVER};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::account::Gauge;
use crate::admit::{self, Admitted};
use crate::assemble::{self, Shape};
use crate::control;
use crate::endpoint::{self, Endpoint, Mode};
use crate::engine::{self, Call, Failed};
use crate::error::Error;
use crate::peek::{self, PeekError};
use crate::relay::{Account, Answer, Clock, Forward};
use crate::routes::{Lease, LeaseError};
use crate::worker::{Door, Worker};

const PRELOAD_ONLY: HeaderName = HeaderName::from_static("x-preload-only");

/// How often a request may come back to the route table, because its runner went away under it, before it is refused.
const LEASE_ROUNDS: usize = 4;

/// Answer one request, whatever it is.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    door: Door,
    request: Request<Incoming>,
) -> Response<Answer> {
    let loopback = worker.shared.loopback && door == Door::Tcp;
    match worker.shared.admission.admit(&request, loopback) {
        Ok(Admitted::Plain) => answer(&worker, request).await,
        Ok(Admitted::Page(origin)) => {
            let mut response = answer(&worker, request).await;
            admit::allow(response.headers_mut(), origin);
            response
        }
        Ok(Admitted::Preflight(origin)) => admit::preflight(&request, origin),
        Err(error) => {
            worker.counters.refuse(&error);
            refusal(&error)
        }
    }
}

async fn answer(worker: &Rc<Worker>, request: Request<Incoming>) -> Response<Answer> {
    let in_flight = Rc::new(worker.counters.request());
    let presence = Presence { worker, accounted: Cell::new(false) };
    let path = endpoint::clean(request.uri().path()).into_owned();
    let backends = &worker.shared.config.backends;
    let answered = match endpoint::classify(request.method(), &path, backends) {
        Endpoint::Inference { mode, upstream_path } => {
            let call = Inference { mode, upstream_path, in_flight };
            infer(worker, request, call, &presence).await
        }
        Endpoint::Management => forward(worker, request, &path, in_flight).await,
        Endpoint::MethodNotAllowed => Err(Error::MethodNotAllowed),
        Endpoint::UnknownBackend(name) => Err(Error::UnknownBackend(name.to_owned())),
        Endpoint::Private => Err(Error::PathNotFound),
    };
    presence.accounted.set(true);
    answered.unwrap_or_else(|error| {
        worker.counters.refuse(&error);
        refusal(&error)
    })
}

/// What the path says of an inference request.
struct Inference {
    mode: Mode,
    upstream_path: &'static str,
    in_flight: Rc<Gauge>,
}

async fn infer(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    inference: Inference,
    presence: &Presence<'_>,
) -> Result<Response<Answer>, Error> {
    let received = Instant::now();
    let (head, body) = request.into_parts();
    let config = &worker.shared.config;
    let body = read_body(body, config.body_limit, config.header_timeout).await?;
    let complete = Instant::now();
    let (model, stream) = peek(&body)?;
    // A stream passes as it is, and its body is not looked at again.
    let (body, assembled) =
        if stream { (body, None) } else { as_engine_is_asked(body, inference.upstream_path) };
    let preload = head.headers.get(PRELOAD_ONLY).is_some_and(|value| value == "true");
    let mut failed_runner: Option<String> = None;
    for _ in 0..LEASE_ROUNDS {
        let lease = lease(worker, &model, inference.mode, failed_runner.as_deref()).await?;
        if preload {
            return Ok(Response::new(Answer::own(Bytes::new())));
        }
        let call = Call {
            path: inference.upstream_path,
            query: head.uri.query(),
            headers: &head.headers,
            body: &body,
            assembled,
        };
        let clock = Clock { received, complete, leased: Instant::now() };
        let account = Account::open(worker, lease, clock, Rc::clone(&inference.in_flight));
        presence.accounted.set(true);
        match engine::ask(call, account).await {
            Ok(response) => return Ok(response),
            Err(Failed::Unread { runner_id }) => {
                presence.accounted.set(false);
                failed_runner = Some(runner_id);
            }
            Err(Failed::Finally(error)) => return Err(error),
        }
    }
    Err(Error::EngineUnreachable("it went away each time it was asked".to_owned()))
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

/// What the body says of itself: which model it is for, and whether it asks for a stream.
fn peek(body: &[u8]) -> Result<(String, bool), Error> {
    let peeked = peek::peek(body).map_err(|error| match error {
        PeekError::ModelNotAString => Error::ModelNotAString,
        other => Error::MalformedBody(other.to_string()),
    })?;
    match peeked.model {
        Some(model) if !model.trim().is_empty() => Ok((model.into_owned(), peeked.stream)),
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

/// A slot of a runner that serves `model`; waits for the runner to be started, and for the slot.
async fn lease(
    worker: &Worker,
    model: &str,
    mode: Mode,
    failed_runner: Option<&str>,
) -> Result<Lease, Error> {
    let routes = &worker.shared.routes;
    let queue_limit = worker.shared.config.queue_limit;
    let mut warm = if failed_runner.is_none() { routes.find(model, mode) } else { None };
    for _ in 0..LEASE_ROUNDS {
        let runner = if let Some(runner) = warm.take() {
            runner
        } else {
            let runner_id = control::lease(worker, model, mode, failed_runner).await?;
            // It may be gone again already; then the next round asks anew.
            let Some(runner) = routes.by_id(&runner_id) else { continue };
            runner
        };
        match runner.lease(queue_limit).await {
            Ok(lease) => return Ok(lease),
            Err(LeaseError::QueueFull) => return Err(Error::QueueFull { limit: queue_limit }),
            Err(LeaseError::Retired) => warm = routes.find(model, mode),
        }
    }
    Err(Error::EngineUnreachable("it was stopped each time it became ready".to_owned()))
}

async fn forward(
    worker: &Worker,
    request: Request<Incoming>,
    path: &str,
    in_flight: Rc<Gauge>,
) -> Result<Response<Answer>, Error> {
    let (response, connection) = control::forward(worker, request, path).await?;
    let (mut head, incoming) = response.into_parts();
    control::strip_hop_by_hop(&mut head.headers);
    head.headers.remove(SERVER);
    let body = Answer::Control(Box::new(Forward::new(incoming, connection, in_flight)));
    Ok(Response::from_parts(head, body))
}

fn refusal(error: &Error) -> Response<Answer> {
    let mut response = Response::new(Answer::own(error.to_json()));
    *response.status_mut() = error.status();
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.leaves_body_unread() {
        // hyper closes the connection then, but does not say so.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if matches!(error, Error::MethodNotAllowed) {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// Notices that the handler is dropped before it has an answer, which means that the client left.
struct Presence<'a> {
    worker: &'a Worker,
    /// It was answered, or whatever becomes of it is booked on a model's account.
    accounted: Cell<bool>,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if !self.accounted.get() {
            self.worker.counters.refuse(&Error::ClientLeft);
        }
    }
}
