//! Every inference endpoint: where it leads, what it takes, and what those that lead nowhere say.

use model_runner_core::endpoint::Mode;
use serde_json::{Value, json};

use crate::harness::client::{CHAT, request};
use crate::harness::rig::BODY_LIMIT;
use crate::harness::{Engine, MODEL, Rig, Wire};

fn body(fields: &Value) -> String {
    let mut body = json!({ "model": MODEL });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

fn rig_with(mode: Mode) -> (Rig, Engine) {
    let rig = Rig::new();
    let engine = rig.engine("first").with_mode(mode);
    rig.publish(&[&engine]);
    (rig, engine)
}

/// Ask, and have the engine answer; what the engine was asked, and that the answer came as it was.
fn pass(rig: &Rig, engine: &Engine, path: &str, body: &str) -> (String, Vec<u8>) {
    let mut client = rig.client();
    client.ask("POST", path, &[], body);
    let (mut upstream, request) = engine.receive();
    let answer = r#"{"tokens":[1,2],"usage":"\"usage\":{\"prompt_tokens\":9}"}"#;
    upstream.answer_ok(answer);
    let message = client.message();
    assert_eq!((message.head.status(), message.body.as_slice()), (200, answer.as_bytes()));
    (request.head.target().to_owned(), request.body)
}

#[test]
fn llama_servers_own_endpoints_pass_byte_for_byte() {
    let (rig, engine) = Rig::with_engine();
    for (path, upstream) in [
        ("/tokenize", "/tokenize"),
        ("/engines/llama.cpp/v1/detokenize", "/detokenize"),
        ("/engines/apply-template", "/apply-template"),
        ("/infill", "/infill"),
        ("/v1/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"),
    ] {
        let body = body(&json!({ "content": "text", "stream": false, "n": 1 }));
        let (target, sent) = pass(&rig, &engine, path, &body);
        assert_eq!((target.as_str(), sent.as_slice()), (upstream, body.as_bytes()), "{path}");
    }
    rig.assert_outcomes([5, 0, 0, 0]);
    let totals = rig.totals();
    assert_eq!((totals.prompt_tokens, totals.completion_tokens), (0, 0), "no token was spent");
    rig.assert_at_rest();
}

#[test]
fn embeddings_and_rerankings_go_to_runners_in_their_modes() {
    for (mode, path, upstream) in [
        (Mode::Embedding, "/embeddings", "/v1/embeddings"),
        (Mode::Reranking, "/v1/reranking", "/v1/rerank"),
    ] {
        let (rig, engine) = rig_with(mode);
        let (target, _) = pass(&rig, &engine, path, &body(&json!({ "stream": true })));
        assert_eq!(target, upstream);
        rig.assert_outcomes([1, 0, 0, 0]);
        // A chat needs another one.
        let mut client = rig.asking(false);
        let (mut call, wanted) = rig.control.lease_call();
        assert_eq!(wanted["mode"], "completion");
        call.answer(
            "500 Internal Server Error",
            "",
            r#"{"code":"no","kind":"server_error","message":"no"}"#,
        );
        assert_eq!(client.message().refusal(), (500, "no".to_owned()));
    }
}

#[test]
fn text_is_made_tokens_by_a_runner_in_any_mode() {
    let (rig, engine) = rig_with(Mode::Embedding);
    for path in ["/tokenize", "/detokenize"] {
        assert_eq!(pass(&rig, &engine, path, &body(&json!({}))).0, path);
    }
    // A template is a chat's.
    let mut client = rig.client();
    client.ask("POST", "/apply-template", &[], body(&json!({ "messages": [] })));
    let (_call, wanted) = rig.control.lease_call();
    assert_eq!(wanted["mode"], "completion");
}

#[test]
fn text_is_made_tokens_by_a_chats_runner_if_none_is_there() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("POST", "/tokenize", &[], body(&json!({})));
    let (mut call, wanted) = rig.control.lease_call();
    assert_eq!(wanted["mode"], "completion");
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    call.grant("first");
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn text_is_made_tokens_by_whatever_runner_the_model_can_have() {
    let rig = Rig::new();
    let refusal = r#"{"code":"wrong_mode","kind":"invalid_request_error","message":"it ranks","param":"model"}"#;
    let mut client = rig.client();
    client.ask("POST", "/tokenize", &[], body(&json!({})));
    for expected in ["completion", "embedding", "reranking"] {
        let (mut call, wanted) = rig.control.lease_call();
        assert_eq!(wanted["mode"], expected);
        call.answer("400 Bad Request", "", refusal);
    }
    let answer = client.message();
    assert_eq!(answer.refusal(), (400, "wrong_mode".to_owned()));
    assert_eq!(answer.json()["error"]["param"], "model");
    // Who wants to chat is told at once.
    client.ask_chat(false);
    rig.control.lease_call().0.answer("400 Bad Request", "", refusal);
    assert_eq!(client.message().refusal(), (400, "wrong_mode".to_owned()));
}

#[test]
fn what_takes_no_slot_does_not_wait_behind_generations() {
    let (rig, engine) = Rig::with_one_slot();
    let mut busy = rig.asking(true);
    let mut generation = engine.begin_stream();
    assert_eq!(busy.head().status(), 200);
    let waiting = rig.waiting(0);
    let mut client = rig.client();
    for path in ["/tokenize", "/detokenize", "/apply-template", "/v1/responses/input_tokens"] {
        client.ask("POST", path, &[], body(&json!({ "content": "text", "input": "text", "n": 3 })));
        let mut upstream = engine.accept();
        upstream.message();
        upstream.answer("200 OK", "Connection: close\r\n", r#"{"input_tokens":1}"#);
        assert_eq!(client.message().head.status(), 200, "{path}");
    }
    assert_eq!((rig.runner().leases, rig.runner().queued), (1, 1));
    drop(waiting);
    generation.send_chunk("data: [DONE]\n\n");
    generation.end_chunks();
    drop(generation);
    busy.pieces();
    rig.assert_at_rest();
}

#[test]
fn a_runner_that_answers_only_for_itself_is_not_stopped_under_the_request() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", "/tokenize", &[], body(&json!({})));
    let (mut upstream, _) = engine.receive();
    assert_eq!(rig.plane.retire("first"), 1);
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
    rig.assert_at_rest();
}

#[test]
fn each_endpoint_wants_a_model() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    for path in [
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/infill",
        "/score",
        "/v1/responses/input_tokens",
    ] {
        client.ask("POST", path, &[], r#"{"content":"text"}"#);
        assert_eq!(client.message().refusal(), (400, "missing_model".to_owned()), "{path}");
    }
    assert!(engine.try_accept().is_none());
}

#[test]
fn what_no_engine_does_is_said_in_openais_words() {
    let rig = Rig::new();
    let mut client = rig.client();
    for path in [
        "/v1/images/generations",
        "/engines/llama.cpp/v1/images/generations",
        "/v1/images/edits",
        "/v1/images/variations",
        "/v1/audio/speech",
        "/v1/audio/translations",
        "/v1/moderations",
    ] {
        client.ask("POST", path, &[], "");
        let answer = client.message();
        assert_eq!(answer.refusal(), (501, "not_offered".to_owned()), "{path}");
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|text| text.contains('(')), "what to do");
        client = rig.client();
    }
    // An image to be changed is not waited for, and does not keep the answer from coming.
    let mut client = rig.client();
    let _ = client.try_send(request("POST", "/v1/images/edits", &[], &vec![b'x'; 16 * BODY_LIMIT]));
    assert_eq!(client.message().refusal().0, 501);
}

