//! The last requests of each model with their answers, to be read at `/engines/requests`: bounded by count and by bytes.
//!
//! What passes is copied, and a long request that is in memory anyway is held, and nothing more: it is read, merged and trimmed
//! when somebody asks for it. Only what a redaction forbids to keep is taken out at once.

use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{broadcast, watch};

use crate::config::{Recording, Redaction};
use crate::endpoint::Mode;
use crate::routes::Runner;

mod capture;
mod page;
mod record;
mod render;
mod rewrite;
mod ring;
mod rules;
mod spelling;
mod tape;

pub(crate) use capture::Capture;
pub(crate) use page::{Page, page};
use record::{Answer, Head, Kept, Parts};
use ring::{Ring, Shelf};

/// Of a request, and as much of its answer. More would let a few requests push out all others.
const BODY: usize = 256 * 1024;

/// The first room that an answer takes; it doubles.
const ROOM: usize = 512;

/// Finished requests that a slow follower may be behind, as in Docker Model Runner.
const FOLLOWERS_QUEUE: usize = 100;

/// Longer header values, paths and names of models are cut: clients may pad them as they like.
const FIELD: usize = 256;

/// A client may say what made the request: `ollama/chat`, `anthropic/messages`.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("x-request-origin");

/// The lock is taken twice or so a request, for a few pointers; nobody reads, parses or waits while it is held.
#[expect(clippy::disallowed_types, reason = "one ring for all threads, so that its bounds hold")]
type Lock = std::sync::Mutex<Ring>;

/// What all threads record into.
#[derive(Debug)]
pub(crate) struct Recorder {
    recording: Recording,
    ring: Lock,
    finished: broadcast::Sender<Parts>,
    closed: watch::Sender<bool>,
}

/// Records by the IDs of their models.
type Models = Vec<(Arc<str>, Vec<Parts>)>;

/// A request that is about to be sent to an engine.
pub(crate) struct Asked<'a> {
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) headers: &'a HeaderMap,
    /// The path that the client asked for.
    pub(crate) path: &'a str,
    /// The model as the client calls it.
    pub(crate) model: &'a str,
    pub(crate) mode: Mode,
    /// As the client sent it.
    pub(crate) body: &'a Bytes,
}

impl Recorder {
    pub(crate) fn new(recording: Recording) -> Self {
        Self {
            recording,
            ring: Lock::new(Ring::new(recording.count, recording.bytes)),
            finished: broadcast::channel(FOLLOWERS_QUEUE).0,
            closed: watch::channel(false).0,
        }
    }

    /// The most that is kept of one body: four of them always fit.
    fn body_limit(&self) -> usize {
        BODY.min(self.recording.bytes / 4)
    }

    /// Let an answer have more than `room`, best `wanted` and more to come; how much it has then.
    fn grow(&self, head: &Head, room: usize, wanted: usize) -> usize {
        let larger = wanted.max(ROOM).max(2 * room).min(self.body_limit());
        if larger <= room {
            return room;
        }
        let (is_here, evicted) = self.lock().grow(head, larger - room);
        drop(evicted);
        if is_here { larger } else { 0 }
    }

    /// Begin to record; `None` if the client asked that nothing be kept (RFC 9111 §5.2.1.5).
    pub(crate) fn begin(self: &Arc<Self>, asked: &Asked<'_>, runner: &Runner) -> Option<Capture> {
        if forbids_to_keep(asked.headers) {
            return None;
        }
        let request = Arc::new(self.request(asked));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let field = |name| asked.headers.get(name).map(text);
        let mut head = Head {
            instant: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            request_id: text(asked.request_id),
            model_id: Arc::clone(&runner.model_id),
            model: cut(asked.model.as_bytes()),
            mode: asked.mode,
            url: cut(canonical_path(asked.path).as_bytes()),
            user_agent: field(USER_AGENT),
            origin: field(REQUEST_ORIGIN),
            request_length: asked.body.len(),
        };
        let mut ring = self.lock();
        head.instant = ring.instant(head.instant);
        let head = Arc::new(head);
        let evicted = ring.begin(&head, &request, &runner.names);
        drop(ring);
        // What is freed is freed when nobody waits for it.
        drop(evicted);
        Some(Capture::new(Arc::clone(self), head, &request))
    }

