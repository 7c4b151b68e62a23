//! Models that are not loaded: the control plane is asked, and has the last word.

use serde_json::json;

use crate::harness::client::{CHAT, chat_with};
use crate::harness::{MODEL, Message, Rig, chat, wait_until};

/// Ask for a chat with a cold model, let the control plane answer, and give what the client gets.
fn refused_with(status: &str, body: &str) -> (Rig, Message) {
    let rig = Rig::new();
    let mut client = rig.asking(true);
    let (mut call, _) = rig.control.lease_call();
    call.answer(status, "", body);
    let answer = client.message();
    (rig, answer)
}

#[test]
fn a_cold_model_is_asked_for_as_it_was_spelled_and_then_served() {
    let rig = Rig::new();
    let cases = [
        (CHAT, "completion", "hf.co/Org/Repo:Q4_K_M"),
        ("/v1/completions", "completion", "smollm2:360M"),
        ("/v1/embeddings", "embedding", "ai/embed"),
        ("/engines/llama.cpp/v1/rerank", "reranking", "sha256:0123"),
        ("/rerank", "reranking", "ai/\u{fc}ml\u{e4}ut"),
    ];
    for (number, (path, mode, model)) in cases.into_iter().enumerate() {
        let mut client = rig.client();
        client.ask("POST", path, &[], chat_with(model, true));
        let (mut call, wanted) = rig.control.lease_call();
        assert_eq!(wanted, json!({"model": model, "mode": mode, "failed_runner": null}));
        let engine = rig.engine(&number.to_string());
        // The control plane may publish it under other names than the one that was asked for.
        rig.publish(&[&engine]);
        call.grant(&engine.id);
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.body, chat_with(model, true).as_bytes());
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
    }
}

#[test]
fn a_warm_model_is_not_asked_for() {
    let (rig, engine) = Rig::with_engine();
    for name in [MODEL, "smollm2"] {
        let mut client = rig.client();
        client.ask("POST", CHAT, &[], chat_with(name, true));
        let upstream = engine.begin_stream();
        client.head();
        upstream.end_stream();
    }
    assert!(rig.control.try_accept().is_none());
}

#[test]
fn a_runner_serves_its_own_mode_only() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", "/v1/embeddings", &[], chat(false));
    let (_, wanted) = rig.control.lease_call();
    assert_eq!(wanted["mode"], "embedding");
}

#[test]
fn all_who_wait_for_one_model_are_served() {
    let rig = Rig::with(|config| config.threads = 2);
    let mut clients: Vec<_> = (0..4).map(|_| rig.asking(true)).collect();
    let calls: Vec<_> = (0..4).map(|_| rig.control.lease_call().0).collect();
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    for mut call in calls {
        call.grant("first");
    }
    for _ in 0..4 {
        engine.begin_stream().end_stream();
    }
    for client in &mut clients {
        assert_eq!(client.head().status(), 200);
        client.pieces();
    }
    rig.assert_outcomes([4, 0, 0, 0]);
}

#[test]
fn a_refusal_arrives_with_the_control_planes_words() {
    let refusal = json!({
        "code": "model_not_found", "kind": "invalid_request_error",
        "message": "model \"x\" is not here", "hint": "pull it first", "retry_after": null,
    });
    let (rig, answer) = refused_with("404 Not Found", &refusal.to_string());
    assert_eq!(answer.refusal(), (404, "model_not_found".to_owned()));
    assert_eq!(answer.json()["error"]["message"], "model \"x\" is not here (pull it first)");
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    assert_eq!(answer.head.get("retry-after"), None);
    assert_eq!(rig.refused("refused"), 1);
    rig.assert_at_rest();
}

#[test]
fn a_refusal_for_now_says_when_to_come_back() {
    let refusal = json!({
        "code": "out_of_memory", "kind": "server_error", "message": "no room", "hint": null, "retry_after": 7,
    });
    let (_, answer) = refused_with("503 Service Unavailable", &refusal.to_string());
    assert_eq!(answer.refusal(), (503, "out_of_memory".to_owned()));
    assert_eq!(answer.json()["error"]["message"], "no room");
    assert_eq!(answer.head.get("retry-after"), Some("7"));
}

#[test]
fn what_the_control_plane_should_not_say_is_our_fault() {
    let cases = [
        ("200 OK", "{}"),
        ("200 OK", "[]"),
        ("200 OK", "not JSON"),
        ("404 Not Found", r#"{"detail":"Not Found"}"#),
        ("500 Internal Server Error", "Internal Server Error"),
    ];
    for (status, body) in cases {
        let (_, answer) = refused_with(status, body);
        assert_eq!(answer.refusal(), (503, "control_unreachable".to_owned()), "of {status} {body}");
        assert_eq!(answer.head.get("retry-after"), Some("1"));
    }
}

#[test]
fn a_control_plane_that_dies_is_our_fault() {
    let rig = Rig::new();
    let mut client = rig.asking(true);
    let (call, _) = rig.control.lease_call();
    drop(call);
    assert_eq!(client.message().refusal(), (503, "control_unreachable".to_owned()));
}

#[test]
fn a_runner_that_is_gone_again_is_asked_for_anew() {
    let rig = Rig::new();
    let mut client = rig.asking(true);
    let (mut call, _) = rig.control.lease_call();
    call.grant("gone-already");
    let (mut call, wanted) = rig.control.lease_call();
    assert_eq!(wanted["failed_runner"], json!(null));
    let engine = rig.engine("second");
    rig.publish(&[&engine]);
    call.grant("second");
    engine.begin_stream().end_stream();
    assert_eq!(client.head().status(), 200);
}

#[test]
fn a_preload_loads_and_sends_nothing_to_the_engine() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("X-Preload-Only", "true")], chat(false));
    let (mut call, _) = rig.control.lease_call();
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    call.grant("first");
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body), (200, Vec::new()));
    assert!(engine.try_accept().is_none());
    wait_until("the lease has ended", || rig.runner().leases == 0);
    rig.assert_outcomes([0, 0, 0, 0]);
}

#[test]
fn an_answer_of_the_control_plane_may_come_in_parts() {
    let rig = Rig::new();
    let mut client = rig.asking(false);
    let (mut call, _) = rig.control.lease_call();
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut other = rig.client();
    for part in
        ["HTTP/1.1 200 OK\r\nContent-Le", "ngth: 21\r\n\r\n", "{\"runner_id\":", "\"first\"}"]
    {
        call.send(part);
        other.ping();
    }
    engine.receive().0.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}
