//! Slots: no engine gets more than it can do, and who came first is served first.

use crate::harness::client::CHAT;
use crate::harness::engine::{RECORDED_STREAM, STREAM_HEAD};
use crate::harness::rig::QUEUE_LIMIT;
use crate::harness::{Engine, Piece, Rig, Wire};

/// A client whose request can be told from others, waiting behind `others`.
fn waiting_as(rig: &Rig, name: &str, others: usize) -> Wire {
    let mut client = rig.client();
    client.ask("POST", &format!("{CHAT}?{name}"), &[], crate::harness::chat(false));
    crate::harness::wait_until("the request waits", || rig.runner().queued == others + 1);
    client
}

#[test]
fn a_second_request_waits_until_the_first_has_ended() {
    let (rig, engine) = Rig::with_one_slot();
    let mut first = rig.asking(true);
    let mut upstream = engine.begin_stream();
    first.head();
    first.chunk();
    let mut second = rig.waiting(0);
    assert!(engine.try_accept().is_none(), "the engine has one slot");
    upstream.send_chunk("data: [DONE]\n\n");
    first.chunk();
    assert!(engine.try_accept().is_none(), "the stream has not ended");
    upstream.end_chunks();
    assert_eq!(first.piece(), Piece::Last);
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    assert_eq!(second.message().head.status(), 200);
    rig.assert_outcomes([2, 0, 0, 0]);
    assert!(rig.totals().queue_seconds > 0.0);
}

#[test]
fn who_came_first_is_served_first() {
    let rig = Rig::with(|config| {
        config.queue_limit = 20;
        config.threads = 2;
    });
    let engine = rig.engine("first").with_slots(1);
    rig.publish(&[&engine]);
    let mut first = rig.asking(true);
    let upstream = engine.begin_stream();
    first.head();
    let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let mut clients: Vec<Wire> = Vec::new();
    for name in &names {
        clients.push(waiting_as(&rig, name, clients.len()));
    }
    upstream.end_stream();
    for (name, client) in names.iter().zip(&mut clients) {
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.head.target(), format!("{CHAT}?{name}"));
        upstream.answer("200 OK", "Connection: close\r\n", "{}");
        assert_eq!(client.message().head.status(), 200);
    }
    rig.assert_at_rest();
}

#[test]
fn a_newcomer_does_not_overtake_who_waits() {
    let (rig, engine) = Rig::with_one_slot();
    let mut first = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    let mut second = waiting_as(&rig, "second", 0);
    // The third is sent in the moment in which the slot becomes free.
    upstream.answer_ok("{}");
    let mut third = rig.client();
    third.ask("POST", &format!("{CHAT}?third"), &[], crate::harness::chat(false));
    first.message();
    for (name, client) in [("second", &mut second), ("third", &mut third)] {
        let request = upstream.message();
        assert_eq!(request.head.target(), format!("{CHAT}?{name}"));
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
    }
}

#[test]
fn all_slots_are_used_and_no_more() {
    let rig = Rig::with(|config| config.threads = 2);
    let engine = rig.engine("first").with_slots(3);
    rig.publish(&[&engine]);
    let mut clients: Vec<Wire> = (0..3).map(|_| rig.asking(true)).collect();
    let mut upstreams: Vec<Wire> = (0..3).map(|_| engine.begin_stream()).collect();
    let late = rig.waiting(0);
    assert!(engine.try_accept().is_none());
    assert_eq!(rig.runner().leases, 3);
    upstreams.pop().expect("three").end_stream();
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    clients.push(late);
    for upstream in upstreams {
        upstream.end_stream();
    }
    for mut client in clients {
        assert_eq!(client.message().head.status(), 200);
    }
    rig.assert_outcomes([4, 0, 0, 0]);
}

