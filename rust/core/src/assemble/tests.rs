use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Assembled, Assembler, Plan, Shape, Told};
use crate::observe::Observer;
use crate::usage::{Prompts, Usage};

/// Answers of a real llama-server: a line with the name, one with the whole answer, and the events of the stream for
/// the same request. Times and identifiers, which differ from run to run, were made the same, and `usage` of several
/// choices is their sum, where the engine has that of the first.
const RECORDED: &str = include_str!("recorded.txt");

const TOKENS: Plan = Plan { shape: Shape::Text, told: Told::Tokens, names_stop: false };

pub(crate) struct Exchange {
    pub(crate) name: &'static str,
    pub(crate) whole: &'static str,
    pub(crate) stream: String,
}

impl Exchange {
    pub(crate) fn shape(&self) -> Shape {
        if self.name.starts_with("text") { Shape::Text } else { Shape::Chat }
    }

    pub(crate) fn prompts(&self) -> Prompts {
        let body = if self.name.contains("n2") { "{\"n\":2}" } else { "{}" };
        let path = if self.shape() == Shape::Text { "/v1/completions" } else { "" };
        Prompts::asked(path, body.as_bytes())
    }

    fn assemble<'a>(&self, chunks: impl IntoIterator<Item = &'a [u8]>) -> Assembled {
        assemble_as(self.prompts(), self.shape(), chunks)
    }
}

pub(crate) fn recorded() -> impl Iterator<Item = Exchange> {
    RECORDED.split("\n\n").map(|exchange| {
        let (name, rest) = exchange.split_once('\n').expect("a name");
        let (whole, events) = rest.split_once('\n').expect("an answer");
        let stream = events.trim_end().replace('\n', "\n\n") + "\n\n";
        Exchange { name: name.trim_start_matches("# "), whole, stream }
    })
}

fn one(name: &str) -> Exchange {
    recorded().find(|exchange| exchange.name == name).expect("a recorded exchange")
}

fn assemble<'a>(shape: Shape, chunks: impl IntoIterator<Item = &'a [u8]>) -> Assembled {
    assemble_as(Prompts::One, shape, chunks)
}

fn assemble_as<'a>(
    prompts: Prompts,
    shape: Shape,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Assembled {
    let mut observer = Observer::stream(prompts);
    let mut assembler = Assembler::new(shape);
    for chunk in chunks {
        observer.observe_with(&Bytes::copy_from_slice(chunk), |data| assembler.push(data));
    }
    assembler.finish(observer.findings().usage)
}

fn answer(shape: Shape, stream: &str) -> String {
    match assemble(shape, [stream.as_bytes()]) {
        Assembled::Answer(answer) => String::from_utf8(answer).expect("text"),
        other => panic!("an answer, not {other:?}"),
    }
}

/// The stream of these events.
fn stream_of(events: &[&str]) -> String {
    events.iter().flat_map(|event| ["data: ", event, "\n\n"]).collect()
}

#[test]
fn what_is_assembled_is_byte_for_byte_what_the_engine_answers() {
    let mut count = 0;
    for exchange in recorded() {
        let Assembled::Answer(answer) = exchange.assemble([exchange.stream.as_bytes()]) else {
            panic!("no answer: {}", exchange.name);
        };
        assert_eq!(String::from_utf8(answer).expect("text"), exchange.whole, "{}", exchange.name);
        count += 1;
    }
    assert!(count >= 40, "only {count} exchanges");
}

#[test]
fn several_choices_are_counted_together() {
    let answer: serde_json::Value =
        serde_json::from_str(&answer(Shape::Text, &one("text prompts n2").stream)).unwrap();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    assert_eq!(answer["usage"]["completion_tokens"], 4 * 3);
    assert_eq!(answer["timings"]["predicted_n"], 3, "the engine times the first choice");
}

#[test]
fn a_stream_that_ends_early_is_no_answer() {
    for exchange in recorded() {
        let events: Vec<_> = exchange.stream.split_inclusive("\n\n").collect();
        for end in 0..events.len() {
            let assembled =
                assemble(exchange.shape(), events[..end].iter().map(|event| event.as_bytes()));
            assert_eq!(assembled, Assembled::Cut, "{} {end}", exchange.name);
        }
    }
}

