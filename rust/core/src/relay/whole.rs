//! A whole answer from an engine's stream. Nothing reaches the client before the end; whoever waits for it may drop it
//! at any time, which closes the engine's connection.

use bytes::Bytes;
use http::StatusCode;

use super::Account;
use crate::account::Outcome;
use crate::assemble::{Assembled, Assembler, Shape};
use crate::error::Error;
use crate::observe::Observer;
use crate::upstream::EngineConnection;

/// An engine's stream, on its way to be a whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Never pooled: llama-server closes after a stream.
    connection: EngineConnection,
    observer: Observer,
    assembler: Assembler,
    account: Box<Account>,
    answered: bool,
}

impl Whole {
    pub(crate) fn new(connection: EngineConnection, shape: Shape, account: Box<Account>) -> Self {
        let observer = Observer::stream(account.prompts);
        Self { connection, observer, assembler: Assembler::new(shape), account, answered: false }
    }

    /// The body of the answer, and its status if the engine reports a failure after it had begun.
    pub(crate) async fn gather(mut self) -> Result<(Option<StatusCode>, Bytes), Error> {
        while !self.assembler.is_complete() {
            let data = std::future::poll_fn(|context| self.connection.poll_data(context));
            let Some(Ok(chunk)) = data.await else { break };
            let before = self.observer.content_events();
            self.observer.observe_with(&chunk, |data| self.assembler.push(data));
            self.account.entry.pace.note(self.observer.content_events() - before);
        }
        match self.assembler.finish(self.observer.findings().usage) {
            Assembled::Answer(body) => {
                self.answered(Outcome::Ok, StatusCode::OK, &body);
                Ok((None, body.into()))
            }
            Assembled::Refused { status, body } => {
                let status = status_of(status);
                let fault = if status.is_client_error() {
                    Outcome::ClientError
                } else {
                    Outcome::EngineError
                };
                self.answered(fault, status, &body);
                Ok((Some(status), body.into()))
            }
            Assembled::Cut => {
                self.account.outcome = Outcome::EngineError;
                if let Some(capture) = &mut self.account.capture {
                    capture.refused(&Error::EngineDied);
                }
                Err(Error::EngineDied)
            }
        }
    }

    fn answered(&mut self, outcome: Outcome, status: StatusCode, body: &[u8]) {
        self.answered = true;
        self.account.outcome = outcome;
        if outcome == Outcome::Ok {
            self.account.worker.prepare(self.account.lease.runner());
        }
        if let Some(capture) = &mut self.account.capture {
            capture.answers(status, false, "");
            capture.push(body);
        }
        self.account.entry.first_byte = Some(self.account.clock.received.elapsed());
    }
}

/// The status that an engine names in its error; a failure without one, or with one that is none, is its own.
fn status_of(code: Option<u16>) -> StatusCode {
    code.and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.is_client_error() || status.is_server_error())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl Drop for Whole {
    fn drop(&mut self) {
        // No event was relayed, so none is booked.
        let findings = self.observer.findings();
        self.account.entry.usage = findings.usage;
        self.account.entry.choices = findings.choices;
        if !self.answered && !self.assembler.is_empty() {
            // Nobody got it, but it tells what the engine was at.
            let partial = self.assembler.so_far(findings.usage);
            self.account.record(&partial);
        }
    }
}
