//! Anthropic's messages, as its documentation and its SDKs have them.

use bytes::Bytes;

use super::fields::{self, Fields};
use super::prefill::without_last;
use super::translation::{Needs, Reading, Request, Task};
use crate::endpoint::Mode;
use crate::error::Error;

mod blocks;
mod request;
mod speech;

use speech::Speech;

/// Read a request for a message.
///
/// # Errors
/// [`Error::MalformedBody`], [`Error::MissingModel`], [`Error::InvalidField`].
pub(super) fn messages(body: &Bytes) -> Result<Reading, Error> {
    let fields = Fields::of_body(body)?;
    let mut chat = request::chat(&fields)?;
    let stream = fields.flag("stream", "")?.unwrap_or(false);
    // A stream begins with the size of its prompt.
    chat.return_progress = stream.then_some(true);
    let wants_thoughts = request::wants_thoughts(&fields)?;
    let model = chat.model.clone().into_owned();
    let encoder = Box::new(Speech::new(&model, stream, wants_thoughts));
    let task = Task::Speak {
        path: super::chat::PATH,
        names_stop: !chat.stop.is_empty(),
        body: chat.body()?,
        encoder: without_last(&chat.messages, encoder),
    };
    let needs = Needs::default();
    Ok(Reading::Read(Box::new(Request { stream, ..Request::new(model, task, needs) })))
}

/// Read a question for how many tokens a request would be.
///
/// # Errors
/// Those of [`messages`].
pub(super) fn count_tokens(body: &Bytes) -> Result<Reading, Error> {
    let chat = request::chat(&Fields::of_body(body)?)?;
    let task = Task::Document {
        mode: Mode::Completion,
        path: "/v1/chat/completions/input_tokens",
        aside: true,
        body: chat.body()?,
        encode: Box::new(|counted, _| {
            super::counted_tokens(counted, |tokens| format!("{{\"input_tokens\":{tokens}}}"))
        }),
    };
    let model = chat.model.into_owned();
    let needs = Needs::default();
    Ok(Reading::Read(Box::new(Request::new(model, task, needs))))
}

/// That something of Anthropic's is not here.
fn unsupported(path: &str, what: &str, instead: &str) -> Error {
    fields::invalid(path, format!("{what} is not supported: {instead}"))
}

#[cfg(test)]
mod tests;
