//! A stream that is asked for while its model loads, or behind others: comments tell the client that it is not forgotten.
//!
//! Until the first of them nothing is decided: an error has its own status. Afterwards it comes as an event.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::error::Error;
use crate::relay::{Answer, CutShort};
use crate::ticket::Ticket;

/// An event stream's comment, which every client passes over.
const HEARTBEAT: &[u8] = b": waiting\n\n";

/// Engines' errors are some hundred bytes.
const ERROR_LIMIT: usize = 1 << 20;

/// An answer in the making.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Result<Response<Answer>, Error>>>>;

/// What the rest of a stream will be, or the event that ends it.
type Rest = Pin<Box<dyn Future<Output = Result<Answer, Bytes>>>>;

/// The answer, or if it takes longer than `beat`, the begin of a stream that it will be the rest of.
///
/// # Errors
/// Those of the answer, if it fails within that time.
pub(crate) async fn patiently(
    ticket: &Rc<Ticket>,
    beat: Duration,
    mut pending: Pending,
) -> Result<Response<Answer>, Error> {
    if let Ok(answered) = timeout(beat, &mut pending).await {
        return answered;
    }
    let mut beats = interval_at(Instant::now(), beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rest = Box::pin(continued(Rc::clone(ticket), pending));
    let ticket = Rc::clone(ticket);
    let waiting = Waiting { ticket, stage: Stage::Waiting { rest, beats } };
    let mut response = Response::new(Answer::Waiting(Box::new(waiting)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The answer as the rest of a stream whose head is gone already.
async fn continued(ticket: Rc<Ticket>, pending: Pending) -> Result<Answer, Bytes> {
    let response = pending.await.map_err(|error| {
        ticket.refuse(&error);
        ticket.event(&error)
    })?;
    let kind = response.headers().get(CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        return Ok(response.into_body());
    }
    if response.body().is_end_stream() {
        // The model was to be loaded, and nothing else.
        return Ok(response.into_body());
    }
    // The engine refused it, with a JSON document and a status that can no more be told.
    let collected = Limited::new(response.into_body(), ERROR_LIMIT).collect().await;
    let document = collected.map_err(|_| ticket.event(&Error::EngineDied))?.to_bytes();
    // JSON has line ends between its parts only, where a space is as good; an event may not have them.
    let line: Vec<u8> =
        document.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }).collect();
    Err(Bytes::from([b"data: ", line.as_slice(), b"\n\n"].concat()))
}

enum Stage {
    Waiting { rest: Rest, beats: Interval },
    Streaming(Answer),
    Ended,
}

/// The body of a stream that has not begun.
pub(crate) struct Waiting {
    ticket: Rc<Ticket>,
    stage: Stage,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Waiting").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl Waiting {
    pub(crate) fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        loop {
            match &mut self.stage {
                Stage::Waiting { .. } if self.ticket.poll_cancelled(context) => {
                    self.stage = Stage::Ended;
                    let end = self.ticket.end();
                    self.ticket.refuse(&end);
                    let event = self.ticket.event(&end);
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
                Stage::Waiting { rest, beats } => match rest.as_mut().poll(context) {
                    Poll::Ready(Ok(answer)) => self.stage = Stage::Streaming(answer),
                    Poll::Ready(Err(event)) => {
                        self.stage = Stage::Ended;
                        return Poll::Ready(Some(Ok(Frame::data(event))));
                    }
                    Poll::Pending => {
                        std::task::ready!(beats.poll_tick(context));
                        return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(HEARTBEAT)))));
                    }
                },
                Stage::Streaming(answer) => return Pin::new(answer).poll_frame(context),
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }
}
