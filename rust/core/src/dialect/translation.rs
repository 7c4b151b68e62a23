//! What a request in another dialect comes to, and how what the engine says to it becomes the client's answer.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::decoder;
use super::event::Event;
use crate::endpoint::Mode;
use crate::error::{Complaint, Error};
use crate::routes::Capabilities;

/// Says what an engine says in a client's words: bit by bit, or, if the client wants a whole answer, all at its end.
///
/// Each event of the answer is heard in order, but for [`Event::Failed`] and [`Event::Done`]; then the questions are
/// answered that have to be before the end can be said, then the end is said. Nothing is heard after
/// [`Encoder::fail`], but questions and the end still follow.
pub(crate) trait Encoder: std::fmt::Debug {
    /// A runner is found, and is about to be asked.
    fn start(&mut self, _start: &Start) {}

    /// Hear an event, and write what can be said already.
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>);

    /// Hear that there will be no more: what was said is all, and why. Only of a stream: who waits for a whole answer is
    /// told with its status.
    fn fail(&mut self, error: &Error, out: &mut Vec<u8>);

    /// What has to be known, or done, before the end can be said.
    fn question(&mut self) -> Option<Question> {
        None
    }

    /// Take the answer to the last question; without one the end has to do.
    fn learn(&mut self, _answer: Result<Bytes, Error>) {}

    /// Write the end; of a whole answer all of it.
    fn end(&mut self, out: &mut Vec<u8>);
}

/// What is known when the engine is about to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// How long the request has waited for the model to be loaded; `None` if it was.
    pub(crate) load: Option<Duration>,
    /// The request's ID.
    pub(crate) request_id: HeaderValue,
}

/// Something to be asked, or to be told, elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) place: Place,
    /// A JSON object.
    pub(crate) body: Vec<u8>,
}

