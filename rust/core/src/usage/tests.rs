use bytes::Bytes;
use proptest::prelude::*;

use super::{Event, StreamUsage, Usage, from_json, is_plain_delta};
use crate::sse::Splitter;

/// Streams of a real llama-server for `max_tokens: 2`, each under a line with its name: the
/// endpoint, then what the request asked for (`usage`: `include_usage`, `two`: `n: 2`,
/// `per token`: `timings_per_token`).
const RECORDED: &str = include_str!("recorded.txt");

fn recorded(name: &str) -> Vec<Bytes> {
    let begin = format!("# {name}\n");
    let stream = RECORDED.split("\n\n").find_map(|stream| stream.strip_prefix(&begin));
    let stream = stream.expect("a recorded stream").replace('\n', "\n\n") + "\n\n";
    let mut events = Vec::new();
    Splitter::default().push(&Bytes::from(stream), |data| events.push(data));
    events
}

fn observed<'a>(events: impl IntoIterator<Item = &'a Bytes>) -> StreamUsage {
    let mut usage = StreamUsage::default();
    events.into_iter().for_each(|data| usage.observe(data));
    usage
}

fn stream_of(events: &[&'static str]) -> StreamUsage {
    observed(&events.iter().map(|data| Bytes::from_static(data.as_bytes())).collect::<Vec<_>>())
}

fn tokens(prompt: u64, cached: u64, completion: u64) -> Usage {
    Usage { prompt_tokens: prompt, cached_prompt_tokens: cached, completion_tokens: completion }
}

#[test]
fn every_way_to_ask_llama_server_counts_the_same_tokens() {
    for (name, usage, content_events, events) in [
        ("chat", tokens(22, 1, 2), 2, 4),
        ("chat per token", tokens(22, 21, 2), 2, 4),
        ("chat two", tokens(22, 21, 4), 4, 8),
        ("chat two per token", tokens(22, 21, 4), 4, 8),
        ("chat usage", tokens(22, 21, 2), 2, 5),
        ("chat usage per token", tokens(22, 21, 2), 2, 5),
        ("chat usage two", tokens(22, 21, 4), 4, 10),
        ("chat usage two per token", tokens(22, 21, 4), 4, 10),
        ("text", tokens(3, 2, 2), 2, 3),
        ("text per token", tokens(3, 2, 2), 2, 3),
        ("text two", tokens(3, 2, 4), 4, 6),
        ("text two per token", tokens(3, 2, 4), 4, 6),
        ("text usage", tokens(3, 2, 2), 2, 3),
        ("text usage per token", tokens(3, 2, 2), 2, 3),
        ("text usage two", tokens(3, 2, 4), 4, 6),
        ("text usage two per token", tokens(3, 2, 4), 4, 6),
        // The first event of this one is `data: null`.
        ("text two prompts", tokens(10, 3, 4), 4, 7),
    ] {
        let stream = observed(&recorded(name));
        assert_eq!(stream.total(), Some(usage), "{name}");
        assert_eq!(stream.content_events(), content_events, "{name}");
        assert_eq!(stream.events(), events, "{name}");
        assert!(stream.saw_done() && !stream.saw_error(), "{name}");
    }
}

#[test]
fn a_cut_stream_is_never_counted_for_more_than_it_produced() {
    for name in RECORDED.lines().filter_map(|line| line.strip_prefix("# ")) {
        let events = recorded(name);
        let whole = observed(&events).total().expect("a total");
        for length in 0..events.len() {
            let cut = observed(&events[..length]);
            let reported = cut.total().unwrap_or_default();
            assert!(reported.completion_tokens <= whole.completion_tokens, "{name} {length}");
            assert!(reported.prompt_tokens <= whole.prompt_tokens, "{name} {length}");
            let produced = events[..length].iter().filter(|data| is_produced(data)).count() as u64;
            assert_eq!(cut.content_events(), produced, "{name} {length}");
            if name.ends_with("per token") {
                assert!(reported.completion_tokens >= produced, "{name} {length}");
            }
        }
    }
}

/// What `content_events` counts, by a full parse.
fn is_produced(data: &[u8]) -> bool {
    let event: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    let choice = &event["choices"][0];
    [&choice["text"], &choice["delta"]["content"]]
        .iter()
        .any(|text| text.as_str().is_some_and(|text| !text.is_empty()))
}

#[test]
fn ordinary_deltas_of_llama_server_take_the_short_way() {
    for (name, short) in [("chat", 2), ("chat usage two", 4), ("text", 2), ("chat per token", 0)] {
        let events = recorded(name);
        assert_eq!(events.iter().filter(|data| is_plain_delta(data)).count(), short, "{name}");
    }
}

#[test]
fn a_stream_that_is_only_its_last_event_is_counted() {
    for name in ["chat", "chat usage", "text"] {
        let events = recorded(name);
        let stream = observed(&events[events.len() - 2..]);
        assert_eq!(stream.total().map(|usage| usage.completion_tokens), Some(2), "{name}");
        assert_eq!(stream.content_events(), 0, "{name}");
    }
}

#[test]
fn without_timings_the_last_usage_holds() {
    let stream = stream_of(&[
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":5,"completion_tokens":0}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
        r#"{"choices":[{"index":1,"delta":{"content":"b"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
        r#"{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": null}}"#,
        r#"{"choices":[{"index":0,"delta":{}}],"usage":null}"#,
    ]);
    assert_eq!(stream.total(), Some(tokens(5, 0, 3)));
    assert_eq!(stream.content_events(), 2);
}

#[test]
fn what_an_engine_produced_counts_whatever_it_is_called() {
    for (choice, produced) in [
        (r#""delta":{"content":"a"}"#, true),
        (r#""delta":{"role":"assistant","content":"a"}"#, true),
        (r#""delta":{"reasoning_content":"a"}"#, true),
        (r#""delta":{"reasoning":"a","content":null}"#, true),
        (r#""delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#, true),
        (r#""text":"a""#, true),
        (r#""text":" \"usage\"""#, true),
        (r#""delta":{"role":"assistant","content":null}"#, false),
        (r#""delta":{"role":"assistant","content":""}"#, false),
        (r#""delta":{"content":"","tool_calls":[]}"#, false),
        (r#""delta":{}"#, false),
        (r#""delta":null"#, false),
        (r#""text":"""#, false),
    ] {
        for event in [
            format!("{{\"choices\":[{{\"index\":0,{choice}}}]}}"),
            format!("{{ \"id\" : \"a\", \"choices\" : [ {{ {choice} , \"index\" : 0 }} ] }}"),
        ] {
            let stream = observed(&[Bytes::from(event.clone())]);
            assert_eq!(stream.content_events(), u64::from(produced), "{event}");
            assert_eq!(stream.events(), 1, "{event}");
        }
    }
}

#[test]
fn an_error_in_the_stream_is_seen() {
    let error = r#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#;
    let beside = r#"{"choices":[{"delta":{"content":"a"}}],"error":{"code":500}}"#;
    for event in [error, beside] {
        let stream = stream_of(&[event]);
        assert!(stream.saw_error(), "{event}");
        assert!(!stream.saw_done(), "{event}");
        assert_eq!((stream.total(), stream.events()), (None, 1), "{event}");
    }
    let quoted = r#"{"choices":[{"delta":{"content":"{\"error\":1}"}}],"error":null}"#;
    assert!(!stream_of(&[quoted]).saw_error());
}

#[test]
fn done_is_no_event() {
    let stream = stream_of(&["[DONE]", " [DONE] "]);
    assert!(stream.saw_done());
    assert_eq!((stream.events(), stream.total()), (0, None));
}

#[test]
fn an_event_too_long_to_be_kept_is_counted() {
    assert_eq!(observed(&[Bytes::new()]).events(), 1);
}

#[test]
fn a_flood_of_choices_is_bounded() {
    let mut stream = StreamUsage::default();
    for index in 0..10_000 {
        let timings = "\"timings\":{\"prompt_n\":1,\"predicted_n\":1}";
        let choice = format!("{{\"choices\":[{{\"index\":{index}}}],{timings}}}");
        stream.observe(&Bytes::from(choice));
        stream.observe(&Bytes::from(format!("{{\"choices\":[],{timings}}}")));
    }
    assert_eq!(stream.total(), Some(tokens(1, 0, 128)));
}

#[test]
fn reads_whole_answers() {
    for (body, usage) in [
        // Recorded from llama-server, the long parts left out.
        (
            r#"{"choices":[{"finish_reason":"length","index":0,"message":{"role":"assistant","content":" Hello there ,"}}],"object":"chat.completion","usage":{"completion_tokens":3,"prompt_tokens":23,"total_tokens":26,"prompt_tokens_details":{"cached_tokens":22}},"id":"chatcmpl-f","timings":{"cache_n":22,"prompt_n":1,"prompt_ms":0.237,"predicted_n":3,"predicted_ms":0.122}}"#,
            tokens(23, 22, 3),
        ),
        (
            r#"{"model":"tiny","object":"list","usage":{"prompt_tokens":8,"total_tokens":8},"data":[{"embedding":[0.5],"index":0,"object":"embedding"}]}"#,
            tokens(8, 0, 0),
        ),
        (
            r#"{"model":"tiny","object":"list","usage":{"prompt_tokens":12,"total_tokens":12},"results":[{"index":1,"relevance_score":0.1153063178062439}]}"#,
            tokens(12, 0, 0),
        ),
        // Other engines.
        (r#"{"usage":{"prompt_tokens":4,"completion_tokens":null}}"#, tokens(4, 0, 0)),
        (r#"{"timings":{"prompt_n":4,"predicted_n":2}}"#, tokens(4, 0, 2)),
        (
            r#"{"timings":{"total":0.5},"usage":{"prompt_tokens":4,"completion_tokens":2}}"#,
            tokens(4, 0, 2),
        ),
        (
            r#"{"usage":{"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":9}}}"#,
            tokens(4, 4, 0),
        ),
    ] {
        assert_eq!(from_json(body.as_bytes()), Some(usage), "{body}");
    }
}

#[test]
fn nothing_is_made_up() {
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "{\"usage\":{\"prompt_tokens\":1}",
        r#"{"usage":null}"#,
        r#"{"usage":{"prompt_tokens":-1}}"#,
        r#"{"usage":{"prompt_tokens":1.5}}"#,
        r#"{"usage":{"prompt_tokens":"1"}}"#,
        r#"{"usage":{"prompt_tokens":1,"completion_tokens":-1}}"#,
        r#"{"timings":{"cache_n":-1,"prompt_n":1,"predicted_n":1}}"#,
        r#"{"choices":[{"usage":{"prompt_tokens":1}}]}"#,
        r#"{"choices":[{"text":"\"usage\":{\"prompt_tokens\":1}"}]}"#,
    ] {
        assert_eq!(from_json(body.as_bytes()), None, "{body}");
        assert_eq!(observed(&[Bytes::from_static(body.as_bytes())]).total(), None, "{body}");
    }
}

#[test]
fn absurd_counts_do_not_overflow() {
    let most = u64::MAX;
    let event = |index| {
        Bytes::from(format!(
            "{{\"choices\":[{{\"index\":{index}}}],\
             \"timings\":{{\"cache_n\":{most},\"prompt_n\":{index},\"predicted_n\":{most}}}}}"
        ))
    };
    assert_eq!(observed(&[event(0), event(1)]).total(), Some(tokens(most, most, most)));
}

/// Pieces that make random sequences come close to the events of an engine.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "{\"choices\":",
        "[{\"index\":0,",
        "\"delta\":",
        "\"content\":",
        "\"text\":",
        "\"a\"",
        "\"\"",
        "null",
        "\"timings\":{\"prompt_n\":1,\"predicted_n\":1}",
        "\"usage\":",
        "{\"prompt_tokens\":1}",
        "\"error\":",
        "1",
        "}]",
        "}]}",
    ])
}

proptest! {
    #[test]
    fn arbitrary_events_do_no_harm(
        fragments in prop::collection::vec(fragment(), 0..24),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        for data in [fragments.concat().into_bytes(), bytes] {
            let stream = observed(&[Bytes::from(data.clone())]);
            prop_assert_eq!(stream.total().is_some(), from_json(&data).is_some());
            prop_assert!(stream.content_events() <= stream.events());
        }
    }

    #[test]
    fn the_short_way_finds_nothing_else_than_the_full_reading(
        fragments in prop::collection::vec(fragment(), 0..16),
    ) {
        let data = format!("{{\"choices\":[{{{}}}]}}", fragments.concat());
        let data = data.as_bytes();
        if is_plain_delta(data) && let Some(event) = Event::read(data) {
            prop_assert!(event.timings.is_none() && event.usage.is_none() && !event.error);
        }
    }
}
