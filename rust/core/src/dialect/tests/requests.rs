//! Whatever a client sends: it is taken or refused in its dialect, and no thread dies of it.

use bytes::Bytes;
use http::HeaderValue;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::dialect::read;
use crate::dialect::translation::tests::{SPEAKERS, dialect_of, wish};
use crate::dialect::translation::{Reading, Task};
use crate::endpoint::Foreign;
use crate::error::{Complaint, Error};

const ALL: [Foreign; 8] = [
    Foreign::Messages,
    Foreign::CountTokens,
    Foreign::Responses,
    Foreign::ResponsesTokens,
    Foreign::OllamaChat,
    Foreign::OllamaGenerate,
    Foreign::OllamaEmbed,
    Foreign::OllamaEmbeddings,
];

/// Names that some dialect knows, at whatever depth, and one that none does.
const NAMES: [&str; 66] = [
    "arguments",
    "background",
    "budget_tokens",
    "call_id",
    "content",
    "context",
    "data",
    "delta",
    "description",
    "detail",
    "dimensions",
    "effort",
    "error",
    "finish_reason",
    "format",
    "function",
    "id",
    "image_url",
    "images",
    "include",
    "input",
    "input_audio",
    "input_schema",
    "instructions",
    "is_error",
    "keep_alive",
    "logprobs",
    "max_output_tokens",
    "max_tokens",
    "media_type",
    "message",
    "messages",
    "mode",
    "model",
    "name",
    "num_ctx",
    "num_predict",
    "options",
    "output",
    "output_config",
    "parameters",
    "prompt",
    "raw",
    "reasoning",
    "role",
    "schema",
    "source",
    "stop",
    "stop_sequences",
    "stream",
    "suffix",
    "summary",
    "system",
    "template",
    "text",
    "think",
    "thinking",
    "tool_calls",
    "tool_choice",
    "tool_use_id",
    "tools",
    "top_logprobs",
    "truncate",
    "type",
    "choices",
    "unknown",
];

/// Texts that mean something somewhere.
const TEXTS: [&str; 30] = [
    "",
    "m",
    "user",
    "assistant",
    "system",
    "developer",
    "tool",
    "text",
    "image",
    "base64",
    "url",
    "tool_use",
    "tool_result",
    "thinking",
    "function",
    "custom",
    "auto",
    "any",
    "none",
    "json_schema",
    "json",
    "enabled",
    "function_call",
    "function_call_output",
    "reasoning",
    "message",
    "input_text",
    "5m",
    "{\"a\":",
    "\"\u{0}日\n",
];

