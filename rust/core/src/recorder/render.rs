//! A record as its readers see it: streams merged to one answer, media cut, what is redacted taken out.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use super::BODY;
use super::record::{Answer, End, Kept, Kind, Parts};
use super::rewrite::{begin, rewrite};
use super::rules::Rule;
use super::tape::Tape;
use crate::assemble::{Assembled, Assembler, Shape};
use crate::config::Redaction;
use crate::sse::Splitter;
use crate::usage::Usage;

#[cfg(test)]
mod tests;

/// `document` as `rule` shows it; what cannot be read is hidden as a whole.
pub(super) fn redacted(document: &[u8], rule: Rule) -> Vec<u8> {
    rewrite(document, rule)
        .unwrap_or_else(|| format!("\"[redacted: {} bytes]\"", document.len()).into_bytes())
}

/// What is shown of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    response: Option<Vec<u8>>,
    error: Option<Vec<u8>>,
}

fn told(kind: Kind, tape: &Tape, end: &End) -> Told {
    match kind {
        Kind::Stream(Some(shape)) if end.status < 400 => merged(shape, tape, end.usage),
        _ if end.status < 400 => Told { response: some(tape), error: None },
        _ => Told { response: None, error: Some(tape.unfolded()) },
    }
}

fn some(tape: &Tape) -> Option<Vec<u8>> {
    (tape.length() > 0).then(|| tape.unfolded())
}

/// The events of a stream as one answer, as far as it came.
fn merged(shape: Shape, stream: &Tape, usage: Usage) -> Told {
    let mut assembler = Assembler::new(shape);
    let mut splitter = Splitter::default();
    stream.play(|piece| {
        splitter.push(&Bytes::copy_from_slice(piece), |data| assembler.push(&data));
    });
    let error = match assembler.finish(usage) {
        Assembled::Answer(response) => return Told { response: Some(response), error: None },
        Assembled::Refused { body, .. } => Some(body),
        Assembled::Cut if assembler.is_empty() => {
            return Told { response: some(stream), error: None };
        }
        Assembled::Cut | Assembled::Withheld => None,
    };
    // What was said before it broke off is worth more than the events that said it.
    let response = (!assembler.is_empty()).then(|| assembler.so_far(usage));
    Told { response, error }
}

/// An answer without what must not be kept.
pub(super) fn settle(kind: Kind, tape: &Tape, end: &End, redaction: Redaction) -> Answer {
    let rule = if redaction == Redaction::Prompts { Rule::Answer } else { Rule::Response };
    let Told { response, error } = told(kind, tape, end);
    let response = response.map(|response| match kind {
        // Not merged, or it would be one document.
        Kind::Stream(_) if !response.starts_with(b"{") => events(&response, rule),
        _ => redacted(&response, rule),
    });
    let missing = end.response_length - tape.length();
    let part = |bytes: Vec<u8>| Kept { bytes: bytes.into(), missing };
    // Errors quote what they complain about.
    let error = error.map(|error| part(redacted(&error, Rule::Response)));
    Answer::Settled { response: response.map(part), error }
}

/// A part of an answer that the client did not get, without what must not be kept.
pub(super) fn partial(tape: &Tape, end: &End, redaction: Redaction) -> Option<Kept> {
    let document = some(tape)?;
    let shown = match redaction {
        Redaction::Off => document,
        Redaction::Prompts => redacted(&document, Rule::Answer),
        Redaction::All => redacted(&document, Rule::Response),
    };
    Some(Kept { bytes: shown.into(), missing: end.response_length - tape.length() })
}

/// The data of a stream's events, one by one.
fn events(stream: &[u8], rule: Rule) -> Vec<u8> {
    let mut shown = Vec::new();
    Splitter::default().push(&Bytes::copy_from_slice(stream), |data| {
        shown.extend_from_slice(b"data: ");
        match &*data {
            b"[DONE]" => shown.extend_from_slice(b"[DONE]"),
            data => shown.extend(redacted(data, rule)),
        }
        shown.extend_from_slice(b"\n\n");
    });
    shown
}

/// A record in JSON: Docker Model Runner's members in its order, then ours.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    model: &'a str,
    method: &'static str,
    url: &'a str,
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    timestamp: u64,
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    request_id: &'a str,
    mode: &'static str,
    /// Bytes that are missing at the end.
    #[serde(skip_serializing_if = "is_zero")]
    request_truncated: usize,
    #[serde(skip_serializing_if = "is_zero")]
    response_truncated: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<f64>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
