//! What llama-server said, as it was recorded: `NAME.sse` is a stream, `NAME.json` a whole answer to the same request.

use proptest::prelude::*;

use super::{complaint, read};
use crate::dialect::event::{Event, Literal, Reason, Tally};
use crate::error::Complaint;
use crate::sse::Splitter;

const CALLS: &[u8] = include_bytes!("recorded/calls.sse");
const WHOLE_CALLS: &[u8] = include_bytes!("recorded/calls.json");
const CUT: &[u8] = include_bytes!("recorded/cut.sse");
const WHOLE_CUT: &[u8] = include_bytes!("recorded/cut.json");
const INFILL: &[u8] = include_bytes!("recorded/infill.sse");
const WHOLE_INFILL: &[u8] = include_bytes!("recorded/infill.json");
const LOGPROBS: &[u8] = include_bytes!("recorded/logprobs.sse");
const WHOLE_LOGPROBS: &[u8] = include_bytes!("recorded/logprobs.json");
const REFUSED: &[u8] = include_bytes!("recorded/refused.json");
const STOP: &[u8] = include_bytes!("recorded/stop.sse");
const WITHHELD: &[u8] = include_bytes!("recorded/withheld.sse");

/// An event in few words: text is `"…"`, a thought `(…)`, a call `index name arguments`.
fn told(event: Event<'_>) -> String {
    match event {
        Event::Begun(Tally { prompt, cached, .. }) => format!("begun {prompt} {cached}"),
        Event::Reasoning(text) => format!("({})", text.text()),
        Event::Logprobs(tokens) => {
            let array = [b"[", tokens, b"]"].concat();
            let tokens: serde_json::Value = serde_json::from_slice(&array).expect("an array");
            let tokens = tokens.as_array().expect("an array");
            let names = tokens.iter().map(|token| token["token"].as_str().expect("a token"));
            format!("of{}", names.collect::<String>())
        }
        Event::Text(text) => format!("\"{}\"", text.text()),
        Event::Call(part) => {
            let id = if part.id.is_empty() { "" } else { "+" };
            format!("{id}{} {} {}", part.index, part.name.text(), part.arguments.text())
        }
        Event::Finish(finish) => {
            let stop_string = finish.stop_string.map(|text| text.text().into_owned());
            format!("{:?} {}", finish.reason, stop_string.unwrap_or_default())
        }
        Event::Counted(Tally { prompt, cached, produced, .. }) => {
            format!("counted {prompt} {cached} {produced}")
        }
        Event::Failed(complaint) => format!("{} {}", complaint.status, complaint.message),
        Event::Done => "done".to_owned(),
    }
}

fn told_of(data: &[u8]) -> Vec<String> {
    let mut events = Vec::new();
    read(data, |event| events.push(told(event))).expect("it can be read");
    events
}

fn told_of_stream(stream: &'static [u8]) -> Vec<String> {
    let mut events = Vec::new();
    Splitter::default().push(&stream.into(), |data| events.extend(told_of(&data)));
    events
}

#[test]
fn thoughts_text_and_calls() {
    let expected = [
        "begun 275 0",
        "begun 275 0",
        "( Hmm)",
        "( weather)",
        "( ?)",
        "(\n)",
        "\" Sure\"",
        "\" thing\"",
        "\" now\"",
        "+0 get_weather {",
        "0  \"city\":",
        "0   \"Paris\",",
        "0   \"days\":",
        "0   3}",
        "+1 get_weather {",
        "1  \"city\": \"Rome\",",
        "1   \"days\": 4}",
        "Calls ",
        "counted 275 0 22",
        "done",
    ];
    assert_eq!(told_of_stream(CALLS), expected);
    let expected = [
        "( Hmm weather ?\n)",
        "\" Sure thing now\"",
        "+0 get_weather {\"city\": \"Paris\", \"days\": 3}",
        "+1 get_weather {\"city\": \"Rome\", \"days\": 4}",
        "Calls ",
    ];
    let whole = told_of(WHOLE_CALLS);
    assert_eq!(whole[..5], expected);
    assert!(whole[5].starts_with("counted 275 ") && whole.len() == 6, "{whole:?}");
}

#[test]
fn a_call_that_the_limit_cut_off() {
    let told = told_of_stream(CUT);
    let end = ["+0 get_weather {", "0  \"city\":", "Length ", "counted 275 274 12", "done"];
    assert_eq!(told[told.len() - 5..], end);
    let told = told_of(WHOLE_CUT);
    assert_eq!(told[2..4], ["+0 get_weather {\"city\":", "Length "]);
}

#[test]
fn what_tokens_were_chosen_from_comes_before_what_they_say() {
    let expected = [
        "of Hmm",
        "( Hmm)",
        "of weather",
        "( weather)",
        "of ?",
        "( ?)",
        "of\n</think>\n\n",
        "(\n)",
        "of Sure",
        "\" Sure\"",
        "of thing",
        "\" thing\"",
        "Length ",
        "counted 30 2 6",
        "done",
    ];
    assert_eq!(told_of_stream(LOGPROBS), expected);
    let whole = told_of(WHOLE_LOGPROBS);
    let expected = [
        "( Hmm weather ?\n)",
        "of Hmm weather ?\n</think>\n\n Sure thing",
        "\" Sure thing\"",
        "Length ",
    ];
    assert_eq!(whole[..4], expected);
}

#[test]
fn the_stop_string_is_told_where_it_was_asked_for() {
    let told = told_of_stream(STOP);
    let end = ["\" Sure\"", "\" \"", "counted 30 29 6", "Stop thing", "counted 30 29 6", "done"];
    assert_eq!(told[told.len() - 6..], end);
    let assembled = br#"{"choices":[{"finish_reason":"stop","stop_string":"END","message":{}}]}"#;
    assert_eq!(told_of(assembled), ["Stop END"]);
}

