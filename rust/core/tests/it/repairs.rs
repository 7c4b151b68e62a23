//! Flaws of llama-server in its own dialect, which clients do not get to see.

use model_runner_core::endpoint::Mode;
use serde_json::{Value, json};

use crate::harness::client::CHAT;
use crate::harness::engine::{DONE, STREAM_HEAD};
use crate::harness::{Engine, MODEL, Piece, Rig};

const EMBEDDINGS: &str = "/v1/embeddings";

/// What a client reads of a stream that comes in such chunks.
fn streamed(rig: &Rig, engine: &Engine, body: &Value, path: &str, chunks: &[&str]) -> String {
    let mut client = rig.client();
    client.ask("POST", path, &[], body.to_string());
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    for chunk in chunks {
        upstream.send_chunk(chunk);
    }
    upstream.end_stream();
    assert_eq!(client.head().status(), 200);
    let (body, end) = client.pieces();
    assert_eq!(end, Piece::Last);
    String::from_utf8(body).unwrap()
}

fn chat(more: &Value) -> Value {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn delta(index: u64, delta: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"finish_reason\":null,\"index\":{index},\"delta\":{delta}}}],\"id\":\"c\"}}\n\n"
    )
}

fn begin(index: u64) -> String {
    delta(index, r#"{"role":"assistant","content":null}"#)
}

fn counts(completion: u64) -> String {
    let total = completion + 5;
    format!(
        "data: {{\"choices\":[],\"id\":\"c\",\"usage\":{{\"completion_tokens\":{completion},\"prompt_tokens\":5,\"total_tokens\":{total}}},\
         \"timings\":{{\"cache_n\":0,\"prompt_n\":5,\"predicted_n\":{completion}}}}}\n\n"
    )
}

#[test]
fn a_stream_whose_first_token_is_withheld_begins_with_a_role() {
    let (rig, engine) = Rig::with_engine();
    let body = chat(&json!({ "stream": true }));
    let (sun, rest) = (delta(0, r#"{"content":"🌞"}"#), delta(0, "{}"));
    let (head, tail) = sun.split_at(60);
    let got = streamed(&rig, &engine, &body, CHAT, &[":\n\n", head, tail, &rest]);
    assert_eq!(got, [":\n\n", &begin(0), &sun, &rest, DONE].concat());
    rig.assert_outcomes([1, 0, 0, 0]);
    assert_eq!(rig.totals().completion_tokens, 1, "no token is made up");
}

#[test]
fn a_stream_of_several_choices_counts_them_all_at_its_end() {
    let (rig, engine) = Rig::with_engine();
    let body =
        chat(&json!({ "stream": true, "n": 2, "stream_options": { "include_usage": true } }));
    let said = |index| delta(index, r#"{"content":"a"}"#);
    let (first, second) = (begin(1) + &said(1), begin(0) + &said(0));
    let chunks = [&*second, &first, &counts(3), &said(0), &counts(4)];
    let got = streamed(&rig, &engine, &body, CHAT, &chunks);
    let sum = counts(7).replace("\"predicted_n\":7", "\"predicted_n\":3");
    assert_eq!(got, [&*second, &first, &said(0), &sum, DONE].concat());
    let totals = rig.totals();
    assert_eq!((totals.prompt_tokens, totals.completion_tokens), (5, 7));
}

#[test]
fn a_stream_of_several_prompts_has_events_only() {
    let (rig, engine) = Rig::with_engine();
    let body = json!({ "model": MODEL, "prompt": ["a", "b"], "stream": true });
    let text = |index: u64| {
        format!(
            "data: {{\"choices\":[{{\"text\":\" Hmm\",\"index\":{index},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let chunks = ["data: null\n\n", &text(1), &text(0)];
    let got = streamed(&rig, &engine, &body, "/v1/completions", &chunks);
    assert_eq!(got, text(1) + &text(0) + DONE);
}

#[test]
fn a_named_tool_is_the_only_one_that_the_engine_hears_of() {
    let (rig, engine) = Rig::with_engine();
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let body =
        chat(&json!({ "tools": [tool("a"), tool("b")], "tool_choice": tool("b"), "stream": true }));
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], body.to_string());
    answer_questions(&engine, "<bot>");
    let (mut upstream, request) = engine.receive();
    let heard = request.json();
    assert_eq!((&heard["tools"], &heard["tool_choice"]), (&json!([tool("b")]), &json!("required")));
    upstream.answer_ok("{}");
    client.message();
    let body = chat(&json!({ "tools": [tool("a")], "tool_choice": tool("c") }));
    client.ask("POST", CHAT, &[], body.to_string());
    let answer = client.message();
    assert_eq!(answer.head.status(), 400);
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("tool_choice"), &json!("invalid_parameter"))
    );
    assert!(error["message"].as_str().unwrap().contains("no tool is called `c`"));
}

#[test]
fn a_named_tool_of_a_whole_answer_is_asked_for_as_a_stream_too() {
    let (rig, engine) = Rig::with_engine();
    let tool = json!({ "type": "function", "function": { "name": "a" } });
    let mut client = rig.client();
    let body = chat(&json!({ "tools": [tool], "tool_choice": tool }));
    client.ask("POST", CHAT, &[], body.to_string());
    answer_questions(&engine, "<bot>");
    let (mut upstream, request) = engine.receive();
    let heard = request.json();
    assert_eq!((&heard["stream"], &heard["tool_choice"]), (&json!(true), &json!("required")));
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

fn embedding(rig: &Rig) -> Engine {
    let engine = rig.engine("embedder").with_mode(Mode::Embedding);
    rig.publish(&[&engine]);
    engine
}

#[test]
fn embeddings_have_as_many_dimensions_as_are_wanted() {
    let rig = Rig::new();
    let engine = embedding(&rig);
    let mut client = rig.client();
    let answer = r#"{"model":"m","data":[{"embedding":[3,-4,12],"index":0}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;
    let ask = |client: &mut crate::harness::Wire, dimensions: Value| {
        let body = json!({ "model": MODEL, "input": "a", "dimensions": dimensions });
        client.ask("POST", EMBEDDINGS, &[], body.to_string());
    };
    let mut upstream = None;
    for (dimensions, status, expected) in [
        (json!(2), 200, answer.replace("[3,-4,12]", "[0.6,-0.8]")),
        (json!(null), 200, answer.to_owned()),
        (json!(3), 200, answer.to_owned()),
        (json!(4), 400, String::new()),
    ] {
        ask(&mut client, dimensions.clone());
        let upstream = upstream.get_or_insert_with(|| engine.accept());
        upstream.message();
        upstream.answer_ok(answer);
        let got = client.message();
        assert_eq!(got.head.status(), status, "{dimensions}");
        if status == 200 {
            assert_eq!(String::from_utf8(got.body).unwrap(), expected);
        } else {
            let error = &got.json()["error"];
            assert_eq!(error["param"], "dimensions");
            assert_eq!(error["message"], "dimensions: the embeddings of this model have 3");
        }
    }
    for wrong in [json!(0), json!("2")] {
        ask(&mut client, wrong);
        assert_eq!(client.message().refusal(), (400, "invalid_parameter".to_owned()));
    }
    assert_eq!(rig.totals().prompt_tokens, 12);
    rig.assert_at_rest();
}

#[test]
fn an_error_that_is_the_clients_fault_is_a_bad_request() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let said = |code: u64, kind: &str| json!({ "error": { "code": code, "message": "image input is not supported", "type": kind } });
    for stream in [true, false] {
        client.ask("POST", CHAT, &[], chat(&json!({ "stream": stream })).to_string());
        let (mut upstream, _) = engine.receive();
        let body = said(500, "server_error").to_string();
        upstream.answer("500 Internal Server Error", "Connection: close\r\n", &body);
        drop(upstream);
        let answer = client.message();
        assert_eq!(answer.head.status(), 400);
        assert_eq!(answer.json(), said(400, "invalid_request_error"));
    }
    rig.assert_outcomes([0, 2, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn an_error_that_is_cut_short_is_a_bad_gateway() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let (mut upstream, _) = engine.receive();
    upstream.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\n{");
    drop(upstream);
    assert_eq!(client.message().refusal(), (502, "engine_died".to_owned()));
    rig.assert_outcomes([0, 0, 1, 0]);
}

#[test]
fn an_error_in_another_dialect_is_put_right_too() {
    let rig = Rig::new();
    let engine = embedding(&rig);
    let mut client = rig.client();
    let body = json!({ "model": MODEL, "prompt": "a" });
    client.ask("POST", "/api/embeddings", &[], body.to_string());
    let (mut upstream, _) = engine.receive();
    let message = "input (3002 tokens) is too large to process. increase the physical batch size (current batch size: 512)";
    let error = json!({ "error": { "code": 500, "message": message, "type": "server_error" } });
    upstream.answer("500 Internal Server Error", "Connection: close\r\n", &error.to_string());
    drop(upstream);
    let answer = client.message();
    assert_eq!(answer.head.status(), 400);
    assert_eq!(answer.json()["error"], "input: the input length exceeds the context length");
}

/// What an engine answers to questions about how turns end: with `</s>`, of which `tail` may have one, if there are tools.
fn answer_questions(engine: &Engine, tail: &str) {
    let answer = |expected: &str, answer: &Value| -> Value {
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.head.target(), expected);
        upstream.answer_ok(&answer.to_string());
        request.json()
    };
    let ends = json!({ "generation_settings/logit_bias": [{ "bias": null, "token": 2 }] });
    assert_eq!(answer("/completion", &ends)["ignore_eos"], true);
    assert_eq!(answer("/detokenize", &json!({ "content": "</s>" }))["tokens"], json!([2]));
    for tail in ["<bot>", tail] {
        let chat = answer("/apply-template", &json!({ "prompt": format!("<user>a</s>{tail}") }));
        let without = answer("/apply-template", &json!({ "prompt": "<user>a</s>" }));
        assert_eq!(chat["tools"], without["tools"]);
        assert_eq!(without["add_generation_prompt"], false);
    }
}

fn held_to_json(last: &Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Hi" }, last]);
    chat(
        &json!({ "stream": true, "messages": messages, "response_format": { "type": "json_object" } }),
    )
}

#[test]
fn a_begun_answer_that_has_ended_is_held_to_no_format() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let parts = json!([{ "type": "text", "text": "{</" }, { "type": "text", "text": "s>" }]);
    for (index, last) in [
        json!({ "role": "assistant", "content": "{</s>" }),
        json!({ "role": "assistant", "content": "{", "reasoning_content": "</s>" }),
        json!({ "role": "assistant", "content": parts }),
    ]
    .iter()
    .enumerate()
    {
        let body = held_to_json(last).to_string().replace('<', "\\u003c");
        client.ask("POST", CHAT, &[], body);
        if index == 0 {
            answer_questions(&engine, "<bot>");
        }
        let answer = client.message();
        assert_eq!(answer.head.status(), 400, "{last}");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], "messages");
        assert!(error["message"].as_str().unwrap().contains("`</s>`"));
    }
    let tool = json!({ "type": "function", "function": { "name": "a" } });
    for body in [
        held_to_json(&json!({ "role": "assistant", "content": "{" })),
        held_to_json(&json!({ "role": "user", "content": "</s>" })),
        chat(&json!({ "stream": true, "tools": [tool], "tool_choice": "required" })),
    ] {
        client.ask("POST", CHAT, &[], body.to_string());
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.json(), body, "nothing is asked a second time");
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
        drop(upstream);
        engine.close_silent();
    }
    assert!(rig.control.try_accept().is_none());
    rig.assert_at_rest();
}

