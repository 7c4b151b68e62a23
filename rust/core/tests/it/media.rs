//! Images by their addresses: the engine gets the bytes, and no address.

use serde_json::{Value, json};

use crate::harness::client::CHAT;
use crate::harness::rig::BODY_LIMIT;
use crate::harness::{MODEL, Rig, chat};

const CAT: &str = "https://example.com/cat.png";
const DOG: &str = "http://example.com/dog.png";

fn with_images(urls: &[&str]) -> String {
    let parts: Vec<Value> = urls
        .iter()
        .map(|url| json!({ "type": "image_url", "image_url": { "url": url } }))
        .collect();
    let message = json!({ "role": "user", "content": parts });
    json!({ "model": MODEL, "stream": true, "messages": [message] }).to_string()
}

#[test]
fn the_engine_gets_the_images_and_no_address() {
    let (rig, engine) = Rig::with_engine();
    for path in [CHAT, "/apply-template", "/v1/chat/completions/input_tokens"] {
        let mut client = rig.client();
        client.ask("POST", path, &[], with_images(&[CAT, DOG, CAT]));
        let (mut call, request) = rig.control.receive();
        assert_eq!(request.head.start, "POST /_control/media HTTP/1.1");
        assert_eq!(request.json(), json!({ "urls": [DOG, CAT] }), "each once");
        assert!(engine.try_accept().is_none(), "no slot is held meanwhile");
        call.answer_ok(&json!({ "data_urls": ["data:dog", "data:cat"] }).to_string());
        let (mut upstream, request) = engine.receive();
        let expected = with_images(&["data:cat", "data:dog", "data:cat"]);
        assert_eq!(request.body, expected.as_bytes());
        upstream.answer("200 OK", "Connection: close\r\n", "{}");
        assert_eq!(client.message().head.status(), 200);
    }
    rig.assert_at_rest();
}

#[test]
fn bodies_without_addresses_ask_nobody() {
    let (rig, engine) = Rig::with_engine();
    let text = format!(
        r#"{{"model":"{MODEL}","stream":true,"messages":[{{"content":"image_url {CAT}"}}]}}"#
    );
    for body in [chat(true), text, with_images(&["data:image/png;base64,AAAA"])] {
        let mut client = rig.client();
        client.ask("POST", CHAT, &[], &body);
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.body, body.as_bytes());
        upstream.answer("200 OK", "Connection: close\r\n", "{}");
        client.message();
    }
    assert!(rig.control.try_accept().is_none());
}

#[test]
fn a_refusal_names_the_member_and_reaches_no_engine() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], with_images(&[CAT]));
    let (mut call, _) = rig.control.receive();
    let refusal = json!({
        "code": "media_not_fetched", "kind": "invalid_request_error", "message": "it is private",
        "hint": "send it", "param": "image_url",
    });
    call.answer("400 Bad Request", "", &refusal.to_string());
    let answer = client.message();
    assert_eq!(answer.refusal(), (400, "media_not_fetched".to_owned()));
    assert_eq!(answer.json()["error"]["param"], "image_url");
    for url in ["file:///etc/passwd", "ftp://example.com/", "httpx://example.com/"] {
        client.ask("POST", CHAT, &[], with_images(&[url]));
        let answer = client.message();
        assert_eq!(answer.refusal(), (400, "invalid_parameter".to_owned()), "{url}");
        assert_eq!(answer.json()["error"]["param"], "image_url");
    }
    assert!(engine.try_accept().is_none() && rig.control.try_accept().is_none());
    rig.assert_at_rest();
}

#[test]
fn who_leaves_ends_the_fetch() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], with_images(&[CAT]));
    let (mut call, _) = rig.control.receive();
    drop(client);
    call.assert_ended();
    rig.assert_at_rest();
}

#[test]
fn images_that_make_the_request_too_large_are_refused() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], with_images(&[CAT]));
    let (mut call, _) = rig.control.receive();
    call.answer_ok(&json!({ "data_urls": ["x".repeat(BODY_LIMIT)] }).to_string());
    assert_eq!(client.message().refusal(), (413, "body_too_large".to_owned()));
    assert!(engine.try_accept().is_none());
}

#[test]
fn an_answer_that_lacks_an_image_is_no_answer() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], with_images(&[CAT, DOG]));
    let (mut call, _) = rig.control.receive();
    call.answer_ok(r#"{"data_urls":["data:x"]}"#);
    assert_eq!(client.message().refusal(), (503, "control_unreachable".to_owned()));
    assert!(engine.try_accept().is_none());
}
