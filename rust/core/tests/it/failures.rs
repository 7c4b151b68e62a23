//! Engines that die: the client learns of it, and nobody is told that a cut answer was whole.

use serde_json::Value;

use crate::harness::client::{CHAT, request};
use crate::harness::engine::{EVENT, STREAM_HEAD};
use crate::harness::{MODEL, Piece, Rig, Wire, chat};

/// The data of each event, as a client's SSE reader would see it.
fn events(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).expect("text");
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// The stream ends with an error event and is cut, so that neither kind of client takes it for whole.
fn assert_reported(client: &mut Wire, before: &str) {
    assert_eq!(client.head().status(), 200);
    let (body, end) = client.pieces();
    assert_eq!(end, Piece::Cut);
    assert!(body.starts_with(before.as_bytes()), "what the engine sent is not lost");
    let events = events(&body);
    assert!(!events.iter().any(|event| event == "[DONE]"));
    let last: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["code"], "engine_died");
    assert_eq!(last["error"]["type"], "server_error");
    assert!(last["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
}

#[test]
fn an_engine_that_dies_between_events_is_reported() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    drop(engine.begin_stream());
    assert_reported(&mut client, EVENT);
    rig.assert_outcomes([0, 0, 1, 0]);
    assert_eq!(rig.totals().completion_tokens, 1, "what was produced is counted");
    rig.assert_at_rest();
}

#[test]
fn an_engine_that_dies_inside_an_event_is_reported() {
    for cut in [1, 5, 6, EVENT.len() / 2, EVENT.len() - 1] {
        let (rig, engine) = Rig::with_engine();
        let mut client = rig.asking(true);
        let mut upstream = engine.begin_stream();
        // A whole HTTP chunk with a part of an event.
        upstream.send_chunk(&EVENT[..cut]);
        drop(upstream);
        assert_reported(&mut client, &[EVENT, &EVENT[..cut]].concat());
        rig.assert_outcomes([0, 0, 1, 0]);
    }
}

#[test]
fn an_engine_that_dies_inside_a_chunk_is_reported() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    upstream.send(format!("{:x}\r\n{}", EVENT.len(), &EVENT[..20]));
    drop(upstream);
    assert_reported(&mut client, EVENT);
    rig.assert_outcomes([0, 0, 1, 0]);
}

#[test]
fn an_engine_that_dies_before_the_first_event_is_reported() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    drop(upstream);
    assert_reported(&mut client, "");
    rig.assert_outcomes([0, 0, 1, 0]);
}

#[test]
fn an_engine_that_sends_garbage_is_reported() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    upstream.send("not a chunk\r\n");
    assert_reported(&mut client, EVENT);
    // The connection is not used again.
    upstream.assert_ended();
}

#[test]
fn an_engine_that_dies_before_the_head_is_a_bad_gateway() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Ty"] {
        let (rig, engine) = Rig::with_engine();
        let mut client = rig.asking(true);
        let (mut upstream, _) = engine.receive();
        upstream.send(begun);
        drop(upstream);
        let answer = client.message();
        assert_eq!(answer.refusal(), (502, "engine_unreachable".to_owned()));
        assert_eq!(answer.json()["error"]["type"], "server_error");
        rig.assert_outcomes([0, 0, 1, 0]);
        // The client's connection is as good as before.
        client.ask_chat(false);
        engine.receive().0.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
        rig.assert_at_rest();
    }
}

#[test]
fn an_engine_that_dies_inside_a_whole_answer_cuts_it() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    upstream.send(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"choi",
    );
    let head = client.head();
    assert_eq!(head.get("content-length"), Some("100"));
    drop(upstream);
    assert_eq!(client.rest(), b"{\"choi", "a document gets no event behind it");
    rig.assert_outcomes([0, 0, 1, 0]);
    rig.assert_at_rest();
}

#[test]
fn a_request_whose_engine_is_gone_goes_to_a_new_one() {
    let (rig, engine) = Rig::with_engine();
    drop(engine);
    let mut client = rig.asking(true);
    let (mut call, wanted) = rig.control.lease_call();
    assert_eq!(
        wanted,
        serde_json::json!({"model": MODEL, "mode": "completion", "failed_runner": "first"})
    );
    let second = rig.engine("second");
    rig.publish(&[&second]);
    call.grant("second");
    let upstream = second.begin_stream();
    assert_eq!(client.head().status(), 200);
    upstream.end_stream();
    assert_eq!(client.pieces().1, Piece::Last);
    // The client saw one request, and so do the books.
    rig.assert_outcomes([1, 0, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn a_request_that_its_engine_did_not_read_goes_to_a_new_one() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    // The connection stands, but the engine dies with the request unread.
    let upstream = engine.accept();
    rig.client().ping();
    drop((upstream, engine));
    let (mut call, wanted) = rig.control.lease_call();
    assert_eq!(wanted["failed_runner"], "first");
    let second = rig.engine("second");
    rig.publish(&[&second]);
    call.grant("second");
    second.receive().0.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
    rig.assert_outcomes([1, 0, 0, 0]);
}

#[test]
fn a_request_that_may_have_killed_its_engine_is_not_given_to_another() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    client.message();
    // On a kept connection, where the same end may also be the engine's idle time.
    client.ask_chat(false);
    upstream.message();
    drop(engine);
    drop(upstream);
    assert_eq!(client.message().refusal(), (502, "engine_unreachable".to_owned()));
    assert!(rig.control.try_accept().is_none());
    rig.assert_outcomes([1, 0, 1, 0]);
}

#[test]
fn a_request_whose_engines_are_all_gone_is_refused_in_the_end() {
    let (rig, engine) = Rig::with_engine();
    drop(engine);
    let mut client = rig.asking(true);
    // A control plane that has not noticed yet gives the same runner again and again.
    let mut calls = 0;
    let answer = loop {
        match rig.control.try_accept() {
            Some(mut call) => {
                call.message();
                call.grant("first");
                calls += 1;
                assert!(calls < 10, "it never gives up");
            }
            None if rig.refused("engine_unreachable") > 0 => break client.message(),
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(answer.refusal(), (502, "engine_unreachable".to_owned()));
    assert_eq!(rig.plane.snapshot().requests_in_flight, 0);
}

#[test]
fn an_engine_that_dies_does_not_touch_the_others_streams() {
    let (rig, engine) = Rig::with_engine();
    let mut unlucky = rig.asking(true);
    let first = engine.begin_stream();
    let mut lucky = rig.asking(true);
    let second = engine.begin_stream();
    drop(first);
    assert_reported(&mut unlucky, EVENT);
    second.end_stream();
    lucky.head();
    assert_eq!(lucky.pieces().1, Piece::Last);
    rig.assert_outcomes([1, 0, 1, 0]);
}

#[test]
fn a_waiting_request_is_served_after_the_one_before_it_died() {
    let (rig, engine) = Rig::with_one_slot();
    let mut first = rig.client();
    first.send(request("POST", CHAT, &[], chat(true).as_bytes()));
    let upstream = engine.begin_stream();
    let mut second = rig.waiting(0);
    drop(upstream);
    assert_reported(&mut first, EVENT);
    engine.receive().0.answer_ok("{}");
    assert_eq!(second.message().head.status(), 200);
}
