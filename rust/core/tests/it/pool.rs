//! Engine connections: kept where llama-server keeps them, and never a reason for a client to see an error.

use std::time::{Duration, Instant};

use crate::harness::engine::{RECORDED_ANSWER, RECORDED_STREAM};
use crate::harness::{Engine, Rig, Wire, wait_until};

/// Opened and reused so far.
fn connections(rig: &Rig) -> (u64, u64) {
    let snapshot = rig.plane.snapshot();
    (snapshot.upstream_connections_opened, snapshot.upstream_connections_reused)
}

/// A rig, its engine, and both ends of an exchange that has ended well on a connection that is kept.
fn warm() -> (Rig, Engine, Wire, Wire) {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    upstream.send(RECORDED_ANSWER);
    assert_eq!(client.message().head.status(), 200);
    (rig, engine, client, upstream)
}

#[test]
fn whole_answers_share_one_connection() {
    let (rig, engine, mut client, mut upstream) = warm();
    for _ in 0..5 {
        let answer = client.chat(|| {
            upstream.message();
            upstream.answer_ok("{}");
        });
        assert_eq!(answer.head.status(), 200);
    }
    assert!(engine.try_accept().is_none());
    assert_eq!(connections(&rig), (1, 5));
}

#[test]
fn another_client_uses_the_same_connection() {
    let (rig, engine, _client, mut upstream) = warm();
    let mut other = rig.asking(false);
    upstream.message();
    upstream.answer_ok("{}");
    assert_eq!(other.message().head.status(), 200);
    assert!(engine.try_accept().is_none());
}

#[test]
fn the_hundredth_request_goes_on_a_new_connection() {
    let (rig, engine, mut client, mut upstream) = warm();
    for served in 2..=250_u32 {
        client.ask_chat(false);
        if served % 99 == 1 {
            // The engine would close after its hundredth answer; ours is let go before.
            upstream.assert_ended();
            upstream = engine.accept();
        }
        upstream.message();
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200, "of request {served}");
    }
    assert_eq!(connections(&rig), (3, 247));
    rig.assert_outcomes([250, 0, 0, 0]);
}

#[test]
fn a_connection_that_the_engine_closed_is_not_used_again() {
    let (rig, engine, mut client, upstream) = warm();
    drop(upstream);
    let answer = client.chat(|| {
        let (mut upstream, _) = engine.receive();
        upstream.answer_ok("{}");
    });
    assert_eq!(answer.head.status(), 200);
    assert_eq!(connections(&rig), (2, 0));
}

#[test]
fn a_request_that_meets_a_closing_connection_is_sent_again() {
    let (rig, engine, mut client, mut upstream) = warm();
    let answer = client.chat(|| {
        // The engine's idle time ran out while the request was on its way.
        let first = upstream.message();
        drop(upstream);
        let (mut upstream, second) = engine.receive();
        assert_eq!(first.body, second.body);
        upstream.answer_ok("{}");
    });
    assert_eq!(answer.head.status(), 200);
    rig.assert_outcomes([2, 0, 0, 0]);
}

#[test]
fn many_requests_survive_an_engine_that_closes_after_each() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    for _ in 0..200 {
        // Whether the close is seen before the next request or after it is a race, and either must be fine.
        let answer = client.chat(|| {
            let (mut upstream, _) = engine.receive();
            upstream.send(RECORDED_ANSWER);
        });
        assert_eq!(answer.head.status(), 200);
    }
    rig.assert_outcomes([200, 0, 0, 0]);
}

/// Each answer of `rounds`, given by the engine on a connection that it leaves open, ends the connection all the same.
fn assert_not_kept(rounds: usize, stream: bool, answer: impl Fn(&mut Wire)) {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let mut used = Vec::new();
    for _ in 0..rounds {
        client.ask_chat(stream);
        // A request that is sent on an earlier connection never comes here.
        let (mut upstream, _) = engine.receive();
        answer(&mut upstream);
        used.push(upstream);
        let head = client.message().head;
        assert_eq!(head.get("connection"), None, "the client's connection is kept");
    }
    let (opened, reused) = connections(&rig);
    // One may be open for the next.
    assert!((rounds as u64..=rounds as u64 + 1).contains(&opened), "{opened}");
    assert_eq!(reused, 0);
    for upstream in &mut used {
        upstream.assert_ended();
    }
}

