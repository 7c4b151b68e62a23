//! Requests that are refused before any engine hears of them, and large ones that are not.

use std::time::Duration;

use crate::harness::client::{CHAT, request};
use crate::harness::rig::BODY_LIMIT;
use crate::harness::{Rig, Wire, chat};

/// A valid chat of exactly that length.
fn padded(length: usize) -> Vec<u8> {
    let mut body = chat(true).into_bytes();
    body.resize(length, b' ');
    body
}

fn chunked_head(client: &mut Wire) {
    client.send(format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_body_comes() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    client.send(format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        BODY_LIMIT + 1
    ));
    let answer = client.message();
    assert_eq!(answer.refusal(), (413, "body_too_large".to_owned()));
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains(&BODY_LIMIT.to_string()))
    );
    // What follows would be taken for the next request.
    client.assert_ended();
    rig.assert_at_rest();
}

#[test]
fn a_client_that_sends_a_body_over_the_limit_all_the_same_gets_the_refusal() {
    let (rig, _engine) = Rig::with_engine();
    for _ in 0..20 {
        let mut client = rig.client();
        let body = padded(8 * BODY_LIMIT);
        // The data plane closes while this is written, which is no reason to lose its answer.
        let _ = client.try_send(request("POST", CHAT, &[], &body));
        assert_eq!(client.message().refusal(), (413, "body_too_large".to_owned()));
    }
}

#[test]
fn chunks_over_the_limit_are_refused() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    chunked_head(&mut client);
    client.send_chunk(padded(BODY_LIMIT));
    client.send_chunk(" ");
    assert_eq!(client.message().refusal(), (413, "body_too_large".to_owned()));
    assert!(engine.try_accept().is_none());
    rig.assert_at_rest();
}

#[test]
fn a_body_of_just_the_limit_is_taken() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], padded(BODY_LIMIT));
    let (mut upstream, first) = engine.receive();
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
    chunked_head(&mut client);
    for part in padded(BODY_LIMIT).chunks(50_000) {
        client.send_chunk(part);
    }
    client.end_chunks();
    let second = upstream.message();
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
    // The engine gets a length either way.
    assert_eq!(second.head.get("content-length"), Some(&*BODY_LIMIT.to_string()));
    assert_eq!(second.head.get("transfer-encoding"), None);
    assert!(first.body == padded(BODY_LIMIT) && second.body == first.body);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let body = chat(true);
    let length = body.len();
    client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
    assert_eq!(client.head().status(), 100);
    client.send(&body);
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.get("expect"), None);
    assert_eq!(request.body, body.as_bytes());
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn a_client_that_waits_for_leave_to_send_too_much_does_not_get_it() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    let length = BODY_LIMIT + 1;
    client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
    assert_eq!(client.message().refusal(), (413, "body_too_large".to_owned()));
}

#[test]
fn a_request_without_a_body_is_told_so_and_not_of_its_byte_0() {
    let rig = Rig::new();
    for body in ["", "  \r\n"] {
        let mut client = rig.client();
        client.ask("POST", CHAT, &[], body);
        let answer = client.message();
        let text = String::from_utf8(answer.body).expect("text");
        assert!(text.contains("it is empty: send a JSON object"), "{text}");
    }
}

#[test]
fn a_body_that_names_no_model_is_refused_with_the_reason() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let cases = [
        ("{}", "missing_model"),
        (r#"{"messages":[]}"#, "missing_model"),
        (r#"{"model":""}"#, "missing_model"),
        (r#"{"model":"  "}"#, "missing_model"),
        (r#"{"model":null}"#, "missing_model"),
        (r#"{"messages":[{"model":"ai/smollm2"}]}"#, "missing_model"),
        (r#"{"model":1}"#, "invalid_model"),
        (r#"{"model":["ai/smollm2"]}"#, "invalid_model"),
        ("", "malformed_body"),
        ("[]", "malformed_body"),
        ("model=ai/smollm2", "malformed_body"),
        (r#"{"model":"ai/smollm2""#, "malformed_body"),
    ];
    for (body, code) in cases {
        client.ask("POST", CHAT, &[], body);
        let answer = client.message();
        assert_eq!(answer.refusal(), (400, code.to_owned()), "of {body}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        let param = &answer.json()["error"]["param"];
        assert_eq!(param == "model", code != "malformed_body", "of {body}");
    }
    assert!(engine.try_accept().is_none() && rig.control.try_accept().is_none());
    assert_eq!((rig.refused("missing_model"), rig.refused("invalid_model")), (6, 2));
    rig.assert_at_rest();
}

#[test]
fn an_inference_path_takes_post_only() {
    let rig = Rig::new();
    let mut client = rig.client();
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        for path in [CHAT, "/engines/llama.cpp/v1/embeddings", "/rerank"] {
            client.ask(method, path, &[], "");
            let answer = client.message();
            assert_eq!(
                answer.refusal(),
                (405, "method_not_allowed".to_owned()),
                "of {method} {path}"
            );
            assert_eq!(answer.head.get("allow"), Some("POST"));
        }
    }
    client.ask("HEAD", CHAT, &[], "");
    let head = client.head();
    assert_eq!((head.status(), head.get("allow")), (405, Some("POST")));
    // An answer to HEAD has no body, so the next one comes right behind it.
    client.ping();
}

#[test]
fn an_unknown_backend_is_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("POST", "/engines/vllm/v1/chat/completions", &[], chat(false));
    let answer = client.message();
    assert_eq!(answer.refusal(), (404, "backend_not_found".to_owned()));
    assert!(answer.json()["error"]["message"].as_str().is_some_and(|text| text.contains("vllm")));
}

#[test]
fn a_body_that_stops_coming_is_given_up() {
    let rig = Rig::with(|config| config.body_timeout = Duration::from_millis(100));
    for begun in ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"] {
        let mut client = rig.client();
        client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{begun}"));
        assert_eq!(client.message().refusal(), (408, "body_timeout".to_owned()));
    }
}

#[test]
fn a_refusal_of_a_head_request_has_no_body() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("HEAD", CHAT, &[], "");
    let head = client.head();
    assert_eq!((head.status(), head.get("allow")), (405, Some("POST")));
    // Were there a body, the next answer would begin in it.
    client.ping();
}