/// Where a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a private path of the control plane.
    Control(&'static str),
    /// By the engine that serves the model, at a path at which the model itself has no part.
    Engine(&'static str),
}

/// An answer that is on its way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Bytes, Error>>>>;

/// What a body was found to be.
pub(crate) enum Reading {
    /// All that is to be known.
    Read(Box<Request>),
    /// The answer to the question is needed first; it is the next argument. `model` is whose engine is to be asked.
    Asks { model: String, question: Question, then: Then },
}

/// What an answer leads to.
pub(crate) type Then = Box<dyn FnOnce(&[u8]) -> Result<Reading, Error>>;

/// A request in the engine's words.
pub(crate) struct Request {
    /// As the client spelt it.
    pub(crate) model: String,
    pub(crate) task: Task,
    pub(crate) needs: Needs,
    /// The client reads a stream; always false where the answer is a document.
    pub(crate) stream: bool,
    /// What is asked instead if the engine refuses it.
    pub(crate) retry: Option<Retry>,
    /// It goes on without its client; then it is a stream, which nobody reads.
    pub(crate) background: Option<Background>,
}

impl Request {
    /// For a whole answer.
    pub(crate) fn new(model: String, task: Task, needs: Needs) -> Self {
        Self { model, task, needs, stream: false, retry: None, background: None }
    }
}

/// A request that goes on without its client, who asks for the answer later.
pub(crate) struct Background {
    /// The ID that it is cancelled by.
    pub(crate) id: String,
    /// What the client gets now.
    pub(crate) answer: Vec<u8>,
    /// Has it kept, before it begins.
    pub(crate) keep: Question,
    /// Has it kept that it came to nothing.
    pub(crate) failed: Box<dyn FnOnce(&Error) -> Question>,
}

/// What to ask of an engine that refused a request for this reason; `None` if there is nothing else.
pub(crate) type Retry = Box<dyn FnOnce(&Complaint) -> Option<Result<Reading, Error>>>;

/// What is to be done for a request.
pub(crate) enum Task {
    /// Have the model speak. `stream` and what goes with it are set in the body when it is sent.
    ///
    /// `names_stop`: the encoder has to know which stop string ended the answer.
    Speak { path: &'static str, body: Vec<u8>, encoder: Box<dyn Encoder>, names_stop: bool },
    /// Have the engine answer with a document, at a path with that mode.
    Document { mode: Mode, path: &'static str, aside: bool, body: Vec<u8>, encode: Encode },
    /// Have the model loaded; the document is the answer.
    Load { mode: Mode, answer: Loaded },
    /// Have it unloaded; the document is the answer.
    Unload { answer: Vec<u8> },
}

/// Says that a model is loaded.
pub(crate) type Loaded = Box<dyn FnOnce(&Start) -> Vec<u8>>;

/// Says an engine's document in a client's words.
pub(crate) type Encode = Box<dyn FnOnce(&[u8], &Start) -> Result<Vec<u8>, Error>>;

/// What a request needs of the runner that answers it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Needs {
    /// Tokens of context, at least.
    pub(crate) context_size: Option<u32>,
    /// How long it stays from now on when it has nothing to do, in seconds; negative for ever.
    pub(crate) keep_alive: Option<f64>,
    /// The model is to think, call tools, fill in the middle.
    pub(crate) thinking: bool,
    pub(crate) tools: bool,
    pub(crate) insert: bool,
}

impl Needs {
    /// Refuse a runner whose model cannot do what is needed.
    ///
    /// # Errors
    /// [`Error::Incapable`].
    pub(crate) fn check(&self, model: &str, capabilities: Capabilities) -> Result<(), Error> {
        let missing = [
            (self.thinking && !capabilities.thinking(), "thinking"),
            (self.tools && !capabilities.tools(), "tools"),
            (self.insert && !capabilities.insert(), "insert"),
        ];
        match missing.into_iter().find(|(is_missing, _)| *is_missing) {
            Some((_, what)) => Err(Error::Incapable { model: model.to_owned(), what }),
            None => Ok(()),
        }
    }
}

/// An answer on its way from an engine's words to a client's.
#[derive(Debug)]
pub(crate) struct Translation {
    encoder: Box<dyn Encoder>,
    out: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The engine speaks.
    Hearing,
    /// It has said all, or failed.
    Asking,
    /// The end is said.
    Ended,
}

impl Translation {
    pub(crate) fn new(encoder: Box<dyn Encoder>) -> Self {
        Self { encoder, out: Vec::new(), stage: Stage::Hearing }
    }

    /// A runner is found, and is about to be asked.
    pub(crate) fn start(&mut self, start: &Start) {
        self.encoder.start(start);
    }

    /// Hear the data of a stream's event, or a whole answer.
    ///
    /// # Errors
    /// What the engine says went wrong; nothing of it is told to the client yet.
    pub(crate) fn hear(&mut self, data: &[u8]) -> Result<(), Error> {
        if self.stage != Stage::Hearing {
            return Ok(());
        }
        let mut failure = None;
        let read = decoder::read(data, |event| match event {
            Event::Failed(complaint) => failure = Some(Error::EngineRefused(Box::new(complaint))),
            Event::Done => self.stage = Stage::Asking,
            event => self.encoder.event(&event, &mut self.out),
        });
        match (failure, read) {
            (Some(failure), _) => Err(failure),
            (None, None) => Err(Error::EngineUnreachable("its answer cannot be read".to_owned())),
            (None, Some(())) => Ok(()),
        }
    }

    /// All has been heard.
    pub(crate) fn finish(&mut self) {
        if self.stage == Stage::Hearing {
            self.stage = Stage::Asking;
        }
    }

    /// There will be no more.
    pub(crate) fn fail(&mut self, error: &Error) {
        if self.stage == Stage::Hearing {
            self.encoder.fail(error, &mut self.out);
            self.stage = Stage::Asking;
        }
    }

    /// Whether it still wants to hear the engine.
    pub(crate) fn is_hearing(&self) -> bool {
        self.stage == Stage::Hearing
    }

    /// The next question, once all has been heard; when there is none, the end is said.
    pub(crate) fn question(&mut self) -> Option<Question> {
        if self.stage != Stage::Asking {
            return None;
        }
        let question = self.encoder.question();
        if question.is_none() {
            self.encoder.end(&mut self.out);
            self.stage = Stage::Ended;
        }
        question
    }

    /// Take the answer to the question.
    pub(crate) fn learn(&mut self, answer: Result<Bytes, Error>) {
        self.encoder.learn(answer);
    }

    /// What there is for the client now.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        (!self.out.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.out)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
