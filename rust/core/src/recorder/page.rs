//! `GET /engines/requests`: what was recorded, and what ends from now on, as JSON or as server-sent events.
//!
//! Records are rendered one after the other as the client takes them, so that a long list holds up no other request.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, request};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::record::Parts;
use super::{Models, Recorder, render};
use crate::endpoint;
use crate::ticket::Ticket;

/// A silent stream gets a comment this often: proxies and clients give up on connections that say nothing.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Records are gathered to about this much before they are handed on.
const FRAME: usize = 32 * 1024;

/// The body of such an answer.
pub(crate) struct Page {
    ticket: Rc<Ticket>,
    next: Option<Next>,
}

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Reader)>>>>;

impl std::fmt::Debug for Page {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Page").finish_non_exhaustive()
    }
}

/// Answer one who wants to read what was recorded.
pub(crate) fn page(
    ticket: &Rc<Ticket>,
    recorder: &Arc<Recorder>,
    head: &request::Parts,
) -> Response<Page> {
    let query = Query::read(head.uri.query().unwrap_or_default());
    let loaded = ticket.worker().shared.routes.loaded();
    let follow = head.headers.get(ACCEPT).is_some_and(wants_events);
    let (models, finished) = recorder.read(&loaded, query.model.as_deref());
    let mut pieces = VecDeque::new();
    let following = if follow {
        let existing = models.into_iter().filter(|_| query.include_existing);
        for record in existing.flat_map(|(_, records)| records) {
            event("existing_request", record, &mut pieces);
        }
        pieces.push_back(Piece::text("event: connected\ndata: {\"status\": \"connected\"}\n\n"));
        Some(Following {
            recorder: Arc::clone(recorder),
            finished,
            closed: recorder.closed.subscribe(),
            heartbeat: ticket.worker().shared.config.heartbeat.unwrap_or(HEARTBEAT),
            wanted: query.model,
        })
    } else {
        list(models, &mut pieces);
        None
    };
    let reader = Reader { pieces, following };
    let mut response =
        Response::new(Page { ticket: Rc::clone(ticket), next: Some(Box::pin(reader.next())) });
    let kind = if follow { "text/event-stream" } else { "application/json" };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl Page {
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ticket.poll_cancelled(context) {
            self.next = None;
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let read = std::task::ready!(next.as_mut().poll(context));
        self.next = None;
        Poll::Ready(read.map(|(bytes, reader)| {
            self.next = Some(Box::pin(reader.next()));
            bytes
        }))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.next.is_none()
    }
}

fn wants_events(accept: &HeaderValue) -> bool {
    let accept = String::from_utf8_lossy(accept.as_bytes());
    accept.split(',').any(|range| {
        let kind = range.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

#[derive(Default)]
struct Query {
    model: Option<String>,
    include_existing: bool,
}

impl Query {
    fn read(query: &str) -> Self {
        let mut read = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = endpoint::decode(&value);
            match name {
                "model" if !value.trim().is_empty() => read.model = Some(value.into_owned()),
                "include_existing" => read.include_existing = matches!(&*value, "true" | "1"),
                _ => {}
            }
        }
        read
    }
}

/// What is still to be written.
enum Piece {
    Text(String),
    Record(Box<Parts>),
}

impl Piece {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn write(self, output: &mut Vec<u8>) {
        match self {
            Self::Text(text) => output.extend_from_slice(text.as_bytes()),
            Self::Record(parts) => render::write(&parts, output),
        }
    }
}

/// The records of all models as one list.
fn list(models: Models, pieces: &mut VecDeque<Piece>) {
    let mut text = "[".to_owned();
    let mut is_first = true;
    for (id, records) in models {
        if !std::mem::take(&mut is_first) {
            text.push(',');
        }
        open(&mut text, &id, records.len());
        for (position, record) in records.into_iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            pieces.push_back(Piece::Text(std::mem::take(&mut text)));
            pieces.push_back(Piece::Record(Box::new(record)));
        }
        text.push_str("]}");
    }
    text.push_str("]\n");
    pieces.push_back(Piece::Text(text));
}

/// One record as an event, in the shape of a list of one.
fn event(name: &str, record: Parts, pieces: &mut VecDeque<Piece>) {
    let mut text = format!("event: {name}\ndata: [");
    open(&mut text, &record.head.model_id, 1);
    pieces.push_back(Piece::Text(text));
    pieces.push_back(Piece::Record(Box::new(record)));
    pieces.push_back(Piece::text("]}]\n\n"));
}

/// The begin of a model's entry, up to its first record.
fn open(text: &mut String, model_id: &str, count: usize) {
    let id = serde_json::Value::from(model_id);
    // `config` is the control plane's, and empty where nothing was configured.
    let _ = write!(text, "{{\"count\":{count},\"model\":{id},\"config\":{{}},\"records\":[");
}

/// What one client reads.
struct Reader {
    pieces: VecDeque<Piece>,
    /// Goes on with what ends from now on.
    following: Option<Following>,
}

struct Following {
    recorder: Arc<Recorder>,
    finished: broadcast::Receiver<Parts>,
    closed: watch::Receiver<bool>,
    heartbeat: Duration,
    wanted: Option<String>,
}

impl Reader {
    /// The next bytes; `None` at the end.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if self.pieces.is_empty() {
            self.following.as_mut()?.wait(&mut self.pieces).await?;
        } else {
            // The thread has other connections, which may have waited for the pieces before.
            tokio::task::yield_now().await;
        }
        let mut output = Vec::new();
        while output.len() < FRAME
            && let Some(piece) = self.pieces.pop_front()
        {
            piece.write(&mut output);
        }
        Some((output.into(), self))
    }
}

/// What a follower waits for.
enum Heard {
    Finished(Parts),
    Missed(u64),
    Nothing,
}

impl Following {
    /// Wait for something to say; `None` when the server stops.
    async fn wait(&mut self, pieces: &mut VecDeque<Piece>) -> Option<()> {
        let until = Instant::now() + self.heartbeat;
        while pieces.is_empty() {
            match self.hear(until).await? {
                Heard::Finished(record) if self.takes(&record) => {
                    event("new_request", record, pieces);
                }
                Heard::Finished(_) => {}
                Heard::Missed(count) => pieces.push_back(Piece::Text(format!(
                    "event: missed_requests\ndata: {{\"count\":{count}}}\n\n"
                ))),
                Heard::Nothing => pieces.push_back(Piece::text(": keep-alive\n\n")),
            }
        }
        Some(())
    }

    async fn hear(&mut self, until: Instant) -> Option<Heard> {
        tokio::select! {
            biased;
            _ = self.closed.wait_for(|closed| *closed) => None,
            finished = self.finished.recv() => match finished {
                Ok(record) => Some(Heard::Finished(record)),
                Err(RecvError::Lagged(count)) => Some(Heard::Missed(count)),
                Err(RecvError::Closed) => None,
            },
            () = tokio::time::sleep_until(until) => Some(Heard::Nothing),
        }
    }

    fn takes(&self, record: &Parts) -> bool {
        let wanted = self.wanted.as_deref();
        wanted.is_none_or(|wanted| self.recorder.is_of(&record.head, wanted))
    }
}
