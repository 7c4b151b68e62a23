//! Whatever an engine says, and however it comes: no text is lost, and each stream ends once, in the client's dialect.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::client::{Heard, listen};
use crate::dialect::translation::tests::{
    SPEAKERS, full, obliging, read_by_client, relayed, request, streamed, timeless, translation,
    whole, wish,
};
use crate::endpoint::Foreign;

/// Something that an engine says in one event.
#[derive(Clone, Debug)]
enum Said {
    Nothing,
    Progress,
    Thought(String),
    Text(String),
    /// A new call: its name, and its arguments in pieces.
    Call(String, Vec<String>),
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Length,
    /// The engine leaves without a word.
    Gone,
    /// It leaves in the middle of an event.
    Torn,
    /// It says what happened.
    Error,
    /// It says something that nobody can read.
    Noise,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,6}",
        Just("日本語".to_owned()),
        Just("🌞\u{200d}é".to_owned()),
        Just("\"}\n\n\ndata: [DONE]\r\n\r\n".to_owned()),
        Just("\\ \u{0} \u{7f} \u{2028} </think>".to_owned()),
        any::<char>().prop_map(String::from),
    ]
}

/// An object as text, in pieces of one character.
fn arguments() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        Just(Vec::new()),
        (text(), text(), any::<i32>()).prop_map(|(name, value, number)| {
            let object = json!({ name: value, "number": number, "nested": { "list": [1, null] } });
            // Some models write it over several lines.
            let object = if number % 2 == 0 { object.to_string() } else { format!("{object:#}") };
            object.chars().map(String::from).collect()
        }),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        1 => Just(Said::Nothing),
        1 => Just(Said::Progress),
        3 => text().prop_map(Said::Thought),
        5 => text().prop_map(Said::Text),
        2 => ("[a-z_]{1,5}", arguments()).prop_map(|(name, parts)| Said::Call(name, parts)),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Stop),
        1 => Just(End::Length),
        1 => Just(End::Gone),
        1 => Just(End::Torn),
        1 => Just(End::Error),
        1 => Just(End::Noise),
    ]
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn delta(delta: &Value) -> String {
    event(&json!({ "choices": [{ "finish_reason": null, "index": 0, "delta": delta }] }))
}

/// As llama-server sends it.
fn spoken(script: &[Said], end: End) -> String {
    let mut stream = String::new();
    let mut calls = 0;
    for said in script {
        stream += &match said {
            Said::Nothing => delta(&json!({ "role": "assistant", "content": null })),
            Said::Progress => event(&json!({
                "choices": [{ "index": 0, "delta": {} }],
                "prompt_progress": { "total": 9, "cache": 4, "processed": 9, "time_ms": 1 },
            })),
            Said::Thought(text) => delta(&json!({ "reasoning_content": text })),
            Said::Text(text) => delta(&json!({ "content": text })),
            Said::Call(name, parts) => {
                let function = json!({ "name": name, "arguments": "" });
                let begin = json!({ "index": calls, "id": "c", "function": function });
                let mut said = delta(&json!({ "tool_calls": [begin] }));
                for part in parts {
                    let part = json!({ "index": calls, "function": { "arguments": part } });
                    said += &delta(&json!({ "tool_calls": [part] }));
                }
                calls += 1;
                said
            }
        };
    }
    let reason = if end == End::Length { "length" } else { "stop" };
    let finish = json!({ "choices": [{ "finish_reason": reason, "index": 0, "delta": {} }] });
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 5 } });
    stream
        + &match end {
            End::Stop | End::Length => event(&finish) + &event(&usage) + "data: [DONE]\n\n",
            End::Gone => String::new(),
            End::Torn => "data: {\"choices\":[{\"delta\":{\"content\":\"to".to_owned(),
            End::Error => event(&json!({ "error": { "code": 500, "message": "it broke" } })),
            End::Noise => "data: {\"choices\":[{\"delta\":{\"content\"\n\n".to_owned(),
        }
}

fn joined<'a>(script: &'a [Said], part: impl Fn(&'a Said) -> &'a str) -> String {
    script.iter().map(part).collect()
}

fn object(text: &str) -> Value {
    if text.is_empty() {
        return json!({});
    }
    serde_json::from_str(text).expect("arguments are JSON")
}

/// What a client must have heard of it.
fn expected(script: &[Said], end: End) -> (Heard, Vec<(String, Value)>) {
    let text = joined(script, |said| if let Said::Text(text) = said { text } else { "" });
    let thoughts = joined(script, |said| if let Said::Thought(text) = said { text } else { "" });
    let calls = script.iter().filter_map(|said| match said {
        Said::Call(name, parts) => Some((name.clone(), object(&parts.concat()))),
        _ => None,
    });
    let heard = Heard {
        text,
        thoughts,
        whole: end == End::Stop || end == End::Length,
        cut: end == End::Length,
        ..Heard::default()
    };
    (heard, calls.collect())
}

