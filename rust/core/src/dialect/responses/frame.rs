//! The response object: what a request said of it, around what is said.

use std::time::{SystemTime, UNIX_EPOCH};

use super::items;
use super::tools::is_hosted;
use crate::dialect::event::Tally;
use crate::dialect::fields::{Fields, invalid};
use crate::dialect::identifier;
use crate::dialect::translation::Question;
use crate::dialect::translation::{Background, Place};
use crate::error::Error;
use crate::peek::elements;

/// What is repeated of the request, with what stands there if it does not say; in the order of OpenAI's documentation.
const REPEATED: [(&str, &str); 20] = [
    ("background", "false"),
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("metadata", "{}"),
    ("model", "null"),
    ("parallel_tool_calls", "true"),
    ("previous_response_id", "null"),
    ("prompt_cache_key", "null"),
    ("reasoning", "{\"effort\":null,\"summary\":null}"),
    ("safety_identifier", "null"),
    ("service_tier", "\"default\""),
    ("temperature", "1.0"),
    ("text", "{\"format\":{\"type\":\"text\"}}"),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", "\"disabled\""),
    ("user", "null"),
];

/// How a response stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// The limit on tokens came first.
    Incomplete,
    Cancelled,
    /// With the code and the message of the error.
    Failed(String, String),
}

impl Status {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Cancelled => "cancelled",
            Self::Failed(..) => "failed",
        }
    }

    /// What became of it, if that is an error.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Cancelled => Self::Cancelled,
            other => Self::Failed(other.code().to_owned(), other.advice().into_owned()),
        }
    }
}

/// What of a response is known before anything is said.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) id: String,
    created: u64,
    /// Members that repeat the request's, each with a comma before it.
    repeated: Vec<u8>,
    /// It is to be kept.
    pub(super) store: bool,
    pub(super) background: bool,
    input: Vec<u8>,
    /// As JSON.
    previous: Vec<u8>,
}

impl Frame {
    pub(super) fn new(fields: &Fields<'_>) -> Result<Self, Error> {
        let store = fields.flag("store", "")?.unwrap_or(true);
        let background = fields.flag("background", "")?.unwrap_or(false);
        if background && !store {
            let reason = "a response in the background has to be stored: leave out `store`";
            return Err(invalid("background", reason));
        }
        if background && fields.flag("stream", "")? == Some(true) {
            let reason = "a response in the background cannot be streamed: ask for it by its ID";
            return Err(invalid("stream", reason));
        }
        let mut repeated = Vec::new();
        for (name, otherwise) in REPEATED {
            let own_tools;
            let value = match (name, fields.raw(name)) {
                ("tools", Some(tools)) => {
                    own_tools = without_hosted(tools);
                    &own_tools
                }
                (_, value) => value.unwrap_or(otherwise.as_bytes()),
            };
            for part in [b",\"", name.as_bytes(), b"\":"] {
                repeated.extend_from_slice(part);
            }
            // An event's data is one line. In JSON no string has a bare end of line, so it stands between values.
            let in_line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
            repeated.extend(value.iter().map(in_line));
        }
        Ok(Self {
            id: identifier::fresh("resp_"),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            repeated,
            store,
            background,
            input: items::kept(fields.raw("input")),
            previous: fields.raw("previous_response_id").unwrap_or(b"null").to_vec(),
        })
    }

    /// The response object; `output` is the inside of its array.
    pub(super) fn write(
        &self,
        status: &Status,
        output: &[u8],
        usage: Option<(Tally, u64)>,
        out: &mut Vec<u8>,
    ) {
        let (error, details) = match status {
            Status::Failed(code, message) => {
                (serde_json::json!({ "code": code, "message": message }).to_string(), "null")
            }
            Status::Incomplete => ("null".to_owned(), "{\"reason\":\"max_output_tokens\"}"),
            _ => ("null".to_owned(), "null"),
        };
        let head = format!(
            "{{\"id\":\"{}\",\"object\":\"response\",\"created_at\":{},\"status\":\"{}\",\"error\":{error},\"incomplete_details\":{details},\"output\":[",
            self.id,
            self.created,
            status.name(),
        );
        let usage =
            usage.map_or_else(|| "null".to_owned(), |(tally, thought)| told(tally, thought));
        let tail = format!(",\"store\":{},\"usage\":{usage}}}", self.store);
        for part in [head.as_bytes(), output, b"]", &self.repeated, tail.as_bytes()] {
            out.extend_from_slice(part);
        }
    }

    /// Have a response kept.
    pub(super) fn keep(&self, response: &[u8]) -> Question {
        let body = [
            b"{\"id\":\"",
            self.id.as_bytes(),
            b"\",\"response\":",
            response,
            b",\"input\":",
            &self.input,
            b",\"previous_response_id\":",
            &self.previous,
            b"}",
        ]
        .concat();
        Question { place: Place::Control("/_control/responses"), body }
    }

    fn stands(&self, status: &Status) -> Vec<u8> {
        let mut response = Vec::new();
        self.write(status, b"", None, &mut response);
        response
    }
}

impl Background {
    /// Of a response that goes on without its client.
    pub(super) fn of(frame: &Frame) -> Self {
        let begun = frame.stands(&Status::InProgress);
        let id = frame.id.clone();
        let (keep, frame) = (frame.keep(&begun), frame.clone());
        let failed = Box::new(move |error: &Error| frame.keep(&frame.stands(&Status::of(error))));
        Self { id, answer: begun, keep, failed }
    }
}

/// The tools that the model is told of.
fn without_hosted(tools: &[u8]) -> Vec<u8> {
    let is_own = |raw: &&[u8]| {
        let kind = Fields::of(raw, "").and_then(|tool| tool.text("type", ""));
        !kind.ok().flatten().is_some_and(|kind| is_hosted(&kind))
    };
    let own: Vec<&[u8]> = elements(tools).filter(is_own).collect();
    [b"[", own.join(&b',').as_slice(), b"]"].concat()
}

fn told(tally: Tally, thought: u64) -> String {
    let Tally { prompt, cached, produced, .. } = tally;
    format!(
        "{{\"input_tokens\":{prompt},\"input_tokens_details\":{{\"cached_tokens\":{cached}}},\"output_tokens\":{produced},\"output_tokens_details\":{{\"reasoning_tokens\":{}}},\"total_tokens\":{}}}",
        thought.min(produced),
        prompt.saturating_add(produced),
    )
}
