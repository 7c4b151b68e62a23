use serde_json::{Value, json};

use super::super::{Assembled, Assembler, Plan, Shape, Told};
use crate::usage::Usage;

const CHAT: Plan = Plan { shape: Shape::Chat, told: Told::Probabilities, names_stop: false };

/// The stream of a chat with so many tokens, in which as many as `events` says have one.
fn chat(events: u64, tokens: u64, finish: &str, stop_string: &str) -> Assembler {
    let mut assembler = Assembler::of(CHAT);
    let mut push = |event: &Value| assembler.push(event.to_string().as_bytes());
    let timings = |tokens| json!({"cache_n": 2, "prompt_n": 8, "predicted_n": tokens});
    for number in 1..=events {
        let logprobs = json!({"content": [{"id": number}]});
        let choice = json!({"index": 0, "delta": {"content": "\"é"}, "logprobs": logprobs});
        push(&json!({"choices": [choice], "timings": timings(number)}));
    }
    let choice = json!({"index": 0, "delta": {}, "finish_reason": finish});
    push(&json!({"choices": [choice], "__verbose": {"stopping_word": stop_string}}));
    push(&json!({"choices": [], "usage": {}, "timings": timings(tokens)}));
    assembler.push(b"[DONE]");
    assembler
}

/// How many tokens of the answer have probabilities.
fn told(assembler: &mut Assembler) -> Option<usize> {
    let Assembled::Answer(answer) = assembler.finish(Usage::default()) else { return None };
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    Some(answer["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len))
}

fn question(assembler: &Assembler) -> Option<(&'static str, Value)> {
    let body = br#"{"messages":[{"role":"user"}],"max_tokens":9,"grammar":"x","stop":[]}"#;
    let question = assembler.question(body)?;
    Some((question.path, serde_json::from_slice(&question.body).expect("JSON")))
}

#[test]
fn a_chat_of_which_all_is_told_leaves_no_question() {
    for mut assembler in [chat(3, 3, "stop", ""), chat(3, 3, "length", "")] {
        assert!(question(&assembler).is_none());
        assert_eq!(told(&mut assembler), Some(3));
    }
}

#[test]
fn only_the_end_of_a_turn_may_be_missing() {
    for mut assembler in [
        chat(3, 4, "length", ""),
        chat(3, 5, "stop", ""),
        chat(3, 4, "tool_calls", ""),
        chat(3, 5, "stop", "日"),
    ] {
        assert!(assembler.is_complete() && question(&assembler).is_none());
        assert_eq!(told(&mut assembler), None);
    }
}

#[test]
fn a_token_without_an_event_ends_the_stream() {
    let mut assembler = Assembler::of(CHAT);
    let event = json!({
        "choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [{}]}}],
        "timings": {"cache_n": 0, "prompt_n": 1, "predicted_n": 2},
    });
    assembler.push(event.to_string().as_bytes());
    assert!(assembler.is_complete());
    assert_eq!(assembler.finish(Usage::default()), Assembled::Withheld);
}

#[test]
fn thoughts_end_the_stream() {
    let mut assembler = Assembler::of(CHAT);
    assembler.push(br#"{"choices":[{"index":0,"delta":{"reasoning_content":"x"}}]}"#);
    assert!(assembler.is_complete());
    assert_eq!(assembler.finish(Usage::default()), Assembled::Withheld);
}

#[test]
fn the_end_of_a_turn_is_what_the_engine_goes_on_with() {
    let wanted = json!({
        "messages": [{"role": "user"}, {"role": "assistant", "content": "\"é\"é\"é"}],
        "max_tokens": 9, "n_predict": 1, "stop": [], "stream": false,
        "grammar": "root ::= \"\"", "response_format": null, "json_schema": null,
    });
    let asked = question(&chat(3, 4, "stop", ""));
    assert_eq!(asked, Some(("/v1/chat/completions", wanted)));
    let answer = |cached: u64, read: u64, token: &str, likeliest: u64| {
        let token = json!({"id": 4, "token": token, "top_logprobs": [{"id": likeliest}]});
        let choice = json!({"logprobs": {"content": [token]}});
        json!({"choices": [choice], "timings": {"cache_n": cached, "prompt_n": read}}).to_string()
    };
    let learnt = |answer: &str| {
        let mut assembler = chat(3, 4, "stop", "");
        let learnt = assembler.learn(answer.as_bytes());
        assert_eq!(learnt.is_some(), question(&assembler).is_none());
        told(&mut assembler)
    };
    // Ten tokens of the prompt and three of the answer, of which the last is read anew.
    assert_eq!(learnt(&answer(12, 1, "", 4)), Some(4));
    for other in [
        answer(11, 1, "", 4),
        answer(13, 1, "", 4),
        answer(11, 2, "", 4),
        answer(12, 1, "x", 4),
        answer(12, 1, "", 5),
        r#"{"choices":[{"logprobs":null}],"timings":{"cache_n":12,"prompt_n":1}}"#.to_owned(),
        "{}".to_owned(),
        "[".to_owned(),
    ] {
        assert_eq!(learnt(&other), None, "{other}");
    }
}

#[test]
fn tokens_of_a_stop_string_need_no_events() {
    for (tokens, left) in [(1, None), (2, Some(3)), (4, Some(1)), (9, Some(0))] {
        let mut assembler = chat(3, 5, "stop", "ab");
        assert_eq!(question(&assembler).map(|(path, _)| path), Some("/tokenize"));
        let answer = json!({"tokens": vec![7; tokens]}).to_string();
        assert_eq!(assembler.learn(answer.as_bytes()).is_some(), left.is_some());
        assert_eq!(told(&mut assembler), left);
    }
}

#[test]
fn what_a_stop_string_takes_has_no_probabilities() {
    let event = |index: usize, token: &str, rest: &str| {
        format!(
            r#"{{"choices":[{{"index":{index},"text":"","logprobs":{{"content":[{{"token":"{token}"}}]}}}}]{rest}}}"#
        )
    };
    let end = |index: usize, word: &str| {
        format!(
            r#"{{"choices":[{{"index":{index},"text":"","finish_reason":"stop"}}],"__verbose":{{"stopping_word":{word}}}}}"#
        )
    };
    let events = [
        event(0, "a", r#","__verbose":{"index":0}"#),
        event(0, "b", ""),
        event(1, "c", ""),
        event(2, "d", ""),
        end(0, r#""\u0078\"""#),
        end(1, r#""\u0078\"""#),
        end(2, r#""""#),
        "[DONE]".to_owned(),
    ];
    let whole = |count: Option<usize>| {
        let mut assembler =
            Assembler::of(Plan { shape: Shape::Text, told: Told::Tokens, names_stop: false });
        for event in &events {
            assembler.push(event.as_bytes());
        }
        let question = assembler.question(b"{}").expect("a question");
        assert_eq!(question.path, "/tokenize");
        let asked = String::from_utf8(question.body).expect("text");
        let wanted = r#"{"content":"\u0078\"","add_special":false,"parse_special":false}"#;
        assert_eq!(asked, wanted);
        if let Some(count) = count {
            let answer = serde_json::json!({"tokens": vec![7; count]}).to_string();
            assembler.learn(answer.as_bytes()).expect("an answer");
            assert!(assembler.question(b"{}").is_none());
        }
        assembler.finish(Usage::default())
    };
    assert_eq!(whole(None), Assembled::Withheld, "nobody counted its tokens");
    for (count, left) in [(0, [2, 1, 1]), (1, [1, 0, 1]), (2, [0, 0, 1]), (9, [0, 0, 1])] {
        let Assembled::Answer(answer) = whole(Some(count)) else { panic!("an answer") };
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer.get("__verbose"), None);
        for (choice, left) in answer["choices"].as_array().unwrap().iter().zip(left) {
            let tokens = choice["logprobs"]["content"].as_array().map_or(0, Vec::len);
            assert_eq!(tokens, left, "{choice}");
            assert_eq!(choice["logprobs"].is_null(), left == 0);
        }
    }
}
