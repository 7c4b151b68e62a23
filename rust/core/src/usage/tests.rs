use bytes::Bytes;
use proptest::prelude::*;

use super::stream::plain_delta;
use super::{Event, Prompts, StreamUsage, Usage, from_json};
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
    observed_as(Prompts::One, events)
}

fn observed_as<'a>(prompts: Prompts, events: impl IntoIterator<Item = &'a Bytes>) -> StreamUsage {
    let mut usage = StreamUsage::new(prompts);
    events.into_iter().for_each(|data| usage.observe(data));
    usage
}

fn text_of(body: &str) -> Prompts {
    Prompts::asked("/v1/completions", body.as_bytes())
}

/// What was asked in the recorded exchange of that name.
fn asked(name: &str) -> Prompts {
    match name {
        "text two prompts" => text_of(r#"{"prompt":["a","b"]}"#),
        _ if name.starts_with("text") && name.contains("two") => text_of(r#"{"prompt":"a","n":2}"#),
        _ if name.starts_with("text") => text_of(r#"{"prompt":"a"}"#),
        _ => Prompts::One,
    }
}

fn stream_of(events: &[&'static str]) -> StreamUsage {
    observed(&events.iter().map(|data| Bytes::from_static(data.as_bytes())).collect::<Vec<_>>())
}

fn tokens(prompt: u64, cached: u64, completion: u64) -> Usage {
    Usage {
        prompt_tokens: prompt,
        cached_prompt_tokens: cached,
        completion_tokens: completion,
        reasoning_tokens: 0,
    }
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
        let stream = observed_as(asked(name), &recorded(name));
        assert_eq!(stream.total(), usage, "{name}");
        assert_eq!(stream.content_events(), content_events, "{name}");
        assert_eq!(stream.events(), events, "{name}");
        assert!(stream.saw_done() && !stream.saw_error(), "{name}");
    }
}

#[test]
fn a_cut_stream_is_never_counted_for_more_than_it_produced() {
    for name in RECORDED.lines().filter_map(|line| line.strip_prefix("# ")) {
        let events = recorded(name);
        let whole = observed_as(asked(name), &events).total();
        for length in 0..events.len() {
            let cut = observed_as(asked(name), &events[..length]);
            let reported = cut.total();
            assert!(reported.completion_tokens <= whole.completion_tokens, "{name} {length}");
            assert!(reported.prompt_tokens <= whole.prompt_tokens, "{name} {length}");
            let produced = events[..length].iter().filter(|data| is_produced(data)).count() as u64;
            assert_eq!(cut.content_events(), produced, "{name} {length}");
            assert!(reported.completion_tokens >= produced, "{name} {length}");
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
        assert_eq!(
            events.iter().filter(|data| plain_delta(data).is_some()).count(),
            short,
            "{name}"
        );
    }
}

#[test]
fn a_stream_that_is_only_its_last_event_is_counted() {
    for name in ["chat", "chat usage", "text"] {
        let events = recorded(name);
        let stream = observed(&events[events.len() - 2..]);
        assert_eq!(stream.total().completion_tokens, 2, "{name}");
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
    assert_eq!(stream.total(), tokens(5, 0, 3));
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
fn thoughts_are_counted_among_the_rest() {
    let thought = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#;
    let said = r#"{"choices":[{"index":0,"delta":{"content":"yes"}}]}"#;
    let both = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"","content":"!"}}]}"#;
    let last = r#"{"choices":[{"index":0,"delta":{}}],"timings":{"prompt_n":3,"predicted_n":6}}"#;
    let cut = stream_of(&[thought, thought, said, both]);
    assert_eq!(cut.total(), Usage { reasoning_tokens: 2, ..tokens(0, 0, 4) });
    let whole = stream_of(&[thought, thought, said, both, last, "[DONE]"]);
    assert_eq!(whole.total(), Usage { reasoning_tokens: 2, ..tokens(3, 0, 6) });
    let told = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":7}}}"#;
    let whole = stream_of(&[thought, said, told, "[DONE]"]);
    assert_eq!(whole.total(), Usage { reasoning_tokens: 7, ..tokens(3, 0, 9) });
    assert_eq!(from_json(told.as_bytes()), Some(whole.total()));
}

#[test]
fn prompts_with_the_same_counts_are_different_prompts() {
    // As recorded of `"prompt": ["aaa", "bbb", "ccc"]`: the last one was in no slot's cache.
    let choice = |index, cached, processed| {
        Bytes::from(format!(
            "{{\"choices\":[{{\"text\":\"\",\"index\":{index}}}],\"timings\":\
             {{\"cache_n\":{cached},\"prompt_n\":{processed},\"predicted_n\":3}}}}"
        ))
    };
    let events = [choice(2, 0, 4), choice(0, 1, 3), choice(1, 1, 3)];
    let three = text_of(r#"{"prompt":["aaa","bbb","ccc"]}"#);
    assert_eq!(observed_as(three, &events).total(), tokens(12, 2, 9));
    // Of two prompts with two choices each.
    let events = [choice(1, 1, 3), choice(0, 1, 3), choice(2, 1, 3), choice(3, 1, 3)];
    for n in [r#""n":2"#, r#""n":2.0"#, r#""n":1,"n_cmpl":2"#] {
        let two = text_of(&format!(r#"{{"prompt":["ddd","eee"],{n}}}"#));
        assert_eq!(observed_as(two, &events).total(), tokens(8, 2, 12), "{n}");
    }
    // A chat has one prompt however many choices.
    assert_eq!(observed(&events).total(), tokens(4, 1, 12));
}

#[test]
fn how_many_choices_a_prompt_has_is_read_as_the_engine_reads_it() {
    for (body, choices) in [
        ("{}", 1),
        (r#"{"n":3}"#, 3),
        (r#"{"n":null}"#, 1),
        (r#"{"n":0}"#, 1),
        (r#"{"n":-2}"#, 1),
        (r#"{"n":"3"}"#, 1),
        (r#"{"n":3,"n":2}"#, 2),
        (r#"{"prompt":{"n":3}}"#, 1),
        ("[]", 1),
    ] {
        assert_eq!(text_of(body), Prompts::Each(choices.try_into().expect("not 0")), "{body}");
    }
    assert_eq!(Prompts::asked("/v1/chat/completions", br#"{"n":3}"#), Prompts::One);
}

#[test]
fn of_a_cut_stream_each_choice_counts_for_itself() {
    let said = |index| {
        Bytes::from(format!(
            "{{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"a\"}}}}]}}"
        ))
    };
    let last = Bytes::from_static(
        br#"{"choices":[{"index":0,"finish_reason":"stop","delta":{}}],"timings":{"prompt_n":5,"predicted_n":10}}"#,
    );
    // The first choice has said two of its ten tokens, the rest was markup; the second is cut.
    let events = [said(0), said(1), said(0), said(1), last, said(1)];
    assert_eq!(observed(&events).total(), tokens(5, 0, 13));
}

#[test]
fn llama_cpps_own_dialect_is_counted_and_has_an_end_of_its_own() {
    let stream = [
        "null",
        r#"{"index":0,"content":" byte","tokens":[615],"stop":false,"tokens_predicted":1,"tokens_evaluated":2}"#,
        r#"{"index":1,"content":" n","tokens":[394],"stop":false,"tokens_predicted":1,"tokens_evaluated":2}"#,
        r#"{"index":0,"content":"","tokens":[],"stop":true,"tokens_predicted":2,"timings":{"cache_n":1,"prompt_n":1,"predicted_n":2}}"#,
        r#"{"index":1,"content":"","tokens":[],"stop":true,"tokens_predicted":2,"timings":{"cache_n":1,"prompt_n":1,"predicted_n":2}}"#,
    ];
    let events: Vec<_> = stream.iter().map(|data| Bytes::from_static(data.as_bytes())).collect();
    let two = Prompts::asked("/completion", br#"{"prompt":["x","y"]}"#);
    let whole = observed_as(two, &events);
    assert_eq!((whole.total(), whole.saw_done()), (tokens(4, 2, 4), true));
    let cut = observed_as(two, &events[..4]);
    assert_eq!((cut.total(), cut.saw_done()), (tokens(2, 1, 3), false));
}

#[test]
fn an_error_in_the_stream_is_seen() {
    let error = r#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#;
    let beside = r#"{"choices":[{"delta":{"content":"a"}}],"error":{"code":500}}"#;
    for (event, said) in [(error, 0), (beside, 1)] {
        let stream = stream_of(&[event]);
        assert!(stream.saw_error(), "{event}");
        assert!(!stream.saw_done(), "{event}");
        assert_eq!((stream.total(), stream.events()), (tokens(0, 0, said), 1), "{event}");
    }
    let quoted = r#"{"choices":[{"delta":{"content":"{\"error\":1}"}}],"error":null}"#;
    assert!(!stream_of(&[quoted]).saw_error());
}

#[test]
fn done_is_no_event() {
    let stream = stream_of(&["[DONE]", " [DONE] "]);
    assert!(stream.saw_done());
    assert_eq!((stream.events(), stream.total()), (0, Usage::default()));
}

#[test]
fn an_event_too_long_to_be_kept_is_counted() {
    assert_eq!(observed(&[Bytes::new()]).events(), 1);
}

#[test]
fn a_flood_of_choices_is_bounded() {
    let mut stream = StreamUsage::default();
    for index in 0..5_000 {
        let timings = "\"timings\":{\"prompt_n\":1,\"predicted_n\":1}";
        let choice = format!("{{\"choices\":[{{\"index\":{index}}}],{timings}}}");
        stream.observe(&Bytes::from(choice));
        stream.observe(&Bytes::from(format!("{{\"choices\":[],{timings}}}")));
    }
    assert_eq!(stream.total(), tokens(1, 0, 4096));
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
        (
            r#"{"text":"hi","usage":{"type":"tokens","input_tokens":9,"output_tokens":2,"input_tokens_details":{"cached_tokens":3}}}"#,
            tokens(9, 3, 2),
        ),
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
        let said = u64::from(body.contains("\"text\""));
        let stream = observed(&[Bytes::from_static(body.as_bytes())]);
        assert_eq!(stream.total(), tokens(0, 0, said), "{body}");
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
    assert_eq!(observed(&[event(0), event(1)]).total(), tokens(most, most, most));
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
            let reported = from_json(&data).unwrap_or_default();
            let total = stream.total();
            prop_assert_eq!(total.prompt_tokens, reported.prompt_tokens);
            prop_assert!(total.completion_tokens >= reported.completion_tokens);
            prop_assert!(stream.content_events() <= stream.events());
        }
    }

    #[test]
    fn the_short_way_finds_nothing_else_than_the_full_reading(
        fragments in prop::collection::vec(fragment(), 0..16),
    ) {
        let data = format!("{{\"choices\":[{{{}}}]}}", fragments.concat());
        let data = data.as_bytes();
        if plain_delta(data).is_some() && let Some(event) = Event::read(data) {
            prop_assert!(event.timings.is_none() && event.usage.is_none() && !event.error);
        }
    }
}