/// A JSON value with the names and texts of the dialects.
pub(super) fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2_i64..9).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(&TEXTS[..]).prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let name = select(&NAMES[..]).prop_map(str::to_owned);
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(name, inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A body of the dialect's in which some members are others.
fn body(foreign: Foreign) -> impl Strategy<Value = Value> {
    let name = select(&NAMES[..]).prop_map(str::to_owned);
    btree_map(name, json_value(), 0..4).prop_map(move |changes| {
        let mut body = wish(foreign, true);
        let members: Map<String, Value> = changes.into_iter().collect();
        body.as_object_mut().expect("an object").extend(members);
        body
    })
}

/// It is taken, with a body that an engine can read, or refused with words.
fn try_it(foreign: Foreign, body: &[u8], answer: &Value) {
    let mut reading = read(foreign, &Bytes::copy_from_slice(body));
    // Each round answers a question.
    for _ in 0..8 {
        match reading {
            Ok(Reading::Asks { question, then, .. }) => {
                assert!(serde_json::from_slice::<Value>(&question.body).is_ok());
                reading = then(answer.to_string().as_bytes());
            }
            Ok(Reading::Read(request)) => {
                if let Task::Speak { body, .. } | Task::Document { body, .. } = &request.task {
                    let asked: Value = serde_json::from_slice(body).expect("the engine reads JSON");
                    assert_eq!(asked["model"], request.model);
                }
                let Some(retry) = request.retry else { return };
                let Some(again) = retry(&too_long()) else { return };
                reading = again;
            }
            Err(error) => {
                assert_told(foreign, &error);
                return;
            }
        }
    }
}

fn assert_told(foreign: Foreign, error: &Error) {
    let told = dialect_of(foreign).document(error, &HeaderValue::from_static("req-1"));
    let told: Value = serde_json::from_slice(&told).expect("an error is JSON");
    let status = error.status().as_u16();
    // Only what others answer to our questions is not the client's fault.
    assert!((400..500).contains(&status) || matches!(error, Error::EngineUnreachable(_)), "{told}");
    let message = match foreign {
        Foreign::Messages
        | Foreign::CountTokens
        | Foreign::Responses
        | Foreign::ResponsesTokens => &told["error"]["message"],
        _ => &told["error"],
    };
    assert!(!message.as_str().expect("a message").is_empty());
}

fn too_long() -> Complaint {
    Complaint {
        status: 400,
        message: "request (632 tokens) exceeds the available context size (512 tokens)".to_owned(),
        kind: "exceed_context_size_error".to_owned(),
        prompt_tokens: Some(632),
        context_size: Some(512),
    }
}

/// A body that some dialect takes or nearly takes.
fn any_body() -> impl Strategy<Value = (Foreign, Value)> {
    select(&ALL[..]).prop_flat_map(|foreign| (Just(foreign), body(foreign)))
}

proptest! {
    #[test]
    fn bodies_of_all_kinds_are_taken_or_refused(
        (foreign, body) in any_body(),
        answer in json_value(),
    ) {
        try_it(foreign, body.to_string().as_bytes(), &answer);
        try_it(foreign, format!("{body:#}").as_bytes(), &answer);
    }

    #[test]
    fn any_json_is_taken_or_refused(body in json_value()) {
        for foreign in ALL {
            try_it(foreign, body.to_string().as_bytes(), &Value::Null);
        }
    }

    #[test]
    fn any_bytes_are_refused(body in vec(any::<u8>(), 0..60)) {
        for foreign in ALL {
            try_it(foreign, &body, &Value::Null);
        }
    }

    #[test]
    fn bodies_that_are_cut_or_damaged_are_taken_or_refused(
        (foreign, body) in any_body(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut body = body.to_string().into_bytes();
        let at = at.index(body.len());
        try_it(foreign, &body[..at], &Value::Null);
        body[at] = byte;
        try_it(foreign, &body, &Value::Null);
    }
}

#[test]
fn a_body_that_is_none_is_refused_as_such() {
    for foreign in ALL {
        for body in ["", " ", "[]", "null", "{", "{\"model\":\"m\"} x", "{\"model\":\"m\",\"x\":}"]
        {
            let Err(error) = read(foreign, &Bytes::from_static(body.as_bytes())) else {
                panic!("{foreign:?} takes {body}")
            };
            assert!(matches!(error, Error::MalformedBody(_)), "{foreign:?} {body}: {error:?}");
        }
        let nested = format!("{{\"model\":\"m\",\"x\":{}1{}}}", "[".repeat(600), "]".repeat(600));
        assert!(read(foreign, &Bytes::from(nested)).is_err());
    }
}

#[test]
fn a_body_without_a_model_is_refused() {
    for foreign in ALL {
        for (model, missing) in [(Value::Null, true), (json!(""), true), (json!(7), false)] {
            let body = json!({ "model": model, "messages": [], "input": "x", "prompt": "x" });
            let Err(error) = read(foreign, &Bytes::from(body.to_string())) else {
                panic!("{foreign:?} takes {body}")
            };
            assert_eq!(matches!(error, Error::MissingModel), missing, "{foreign:?} {model}");
            assert_eq!(matches!(error, Error::ModelNotAString), !missing, "{foreign:?} {model}");
        }
    }
}

#[test]
fn a_stream_is_whatever_the_body_says() {
    for foreign in SPEAKERS {
        for stream in [false, true] {
            let body = Bytes::from(wish(foreign, stream).to_string());
            let Ok(Reading::Read(request)) = read(foreign, &body) else { panic!("{foreign:?}") };
            assert_eq!(request.stream, stream, "{foreign:?}");
        }
        let mut body = wish(foreign, true);
        body["stream"] = json!("yes");
        assert!(read(foreign, &Bytes::from(body.to_string())).is_err());
    }
}
