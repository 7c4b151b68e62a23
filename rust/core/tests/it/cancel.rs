//! Requests have an ID, and whoever knows it can cancel them, whatever they wait for.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::client::CHAT;
use crate::harness::{Message, Piece, Rig, Wire, chat, wait_until};

const CLIENT_CLOSED: u16 = 499;

/// Far less than any limit on readers who take nothing.
const PROMPT: Duration = Duration::from_secs(1);

/// A client that has asked for a chat under an ID of its own.
fn asking_as(rig: &Rig, id: &str, stream: bool) -> Wire {
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("X-Request-Id", id)], chat(stream));
    client
}

fn cancel(rig: &Rig, id: &str) -> Message {
    let mut client = rig.client();
    client.ask("POST", &format!("/engines/requests/{id}/cancel"), &[], "");
    client.message()
}

fn assert_cancels(rig: &Rig, id: &str) {
    let answer = cancel(rig, id);
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.json(), json!({"id": id, "cancelled": 1}));
}

#[test]
fn every_answer_has_an_id_and_no_two_the_same() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let chatted = client.chat(|| engine.receive().0.answer_ok("{}"));
    client.ask("GET", "/_control/", &[], "");
    let refused = client.message();
    client.ask("GET", "/models", &[], "");
    let (mut control, forwarded) = rig.control.receive();
    control.answer_ok("[]");
    let managed = client.message();
    client.ask("GET", "/", &[("Origin", "https://evil.example")], "");
    let foreign = client.message();
    let answers = [&chatted, &refused, &managed, &foreign];
    let mut ids: Vec<_> =
        answers.map(|answer| answer.head.get("x-request-id").expect("an ID").to_owned()).to_vec();
    assert_eq!(forwarded.head.get("x-request-id"), Some(ids[2].as_str()));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn an_id_that_the_client_gives_is_kept_if_it_is_sane() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    for (given, kept) in [("trace-7", true), ("with space", false), ("a/../b", false)] {
        client.ask("GET", "/_control/", &[("X-Request-Id", given)], "");
        let answer = client.message();
        assert_eq!(answer.head.get("x-request-id") == Some(given), kept, "{given}");
    }
}

#[test]
fn a_request_is_cancelled_while_its_model_loads() {
    let rig = Rig::new();
    let mut client = asking_as(&rig, "one", false);
    let (mut call, _) = rig.control.lease_call();
    assert_cancels(&rig, "one");
    assert_eq!(client.message().refusal(), (CLIENT_CLOSED, "cancelled".to_owned()));
    call.assert_ended();
    assert_eq!(rig.refused("cancelled"), 1);
    assert_eq!(rig.refused("client_left"), 0);
    rig.assert_at_rest();
}

