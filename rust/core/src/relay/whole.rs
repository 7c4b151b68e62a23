//! A whole answer from an engine's stream. Nothing reaches the client before the end; whoever waits for it may drop it
//! at any time, which closes the engine's connection.

use bytes::Bytes;
use http::StatusCode;

use super::Account;
use crate::account::Outcome;
use crate::assemble::{Assembled, Assembler, Question};
use crate::error::Error;
use crate::observe::Observer;
use crate::upstream::EngineConnection;
use crate::usage;

/// An engine's stream, on its way to be a whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Never pooled: llama-server closes after a stream.
    connection: EngineConnection,
    observer: Observer,
    assembler: Assembler,
    /// `None` once somebody else goes on with it.
    account: Option<Box<Account>>,
    answered: bool,
}

/// What became of a stream.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// A whole answer.
    Answer {
        /// Its status, if the engine reports a failure after it had begun.
        status: Option<StatusCode>,
        body: Bytes,
    },
    /// Nothing, for the engine kept some of it to itself: it is to be asked for the whole answer, on the same account.
    Withheld(Box<Account>),
    /// Nothing, for the engine is gone.
    Failed(Error),
}

impl Whole {
    pub(crate) fn new(
        connection: EngineConnection,
        assembler: Assembler,
        account: Box<Account>,
    ) -> Self {
        let observer = Observer::stream(account.prompts);
        Self { connection, observer, assembler, account: Some(account), answered: false }
    }

    /// Read the stream to its end.
    pub(crate) async fn read(&mut self) {
        while !self.assembler.is_complete() {
            let data = std::future::poll_fn(|context| self.connection.poll_data(context));
            let Some(Ok(chunk)) = data.await else { break };
            let before = self.observer.content_events();
            self.observer.observe_with(&chunk, |data| self.assembler.push(data));
            let tokens = self.observer.content_events() - before;
            self.book(|account| account.entry.pace.note(tokens));
        }
    }

    /// What the engine is to be asked yet, whom the request `body` asks for a whole answer.
    pub(crate) fn question(&self, body: &[u8]) -> Option<Question> {
        self.assembler.question(body)
    }

    /// Take the engine's answer to the question; `None` if it does not say.
    pub(crate) fn learn(&mut self, answer: &[u8]) -> Option<()> {
        let usage = usage::from_json(answer).unwrap_or_default();
        self.book(|account| account.besides(usage));
        self.assembler.learn(answer)
    }

    /// Say what became of the stream.
    pub(crate) fn finish(mut self) -> Gathered {
        match self.assembler.finish(self.observer.findings().usage) {
            Assembled::Answer(body) => {
                self.answered(Outcome::Ok, StatusCode::OK, &body);
                Gathered::Answer { status: None, body: body.into() }
            }
            Assembled::Refused { status, body } => {
                let status = status_of(status);
                let fault = if status.is_client_error() {
                    Outcome::ClientError
                } else {
                    Outcome::EngineError
                };
                self.answered(fault, status, &body);
                Gathered::Answer { status: Some(status), body: body.into() }
            }
            Assembled::Withheld => match self.account.take() {
                Some(mut account) => {
                    account.once_more(self.observer.findings().usage);
                    Gathered::Withheld(account)
                }
                None => Gathered::Failed(Error::EngineDied),
            },
            Assembled::Cut => {
                self.book(|account| {
                    account.outcome = Outcome::EngineError;
                    if let Some(capture) = &mut account.capture {
                        capture.refused(&Error::EngineDied);
                    }
                });
                Gathered::Failed(Error::EngineDied)
            }
        }
    }

    fn answered(&mut self, outcome: Outcome, status: StatusCode, body: &[u8]) {
        self.answered = true;
        self.book(|account| {
            account.outcome = outcome;
            if outcome == Outcome::Ok {
                account.worker.prepare(account.lease.runner());
            }
            account.answered(status, body);
        });
    }

    fn book(&mut self, note: impl FnOnce(&mut Account)) {
        if let Some(account) = &mut self.account {
            note(account);
        }
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
        let Some(account) = &mut self.account else { return };
        // No event was relayed, so none is booked.
        let findings = self.observer.findings();
        account.entry.usage = findings.usage;
        account.entry.choices = findings.choices;
        if !self.answered && !self.assembler.is_empty() {
            // Nobody got it, but it tells what the engine was at.
            let partial = self.assembler.so_far(findings.usage);
            account.record(&partial);
        }
    }
}
