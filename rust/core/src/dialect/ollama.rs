//! Ollama's own API, as its clients have it: chat, generation, embeddings. What is no inference the control plane answers.

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fields::Fields;
use super::translation::Reading;
use crate::error::Error;

pub(super) use refusals::words;

mod chat;
mod embed;
mod generate;
mod images;
mod options;
mod probabilities;
mod refusals;
mod speech;

/// Read a request to chat.
///
/// # Errors
/// [`Error::MalformedBody`], [`Error::MissingModel`], [`Error::InvalidField`].
pub(super) fn chat(body: &Bytes) -> Result<Reading, Error> {
    chat::read(body)
}

/// Read a request for text.
///
/// # Errors
/// Those of [`chat()`].
pub(super) fn generate(body: &Bytes) -> Result<Reading, Error> {
    generate::read(body)
}

/// Read a request for vectors.
///
/// # Errors
/// Those of [`chat()`].
pub(super) fn embed(body: &Bytes) -> Result<Reading, Error> {
    embed::read(body)
}

/// Read a request for one vector, as it was before there was [`embed()`].
///
/// # Errors
/// Those of [`chat()`].
pub(super) fn embeddings(body: &Bytes) -> Result<Reading, Error> {
    embed::read_one(body)
}

/// A body's members; Ollama finds them in whatever case, and calls the model by an older name, too.
fn open(body: &[u8]) -> Result<(Fields<'_>, String), Error> {
    let fields = Fields::of_body(body)?.in_any_case();
    let model = match fields.raw("model") {
        Some(_) => fields.model()?,
        None => {
            fields.text("name", "")?.filter(|name| !name.is_empty()).ok_or(Error::MissingModel)?
        }
    };
    Ok((fields, refusals::local(&model)?.to_owned()))
}

/// This moment, as answers have it.
fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