#[test]
fn a_request_is_cancelled_in_the_queue() {
    let (rig, engine) = Rig::with_one_slot();
    let mut first = rig.asking(true);
    let upstream = engine.begin_stream();
    first.head();
    let mut second = asking_as(&rig, "second", true);
    wait_until("it waits", || rig.runner().queued == 1);
    assert_cancels(&rig, "second");
    assert_eq!(second.message().refusal(), (CLIENT_CLOSED, "cancelled".to_owned()));
    assert_eq!(rig.runner().queued, 0);
    upstream.end_stream();
    first.pieces();
    assert!(engine.try_accept().is_none(), "it reached the engine");
    rig.assert_outcomes([1, 0, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn a_request_is_cancelled_before_the_engine_has_said_a_word() {
    for stream in [false, true] {
        let (rig, engine) = Rig::with_engine();
        let mut client = asking_as(&rig, "prefill", stream);
        let (mut upstream, _) = engine.receive();
        assert_cancels(&rig, "prefill");
        assert_eq!(client.message().refusal(), (CLIENT_CLOSED, "cancelled".to_owned()));
        upstream.assert_ended();
        rig.assert_outcomes([0, 0, 0, 1]);
        // It stands on the model's account, and nowhere else.
        assert_eq!(rig.refused("cancelled"), 0);
        rig.assert_at_rest();
    }
}

#[test]
fn a_stream_is_cancelled_between_tokens_and_says_so() {
    let (rig, engine) = Rig::with_engine();
    let mut client = asking_as(&rig, "stream", true);
    let mut upstream = engine.begin_stream();
    client.head();
    client.chunk();
    assert_cancels(&rig, "stream");
    upstream.assert_ended();
    let (rest, end) = client.pieces();
    let rest = String::from_utf8(rest).expect("text");
    let event = rest.strip_prefix("data: ").expect("an event");
    let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
    assert_eq!(event["error"]["code"], "cancelled");
    assert_eq!(end, Piece::Last);
    rig.assert_outcomes([0, 0, 0, 1]);
    assert_eq!(rig.totals().completion_tokens, 1);
    // The connection is as good as before.
    client.ping();
    rig.assert_at_rest();
}

#[test]
fn a_whole_answer_is_cancelled_while_it_is_put_together() {
    let (rig, engine) = Rig::with_engine();
    let mut client = asking_as(&rig, "whole", false);
    let mut upstream = engine.begin_stream();
    rig.client().ping();
    assert_cancels(&rig, "whole");
    assert_eq!(client.message().refusal(), (CLIENT_CLOSED, "cancelled".to_owned()));
    upstream.assert_ended();
    rig.assert_outcomes([0, 0, 0, 1]);
    assert_eq!(rig.totals().completion_tokens, 1);
}

#[test]
fn a_reader_who_is_stuck_can_be_cancelled() {
    let (rig, engine) = Rig::with_engine();
    let client = asking_as(&rig, "stuck", true);
    let mut upstream = engine.begin_stream();
    let filler = format!(": {}\n\n", "x".repeat(60_000));
    // Until the buffers between here and there are full.
    while upstream.send_some(format!("{:x}\r\n{filler}\r\n", filler.len()).as_bytes()) > 0 {
        rig.client().ping();
    }
    let cancelled = Instant::now();
    assert_cancels(&rig, "stuck");
    upstream.assert_ended();
    assert!(cancelled.elapsed() < PROMPT, "after {:?}", cancelled.elapsed());
    rig.assert_outcomes([0, 0, 0, 1]);
    drop(client);
    rig.assert_at_rest();
}

#[test]
fn a_request_to_the_control_plane_is_cancelled_too() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("POST", "/models/create", &[("X-Request-Id", "pull")], "{}");
    let (mut control, _) = rig.control.receive();
    assert_cancels(&rig, "pull");
    assert_eq!(client.message().refusal(), (CLIENT_CLOSED, "cancelled".to_owned()));
    control.assert_ended();
    rig.assert_at_rest();
}

#[test]
fn any_thread_may_be_asked_to_cancel() {
    let rig = Rig::with(|config| config.threads = 4);
    let mut clients: Vec<Wire> =
        (0..8).map(|number| asking_as(&rig, &format!("r{number}"), false)).collect();
    let calls: Vec<_> = (0..8).map(|_| rig.control.lease_call().0).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_cancels(&rig, &format!("r{number}"));
        assert_eq!(client.message().refusal().0, CLIENT_CLOSED);
    }
    drop(calls);
    rig.assert_at_rest();
}

#[test]
fn all_requests_under_one_id_are_cancelled_and_the_one_that_cancels_is_not() {
    let rig = Rig::with(|config| config.threads = 2);
    let mut clients = [(); 3].map(|()| asking_as(&rig, "same", false));
    let _calls = [(); 3].map(|()| rig.control.lease_call().0);
    let mut canceller = rig.client();
    let path = "/engines/requests/same/cancel";
    canceller.ask("POST", path, &[("X-Request-Id", "same")], "");
    assert_eq!(canceller.message().json(), json!({"id": "same", "cancelled": 3}));
    for client in &mut clients {
        assert_eq!(client.message().refusal().0, CLIENT_CLOSED);
    }
}

#[test]
fn an_id_that_is_not_in_flight_is_not_found() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("X-Request-Id", "done")], chat(false));
    engine.receive().0.answer_ok("{}");
    client.message();
    for id in ["done", "never"] {
        assert_eq!(cancel(&rig, id).refusal(), (404, "request_not_found".to_owned()));
    }
    client.ask("GET", "/engines/requests/done/cancel", &[], "");
    assert_eq!(client.message().refusal(), (405, "method_not_allowed".to_owned()));
}
