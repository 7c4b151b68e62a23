//! An engine's stream on its way to a client that reads another dialect.
//!
//! Everything is heard and booked as if it were relayed; what the client gets is what the translation makes of it. Its
//! end is always said in the client's dialect, so the body itself ends as it should, whatever became of the engine.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::{CutShort, Relay, Stage};
use crate::account::Outcome;
use crate::dialect::translation::{Answering, Question, Translation};
use crate::error::Error;

/// Puts questions that have to be answered before the end can be said.
pub(crate) type Ask = Box<dyn Fn(Question) -> Answering>;

/// A translated answer on its way.
pub(crate) struct Translated {
    relay: Relay,
    translation: Translation,
    ask: Ask,
    answering: Option<Answering>,
}

impl std::fmt::Debug for Translated {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Translated").field("relay", &self.relay).finish_non_exhaustive()
    }
}

impl Translated {
    pub(crate) fn new(relay: Relay, translation: Translation, ask: Ask) -> Self {
        Self { relay, translation, ask, answering: None }
    }

    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        loop {
            if let Some(bytes) = self.translation.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(answering) = &mut self.answering {
                let answer = ready!(answering.as_mut().poll(context));
                self.answering = None;
                self.translation.learn(answer);
            } else if self.relay.stage == Stage::Complete {
                return Poll::Ready(None);
            } else {
                ready!(self.listen(context));
            }
            self.answering = self.translation.question().map(&self.ask);
        }
    }

    /// Hear what comes next.
    fn listen(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let relay = &mut self.relay;
        if relay.account.ticket.poll_cancelled(context) {
            let end = relay.account.ticket.end();
            self.give_up(&end);
            return Poll::Ready(());
        }
        let data = match &mut relay.connection {
            Some(connection) => ready!(connection.poll_data(context)),
            None => None,
        };
        match data {
            Some(Ok(chunk)) => self.hear(&chunk),
            Some(Err(_)) => {
                relay.account.outcome = Outcome::EngineError;
                self.give_up(&Error::EngineDied);
            }
            None => {
                relay.complete();
                if self.translation.is_hearing() {
                    relay.account.outcome = Outcome::EngineError;
                    self.translation.fail(&Error::EngineDied);
                }
            }
        }
        Poll::Ready(())
    }

    fn hear(&mut self, chunk: &Bytes) {
        let (relay, translation) = (&mut self.relay, &mut self.translation);
        relay.note_first_byte();
        let before = relay.observer.content_events();
        let mut heard = Ok(());
        relay.observer.observe_with(chunk, |data| {
            if heard.is_ok() {
                heard = translation.hear(data);
            }
        });
        relay.account.entry.pace.note(relay.observer.content_events() - before);
        relay.account.record(chunk);
        if let Err(error) = heard {
            relay.account.outcome = Outcome::EngineError;
            self.translation.fail(&error);
        }
    }

    /// The engine is not heard any more.
    fn give_up(&mut self, error: &Error) {
        self.relay.connection = None;
        self.relay.stage = Stage::Complete;
        self.relay.account.record(&error.to_event());
        self.translation.fail(error);
    }
}