#[test]
fn an_answer_that_says_close_ends_its_connection() {
    assert_not_kept(2, false, |upstream| upstream.answer("200 OK", "Connection: close\r\n", "{}"));
}

#[test]
fn an_answer_with_something_behind_it_ends_its_connection() {
    // It would be taken for the next answer.
    let excess = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n";
    assert_not_kept(2, false, |upstream| upstream.send(excess));
}

#[test]
fn a_refusal_ends_its_connection_although_it_promises_otherwise() {
    let promise = "Keep-Alive: timeout=5, max=100\r\n";
    assert_not_kept(2, false, |upstream| upstream.answer("400 Bad Request", promise, "{}"));
}

#[test]
fn a_stream_ends_its_connection_although_it_promises_otherwise() {
    assert_not_kept(3, true, |upstream| upstream.send(RECORDED_STREAM));
}

#[test]
fn no_more_connections_are_kept_than_the_engine_has_use_for() {
    let rig = Rig::new();
    let engine = rig.engine("first").with_slots(8);
    rig.publish(&[&engine]);
    let clients: Vec<Wire> = (0..8).map(|_| rig.asking(false)).collect();
    let mut upstreams: Vec<Wire> = clients.iter().map(|_| engine.receive().0).collect();
    for upstream in &mut upstreams {
        upstream.answer_ok("{}");
    }
    for mut client in clients {
        assert_eq!(client.message().head.status(), 200);
    }
    // A smaller engine under a new identity does not inherit them.
    let second = rig.engine("second");
    rig.publish(&[&second]);
    let mut client = rig.asking(false);
    let (mut upstream, _) = second.receive();
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
    assert_eq!(connections(&rig), (9, 0));
}

#[test]
fn an_idle_connection_is_closed_before_the_engine_does_it() {
    let (_rig, _engine, _client, mut upstream) = warm();
    let idle_since = Instant::now();
    upstream.assert_ended();
    let idle = idle_since.elapsed();
    // The engine's own limit; a request that is sent at that moment would meet the close.
    assert!(idle < Duration::from_secs(5), "closed after {idle:?}");
    assert!(idle > Duration::from_secs(3), "closed after {idle:?}, which makes keeping it useless");
}

#[test]
#[cfg(target_os = "linux")]
fn an_engine_with_a_full_backlog_is_waited_for() {
    let (rig, engine) = Rig::with_engine();
    // On Linux connecting to a Unix socket with a full backlog fails at once.
    engine.shrink_backlog();
    let filler = engine.connect();
    let mut client = rig.asking(false);
    rig.client().ping();
    drop(filler);
    engine.receive().0.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn the_connection_of_the_next_stream_is_opened_in_advance() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let upstream = engine.begin_stream();
    client.head();
    client.chunk();
    wait_until("another one is open", || connections(&rig) == (2, 0));
    upstream.end_stream();
    client.pieces();
    client.ask_chat(true);
    let (mut upstream, _) = engine.receive();
    assert_eq!(connections(&rig), (2, 0), "it came on that one");
    upstream.send(RECORDED_STREAM);
    client.head();
    client.pieces();
    rig.assert_outcomes([2, 0, 0, 0]);
}

#[test]
fn a_connection_that_was_opened_in_advance_may_be_closed_by_then() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let upstream = engine.begin_stream();
    client.head();
    client.chunk();
    wait_until("another one is open", || connections(&rig) == (2, 0));
    upstream.end_stream();
    client.pieces();
    engine.close_silent();
    client.ask_chat(true);
    engine.begin_stream().end_stream();
    assert_eq!(client.head().status(), 200);
    client.pieces();
    rig.assert_outcomes([2, 0, 0, 0]);
}
