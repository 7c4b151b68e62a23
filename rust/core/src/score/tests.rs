use proptest::prelude::*;
use serde_json::{Value, json};

use super::{MAX_PAIRS, NotRanked, Scoring};

fn read(body: &Value) -> Scoring {
    Scoring::read(body.to_string().as_bytes()).unwrap()
}

fn refusal(body: &Value) -> (Value, String) {
    let error = Scoring::read(body.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.status(), 400);
    let shown: Value = serde_json::from_slice(&error.to_json()).unwrap();
    (shown["error"]["param"].clone(), error.to_string())
}

fn next(scoring: &Scoring) -> Value {
    serde_json::from_slice(&scoring.next("m").unwrap()).unwrap()
}

fn size(text: &str) -> f64 {
    f64::from(u32::try_from(text.len()).unwrap()) / 8.0
}

/// What an engine says whose score of a document is its length, best first.
fn rank(request: &Value) -> String {
    let mut results: Vec<Value> = request["documents"].as_array().unwrap().iter().enumerate()
        .map(|(index, text)| json!({ "index": index, "relevance_score": size(text.as_str().unwrap()) }))
        .collect();
    results.sort_by(|one, other| {
        other["relevance_score"]
            .as_f64()
            .unwrap()
            .total_cmp(&one["relevance_score"].as_f64().unwrap())
    });
    let tokens = results.len() * 3;
    json!({ "model": "m", "object": "list", "results": results, "usage": { "prompt_tokens": tokens, "total_tokens": tokens } }).to_string()
}

fn answer(mut scoring: Scoring) -> (Value, usize) {
    let mut calls = 0;
    while scoring.next("m").is_some() {
        let request = next(&scoring);
        scoring.take(rank(&request).as_bytes()).unwrap();
        calls += 1;
    }
    (serde_json::from_slice(&scoring.answer("score-1", "m", 7)).unwrap(), calls)
}

#[test]
fn one_text_is_scored_against_many_in_one_reranking() {
    let scoring = read(&json!({ "model": "m", "text_1": "q", "text_2": ["a", "ccc", "bb"] }));
    assert_eq!(
        next(&scoring),
        json!({ "model": "m", "query": "q", "documents": ["a", "ccc", "bb"] })
    );
    let (answer, calls) = answer(scoring);
    assert_eq!(calls, 1);
    assert_eq!(
        answer,
        json!({
            "id": "score-1", "object": "list", "created": 7, "model": "m",
            "data": [
                { "index": 0, "object": "score", "score": 0.125 },
                { "index": 1, "object": "score", "score": 0.375 },
                { "index": 2, "object": "score", "score": 0.25 },
            ],
            "usage": { "prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0 },
        })
    );
}

#[test]
fn pairs_are_scored_one_by_one() {
    let scoring = read(&json!({ "text_1": ["q", "r"], "text_2": ["a", "bb"] }));
    assert_eq!(next(&scoring), json!({ "model": "m", "query": "q", "documents": ["a"] }));
    let (answer, calls) = answer(scoring);
    assert_eq!(calls, 2);
    assert_eq!(answer["data"][1], json!({ "index": 1, "object": "score", "score": 0.25 }));
    assert_eq!(answer["usage"]["total_tokens"], 6);
}

#[test]
fn the_members_have_the_names_that_vllm_gives_them() {
    for (one, two) in
        [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")]
    {
        let scoring = read(&json!({ one: "q", two: "d", "user": "me" }));
        assert_eq!(next(&scoring), json!({ "model": "m", "query": "q", "documents": ["d"] }));
    }
}

#[test]
fn what_cannot_be_scored_is_refused_with_the_reason() {
    assert_eq!(refusal(&json!({ "text_1": "q" })).0, "text_2");
    assert_eq!(refusal(&json!({ "text_2": "d" })).0, "text_1");
    assert_eq!(refusal(&json!({ "text_1": [], "text_2": "d" })).0, "text_1");
    assert_eq!(refusal(&json!({ "text_1": "q", "text_2": [] })).0, "text_2");
    assert_eq!(refusal(&json!({ "text_1": 1, "text_2": "d" })).0, "text_1");
    assert_eq!(refusal(&json!({ "text_1": "q", "text_2": [{ "content": [] }] })).0, "text_1");
    assert!(refusal(&json!({ "text_1": ["q", "r"], "text_2": ["d"] })).1.contains("2 texts for 1"));
    assert!(
        refusal(&json!({ "text_1": ["q", "r"], "text_2": ["d", "e", "f"] }))
            .1
            .contains("2 texts for 3")
    );
    let many = vec!["x"; MAX_PAIRS + 1];
    assert!(refusal(&json!({ "text_1": many, "text_2": many })).1.contains("64 pairs"));
    assert_eq!(
        refusal(&json!({ "text_1": "q", "text_2": "d", "truncate_prompt_tokens": 5 })).0,
        "truncate_prompt_tokens"
    );
    assert_eq!(
        refusal(&json!({ "text_1": "q", "text_2": "d", "softmax": false })).0,
        "use_activation"
    );
    assert_eq!(refusal(&json!({ "text_1": "q", "queries": "q", "text_2": "d" })).0, "text_1");
}

#[test]
fn an_answer_that_ranks_something_else_is_noticed() {
    for results in [
        json!([]),
        json!([{ "index": 0, "relevance_score": 1 }]),
        json!([{ "index": 0, "relevance_score": 1 }, { "index": 2, "relevance_score": 1 }]),
        json!([{ "index": 0, "relevance_score": null }, { "index": 1, "relevance_score": 1 }]),
        json!("none"),
    ] {
        let mut scoring = read(&json!({ "text_1": "q", "text_2": ["a", "b"] }));
        let answer = json!({ "results": results }).to_string();
        assert_eq!(scoring.take(answer.as_bytes()), Err(NotRanked), "{results}");
    }
}

proptest! {
    #[test]
    fn scores_come_in_the_order_of_the_texts(texts in prop::collection::vec("[a-z]{1,20}", 1..30), pairs: bool) {
        let queries = if pairs { json!(vec!["q"; texts.len()]) } else { json!("q") };
        let (answer, calls) = answer(read(&json!({ "text_1": queries, "text_2": texts })));
        prop_assert_eq!(calls, if pairs { texts.len() } else { 1 });
        let scores: Vec<f64> = answer["data"].as_array().unwrap().iter().map(|score| score["score"].as_f64().unwrap()).collect();
        let expected: Vec<f64> = texts.iter().map(|text| size(text)).collect();
        prop_assert_eq!(scores, expected);
        prop_assert_eq!(&answer["usage"]["prompt_tokens"], &json!(3 * texts.len()));
    }
}
