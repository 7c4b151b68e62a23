//! The ways to the control plane: ask it for a lease or for media, and hand it a request that is not inference.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::endpoint::Mode;
use crate::error::{Error, Refusal};
use crate::intake::{self, Inflow};
use crate::ticket::Ticket;
use crate::upstream::{ControlConnection, ControlError};
use crate::worker::Worker;

/// Answers of the lease call are small, and so are refusals; more than this is not one.
const ANSWER_LIMIT: usize = 1 << 20;

const HOP_BY_HOP: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

#[derive(Serialize)]
struct Wanted<'a> {
    model: &'a str,
    mode: &'static str,
    failed_runner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_size: Option<u32>,
}

#[derive(Serialize)]
struct KeepAlive<'a> {
    runner_id: &'a str,
    keep_alive: f64,
}

#[derive(Deserialize)]
struct Granted {
    runner_id: String,
}

#[derive(Serialize)]
struct Addresses<'a> {
    urls: &'a [&'a str],
}

#[derive(Deserialize)]
struct Media {
    data_urls: Vec<String>,
}

/// Ask for a runner that serves `model`, with so much context for a request at least, and wait until there is one. Dropping the future ends the wait only.
///
/// # Errors
/// [`Error::Refused`] with the control plane's reason, [`Error::ControlUnreachable`] if it does not answer.
pub(crate) async fn lease(
    worker: &Worker,
    model: &str,
    mode: Mode,
    failed_runner: Option<&str>,
    context_size: Option<u32>,
) -> Result<String, Error> {
    let wanted = Wanted { model, mode: mode.name(), failed_runner, context_size };
    let granted: Granted = call(worker, "/_control/leases", &wanted, ANSWER_LIMIT).await?;
    Ok(granted.runner_id)
}

/// Say for how long a runner is to stay when it has nothing to do, in seconds; negative for ever.
///
/// # Errors
/// Those of [`ask`].
pub(crate) async fn keep_alive(
    worker: &Worker,
    runner_id: &str,
    keep_alive: f64,
) -> Result<(), Error> {
    let body = serde_json::to_vec(&KeepAlive { runner_id, keep_alive }).map_err(unreachable)?;
    ask(worker, "/_control/keep_alive", body).await.map(drop)
}

/// Fetch what is at each of `urls`, as `data:` URLs in the same order. Dropping the future ends it.
///
/// # Errors
/// [`Error::Refused`] with the reason why one is not fetched, [`Error::ControlUnreachable`] if there is no answer.
pub(crate) async fn fetch_media(worker: &Worker, urls: &[&str]) -> Result<Vec<String>, Error> {
    // More could not be sent on anyway.
    let limit = worker.shared.config.body_limit.saturating_add(ANSWER_LIMIT);
    let media: Media = call(worker, "/_control/media", &Addresses { urls }, limit).await?;
    if media.data_urls.len() == urls.len() {
        return Ok(media.data_urls);
    }
    Err(unreachable("it did not fetch every image"))
}

/// Ask the private path `path`, with a JSON object, for a JSON document.
///
/// # Errors
/// [`Error::Refused`] with the control plane's reason, [`Error::ControlUnreachable`] if there is no answer.
pub(crate) async fn ask(
    worker: &Worker,
    path: &'static str,
    body: Vec<u8>,
) -> Result<Bytes, Error> {
    // What it is asked for came in as one request, or goes into one.
    let limit = worker.shared.config.body_limit.saturating_add(ANSWER_LIMIT);
    post(worker, path, body, limit).await
}

async fn call<Asked: Serialize, Answered: DeserializeOwned>(
    worker: &Worker,
    path: &'static str,
    asked: &Asked,
    limit: usize,
) -> Result<Answered, Error> {
    let body = serde_json::to_vec(asked).map_err(unreachable)?;
    let answer = post(worker, path, body, limit).await?;
    serde_json::from_slice(&answer).map_err(unreachable)
}

async fn post(
    worker: &Worker,
    path: &'static str,
    body: Vec<u8>,
    limit: usize,
) -> Result<Bytes, Error> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, body.len())
        .body(Full::new(Bytes::from(body)))
        .map_err(unreachable)?;
    let mut connection =
        ControlConnection::open(&worker.shared.config.control_socket).await.map_err(unreachable)?;
    let response = connection.send(request).await.map_err(unreachable)?;
    let status = response.status();
    let answer = read(&mut connection, response, limit).await?;
    if status.is_success() {
        return Ok(answer);
    }
    let mut refusal: Box<Refusal> = serde_json::from_slice(&answer).map_err(unreachable)?;
    refusal.status = status.as_u16();
    Err(Error::Refused(refusal))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
fn unreachable(error: impl ToString) -> Error {
    Error::ControlUnreachable(error.to_string())
}

async fn read(
    connection: &mut ControlConnection<Full<Bytes>>,
    response: Response<Incoming>,
    limit: usize,
) -> Result<Bytes, Error> {
    let mut body = std::pin::pin!(Limited::new(response.into_body(), limit).collect());
    let collected = std::future::poll_fn(|context| {
        connection.drive(context);
        body.as_mut().poll(context)
    })
    .await;
    collected.map(http_body_util::Collected::to_bytes).map_err(unreachable)
}

/// Hand a request on as it is, body streamed, on a connection of its own.
///
/// # Errors
/// [`Error::ControlUnreachable`] if the control plane does not answer.
pub(crate) async fn forward(
    ticket: &Rc<Ticket>,
    mut request: Request<Incoming>,
    path: &str,
) -> Result<(Response<Incoming>, ControlConnection<Inflow>), Error> {
    // In HTTP/2, and in the absolute form, the target says what `Host` says otherwise.
    let authority =
        request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    *request.uri_mut() = Uri::try_from(target).map_err(unreachable)?;
    *request.version_mut() = Version::HTTP_11;
    strip_hop_by_hop(request.headers_mut());
    if let Some(Ok(authority)) = authority {
        request.headers_mut().insert(HOST, authority);
    } else if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    }
    let config = &ticket.worker().shared.config;
    let request = request.map(|body| Inflow::new(ticket, body));
    let opened: Result<_, ControlError> = async {
        let mut connection = ControlConnection::open(&config.control_socket).await?;
        let response = connection.send(request).await?;
        Ok((response, connection))
    }
    .await;
    opened.map_err(
        |error| if intake::is_late(&error) { Error::BodyTimeout } else { unreachable(error) },
    )
}

/// Remove what speaks of one connection only (RFC 9110 §7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // `Connection` may name more headers that end here.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}
