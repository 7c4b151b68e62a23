use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::record::{Answer, End, Head, Kept, Kind, Record};
use super::super::tape::Tape;
use super::{settle, write};
use crate::assemble::Shape;
use crate::assemble::tests::recorded;
use crate::config::Redaction;
use crate::endpoint::Mode;
use crate::observe::Observer;
use crate::usage::Usage;

const CHAT: Kind = Kind::Stream(Some(Shape::Chat));

fn record(request: Kept, ended: Option<(End, Answer)>) -> Record {
    let head = Head {
        instant: 1_700_000_000_000_000_007,
        request_id: "mine".to_owned(),
        model_id: "sha256:00".into(),
        model: "smollm2".to_owned(),
        mode: Mode::Completion,
        url: "/engines/v1/chat/completions".to_owned(),
        user_agent: Some("curl".to_owned()),
        origin: None,
        request_length: request.bytes.len() + request.missing,
    };
    let end = ended.map(|(end, answer)| (Arc::new(end), Arc::new(answer)));
    Record { head: Arc::new(head), request: Arc::new(request), end }
}

fn end(status: u16, response_length: usize) -> End {
    End {
        status,
        outcome: "ok",
        usage: Usage {
            prompt_tokens: 5,
            cached_prompt_tokens: 2,
            completion_tokens: 1,
            reasoning_tokens: 0,
        },
        queued: Duration::from_micros(1500),
        first_token: None,
        load: None,
        duration: Duration::from_millis(3),
        response_length,
    }
}

fn shown(record: &Record) -> Value {
    let mut output = Vec::new();
    write(&record.parts(), &mut output);
    serde_json::from_slice(&output).unwrap()
}

fn raw(kind: Kind, status: u16, bytes: &str) -> Value {
    let answer = Answer::Raw(kind, taped(bytes.as_bytes()));
    shown(&record(Kept::whole(b"{}"), Some((end(status, bytes.len()), answer))))
}

fn taped(bytes: &[u8]) -> Tape {
    let mut tape = Tape::default();
    // As events come, and in pieces that are none.
    for piece in bytes.chunks(50) {
        tape.push(piece, |_, wanted| wanted);
    }
    tape
}

/// A member that holds JSON as text.
fn inner(record: &Value, name: &str) -> Value {
    serde_json::from_str(record[name].as_str().unwrap()).unwrap()
}

#[test]
fn a_record_in_flight_has_status_0_and_no_end() {
    let expected = json!({
        "id": "sha256:00_1700000000000000007", "model": "smollm2", "method": "POST", "url": "/engines/v1/chat/completions",
        "request": "{\"n\":1}", "timestamp": 1_700_000_000, "status_code": 0, "user_agent": "curl",
        "request_id": "mine", "mode": "completion",
    });
    assert_eq!(shown(&record(Kept::whole(b"{\"n\":1}"), None)), expected);
}

#[test]
fn a_record_that_ended_tells_what_it_cost() {
    let record = raw(Kind::Document, 200, "{\"a\": 1.50}");
    assert_eq!(
        (&record["response"], &record["status_code"]),
        (&json!("{\"a\": 1.50}"), &json!(200))
    );
    assert_eq!(
        record["usage"],
        json!({"prompt_tokens": 5, "cached_prompt_tokens": 2, "completion_tokens": 1, "reasoning_tokens": 0})
    );
    assert_eq!((&record["queued_ms"], &record["duration_ms"]), (&json!(1.5), &json!(3.0)));
    assert_eq!((&record["outcome"], record.get("error")), (&json!("ok"), None));
}

#[test]
fn an_error_is_always_json_and_never_a_response() {
    for (body, error) in [
        ("{\"error\":{\"code\":400}}", json!({"error": {"code": 400}})),
        ("no room\n", json!({"error": "no room"})),
        ("", json!({"error": "unknown error"})),
    ] {
        for kind in [Kind::Document, CHAT] {
            let record = raw(kind, 400, body);
            assert_eq!((inner(&record, "error"), record.get("response")), (error.clone(), None));
        }
    }
}

#[test]
fn tools_reasoning_and_every_choice_are_merged() {
    let event = |index: u32, delta: Value| {
        let choice = json!({"index": index, "delta": delta, "finish_reason": null});
        format!("data: {}\n\n", json!({"choices": [choice], "object": "chat.completion.chunk"}))
    };
    let stream = [
        event(0, json!({"role": "assistant", "reasoning_content": "Hm"})),
        event(1, json!({"role": "assistant", "content": "B"})),
        event(0, json!({"reasoning_content": "m", "content": "A"})),
        ": a comment\n\n".to_owned(),
        event(1, json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\""}}]})),
        event(1, json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
    ]
    .concat();
    let choices = json!([
        {"index": 0, "finish_reason": null, "message": {"role": "assistant", "content": "A", "reasoning_content": "Hmm"}},
        {"index": 1, "finish_reason": null, "message": {"role": "assistant", "content": "B",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]}},
    ]);
    for end in ["", "data: [DONE]\n\n", "data: {\"choi"] {
        let response = inner(&raw(CHAT, 200, &format!("{stream}{end}")), "response");
        assert_eq!(
            (&response["choices"], &response["object"]),
            (&choices, &json!("chat.completion"))
        );
    }
    let error = "data: {\"error\":{\"code\":500,\"message\":\"no\"}}\n\n";
    let record = raw(CHAT, 200, &format!("{stream}{error}"));
    assert_eq!(inner(&record, "error")["error"]["code"], 500);
    assert_eq!(inner(&record, "response")["choices"], choices);
}