#[test]
fn an_error_in_the_stream_is_the_answer() {
    let delta =
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"object":"chat.completion.chunk"}"#;
    let error = r#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#;
    let refused = |status, body: &str| Assembled::Refused { status, body: body.into() };
    let assembled = assemble(Shape::Chat, [stream_of(&[delta, error]).as_bytes()]);
    assert_eq!(assembled, refused(Some(500), error));
    let unnamed = r#"{"error":"broken"}"#;
    assert_eq!(assemble(Shape::Chat, [stream_of(&[unnamed]).as_bytes()]), refused(None, unnamed));
    let none = r#"{"choices":[],"error":null}"#;
    assert_eq!(assemble(Shape::Chat, [stream_of(&[none]).as_bytes()]), Assembled::Cut);
}

#[test]
fn what_cannot_be_read_is_not_made_up() {
    for event in
        ["{", "7", "[]", r#"{"choices":[{"index":0,"delta":"#, r#"{"choices":[{"index":"x"}]}"#]
    {
        let stream = stream_of(&[event, "[DONE]"]);
        assert_eq!(assemble(Shape::Chat, [stream.as_bytes()]), Assembled::Cut, "{event}");
    }
}

#[test]
fn an_answer_that_only_ended_has_an_empty_message() {
    // As when every token was a piece of a character.
    let last = r#"{"choices":[{"finish_reason":"length","index":0,"delta":{}}],"id":"x"}"#;
    assert_eq!(
        answer(Shape::Chat, &stream_of(&[last, "[DONE]"])),
        r#"{"choices":[{"finish_reason":"length","index":0,"message":{"role":"assistant","content":""}}],"object":"chat.completion","id":"x"}"#
    );
}

#[test]
fn what_is_not_known_is_kept() {
    let events = [
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"refusal":null,"mood":"go"},"seed":1}],"note":{"a":[1]},"prompt_progress":{}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a","mood":"od","marks":[1]},"seed":2}],"note":{"a":[2]}}"#,
        r#"{"choices":[{"index":0,"finish_reason":"stop","delta":{}}]}"#,
        "[DONE]",
    ];
    assert_eq!(
        answer(Shape::Chat, &stream_of(&events)),
        r#"{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"a","mood":"good","marks":[1]},"seed":2}],"object":"chat.completion","note":{"a":[2]}}"#
    );
}

#[test]
fn calls_without_an_index_are_calls_of_their_own() {
    let call = |name| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"function":{{"name":"{name}","arguments":"{{}}"}}}}]}}}}]}}"#
        )
    };
    let answer = answer(Shape::Chat, &stream_of(&[&call("a"), &call("b"), "[DONE]"]));
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let calls = &answer["choices"][0]["message"]["tool_calls"];
    assert_eq!(
        (&calls[0]["function"]["name"], &calls[1]["function"]["name"]),
        (&"a".into(), &"b".into())
    );
    assert_eq!(calls[1]["type"], "function");
}

#[test]
fn characters_cut_in_two_escapes_are_whole_again() {
    let events = [
        r#"{"choices":[{"index":0,"text":"\ud83c"}]}"#,
        r#"{"choices":[{"index":0,"text":"\udf1e\""}]}"#,
        "[DONE]",
    ];
    let answer: serde_json::Value =
        serde_json::from_str(&answer(Shape::Text, &stream_of(&events))).unwrap();
    assert_eq!(answer["choices"][0]["text"], "\u{1f31e}\"");
}

#[test]
fn comments_and_line_ends_make_no_difference() {
    let exchange = one("thinktool");
    let pinged = exchange.stream.replace("data: ", ":\n\ndata:").replace('\n', "\r\n");
    assert_eq!(answer(Shape::Chat, &pinged), exchange.whole);
}

