//! The dialects that clients speak: whose words an answer is in, and how a request in other words than the engine's own
//! is put to it.
//!
//! OpenAI's chat, texts and embeddings are the engine's own dialect and pass as they are. A request in another one is
//! read by its module, which says what the engine is to be asked ([`translation::Request`]); what the engine says is
//! decoded once ([`decoder`]) into events ([`event`]), and the module's encoder says them in the client's words.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;

use crate::endpoint::Foreign;
use crate::error::{Error, Fault};
use fields::Fields;
use translation::Reading;

pub(crate) mod anthropic;
pub(crate) mod chat;
pub(crate) mod decoder;
pub(crate) mod event;
pub(crate) mod fields;
mod identifier;
pub(crate) mod ollama;
mod prefill;
pub(crate) mod responses;
mod shorten;
pub(crate) mod translation;
mod words;

/// Find out what a body in another dialect asks for.
///
/// # Errors
/// [`Error::MalformedBody`], [`Error::MissingModel`] or [`Error::InvalidParameter`].
pub(crate) fn read(foreign: Foreign, body: &Bytes) -> Result<Reading, Error> {
    match foreign {
        Foreign::Messages => anthropic::messages(body),
        Foreign::CountTokens => anthropic::count_tokens(body),
        Foreign::Responses => responses::create(body),
        Foreign::ResponsesTokens => responses::count_tokens(body),
        Foreign::OllamaChat => ollama::chat(body),
        Foreign::OllamaGenerate => ollama::generate(body),
        Foreign::OllamaEmbed => ollama::embed(body),
        Foreign::OllamaEmbeddings => ollama::embeddings(body),
    }
}

/// What a client is told of an engine's count of tokens.
fn counted_tokens(answer: &[u8], tell: impl Fn(u64) -> String) -> Result<Vec<u8>, Error> {
    let unreadable = || Error::EngineUnreachable("it did not count the tokens".to_owned());
    let counted = Fields::of(answer, "")
        .and_then(|fields| fields.get::<u64>("input_tokens", "", "a number"))
        .ok()
        .flatten();
    Ok(tell(counted.ok_or_else(unreadable)?).into_bytes())
}

/// Whose words a client reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's; errors of the management endpoints have its shape, too.
    #[default]
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Ollama's.
    Ollama,
}

impl Dialect {
    /// That of a cleaned path.
    pub(crate) fn of(path: &str) -> Self {
        let name = path.trim_start_matches('/');
        let messages = name.ends_with("v1/messages") || name.ends_with("v1/messages/count_tokens");
        if name == "api" || name.starts_with("api/") {
            Self::Ollama
        } else if messages || name.starts_with("anthropic/") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    /// An error as a whole answer; `request_id` is the request's.
    pub(crate) fn document(self, error: &Error, request_id: &HeaderValue) -> Bytes {
        let document = match self {
            Self::OpenAi => return error.to_json(),
            Self::Anthropic => serde_json::to_vec(&AnthropicError {
                kind: "error",
                error: AnthropicDetail {
                    kind: anthropic_kind(error),
                    message: words::anthropic(error),
                },
                request_id: request_id.to_str().unwrap_or_default(),
            }),
            Self::Ollama => serde_json::to_vec(&OllamaError { error: ollama::words(error) }),
        };
        document.map_or_else(|_| Bytes::from_static(b"{\"error\":{}}"), Bytes::from)
    }

    /// The same as the last thing in a stream that has begun.
    pub(crate) fn event(self, error: &Error, request_id: &HeaderValue) -> Bytes {
        let document = self.document(error, request_id);
        let parts: [&[u8]; 3] = match self {
            Self::OpenAi => [b"data: ", &document, b"\n\n"],
            Self::Anthropic => [b"event: error\ndata: ", &document, b"\n\n"],
            Self::Ollama => [b"", &document, b"\n"],
        };
        Bytes::from(parts.concat())
    }
}

/// Anthropic's error, as its SDKs read it.
#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicDetail<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct AnthropicDetail<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: Cow<'a, str>,
}

#[derive(Serialize)]
struct OllamaError<'a> {
    error: Cow<'a, str>,
}

/// The types that Anthropic's documentation gives to statuses.
fn anthropic_kind(error: &Error) -> &'static str {
    match error.status().as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        408 | 504 => "timeout_error",
        _ if error.fault() == Fault::Client => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests;
