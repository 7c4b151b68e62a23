//! One exchange with an engine: send the request on a connection that works, and turn the answer's head into ours.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE,
    HeaderMap, SERVER,
};
use http::{HeaderName, HeaderValue, Response, StatusCode, response};

use crate::account::Outcome;
use crate::assemble::{Assembler, Plan, Question, Shape, Told};
use crate::dialect::decoder;
use crate::error::Error;
use crate::observe::Observer;
use crate::relay::{Account, Answer, Gathered, Relay, Whole};
use crate::repair::{self, Mend};
use crate::routes::Runner;
use crate::upstream::{EngineConnection, Framing, Head, SendError};
use crate::worker::Worker;

/// What of a client's head reaches an engine. The rest is the client's and ours: credentials, cookies, proxies' notes,
/// and `X-Conversation-Id`, with which llama-server would go on after a disconnect.
const FORWARDED: [HeaderName; 4] = [
    ACCEPT,
    CONTENT_TYPE,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// What of an engine's head does not reach the client: llama-server names itself, and sends an empty CORS header.
const WITHHELD: [HeaderName; 5] = [
    SERVER,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
];

/// Room for the head of a request: ours has some 250 bytes, most of them the key.
const HEAD: usize = 384;

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How llama-server types its whole answers.
const JSON: &str = "application/json; charset=utf-8";

/// A request as the engine shall see it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) path: &'static str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
    /// The body asks for a stream, of which the client gets a whole answer.
    pub(crate) assembled: Option<Plan>,
    /// The body with which the engine is asked for a whole answer after all, if its stream withholds something.
    pub(crate) unassembled: Option<&'a Bytes>,
    /// The client reads the engine's own stream, of such a shape, with so many choices.
    pub(crate) relayed: Option<(Shape, usize)>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The engine did not get the whole request, so another runner may be asked.
    Unread { runner_id: String },
    /// The engine may have begun to work on it.
    Finally(Error),
}

/// Ask the engine that the account's lease is for.
pub(crate) async fn ask(
    call: Call<'_>,
    mut account: Box<Account>,
) -> Result<Response<Answer>, Failed> {
    let runner = Arc::clone(account.lease.runner());
    let doubtful = call.assembled.is_some_and(|plan| plan.told == Told::Probabilities);
    let call = if doubtful && runner.is_streamed_in_vain() { call.as_it_came() } else { call };
    account.asked(call.path, call.body);
    let head = call.head(&runner);
    let mut unread = true;
    let mut first_failure = None;
    if let Some(sent) = send_at_once(&call, head.clone(), &account, &runner).await {
        match sent {
            Ok(answer) => return deliver(answer, call, account).await,
            Err(error) if !error.is_silent() => return Err(failed(&error, account)),
            // The engine may close a kept connection at the moment we use it. No byte of an answer has come, and we have
            // the whole body, so the request is sent again on a new one.
            Err(error) => {
                unread = error.is_unread();
                first_failure = Some(error);
            }
        }
    }
    match send_fresh(&call, head, &account.worker, &runner).await {
        Ok(answer) => deliver(answer, call, account).await,
        Err(error) if unread && error.is_unread() => {
            account.strike();
            Err(Failed::Unread { runner_id: runner.id.clone() })
        }
        // It is not asked of another engine: it may be what killed this one.
        Err(error) => {
            // What broke first says more than that nobody listens any more.
            let reason = first_failure.filter(|_| !unread).unwrap_or(error);
            Err(failed(&reason, account))
        }
    }
}

fn failed(reason: &SendError, mut account: Box<Account>) -> Failed {
    account.outcome = Outcome::EngineError;
    let error = Error::EngineUnreachable(reason.to_string());
    if let Some(capture) = &mut account.capture {
        capture.refused(&error);
    }
    Failed::Finally(error)
}

/// The head of an answer, and the connection that its body comes on.
type Answering = (Head, EngineConnection);

type Sent = Result<Answering, SendError>;

async fn send_at_once(
    call: &Call<'_>,
    head: Bytes,
    account: &Account,
    runner: &Runner,
) -> Option<Sent> {
    let worker = &account.worker;
    let mut connection = worker.pool.take(runner)?;
    let used = connection.is_used();
    let sent = connection.send(head, call.body.clone(), &WITHHELD).await;
    Some(sent.map(|head| {
        if used {
            worker.counters.upstream_reused();
        }
        (head, connection)
    }))
}

async fn send_fresh(call: &Call<'_>, head: Bytes, worker: &Worker, runner: &Runner) -> Sent {
    let mut connection = EngineConnection::open(&runner.socket).await?;
    worker.counters.upstream_opened();
    let head = connection.send(head, call.body.clone(), &WITHHELD).await?;
    Ok((head, connection))
}