/// Fill the only slot and the queue behind it.
fn fill(rig: &Rig, engine: &Engine) -> (Wire, Vec<Wire>, Wire) {
    let first = rig.asking(false);
    let (upstream, _) = engine.receive();
    let waiting = (0..QUEUE_LIMIT).map(|others| rig.waiting(others)).collect();
    (first, waiting, upstream)
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let (rig, engine) = Rig::with_one_slot();
    let (mut first, waiting, mut upstream) = fill(&rig, &engine);
    let mut late = rig.asking(true);
    let answer = late.message();
    assert_eq!(answer.refusal(), (503, "queue_full".to_owned()));
    assert_eq!(answer.head.get("retry-after"), Some("1"));
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert_eq!(rig.refused("queue_full"), 1);
    // Those who wait are not touched by it, and the one who was refused may ask again on the same connection.
    upstream.answer_ok("{}");
    assert_eq!(first.message().head.status(), 200);
    crate::harness::wait_until("a place is free", || rig.runner().queued < QUEUE_LIMIT);
    late.ask_chat(false);
    for mut client in waiting.into_iter().chain([late]) {
        upstream.message();
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
    }
    rig.assert_outcomes([4, 0, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn a_full_queue_does_not_hold_up_other_models() {
    let rig = Rig::new();
    let (busy, idle) = (rig.engine("busy").with_slots(1), rig.engine("idle"));
    let mut route = idle.route();
    "ai/other".clone_into(&mut route.model);
    route.names = vec!["ai/other".to_owned()];
    rig.plane.publish(&[busy.route(), route]);
    let _first = rig.asking(true);
    let _stream = busy.begin_stream();
    let mut other = rig.client();
    other.ask("POST", CHAT, &[], crate::harness::client::chat_with("ai/other", true));
    let (mut upstream, _) = idle.receive();
    upstream.send(RECORDED_STREAM);
    assert_eq!(other.head().status(), 200);
    assert_eq!(other.pieces().1, Piece::Last);
    // A stream of which only the head has come holds its slot as well.
    let mut second = rig.client();
    second.ask("POST", CHAT, &[], crate::harness::client::chat_with("ai/other", true));
    let (mut upstream, _) = idle.receive();
    upstream.send(STREAM_HEAD);
    second.head();
    let leases = |id: &str| {
        let runners = rig.plane.snapshot().runners;
        runners.iter().find(|runner| runner.runner_id == id).map(|runner| runner.leases)
    };
    assert_eq!((leases("busy"), leases("idle")), (Some(1), Some(1)));
}

#[test]
fn a_request_for_several_choices_takes_as_many_slots() {
    let rig = Rig::new();
    let engine = rig.engine("first").with_slots(2);
    rig.publish(&[&engine]);
    let mut first = rig.asking(true);
    let upstream = engine.begin_stream();
    first.head();
    first.chunk();
    let both = r#"{"model":"ai/smollm2","stream":true,"n":2,"messages":[]}"#;
    let mut second = rig.client();
    second.ask("POST", CHAT, &[], both);
    crate::harness::wait_until("it waits", || rig.runner().queued == 1);
    assert!(engine.try_accept().is_none(), "one of its two slots is taken");
    upstream.end_stream();
    first.pieces();
    let upstream = engine.begin_stream();
    second.head();
    // Now both are taken.
    let mut third = rig.waiting(0);
    upstream.end_stream();
    engine.receive().0.answer_ok("{}");
    assert_eq!(third.message().head.status(), 200);
    rig.assert_at_rest();
}

#[test]
fn who_asks_for_more_choices_than_slots_is_refused_by_the_engine_and_blocks_nobody() {
    let (rig, engine) = Rig::with_one_slot();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[], r#"{"model":"ai/smollm2","n":9,"messages":[]}"#);
    engine.receive().0.answer("400 Bad Request", "Connection: close\r\n", "{\"error\":{}}");
    assert_eq!(client.message().head.status(), 400);
    client.chat(|| engine.receive().0.answer_ok("{}"));
}