/// A form with a file, and the model at its end.
fn form(model: &str) -> Vec<u8> {
    let file = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\0\r\n--\r\n";
    let model = format!(
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--b--\r\n"
    );
    [file.as_bytes(), model.as_bytes()].concat()
}

fn transcribe(client: &mut Wire, content_type: &str, form: &[u8]) {
    let length = form.len();
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    client.send([head.as_bytes(), form].concat());
}

#[test]
fn a_form_reaches_the_engine_as_it_is() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let kind = "multipart/form-data; boundary=\"b\"";
    transcribe(&mut client, kind, &form(MODEL));
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.start, "POST /v1/audio/transcriptions HTTP/1.1");
    assert_eq!(request.head.get("content-type"), Some(kind));
    assert_eq!(request.body, form(MODEL));
    // What llama-server says without a projector for audio.
    let refusal = r#"{"error":{"code":501,"message":"no audio","type":"not_supported_error"}}"#;
    upstream.answer("501 Not Implemented", "Connection: close\r\n", refusal);
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body.as_slice()), (501, refusal.as_bytes()));
    rig.assert_at_rest();
}

#[test]
fn a_form_without_a_model_is_refused() {
    let (rig, engine) = Rig::with_engine();
    let kind = "multipart/form-data; boundary=b";
    for (kind, body, code) in [
        (kind, form(""), "missing_model"),
        (kind, b"--b--\r\n".to_vec(), "missing_model"),
        (kind, b"--b\r\n".to_vec(), "malformed_body"),
        ("application/json", form(MODEL), "malformed_body"),
        ("multipart/form-data", form(MODEL), "malformed_body"),
    ] {
        let mut client = rig.client();
        transcribe(&mut client, kind, &body);
        assert_eq!(client.message().refusal(), (400, code.to_owned()), "{kind}");
    }
    assert!(engine.try_accept().is_none() && rig.control.try_accept().is_none());
}

#[test]
fn an_unknown_model_in_a_form_is_refused_as_everywhere() {
    let rig = Rig::new();
    let mut client = rig.client();
    transcribe(&mut client, "multipart/form-data; boundary=b", &form("ai/absent"));
    let (mut call, wanted) = rig.control.lease_call();
    assert_eq!(wanted["model"], "ai/absent");
    let refusal =
        r#"{"code":"model_not_found","kind":"invalid_request_error","message":"not here"}"#;
    call.answer("404 Not Found", "", refusal);
    assert_eq!(client.message().refusal(), (404, "model_not_found".to_owned()));
}

#[test]
fn every_endpoint_takes_post_only() {
    let rig = Rig::new();
    let mut client = rig.client();
    for path in [CHAT, "/tokenize", "/score", "/v1/audio/transcriptions", "/v1/images/generations"]
    {
        client.ask("GET", path, &[], "");
        assert_eq!(client.message().refusal().0, 405, "{path}");
    }
}