impl Call<'_> {
    /// For a whole answer of the engine's own.
    fn as_it_came(self) -> Self {
        let body = self.unassembled.unwrap_or(self.body);
        Self { body, assembled: None, unassembled: None, ..self }
    }

    /// The request's head as it goes on the wire. Nothing in it can end a line: target and values were checked when they
    /// were parsed.
    fn head(&self, runner: &Runner) -> Bytes {
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(b"POST ");
        head.extend_from_slice(self.path.as_bytes());
        if let Some(query) = self.query {
            head.push(b'?');
            head.extend_from_slice(query.as_bytes());
        }
        head.extend_from_slice(b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: ");
        head.extend_from_slice(self.body.len().to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
        if let Some(authorization) = &runner.authorization {
            write_field(&mut head, "authorization", authorization);
        }
        for name in &FORWARDED {
            if let Some(value) = self.headers.get(name) {
                write_field(&mut head, name.as_str(), value);
            }
        }
        head.extend_from_slice(b"\r\n");
        head.into()
    }
}

fn write_field(head: &mut Vec<u8>, name: &str, value: &HeaderValue) {
    for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// The engine's answer as the client gets it: as it comes, or, if a whole one is wanted of a stream, once it is there.
async fn deliver(
    (answer, connection): Answering,
    call: Call<'_>,
    mut account: Box<Account>,
) -> Result<Response<Answer>, Failed> {
    let stream = is_event_stream(&answer);
    let poolable = stays_open(&answer, stream);
    let mut head = answer.parts;
    if let Some(plan) = call.assembled.filter(|_| stream) {
        head.headers.remove(CACHE_CONTROL);
        head.headers.remove(ACCEL_BUFFERING);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        return match Box::pin(gather(plan, connection, call, account)).await {
            Gathered::Answer { status, body } => {
                head.status = status.unwrap_or(head.status);
                Ok(Response::from_parts(head, Answer::own(body)))
            }
            Gathered::Failed(error) => Err(Failed::Finally(error)),
            Gathered::Withheld(account) => Box::pin(ask(call.as_it_came(), account)).await,
        };
    }
    if stream {
        head.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        head.headers.entry(ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
    }
    if head.status == StatusCode::INTERNAL_SERVER_ERROR && !stream {
        return Box::pin(blame(head, connection, account)).await;
    }
    if head.status.is_client_error() {
        account.outcome = Outcome::ClientError;
    } else if head.status.is_server_error() {
        account.outcome = Outcome::EngineError;
    }
    if let Some(capture) = &mut account.capture {
        capture.answers(head.status, stream, call.path);
    }
    let observer = if stream { Observer::stream(account.prompts) } else { Observer::document() };
    let mend =
        call.relayed.filter(|_| stream).and_then(|(shape, choices)| Mend::new(shape, choices));
    let relay = Relay::new(connection, poolable, observer, account).mended(mend);
    Ok(Response::from_parts(head, Answer::Engine(Box::new(relay))))
}

/// An error for which the engine blames itself, with what is the client's fault put right.
async fn blame(
    mut head: response::Parts,
    mut connection: EngineConnection,
    mut account: Box<Account>,
) -> Result<Response<Answer>, Failed> {
    account.outcome = Outcome::EngineError;
    let Some(mut document) = rest(&mut connection).await else {
        if let Some(capture) = &mut account.capture {
            capture.refused(&Error::EngineDied);
        }
        return Err(Failed::Finally(Error::EngineDied));
    };
    if let Some((status, reworded)) = repair::reworded(&document) {
        account.outcome = Outcome::ClientError;
        head.status = StatusCode::from_u16(status).unwrap_or(head.status);
        document = reworded;
    }
    account.answered(head.status, &document);
    Ok(Response::from_parts(head, Answer::own(document)))
}

/// All that comes yet; `None` if it is cut short.
async fn rest(connection: &mut EngineConnection) -> Option<Vec<u8>> {
    let mut document = Vec::new();
    while let Some(chunk) = poll_fn(|context| connection.poll_data(context)).await {
        document.extend_from_slice(&chunk.ok()?);
    }
    Some(document)
}

/// Make a whole answer of a stream.
async fn gather(
    plan: Plan,
    connection: EngineConnection,
    call: Call<'_>,
    account: Box<Account>,
) -> Gathered {
    let (worker, runner) = (Rc::clone(&account.worker), Arc::clone(account.lease.runner()));
    let mut whole = Whole::new(connection, Assembler::of(plan), account);
    whole.read().await;
    while let Some(Question { path, body }) = call.unassembled.and_then(|body| whole.question(body))
    {
        // If the engine does not say, it is asked for the whole answer.
        let Ok(answer) = question(path, body, &worker, &runner).await else { break };
        if whole.learn(&answer).is_none() {
            break;
        }
    }
    let gathered = whole.finish();
    if plan.told == Told::Probabilities {
        runner.note_stream(matches!(gathered, Gathered::Answer { .. }));
    }
    gathered
}

/// The engine's answer to a question of ours, on a connection of its own.
///
/// # Errors
/// The engine's own, or that it does not answer.
pub(crate) async fn question(
    path: &'static str,
    body: Vec<u8>,
    worker: &Worker,
    runner: &Runner,
) -> Result<Bytes, Error> {
    let (headers, body) = (HeaderMap::new(), Bytes::from(body));
    let call = Call {
        path,
        query: None,
        headers: &headers,
        body: &body,
        assembled: None,
        unassembled: None,
        relayed: None,
    };
    let sent = send_fresh(&call, call.head(runner), worker, runner).await;
    let (head, mut connection) =
        sent.map_err(|error| Error::EngineUnreachable(error.to_string()))?;
    let answer = rest(&mut connection).await.ok_or(Error::EngineDied)?;
    if head.parts.status.is_success() {
        return Ok(answer.into());
    }
    Err(refused(head.parts.status, &answer))
}

/// What an engine says in place of an answer.
pub(crate) fn refused(status: StatusCode, document: &[u8]) -> Error {
    let mut complaint = decoder::complaint(document).unwrap_or_default();
    complaint.status = status.as_u16();
    if complaint.message.is_empty() {
        complaint.message =
            format!("the engine refused the request with status {}", status.as_u16());
    }
    repair::judge(&mut complaint);
    Error::EngineRefused(Box::new(complaint))
}

fn is_event_stream(answer: &Head) -> bool {
    let kind = answer.parts.headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// llama-server closes after every stream and after every error, whatever the head promises (measured).
fn stays_open(answer: &Head, stream: bool) -> bool {
    !stream
        && answer.keeps_open
        && answer.parts.status < StatusCode::BAD_REQUEST
        && matches!(answer.framing, Framing::Length(_))
}
