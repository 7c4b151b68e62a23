//! What all dialects have in common: whose words an error is in.

use http::HeaderValue;
use serde_json::{Value, json};

use super::Dialect;
use crate::error::{Complaint, Error};

mod client;
mod properties;
mod requests;

fn document(dialect: Dialect, error: &Error) -> Value {
    let document = dialect.document(error, &HeaderValue::from_static("req-1"));
    serde_json::from_slice(&document).expect("an error is JSON")
}

#[test]
fn a_path_says_whose_words_are_read() {
    for (path, dialect) in [
        ("/v1/messages", Dialect::Anthropic),
        ("/anthropic/v1/messages", Dialect::Anthropic),
        ("/anthropic/v1/models", Dialect::Anthropic),
        ("/engines/llama.cpp/v1/messages", Dialect::Anthropic),
        ("/v1/messages/count_tokens", Dialect::Anthropic),
        ("/api/chat", Dialect::Ollama),
        ("/api", Dialect::Ollama),
        ("/apis", Dialect::OpenAi),
        ("/v1/responses", Dialect::OpenAi),
        ("/v1/chat/completions", Dialect::OpenAi),
        ("/", Dialect::OpenAi),
    ] {
        assert_eq!(Dialect::of(path), dialect, "{path}");
    }
}

#[test]
fn an_error_is_in_the_clients_words() {
    let error = Error::MissingModel;
    let message = error.advice().into_owned();
    assert_eq!(document(Dialect::Ollama, &error), json!({ "error": "model is required" }));
    let kind = "invalid_request_error";
    assert_eq!(
        document(Dialect::Anthropic, &error),
        json!({
            "type": "error", "error": { "type": kind, "message": message }, "request_id": "req-1",
        })
    );
    assert_eq!(
        document(Dialect::OpenAi, &error),
        json!({ "error": {
            "message": message, "type": kind, "param": "model", "code": "missing_model",
        }})
    );
}

#[test]
fn an_error_in_a_stream_is_an_event_of_the_dialect() {
    let error = Error::EngineDied;
    for (dialect, begin, end) in [
        (Dialect::Anthropic, "event: error\ndata: {", "}\n\n"),
        (Dialect::Ollama, "{\"error\":", "}\n"),
        (Dialect::OpenAi, "data: {\"error\":", "}\n\n"),
    ] {
        let event = dialect.event(&error, &HeaderValue::from_static("req-1"));
        let event = std::str::from_utf8(&event).expect("text");
        assert!(event.starts_with(begin) && event.ends_with(end), "{event}");
        assert_eq!(event.trim_end().lines().count(), begin.lines().count(), "{event}");
    }
}

#[test]
fn anthropics_types_are_those_of_its_statuses() {
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ] {
        let complaint = Complaint { status, ..Complaint::default() };
        let error = Error::EngineRefused(Box::new(complaint));
        assert_eq!(document(Dialect::Anthropic, &error)["error"]["type"], kind, "{status}");
    }
}
