//! Every request, from top to bottom: who asks, for what, and who answers.

use std::rc::Rc;

use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, SERVER,
};
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use serde::Serialize;

use crate::admit::{self, Admitted};
use crate::control;
use crate::decode;
use crate::dialect::Dialect;
use crate::endpoint::{self, Endpoint};
use crate::error::Error;
use crate::infer;
use crate::recorder;
use crate::relay::{Answer, Forward};
use crate::ticket::{self, REQUEST_ID, Ticket};
use crate::worker::Door;

const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Answer one request, whatever it is.
pub(crate) async fn handle(
    ticket: Rc<Ticket>,
    door: Door,
    request: Request<Incoming>,
) -> Response<Answer> {
    let worker = ticket.worker();
    let loopback = worker.shared.loopback && door == Door::Tcp;
    ticket.speaks(Dialect::of(&endpoint::clean(request.uri().path())));
    let mut response = match worker.shared.admission.admit(&request, loopback) {
        Ok(Admitted::Plain) => answer(&ticket, request).await,
        Ok(Admitted::Page(origin)) => {
            let mut response = answer(&ticket, request).await;
            admit::allow(response.headers_mut(), origin);
            response
        }
        Ok(Admitted::Preflight(origin)) => {
            ticket.settle(true);
            admit::preflight(&request, origin)
        }
        Err(error) => refusal(&ticket, &error),
    };
    response.headers_mut().insert(REQUEST_ID, ticket.id().clone());
    if ticket.dialect() == Dialect::Anthropic {
        // Where Anthropic's SDKs look for it.
        response.headers_mut().insert(ANTHROPIC_REQUEST_ID, ticket.id().clone());
    }
    response
}

async fn answer(ticket: &Rc<Ticket>, request: Request<Incoming>) -> Response<Answer> {
    // Boxed, so that a connection holds its room only while there is no answer yet, not for as long as it lives.
    let answered = ticket.unless_cancelled(Box::pin(dispatch(ticket, request))).await;
    answered.unwrap_or_else(|error| refusal(ticket, &error))
}

async fn dispatch(
    ticket: &Rc<Ticket>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Error> {
    let path = endpoint::clean(request.uri().path()).into_owned();
    let shared = &ticket.worker().shared;
    match endpoint::classify(request.method(), &path, &shared.config.backends) {
        Endpoint::Inference(target) => infer::infer(ticket, request, target).await,
        Endpoint::NotOffered(absence) => Err(Error::NotOffered(absence)),
        Endpoint::Cancel(id) => {
            let cancelled = Cancelled { id, cancelled: ticket::cancel(ticket, id).await? };
            ticket.settle(true);
            Ok(json(&cancelled))
        }
        Endpoint::CancelResponse(id) => {
            // If it is not in flight, the control plane knows what became of it.
            let _ = ticket::cancel(ticket, id).await;
            forward(ticket, request, &path).await
        }
        Endpoint::Recorder => read_records(ticket, request),
        Endpoint::Management => forward(ticket, request, &path).await,
        Endpoint::MethodNotAllowed => Err(Error::MethodNotAllowed),
        Endpoint::UnknownBackend(name) => Err(Error::UnknownBackend(name.to_owned())),
        Endpoint::Private => Err(Error::PathNotFound),
    }
}

/// The answer to one who cancels.
#[derive(Serialize)]
struct Cancelled<'a> {
    id: &'a str,
    /// How many requests in flight had that ID.
    cancelled: usize,
}

fn json(value: &impl Serialize) -> Response<Answer> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Answer::own(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn read_records(
    ticket: &Rc<Ticket>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Error> {
    let recorder = ticket.worker().shared.recorder.as_ref().ok_or(Error::RecorderOff)?;
    ticket.settle(true);
    let page = recorder::page(ticket, recorder, &request.into_parts().0);
    Ok(page.map(|page| Answer::Records(Box::new(page))))
}

async fn forward(
    ticket: &Rc<Ticket>,
    mut request: Request<Incoming>,
    path: &str,
) -> Result<Response<Answer>, Error> {
    request.headers_mut().insert(REQUEST_ID, ticket.id().clone());
    let (response, connection) = control::forward(ticket, request, path).await?;
    ticket.settle(true);
    let (mut head, incoming) = response.into_parts();
    control::strip_hop_by_hop(&mut head.headers);
    head.headers.remove(SERVER);
    let body = Answer::Control(Box::new(Forward::new(incoming, connection, Rc::clone(ticket))));
    Ok(Response::from_parts(head, body))
}

fn refusal(ticket: &Ticket, error: &Error) -> Response<Answer> {
    ticket.refuse(error);
    let mut response = Response::new(Answer::own(ticket.document(error)));
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
    if matches!(error, Error::UnsupportedEncoding(_)) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(decode::ACCEPTED));
    }
    if matches!(error, Error::MethodNotAllowed) {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}
