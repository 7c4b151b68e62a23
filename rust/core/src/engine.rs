//! One exchange with an engine: send the request on a connection that works, and turn the answer's head into ours.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CACHE_CONTROL,
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, SERVER,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, response};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::account::Outcome;
use crate::assemble::Shape;
use crate::control::strip_hop_by_hop;
use crate::error::Error;
use crate::observe::Observer;
use crate::relay::{Account, Answer, Relay, Whole};
use crate::routes::Runner;
use crate::upstream::{Connection, EngineConnection, SendError};

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
    /// The body asks for a stream, of which the client gets a whole answer of this shape.
    pub(crate) assembled: Option<Shape>,
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
pub(crate) async fn ask(call: Call<'_>, mut account: Account) -> Result<Response<Answer>, Failed> {
    account.asked(call.path, call.body);
    let runner = Arc::clone(account.lease.runner());
    let mut unread = true;
    let mut first_failure = None;
    if let Some(sent) = send_reused(&call, &account, &runner).await {
        match sent {
            Ok(answer) => return deliver(answer, call.assembled, account).await,
            // The engine may close a kept connection at the moment we use it. No byte of an answer has come, and we have
            // the whole body, so the request is sent again on a new one.
            Err(error) => {
                unread = error.is_unread();
                first_failure = Some(error);
            }
        }
    }
    match send_fresh(&call, &account, &runner).await {
        Ok(answer) => deliver(answer, call.assembled, account).await,
        Err(error) if unread && error.is_unread() => {
            account.strike();
            Err(Failed::Unread { runner_id: runner.id.clone() })
        }
        // It is not asked of another engine: it may be what killed this one.
        Err(error) => {
            account.outcome = Outcome::EngineError;
            // What broke first says more than that nobody listens any more.
            let reason = first_failure.filter(|_| !unread).unwrap_or(error);
            Err(Failed::Finally(Error::EngineUnreachable(reason.to_string())))
        }
    }
}

/// The head of an answer, its body to come, and the connection that it comes on.
type Answering = (Response<Incoming>, EngineConnection);

type Sent = Result<Answering, SendError>;

async fn send_reused(call: &Call<'_>, account: &Account, runner: &Runner) -> Option<Sent> {
    let worker = &account.worker;
    let mut connection = worker.pool.take(runner)?;
    let sent = connection.send(call.request(runner)).await;
    Some(sent.map(|response| {
        worker.counters.upstream_reused();
        (response, connection)
    }))
}

async fn send_fresh(call: &Call<'_>, account: &Account, runner: &Runner) -> Sent {
    let mut connection = Connection::open(&runner.socket).await?;
    account.worker.counters.upstream_opened();
    let response = connection.send(call.request(runner)).await?;
    Ok((response, connection))
}

impl Call<'_> {
    fn request(&self, runner: &Runner) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target();
        let headers = request.headers_mut();
        headers.reserve(FORWARDED.len() + 3);
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        if let Some(authorization) = &runner.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        for name in FORWARDED {
            if let Some(value) = self.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        request
    }

    fn target(&self) -> Uri {
        let plain = || Uri::from_static(self.path);
        match self.query {
            Some(query) => {
                Uri::try_from(format!("{}?{query}", self.path)).unwrap_or_else(|_| plain())
            }
            None => plain(),
        }
    }
}

/// The engine's answer as the client gets it: as it comes, or, if a whole one is wanted of a stream, once it is there.
async fn deliver(
    (response, connection): Answering,
    assembled: Option<Shape>,
    mut account: Account,
) -> Result<Response<Answer>, Failed> {
    let (mut head, incoming) = response.into_parts();
    let stream = is_event_stream(&head);
    let poolable = stays_open(&head, stream);
    strip_hop_by_hop(&mut head.headers);
    for name in &WITHHELD {
        head.headers.remove(name);
    }
    if let Some(shape) = assembled.filter(|_| stream) {
        head.headers.remove(CACHE_CONTROL);
        head.headers.remove(ACCEL_BUFFERING);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        let whole = Whole::new(incoming, connection, shape, account);
        let (status, body) = Box::pin(whole.gather()).await.map_err(Failed::Finally)?;
        head.status = status.unwrap_or(head.status);
        return Ok(Response::from_parts(head, Answer::own(body)));
    }
    if stream {
        head.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        head.headers.entry(ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
    }
    if head.status.is_client_error() {
        account.outcome = Outcome::ClientError;
    } else if head.status.is_server_error() {
        account.outcome = Outcome::EngineError;
    }
    let observer = if stream { Observer::stream(account.prompts) } else { Observer::document() };
    let relay = Relay::new(incoming, connection, poolable, observer, account);
    Ok(Response::from_parts(head, Answer::Engine(Box::new(relay))))
}

fn is_event_stream(head: &response::Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// llama-server closes after every stream and after every error, whatever the head promises (measured).
fn stays_open(head: &response::Parts, stream: bool) -> bool {
    let close = head
        .headers
        .get(CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    !stream
        && !close
        && head.status < StatusCode::BAD_REQUEST
        && head.headers.contains_key(CONTENT_LENGTH)
}
