//! One recorded request: what is known from its beginning, what its end added, and its bodies, which may be let go first.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::tape::Tape;
use crate::assemble::Shape;
use crate::endpoint::Mode;
use crate::usage::Usage;

/// Bytes of a body, as far as they are kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) bytes: Bytes,
    /// How many more there were.
    pub(super) missing: usize,
}

impl Kept {
    pub(super) fn whole(bytes: &[u8]) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), missing: 0 }
    }

    pub(super) fn part(bytes: &[u8], limit: usize) -> Self {
        let part = bytes.get(..limit).unwrap_or(bytes);
        Self { bytes: Bytes::copy_from_slice(part), missing: bytes.len() - part.len() }
    }
}

/// What is known of a request when it begins.
#[derive(Debug)]
pub(super) struct Head {
    /// Nanoseconds since 1970. No two requests have the same.
    pub(super) instant: u64,
    /// What the client was told in `X-Request-Id`.
    pub(super) request_id: String,
    pub(super) model_id: Arc<str>,
    /// The model as the client called it.
    pub(super) model: String,
    pub(super) mode: Mode,
    pub(super) url: String,
    pub(super) user_agent: Option<String>,
    pub(super) origin: Option<String>,
    pub(super) request_length: usize,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: u16,
    pub(super) outcome: &'static str,
    pub(super) usage: Usage,
    pub(super) load: Option<Duration>,
    pub(super) queued: Duration,
    pub(super) first_token: Option<Duration>,
    pub(super) duration: Duration,
    pub(super) response_length: usize,
}

/// How the bytes of an answer are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One document.
    Document,
    /// Server-sent events, whose merging is known for these shapes.
    Stream(Option<Shape>),
}

/// The answer, as it is kept.
#[derive(Debug)]
pub(super) enum Answer {
    /// As it came.
    Raw(Kind, Tape),
    /// As it is to be shown.
    Settled { response: Option<Kept>, error: Option<Kept> },
}

impl Answer {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Raw(_, tape) => tape.size(),
            Self::Settled { response, error } => {
                [response, error].into_iter().flatten().map(|kept| kept.bytes.len()).sum()
            }
        }
    }
}

/// A record as the ring keeps it. Only the ring holds on to the bodies, so that they are gone when they have to go.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) head: Arc<Head>,
    pub(super) request: Arc<Kept>,
    pub(super) end: Option<(Arc<End>, Arc<Answer>)>,
}

/// A record as readers hold it while they wait for their client to take what came before.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) head: Arc<Head>,
    pub(super) request: Weak<Kept>,
    pub(super) end: Option<(Arc<End>, Weak<Answer>)>,
}

impl Record {
    pub(super) fn parts(&self) -> Parts {
        Parts {
            head: Arc::clone(&self.head),
            request: Arc::downgrade(&self.request),
            end: self.end.as_ref().map(|(end, answer)| (Arc::clone(end), Arc::downgrade(answer))),
        }
    }
}