#[test]
fn a_template_that_ends_a_turn_where_answers_begin_is_held_to_no_format() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let tool = json!({ "type": "function", "function": { "name": "a" } });
    let with_tools = |more: Value| {
        let mut body = chat(&more);
        body["tools"] = json!([tool]);
        body["stream"] = json!(true);
        body.to_string()
    };
    let refused = [
        ("tool_choice", json!({ "tool_choice": "required" })),
        ("tool_choice", json!({ "tool_choice": tool })),
        ("response_format", json!({ "response_format": { "type": "json_object" } })),
        ("json_schema", json!({ "json_schema": {} })),
    ];
    for (index, (param, more)) in refused.into_iter().enumerate() {
        client.ask("POST", CHAT, &[], with_tools(more));
        if index == 0 {
            answer_questions(&engine, "<system>call</s><bot>");
        }
        let answer = client.message();
        assert_eq!(answer.head.status(), 400);
        assert_eq!(answer.json()["error"]["param"], param);
    }
    for body in [
        with_tools(json!({ "response_format": { "type": "text" }, "json_schema": null })),
        with_tools(json!({ "tool_choice": "auto" })),
        chat(&json!({ "stream": true, "response_format": { "type": "json_object" } })).to_string(),
    ] {
        client.ask("POST", CHAT, &[], &body);
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.body, body.as_bytes());
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
        drop(upstream);
        engine.close_silent();
    }
}
