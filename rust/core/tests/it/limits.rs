//! Clients that want too much: too many connections, heads and bodies without end, answers that nobody takes.

use std::time::Duration;

use crate::harness::client::{CHAT, request};
use crate::harness::engine::STREAM_HEAD;
use crate::harness::{Rig, Wire, wait_until};

/// A limit that a test waits for.
const SOON: Duration = Duration::from_millis(100);

const HALF_A_HEAD: &str = "GET /models HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";

fn with_short_heads() -> Rig {
    Rig::with(|config| config.head_timeout = SOON)
}

#[test]
fn a_connection_without_requests_is_closed_without_a_word() {
    let rig = Rig::with(|config| config.idle_timeout = SOON);
    let mut fresh = rig.client();
    let mut used = rig.client();
    used.ping();
    fresh.assert_ended();
    used.assert_ended();
    wait_until("they are gone", || rig.plane.snapshot().open_connections == 0);
}

#[test]
fn a_head_that_has_begun_must_end_and_the_client_is_told() {
    let rig = with_short_heads();
    for begun in ["P", "POST /v1/chat/comple", HALF_A_HEAD] {
        let mut client = rig.client();
        client.send(begun);
        assert_eq!(client.message().refusal(), (408, "head_timeout".to_owned()));
        client.assert_ended();
    }
    let mut used = rig.client();
    used.ping();
    used.send(HALF_A_HEAD);
    assert_eq!(used.message().refusal().0, 408);
    assert_eq!(rig.refused("head_timeout"), 4);
    assert!(rig.control.try_accept().is_none());
}

#[test]
fn a_head_that_drips_is_not_waited_for() {
    let rig = with_short_heads();
    let (mut slow, mut other) = (rig.client(), rig.client());
    slow.send(HALF_A_HEAD);
    while slow.try_send("x").is_ok() && rig.refused("head_timeout") == 0 {
        other.ping();
    }
    assert_eq!(slow.message().refusal().0, 408);
}

#[test]
fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let rig = with_short_heads();
    let (mut fresh, mut used) = (rig.client(), rig.client());
    used.ping();
    let mut slow = rig.client();
    slow.send(HALF_A_HEAD);
    assert_eq!(slow.message().head.status(), 408);
    fresh.ping();
    used.ping();
}

#[test]
fn a_head_that_is_too_large_is_refused_with_the_reason() {
    let rig = Rig::with(|config| config.head_limit = 10_000);
    let long = format!("X-Large: {}\r\n", "x".repeat(200_000));
    let many = "X-Many: y\r\n".repeat(101);
    for fields in [long, many] {
        let mut client = rig.client();
        let _ = client.try_send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        let answer = client.message();
        assert_eq!(answer.refusal(), (431, "head_too_large".to_owned()));
        assert_eq!(answer.head.get("connection"), Some("close"));
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("10000 bytes"), "{message}");
    }
    let mut client = rig.client();
    client.send(format!("GET /_control/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9_000)));
    assert_eq!(client.message().head.status(), 404);
}

#[test]
fn what_follows_a_good_request_and_is_none_is_refused_behind_its_answer() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let good = request("POST", CHAT, &[], crate::harness::chat(false).as_bytes());
    client.send([good.as_slice(), b"no request\r\n\r\n"].concat());
    engine.receive().0.answer_ok("{\"n\":1}");
    assert_eq!(client.message().body, b"{\"n\":1}");
    assert_eq!(client.message().refusal(), (400, "malformed_head".to_owned()));
    client.assert_ended();
}

/// Send a byte now and then, until the data plane has had enough.
fn drip(rig: &Rig, client: &mut Wire) {
    while rig.refused("body_timeout") == 0 && client.try_send(" ").is_ok() {
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_body_that_drips_is_not_waited_for() {
    let rig = Rig::with(|config| config.body_timeout = SOON);
    let mut client = rig.client();
    client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"));
    drip(&rig, &mut client);
    assert_eq!(client.message().refusal(), (408, "body_timeout".to_owned()));
}

#[test]
fn a_body_for_the_control_plane_is_not_waited_for_either() {
    let rig = Rig::with(|config| config.body_timeout = SOON);
    let mut client = rig.client();
    client.send("POST /models/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n");
    let control = rig.control.accept();
    drip(&rig, &mut client);
    assert_eq!(client.message().refusal(), (408, "body_timeout".to_owned()));
    drop(control);
    rig.assert_at_rest();
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let rig = Rig::with(|config| config.max_connections = 2);
    let (mut first, mut second) = (rig.client(), rig.unix_client());
    first.ping();
    second.ping();
    for mut third in [rig.client(), rig.unix_client()] {
        third.send("GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = third.message();
        assert_eq!(answer.refusal(), (503, "too_many_connections".to_owned()));
        assert_eq!(answer.head.get("retry-after"), Some("1"));
        third.assert_ended();
    }
    drop(first);
    wait_until("there is room", || rig.plane.snapshot().open_connections == 1);
    rig.client().ping();
    second.ping();
}

#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let rig = Rig::with(|config| config.write_timeout = SOON);
    let engine = rig.engine("first").with_slots(1);
    rig.publish(&[&engine]);
    let mut stuck = rig.unix_client();
    stuck.ask_chat(true);
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    let frame = [b"2000\r\n".as_slice(), &[b':'; 0x2000], b"\r\n"].concat();
    // The engine is let go, and so its slot is free for others.
    while upstream.try_send(&frame).is_ok() {}
    let mut other = rig.asking(false);
    engine.receive().0.answer_ok("{}");
    assert_eq!(other.message().head.status(), 200);
    assert_eq!(rig.totals().requests_timed_out, 1);
}