#[test]
fn what_engines_stream_is_shown_as_what_they_answer() {
    for exchange in recorded() {
        let mut tape = Tape::default();
        let mut observer = Observer::stream(exchange.prompts());
        for event in exchange.stream.split_inclusive("\n\n") {
            tape.push(event.as_bytes(), |_, wanted| wanted);
            observer.observe(&Bytes::copy_from_slice(event.as_bytes()));
        }
        let usage = observer.findings().usage;
        let end = End { usage, ..end(200, exchange.stream.len()) };
        let answer = Answer::Raw(Kind::Stream(Some(exchange.shape())), tape);
        let shown = shown(&record(Kept::default(), Some((end, answer))));
        assert_eq!(shown["response"], exchange.whole, "{}", exchange.name);
    }
}

#[test]
fn texts_of_streams_are_merged_too() {
    let stream = "data: {\"choices\":[{\"text\":\"a\",\"index\":0}]}\n\ndata: {\"choices\":[{\"text\":\"b\",\"index\":0}]}\n\ndata: [DONE]\n\n";
    let response = inner(&raw(Kind::Stream(Some(Shape::Text)), 200, stream), "response");
    assert_eq!(response["choices"][0]["text"], "ab");
    let unknown = raw(Kind::Stream(None), 200, stream);
    assert_eq!(unknown["response"], stream);
    assert_eq!(raw(CHAT, 200, "data: what?\n\n")["response"], "data: what?\n\n");
}

#[test]
fn what_is_missing_is_said() {
    let request = Kept::part("{\"a\":\"é\"}".as_bytes(), 7);
    let answer = Answer::Raw(Kind::Document, taped(b"{\"b"));
    let record = record(request, Some((end(200, 7), answer)));
    let shown = self::shown(&record);
    assert_eq!(
        (&shown["request"], &shown["request_truncated"]),
        (&json!("{\"a\":\"...[truncated 3 bytes]"), &json!(3))
    );
    assert_eq!(
        (&shown["response"], &shown["response_truncated"]),
        (&json!("{\"b...[truncated 4 bytes]"), &json!(4))
    );
    // Somebody holds on to a record that the ring has let go.
    let parts = record.parts();
    drop(record);
    let mut output = Vec::new();
    write(&parts, &mut output);
    let shown: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((&shown["request"], &shown["request_truncated"]), (&json!(""), &json!(10)));
    assert_eq!((shown.get("response"), &shown["response_truncated"]), (None, &json!(7)));
}

#[test]
fn a_merged_stream_of_which_the_end_is_missing_says_so_outside() {
    let stream =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"cho";
    let answer = Answer::Raw(CHAT, taped(stream.as_bytes()));
    let record = shown(&record(Kept::default(), Some((end(200, stream.len() + 70), answer))));
    assert_eq!(inner(&record, "response")["choices"][0]["message"]["content"], "a");
    assert_eq!(record["response_truncated"], 70);
}

#[test]
fn nothing_of_a_redacted_answer_is_kept() {
    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Bob\"}}]}\n\n";
    let error = "data: {\"error\":{\"code\":500,\"message\":\"Ann wrote Bob\"}}\n\n";
    for (kind, status, body) in [
        (CHAT, 200, event.to_owned()),
        (CHAT, 200, format!("{event}{error}")),
        (CHAT, 200, "data: Bob\n\n".to_owned()),
        (CHAT, 400, "Bob".to_owned()),
        (Kind::Stream(None), 200, format!("{event}: Bob\n\nid: Bob\n\ndata: Bob\n\ndata: Bo")),
        (Kind::Document, 200, "{\"content\":\"Bob\"}".to_owned()),
        (Kind::Document, 200, "{\"content\":\"Bob".to_owned()),
        (Kind::Document, 500, "{\"error\":\"Bob\"}".to_owned()),
    ] {
        let (tape, end) = (taped(body.as_bytes()), end(status, body.len()));
        let answer = settle(kind, &tape, &end, Redaction::All);
        let Answer::Settled { response, error } = &answer else { panic!("settled") };
        for kept in response.iter().chain(error) {
            let text = String::from_utf8_lossy(&kept.bytes);
            assert!(!text.contains("Bo"), "{body}: {text}");
        }
        let answer = settle(kind, &tape, &end, Redaction::Prompts);
        let shown = shown(&record(Kept::default(), Some((end, answer))));
        assert!(!shown.to_string().contains("Ann"), "{shown}");
        let readable = status < 400 && (body.starts_with(event) || body.ends_with('}'));
        assert_eq!(shown.to_string().contains("Bob"), readable, "{body}: {shown}");
    }
}
