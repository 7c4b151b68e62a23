//! What is copied of one request's answer while it passes.

use std::sync::{Arc, Weak};

use http::StatusCode;

use super::record::{Answer, End, Head, Kept, Kind, Parts};
use super::tape::Tape;
use super::{Recorder, render};
use crate::account::{Entry, Outcome};
use crate::assemble::Shape;
use crate::config::Redaction;
use crate::error::Error;

/// Docker Model Runner's status of requests that were given up before they had one.
const NO_STATUS: u16 = 408;

/// The answer of one request, as far as it has passed.
#[derive(Debug)]
pub(crate) struct Capture {
    recorder: Arc<Recorder>,
    head: Arc<Head>,
    /// Gone as soon as the record is.
    request: Weak<Kept>,
    status: u16,
    kind: Kind,
    response: Tape,
    /// How large the tape may become before more has to be asked for.
    room: usize,
    passed: usize,
    /// What we said ourselves in place of an answer.
    refusal: Option<Vec<u8>>,
}

impl Capture {
    pub(super) fn new(recorder: Arc<Recorder>, head: Arc<Head>, request: &Arc<Kept>) -> Self {
        Self {
            recorder,
            head,
            request: Arc::downgrade(request),
            status: 0,
            kind: Kind::Document,
            response: Tape::default(),
            room: 0,
            passed: 0,
            refusal: None,
        }
    }

    /// The engine begins to answer.
    pub(crate) fn answers(&mut self, status: StatusCode, stream: bool, path: &str) {
        self.status = status.as_u16();
        self.kind = if stream { Kind::Stream(Shape::of(path)) } else { Kind::Document };
    }

    /// The next bytes of the answer.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Once something is missing nothing is added, or there would be a hole.
        let is_whole = self.passed == self.response.length();
        self.passed += bytes.len();
        if self.request.strong_count() == 0 {
            // Pushed out by others: what is held is let go at once.
            self.response = Tape::default();
        } else if is_whole {
            let (recorder, head, room) = (&self.recorder, &self.head, &mut self.room);
            self.response.push(bytes, |held, wanted| {
                if wanted > *room {
                    *room = recorder.grow(head, *room, wanted);
                    held.reserve_exact(room.saturating_sub(held.len()));
                }
                *room
            });
        }
    }

    /// The client is told this in place of an answer.
    pub(crate) fn refused(&mut self, error: &Error) {
        if self.status == 0 {
            let left = matches!(error, Error::ClientLeft);
            self.status = if left { NO_STATUS } else { error.status().as_u16() };
            self.refusal = Some(error.to_json().to_vec());
        }
    }

    /// The engine never saw the request.
    pub(crate) fn strike(&mut self) {
        let struck = self.recorder.lock().strike(&self.head);
        drop(struck);
    }

    /// Nothing more comes.
    pub(crate) fn close(mut self, outcome: Outcome, entry: &Entry) {
        // Nothing was answered, so nobody was there to be answered.
        self.refused(&Error::ClientLeft);
        let end = Arc::new(End {
            status: self.status,
            outcome: outcome.name(),
            usage: entry.usage,
            load: entry.load,
            queued: entry.queued,
            first_token: entry.first_token,
            duration: entry.duration,
            response_length: self.passed,
        });
        let answer = Arc::new(self.answer(&end));
        let parts = Parts {
            head: self.head,
            request: self.request,
            end: Some((end, Arc::downgrade(&answer))),
        };
        self.recorder.end(parts, &answer);
    }

    fn answer(&mut self, end: &End) -> Answer {
        let mut tape = std::mem::take(&mut self.response);
        tape.close();
        let redaction = self.recorder.recording.redaction;
        if let Some(refusal) = self.refusal.take() {
            let response = render::partial(&tape, end, redaction);
            return Answer::Settled { response, error: Some(Kept::whole(&refusal)) };
        }
        match redaction {
            Redaction::Off => Answer::Raw(self.kind, tape),
            redaction => render::settle(self.kind, &tape, end, redaction),
        }
    }
}
