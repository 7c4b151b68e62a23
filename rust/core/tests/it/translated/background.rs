//! Responses that go on without their client.

use serde_json::{Value, json};

use super::{Tongue, begun, cancel, say, told};
use crate::harness::engine::STREAM_HEAD;
use crate::harness::{MODEL, Rig, Wire};

/// One that has been answered, and what the client was told of it.
fn begin(rig: &Rig) -> (Wire, Value) {
    let mut client = rig.client();
    let body = json!({ "model": MODEL, "input": "Hi", "background": true });
    client.ask("POST", "/v1/responses", &[], body.to_string());
    let (mut control, kept) = told(rig, "/_control/responses");
    assert_eq!(kept["response"]["status"], "in_progress");
    control.answer("204 No Content", "", "");
    let answer = client.message();
    assert_eq!(answer.head.status(), 200);
    let answer = answer.json();
    assert_eq!((&answer, &answer["id"]), (&kept["response"], &kept["id"]));
    (client, answer)
}

/// What is kept of it in the end.
fn ended(rig: &Rig, begun: &Value) -> Value {
    let (mut control, kept) = told(rig, "/_control/responses");
    control.answer("204 No Content", "", "");
    assert_eq!(kept["id"], begun["id"]);
    kept["response"].clone()
}

#[test]
fn it_goes_on_after_its_client_has_left() {
    let (rig, engine) = Rig::with_engine();
    let (client, answer) = begin(&rig);
    drop(client);
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    rig.client().ping();
    say(upstream, Tongue::Responses, 2);
    let response = ended(&rig, &answer);
    assert_eq!(response["status"], "completed");
    assert_eq!(response["output"][0]["content"][0]["text"], " word word");
    rig.assert_outcomes([1, 0, 0, 0]);
    assert_eq!(rig.totals().completion_tokens, 2);
    rig.assert_at_rest();
}

#[test]
fn it_is_cancelled_by_its_id() {
    let (rig, engine) = Rig::with_engine();
    let (client, answer) = begin(&rig);
    drop(client);
    let mut upstream = begun(Tongue::Responses, &engine);
    // As the control plane does it for `POST /v1/responses/{id}/cancel`.
    cancel(&rig, answer["id"].as_str().expect("an ID"));
    upstream.assert_ended();
    assert_eq!(ended(&rig, &answer)["status"], "cancelled");
    rig.assert_outcomes([0, 0, 0, 1]);
    rig.assert_at_rest();
}

#[test]
fn it_fails_with_its_engine() {
    let (rig, engine) = Rig::with_engine();
    let (_client, answer) = begin(&rig);
    drop(begun(Tongue::Responses, &engine));
    let response = ended(&rig, &answer);
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "engine_died");
    assert_eq!(response["output"][0]["content"][0]["text"], " word");
    rig.assert_outcomes([0, 0, 1, 0]);
}

#[test]
fn it_fails_if_its_model_does_not_load() {
    let rig = Rig::new();
    let (_client, answer) = begin(&rig);
    let (mut call, _) = rig.control.lease_call();
    let refusal = r#"{"code":"load_failed","kind":"server_error","message":"it does not load"}"#;
    call.answer("500 Internal Server Error", "", refusal);
    let response = ended(&rig, &answer);
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "load_failed");
    rig.assert_at_rest();
}

#[test]
fn what_cannot_be_kept_is_not_begun() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let body = json!({ "model": MODEL, "input": "Hi", "background": true });
    client.ask("POST", "/v1/responses", &[], body.to_string());
    let (mut control, _) = told(&rig, "/_control/responses");
    let refusal = r#"{"code":"store_full","kind":"server_error","message":"the disk is full"}"#;
    control.answer("507 Insufficient Storage", "", refusal);
    let answer = client.message();
    assert_eq!(answer.refusal(), (507, "store_full".to_owned()));
    assert!(engine.try_accept().is_none());
}