    /// What is kept of a request body.
    fn request(&self, asked: &Asked<'_>) -> Kept {
        let (body, limit) = (asked.body, self.body_limit());
        if asked.headers.get(CONTENT_TYPE).is_some_and(is_form) {
            // A recording, which is neither text nor to be shown.
            return Kept::whole(format!("[form: {} bytes]", body.len()).as_bytes());
        }
        match self.recording.redaction {
            Redaction::Off if body.len() <= limit => Kept::whole(body),
            // As it is: what is not shown of it is cut when it is shown, for a prompt of 400 KB takes 0.2 ms.
            Redaction::Off if body.len() <= self.recording.bytes / 8 => {
                Kept { bytes: body.clone(), missing: 0 }
            }
            Redaction::Off => render::trimmed(body, limit),
            Redaction::Prompts | Redaction::All => {
                Kept::part(&render::redacted(body, rules::Rule::Request), limit)
            }
        }
    }

    /// Note how a request ended, and tell those who follow.
    fn end(&self, parts: Parts, answer: &Arc<Answer>) {
        let mut ring = self.lock();
        let evicted = match &parts.end {
            Some((end, _)) => ring.end(&parts.head, end, answer),
            None => return,
        };
        // Under the lock, so that who begins to read and to follow finds each request once. It fails if nobody follows.
        let _ = self.finished.send(parts);
        drop(ring);
        drop(evicted);
    }

    /// Everything that is kept of the models that `wanted` takes, oldest first: those with records, and those loaded. And
    /// what ends from now on.
    fn read(
        &self,
        loaded: &[(Arc<str>, Arc<[String]>)],
        wanted: Option<&str>,
    ) -> (Models, broadcast::Receiver<Parts>) {
        let ring = self.lock();
        let mut read: Models = ring
            .shelves()
            .filter(|(id, shelf)| wanted.is_none_or(|wanted| is_called(id, shelf, wanted)))
            .map(|(id, shelf)| (Arc::clone(id), shelf.parts()))
            .collect();
        let finished = self.finished.subscribe();
        drop(ring);
        for (id, names) in loaded {
            let is_wanted = wanted.is_none_or(|wanted| spelling::means(wanted, id, names.iter()));
            if is_wanted && !read.iter().any(|(known, _)| known == id) {
                read.push((Arc::clone(id), Vec::new()));
            }
        }
        (read, finished)
    }

    /// Whether a record is of the model that a client calls so.
    fn is_of(&self, head: &Head, wanted: &str) -> bool {
        let names = self.lock().names(&head.model_id);
        spelling::means(wanted, &head.model_id, names.iter().chain([&head.model]))
    }

    /// Let followers go: the server stops.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        // Nothing under the lock leaves it half done, so a panic elsewhere does not make it useless.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_called(id: &str, shelf: &Shelf, wanted: &str) -> bool {
    spelling::means(wanted, id, shelf.names())
}

fn forbids_to_keep(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
    })
}

fn is_form(kind: &HeaderValue) -> bool {
    let kind = kind.as_bytes().get(.."multipart/".len()).unwrap_or_default();
    kind.eq_ignore_ascii_case(b"multipart/")
}

fn text(value: &HeaderValue) -> String {
    cut(value.as_bytes())
}

fn cut(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..FIELD).unwrap_or(text)).into_owned()
}

/// The path as Docker Model Runner records it, whichever alias was used; those of other dialects have none there. The query
/// is not kept: it may hold a key.
fn canonical_path(path: &str) -> String {
    let has_no_alias = ["/engines/", "/api/", "/anthropic/"].iter().any(|it| path.starts_with(it));
    if has_no_alias { path.to_owned() } else { format!("/engines{path}") }
}
