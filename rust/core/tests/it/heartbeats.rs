//! A client that reads a stream and waits for a load or a slot is told that it still waits.

use std::time::Duration;

use serde_json::json;

use crate::harness::client::CHAT;
use crate::harness::engine::{DONE, EVENT};
use crate::harness::{Piece, Rig, Wire, chat, wait_until};

const HEARTBEAT: &[u8] = b": waiting\n\n";

fn rig() -> Rig {
    Rig::with(|config| config.heartbeat = Some(Duration::from_millis(20)))
}

/// A client of a cold model that has been told twice to wait, and the lease call that it waits for.
fn kept_waiting(rig: &Rig) -> (Wire, Wire) {
    let mut client = rig.asking(true);
    let (call, _) = rig.control.lease_call();
    let head = client.head();
    assert_eq!(head.status(), 200);
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert_eq!(head.get("cache-control"), Some("no-cache"));
    assert!(head.get("x-request-id").is_some());
    for _ in 0..2 {
        assert_eq!(client.chunk(), HEARTBEAT);
    }
    (client, call)
}

/// What comes after the heartbeats, as text, and how it ends.
fn rest(client: &mut Wire) -> (String, Piece) {
    let (rest, end) = client.pieces();
    let text = String::from_utf8(rest).expect("text");
    (text.replace(": waiting\n\n", ""), end)
}

#[test]
fn a_stream_follows_the_heartbeats_byte_for_byte() {
    let rig = rig();
    let (mut client, mut call) = kept_waiting(&rig);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    call.grant("first");
    engine.begin_stream().end_stream();
    assert_eq!(rest(&mut client), (format!("{EVENT}{DONE}"), Piece::Last));
    rig.assert_outcomes([1, 0, 0, 0]);
    // The connection takes another request.
    client.ping();
    rig.assert_at_rest();
}

#[test]
fn who_only_wants_the_model_loaded_gets_no_event_after_the_heartbeats() {
    let rig = rig();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("X-Preload-Only", "true")], chat(true));
    let (mut call, _) = rig.control.lease_call();
    client.head();
    assert_eq!(client.chunk(), HEARTBEAT);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    call.grant("first");
    assert_eq!(rest(&mut client), (String::new(), Piece::Last));
    rig.assert_at_rest();
}

#[test]
fn a_refusal_after_a_heartbeat_is_an_event() {
    let rig = rig();
    let (mut client, mut call) = kept_waiting(&rig);
    let refusal = json!({
        "code": "load_failed", "kind": "server_error", "message": "it does not load", "hint": null, "retry_after": null,
    });
    call.answer("500 Internal Server Error", "", &refusal.to_string());
    let (text, end) = rest(&mut client);
    let event: serde_json::Value =
        serde_json::from_str(text.strip_prefix("data: ").expect("an event")).expect("JSON");
    assert_eq!(event["error"]["code"], "load_failed");
    assert_eq!(end, Piece::Last);
    assert_eq!(rig.refused("refused"), 1);
    rig.assert_at_rest();
}

#[test]
fn an_engines_refusal_after_a_heartbeat_is_an_event() {
    let rig = rig();
    let (mut client, mut call) = kept_waiting(&rig);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    call.grant("first");
    let body = "{\"error\":{\"code\":400,\r\n\"message\":\"Field 'n': no\"}}";
    engine.receive().0.answer("400 Bad Request", "Connection: close\r\n", body);
    let expected = format!("data: {}\n\n", body.replace("\r\n", "  "));
    assert_eq!(rest(&mut client), (expected, Piece::Last));
    rig.assert_outcomes([0, 1, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn who_waits_in_the_queue_is_told_too() {
    let rig = rig();
    let engine = rig.engine("first").with_slots(1);
    rig.publish(&[&engine]);
    let mut first = rig.asking(true);
    let upstream = engine.begin_stream();
    first.head();
    first.chunk();
    let mut second = rig.asking(true);
    second.head();
    assert_eq!(second.chunk(), HEARTBEAT);
    upstream.end_stream();
    engine.begin_stream().end_stream();
    assert_eq!(rest(&mut second), (format!("{EVENT}{DONE}"), Piece::Last));
    rig.assert_outcomes([2, 0, 0, 0]);
}

#[test]
fn a_client_that_leaves_after_a_heartbeat_is_noticed() {
    let rig = rig();
    let (client, mut call) = kept_waiting(&rig);
    drop(client);
    call.assert_ended();
    wait_until("it is counted", || rig.refused("client_left") == 1);
    rig.assert_at_rest();
}

#[test]
fn it_can_be_cancelled_after_a_heartbeat() {
    let rig = rig();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("X-Request-Id", "one")], chat(true));
    let (mut call, _) = rig.control.lease_call();
    client.head();
    assert_eq!(client.chunk(), HEARTBEAT);
    let mut canceller = rig.client();
    canceller.ask("POST", "/engines/requests/one/cancel", &[], "");
    assert_eq!(canceller.message().head.status(), 200);
    call.assert_ended();
    let (text, end) = rest(&mut client);
    assert!(text.contains("\"code\":\"cancelled\""), "{text}");
    assert_eq!(end, Piece::Last);
    assert_eq!((rig.refused("cancelled"), rig.refused("client_left")), (1, 0));
    rig.assert_at_rest();
}

#[test]
fn who_wants_a_whole_answer_gets_the_real_status() {
    let rig = rig();
    let mut client = rig.asking(false);
    let (mut call, _) = rig.control.lease_call();
    let mut other = rig.asking(true);
    let (_other_call, _) = rig.control.lease_call();
    // Longer than a heartbeat: the other one got some.
    other.head();
    assert_eq!(other.chunk(), HEARTBEAT);
    call.answer("404 Not Found", "", r#"{"code":"model_not_found","kind":"x","message":"no"}"#);
    assert_eq!(client.message().refusal(), (404, "model_not_found".to_owned()));
}