proptest! {
    #[test]
    fn chunks_make_no_difference(pick: prop::sample::Index, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let exchanges: Vec<_> = recorded().collect();
        let exchange = pick.get(&exchanges);
        let stream = exchange.stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|window| &stream[window[0]..window[1]]);
        let expected = Assembled::Answer(exchange.whole.into());
        prop_assert_eq!(exchange.assemble(chunks), expected);
    }

    #[test]
    fn text_comes_through_however_it_is_cut_and_spelled(pieces in prop::collection::vec(".{0,8}", 0..12), choices in 1..4_usize) {
        let mut events: Vec<String> = Vec::new();
        for piece in &pieces {
            for index in (0..choices).rev() {
                let delta = serde_json::json!({"choices": [{"index": index, "delta": {"content": piece, "reasoning_content": piece}}]});
                events.push(delta.to_string());
            }
        }
        for index in 0..choices {
            events.push(serde_json::json!({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}).to_string());
        }
        events.push("[DONE]".to_owned());
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let answer: serde_json::Value = serde_json::from_str(&answer(Shape::Chat, &stream_of(&events))).unwrap();
        let text = pieces.concat();
        for index in 0..choices {
            let message = &answer["choices"][index]["message"];
            prop_assert_eq!(&message["content"], &text);
            prop_assert!(pieces.is_empty() || message["reasoning_content"] == text);
        }
    }

    #[test]
    fn no_order_of_events_and_no_cut_loses_text(
        pieces in prop::collection::vec((0..4_usize, 0..3_usize, ".{0,6}"), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        counted in any::<bool>(),
    ) {
        let fields = ["content", "reasoning_content", "refusal"];
        let mut told: BTreeMap<usize, [String; 3]> = BTreeMap::new();
        let mut events: Vec<String> = Vec::new();
        for (number, (index, field, piece)) in pieces.iter().enumerate() {
            told.entry(*index).or_default()[*field].push_str(piece);
            let delta = serde_json::json!({(fields[*field]): piece});
            let choices = serde_json::json!([{"index": index, "delta": delta, "finish_reason": null}]);
            let mut event = serde_json::json!({"choices": choices});
            if counted {
                event["timings"] = serde_json::json!({"cache_n": 0, "prompt_n": 1, "predicted_n": number + 1});
            }
            events.push(event.to_string());
        }
        events.push("[DONE]".to_owned());
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let stream = stream_of(&events);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|window| &stream.as_bytes()[window[0]..window[1]]);
        let Assembled::Answer(answer) = assemble(Shape::Chat, chunks) else { panic!("an answer") };
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let choices = answer["choices"].as_array().unwrap();
        prop_assert_eq!(choices.len(), told.len());
        for (choice, (index, texts)) in choices.iter().zip(&told) {
            prop_assert_eq!(&choice["index"], index);
            for (field, text) in fields.iter().zip(texts) {
                prop_assert_eq!(choice["message"][field].as_str().unwrap_or_default(), text);
            }
        }
    }

    #[test]
    fn what_is_withheld_at_the_limit_is_noticed_and_nothing_else(
        tokens in prop::collection::vec(prop::option::of("[a-z]{1,3}"), 1..8),
        limited in any::<bool>(),
    ) {
        let event = |text: &str, finish: Option<&str>, count: usize| {
            serde_json::json!({
                "choices": [{"index": 0, "text": text, "finish_reason": finish}],
                "timings": {"cache_n": 0, "prompt_n": 1, "predicted_n": count},
            }).to_string()
        };
        let mut events: Vec<String> = tokens.iter().enumerate()
            .map(|(number, text)| event(text.as_deref().unwrap_or_default(), None, number + 1))
            .collect();
        events.push(event("", Some(if limited { "length" } else { "stop" }), tokens.len()));
        let mut assembler = Assembler::of(TOKENS);
        for data in &events {
            assembler.push(data.as_bytes());
        }
        assembler.push(b"[DONE]");
        let withheld = assembler.finish(Usage::default()) == Assembled::Withheld;
        prop_assert_eq!(withheld, limited && tokens.last().is_some_and(Option::is_none));
    }

    #[test]
    fn no_event_makes_it_panic(events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8), shape in prop::sample::select(vec![Shape::Chat, Shape::Text])) {
        let mut assembler = Assembler::new(shape);
        for event in &events {
            assembler.push(event);
        }
        assembler.push(b"[DONE]");
        assembler.finish(Usage::default());
    }
}
