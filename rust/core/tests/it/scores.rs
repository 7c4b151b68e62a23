//! Scores: asked as rerankings, answered as vLLM does.

use model_runner_core::endpoint::Mode;
use serde_json::{Value, json};

use crate::harness::{Engine, MODEL, Message, Rig, Wire, wait_until};

fn rig() -> (Rig, Engine) {
    let rig = Rig::new();
    let engine = rig.engine("first").with_mode(Mode::Reranking).with_slots(1);
    rig.publish(&[&engine]);
    (rig, engine)
}

fn ask(client: &mut Wire, fields: &Value) {
    let mut body = json!({ "model": MODEL });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    client.ask("POST", "/v1/score", &[("X-Request-Id", "mine")], body.to_string());
}

/// Answer a reranking as llama-server does, the best first.
fn rank(upstream: &mut Wire, request: &Message, scores: &[f64]) {
    let documents = request.json()["documents"].as_array().unwrap().len();
    assert_eq!(documents, scores.len());
    let mut results: Vec<(usize, f64)> = scores.iter().copied().enumerate().collect();
    results.sort_by(|one, other| other.1.total_cmp(&one.1));
    let results: Vec<Value> = results
        .into_iter()
        .map(|(index, score)| json!({ "index": index, "relevance_score": score }))
        .collect();
    let tokens = 10 * documents;
    let answer = json!({
        "model": MODEL, "object": "list", "results": results,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    upstream.answer_ok(&answer.to_string());
}

#[test]
fn one_text_against_many_is_one_reranking() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "text_1": "q", "text_2": ["a", "b", "c"] }));
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.start, "POST /v1/rerank HTTP/1.1");
    let wanted = json!({ "model": MODEL, "query": "q", "documents": ["a", "b", "c"] });
    assert_eq!(request.json(), wanted);
    rank(&mut upstream, &request, &[-1.5, 2.25, 0.0]);
    let answer = client.message();
    assert_eq!(answer.head.get("content-type"), Some("application/json"));
    let mut answer = answer.json();
    assert!(answer["created"].take().as_u64().is_some_and(|seconds| seconds > 1_700_000_000));
    assert_eq!(
        answer,
        json!({
            "id": "score-mine", "object": "list", "created": null, "model": MODEL,
            "data": [
                { "index": 0, "object": "score", "score": -1.5 },
                { "index": 1, "object": "score", "score": 2.25 },
                { "index": 2, "object": "score", "score": 0.0 },
            ],
            "usage": { "prompt_tokens": 30, "total_tokens": 30, "completion_tokens": 0 },
        })
    );
    rig.assert_outcomes([1, 0, 0, 0]);
    assert_eq!(rig.totals().prompt_tokens, 30);
    rig.assert_at_rest();
}

#[test]
fn pairs_are_reranked_one_after_the_other() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "queries": ["q", "r"], "documents": ["a", "b"] }));
    let (mut upstream, first) = engine.receive();
    assert_eq!(first.json(), json!({ "model": MODEL, "query": "q", "documents": ["a"] }));
    rank(&mut upstream, &first, &[0.5]);
    let second = upstream.message();
    assert_eq!(second.json(), json!({ "model": MODEL, "query": "r", "documents": ["b"] }));
    rank(&mut upstream, &second, &[0.25]);
    let answer = client.message().json();
    assert_eq!(
        (&answer["data"][0]["score"], &answer["data"][1]["score"]),
        (&json!(0.5), &json!(0.25))
    );
    assert_eq!(answer["usage"]["prompt_tokens"], 20);
    rig.assert_outcomes([2, 0, 0, 0]);
    assert_eq!(rig.totals().prompt_tokens, 20);
    rig.assert_at_rest();
}

#[test]
fn an_engines_refusal_is_the_answer() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "text_1": "q", "text_2": "d" }));
    let (mut upstream, _) = engine.receive();
    let refusal = r#"{"error":{"code":400,"message":"too long","type":"invalid_request_error"}}"#;
    upstream.answer("400 Bad Request", "Connection: close\r\n", refusal);
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body.as_slice()), (400, refusal.as_bytes()));
    rig.assert_outcomes([0, 1, 0, 0]);
}

#[test]
fn an_answer_that_is_no_reranking_is_not_passed_off_as_scores() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "text_1": "q", "text_2": "d" }));
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok(r#"{"results":[]}"#);
    assert_eq!(client.message().refusal(), (502, "engine_unreachable".to_owned()));
    rig.assert_at_rest();
}

#[test]
fn an_engine_that_dies_between_two_pairs_is_noticed() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "text_1": ["q", "r"], "text_2": ["a", "b"] }));
    let (mut upstream, first) = engine.receive();
    rank(&mut upstream, &first, &[0.5]);
    upstream.message();
    drop(upstream);
    // It is asked once more on a new connection, as the kept one may have been closed before.
    drop(engine.receive());
    assert_eq!(client.message().refusal(), (502, "engine_unreachable".to_owned()));
    rig.assert_at_rest();
}

#[test]
fn who_leaves_between_two_pairs_frees_the_slot() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "text_1": ["q", "r"], "text_2": ["a", "b"] }));
    let (mut upstream, first) = engine.receive();
    rank(&mut upstream, &first, &[0.5]);
    upstream.message();
    drop(client);
    upstream.assert_ended();
    rig.assert_outcomes([1, 0, 0, 1]);
    rig.assert_at_rest();
}

#[test]
fn texts_that_make_no_pairs_are_refused() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    for (fields, param) in [
        (json!({}), "text_1"),
        (json!({ "text_1": "q" }), "text_2"),
        (json!({ "text_1": ["q", "r"], "text_2": ["d"] }), "text_1"),
        (
            json!({ "text_1": "q", "text_2": "d", "truncate_prompt_tokens": 1 }),
            "truncate_prompt_tokens",
        ),
    ] {
        ask(&mut client, &fields);
        let answer = client.message();
        assert_eq!(answer.refusal(), (400, "invalid_parameter".to_owned()), "{fields}");
        assert_eq!(answer.json()["error"]["param"], param);
    }
    assert!(engine.try_accept().is_none());
    rig.assert_at_rest();
}

#[test]
fn a_cancelled_request_for_scores_ends() {
    let (rig, engine) = rig();
    let mut client = rig.client();
    ask(&mut client, &json!({ "text_1": "q", "text_2": "d" }));
    let (mut upstream, _) = engine.receive();
    wait_until("it is being answered", || rig.runner().leases == 1);
    let mut other = rig.client();
    other.ask("POST", "/engines/requests/mine/cancel", &[], "");
    assert_eq!(other.message().head.status(), 200);
    assert_eq!(client.message().refusal(), (499, "cancelled".to_owned()));
    upstream.assert_ended();
    rig.assert_at_rest();
}