fn chunked<'a>(stream: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut ahead = stream;
    sizes.iter().cycle().map_while(move |size| {
        let (chunk, rest) = ahead.split_at(ahead.len().min(*size));
        ahead = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn check(foreign: Foreign, script: &[Said], end: End, said: &[u8]) {
    let mut heard = listen(foreign, said);
    let calls: Vec<_> = std::mem::take(&mut heard.calls)
        .into_iter()
        .map(|(name, arguments)| (name, object(&arguments)))
        .collect();
    assert_eq!((heard, calls), expected(script, end), "{foreign:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_text_is_lost_and_every_stream_ends_once(
        script in vec(said(), 0..12),
        end in end(),
        sizes in vec(1_usize..40, 1..9),
    ) {
        let stream = spoken(&script, end);
        for foreign in SPEAKERS {
            let request = request(foreign, &wish(foreign, true));
            let said = relayed(request, chunked(stream.as_bytes(), &sizes), obliging);
            check(foreign, &script, end, &said);
        }
    }

    #[test]
    fn chunks_of_any_size_give_the_same(
        script in vec(said(), 0..8),
        end in end(),
        sizes in vec(1_usize..9, 1..9),
    ) {
        let stream = spoken(&script, end);
        for foreign in SPEAKERS {
            let heard = |said: &[u8]| -> Vec<Value> {
                read_by_client(foreign, said).into_iter().map(timeless).collect()
            };
            let request = request(foreign, &wish(foreign, true));
            let said = relayed(request, chunked(stream.as_bytes(), &sizes), obliging);
            prop_assert_eq!(heard(&said), heard(&streamed(foreign, stream.as_bytes())));
        }
    }

    #[test]
    fn who_is_not_kept_is_told_all_the_same(script in vec(said(), 0..8), end in end()) {
        let stream = spoken(&script, end);
        for foreign in SPEAKERS {
            let request = request(foreign, &wish(foreign, true));
            let said = relayed(request, [stream.as_bytes()], full);
            check(foreign, &script, end, &said);
        }
    }

    #[test]
    fn whole_answers_hold_all_that_is_said(
        (thoughts, text) in (text(), text()),
        calls in vec(("[a-z_]{1,5}", arguments()), 0..3),
        cut in 0_usize..400,
    ) {
        let calls: Vec<_> =
            calls.into_iter().map(|(name, parts)| (name, parts.concat())).collect();
        let mut said: Vec<_> = calls
            .iter()
            .map(|(name, text)| json!({ "id": "c", "function": { "name": name, "arguments": text } }))
            .collect();
        // The last one may be cut off.
        if let Some((_, text)) = calls.last() {
            let cut = text.floor_char_boundary(cut);
            said.last_mut().expect("a call")["function"]["arguments"] = text[..cut].into();
        }
        let message = json!({
            "role": "assistant", "content": text, "reasoning_content": thoughts,
            "tool_calls": said,
        });
        let usage = json!({ "prompt_tokens": 9, "completion_tokens": 5 });
        let choice = json!({ "finish_reason": "length", "index": 0, "message": message });
        let document = json!({ "choices": [choice], "usage": usage }).to_string();
        for foreign in SPEAKERS {
            let request = request(foreign, &wish(foreign, false));
            let answer = whole(request, document.as_bytes());
            let answer = strings(&answer);
            prop_assert!(answer.contains(&thoughts), "{foreign:?}: {answer}");
            prop_assert!(answer.contains(&text), "{foreign:?}: {answer}");
        }
    }

    #[test]
    fn arbitrary_bytes_of_an_engine_do_no_harm(chunks in vec(vec(any::<u8>(), 0..40), 0..10)) {
        for foreign in SPEAKERS {
            let request = request(foreign, &wish(foreign, true));
            let said = relayed(request, chunks.iter().map(Vec::as_slice), obliging);
            prop_assert!(!listen(foreign, &said).whole);
        }
    }

    #[test]
    fn arbitrary_documents_of_an_engine_do_no_harm(document in super::requests::json_value()) {
        let document = document.to_string();
        for foreign in SPEAKERS {
            let mut translation = translation(request(foreign, &wish(foreign, true)));
            if let Err(error) = translation.hear(document.as_bytes()) {
                translation.fail(&error);
            }
            translation.finish();
            while let Some(question) = translation.question() {
                translation.learn(obliging(&question));
            }
            listen(foreign, &translation.take().expect("an end"));
        }
    }
}

/// All strings of an answer, one after the other.
fn strings(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(elements) => elements.iter().map(strings).collect(),
        Value::Object(members) => members.values().map(strings).collect(),
        _ => String::new(),
    }
}