#[test]
fn a_stream_can_begin_with_the_pieces_of_a_character() {
    let expected = ["\"🌞\"", "\" sunny\"", "\"日\"", "Stop ", "counted 22 0 9", "done"];
    assert_eq!(told_of_stream(WITHHELD), expected);
}

#[test]
fn llama_servers_own_dialect() {
    let expected = ["\" who\"", "\" man\"", "\" b\"", "Length ", "counted 6 0 3", "done"];
    assert_eq!(told_of_stream(INFILL), expected);
    let whole = told_of(WHOLE_INFILL);
    assert_eq!(whole[..2], ["\" who man b\"", "Length "]);
    assert_eq!(whole.last().expect("an end"), "done");
    assert_eq!(
        told_of(br#"{"content":"","stop":true,"stop_type":"word","stopping_word":"\n"}"#),
        ["Stop \n", "done"]
    );
}

#[test]
fn times_are_those_of_the_engine() {
    let mut tallies = Vec::new();
    Splitter::default().push(&STOP.into(), |data| {
        let keep = |event: Event<'_>| {
            if let Event::Counted(tally) = event {
                tallies.push((tally.prompt_ms, tally.produced_ms > 0.0));
            }
        };
        read(&data, keep).expect("it can be read");
    });
    assert_eq!(tallies, [(29.894, true), (29.894, true)]);
}

#[test]
fn an_engines_refusal() {
    let expected = Complaint {
        status: 400,
        message: "request (632 tokens) exceeds the available context size (512 tokens), \
                  try increasing it"
            .to_owned(),
        kind: "exceed_context_size_error".to_owned(),
        prompt_tokens: Some(632),
        context_size: Some(512),
    };
    assert_eq!(complaint(REFUSED), Some(expected));
    assert!(told_of(REFUSED)[0].starts_with("400 request (632 tokens)"));
}

#[test]
fn an_error_that_says_little_is_one_all_the_same() {
    for (document, told) in [
        (r#"{"error":"it broke"}"#, "500 it broke"),
        (r#"{"error":"\u00e9"}"#, "500 é"),
        (r#"{"error":{"message":"no"}}"#, "500 no"),
        (r#"{"error":{"message":"no","code":200}}"#, "500 no"),
        (r#"{"error":{"message":"no","code":"x","type":null}}"#, "500 "),
        (r#"{"error":{}}"#, "500 the engine failed, and does not say why"),
        (r#"{"error":""}"#, "500 the engine failed, and does not say why"),
        (r#"{"error":7}"#, "500 7"),
    ] {
        let said = told_of(document.as_bytes());
        assert!(said.len() == 1 && said[0].starts_with(told), "{document}: {said:?}");
    }
    for none in ["", "[]", "{}", "{\"errors\":{}}", "{\"error\""] {
        assert_eq!(complaint(none.as_bytes()), None, "{none}");
    }
}

#[test]
fn what_says_nothing_says_nothing() {
    for event in [
        "null",
        "{}",
        " {\"choices\":[]} ",
        r#"{"choices":[{"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{"content":"","reasoning_content":"","tool_calls":[]}}]}"#,
        r#"{"choices":[{"text":"","logprobs":null}]}"#,
        r#"{"choices":[{"delta":null}],"usage":null,"timings":null,"error":null}"#,
        r#"{"choices":[{"delta":{"content":7}}],"logprobs":{"content":[]}}"#,
    ] {
        assert_eq!(told_of(event.as_bytes()), Vec::<String>::new(), "{event}");
    }
}

#[test]
fn what_is_no_event_cannot_be_read() {
    for event in ["", "x", "[1]", "{\"choices\":[{\"delta\":", "{\"choices\":[7]}", "DONE"] {
        assert_eq!(read(event.as_bytes(), |_| ()), None, "{event}");
    }
}

#[test]
fn of_several_choices_the_first_is_heard() {
    let event = br#"{"choices":[{"text":"a"},{"text":"b"}]}"#;
    assert_eq!(told_of(event), ["\"a\""]);
}

#[test]
fn calls_without_a_number_are_counted() {
    let event =
        br#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"a"}},{"id":"i"}]}}]}"#;
    assert_eq!(told_of(event), ["0 a ", "+1  "]);
}

#[test]
fn engines_that_do_not_time_tell_their_usage() {
    let event = br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}}"#;
    assert_eq!(told_of(event), ["counted 7 3 2"]);
}

#[test]
fn literals_are_text() {
    for (literal, text) in [
        ("", ""),
        ("plain 日", "plain 日"),
        (r#"a\"b\\c\n"#, "a\"b\\c\n"),
        (r"\ud83c\udf1e", "🌞"),
        // No text; it must not be lost.
        (r"\ud83c", r"\ud83c"),
    ] {
        assert_eq!(Literal(literal.as_bytes()).text(), text, "{literal}");
    }
    assert_eq!(Literal(b"\xff").text(), "\u{fffd}");
    for none in ["", "\"", "a", "7", "\"a"] {
        assert_eq!(Literal::of(none.as_bytes()), None, "{none}");
    }
    assert_eq!(Literal::of(b"\"\""), Some(Literal(b"")));
    assert_eq!(Reason::default(), Reason::Stop);
}

proptest! {
    #[test]
    fn any_text_comes_out_as_it_went_in(text in ".*") {
        let event = serde_json::json!({ "choices": [{ "delta": { "content": text } }] });
        let mut heard = String::new();
        let listen = |event: Event<'_>| {
            if let Event::Text(text) = event {
                heard += &text.text();
            }
        };
        prop_assert!(read(event.to_string().as_bytes(), listen).is_some());
        prop_assert_eq!(heard, text);
    }
}