struct Tokens {
    prompt_tokens: u64,
    cached_prompt_tokens: u64,
    completion_tokens: u64,
    reasoning_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Write the record in JSON.
pub(super) fn write(parts: &Parts, output: &mut Vec<u8>) {
    let head = &*parts.head;
    let (request, request_truncated) = match parts.request.upgrade() {
        Some(kept) if kept.bytes.len() > BODY => {
            let kept = trimmed(&kept.bytes, BODY);
            (text(&kept), kept.missing)
        }
        Some(kept) => (text(&kept), kept.missing),
        None => (String::new(), head.request_length),
    };
    let end = parts.end.as_ref().map(|(end, _)| &**end);
    let answer = parts.end.as_ref().map(|(end, answer)| match answer.upgrade() {
        Some(answer) => shown(&answer, end),
        None => (None, None, end.response_length),
    });
    let (response, error, response_truncated) = answer.unwrap_or_default();
    let milliseconds = |duration: std::time::Duration| {
        #[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
        let milliseconds = duration.as_micros() as f64 / 1e3;
        milliseconds
    };
    let record = Shown {
        id: format!("{}_{}", head.model_id, head.instant),
        model: &head.model,
        method: "POST",
        url: &head.url,
        request,
        response,
        error,
        timestamp: head.instant / 1_000_000_000,
        status_code: end.map_or(0, |end| end.status),
        user_agent: head.user_agent.as_deref(),
        origin: head.origin.as_deref(),
        request_id: &head.request_id,
        mode: head.mode.name(),
        request_truncated,
        response_truncated,
        outcome: end.map(|end| end.outcome),
        usage: end.map(|end| Tokens {
            prompt_tokens: end.usage.prompt_tokens,
            cached_prompt_tokens: end.usage.cached_prompt_tokens,
            completion_tokens: end.usage.completion_tokens,
            reasoning_tokens: end.usage.reasoning_tokens,
        }),
        load_ms: end.and_then(|end| end.load).map(milliseconds),
        queued_ms: end.map(|end| milliseconds(end.queued)),
        first_token_ms: end.and_then(|end| end.first_token).map(milliseconds),
        duration_ms: end.map(|end| milliseconds(end.duration)),
    };
    // Writing into a vector cannot fail.
    let _ = serde_json::to_writer(output, &record);
}

/// Response, error, and how many bytes are missing.
fn shown(answer: &Answer, end: &End) -> (Option<String>, Option<String>, usize) {
    let (response, error, missing) = match answer {
        Answer::Raw(kind, tape) => {
            let missing = end.response_length - tape.length();
            let Told { response, error } = told(*kind, tape, end);
            // What was merged is whole JSON: what is missing is said beside it.
            let noted = if *kind == Kind::Document { missing } else { 0 };
            let part = |bytes: Vec<u8>| text(&Kept { bytes: bytes.into(), missing: noted });
            (response.map(part), error.map(part), missing)
        }
        Answer::Settled { response, error } => {
            let missing = response.iter().chain(error).map(|kept| kept.missing).max();
            (response.as_ref().map(text), error.as_ref().map(text), missing.unwrap_or(0))
        }
    };
    (response, error.map(as_error), missing)
}

/// The begin of a long body without its media, which alone may be why it is so long.
pub(super) fn trimmed(body: &[u8], limit: usize) -> Kept {
    match begin(body, Rule::Plain, limit) {
        Some((trimmed, unseen)) => {
            let kept = Kept::part(&trimmed, limit);
            Kept { missing: kept.missing + unseen, ..kept }
        }
        None => Kept::part(body, limit),
    }
}

/// A body as text, media cut, with a note where it ends early.
fn text(kept: &Kept) -> String {
    if kept.missing == 0 {
        let trimmed = rewrite(&kept.bytes, Rule::Plain);
        let bytes = trimmed.map_or(Cow::Borrowed(&*kept.bytes), Cow::Owned);
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let text = String::from_utf8_lossy(&kept.bytes);
    // A character may be cut in two.
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    format!("{text}...[truncated {} bytes]", kept.missing)
}

/// An error is always JSON.
fn as_error(body: String) -> String {
    let message = match body.trim() {
        "" => "unknown error",
        _ if serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok() => return body,
        text => text,
    };
    serde_json::json!({ "error": message }).to_string()
}
