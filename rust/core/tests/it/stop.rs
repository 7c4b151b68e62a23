//! Stopping: what is in flight ends, nothing new begins, and after the grace nobody is waited for.

use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::harness::client::CHAT;
use crate::harness::{DEADLINE, Piece, Rig, chat, wait_until};

#[test]
fn a_stream_in_flight_ends_within_the_grace() {
    let (mut rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    client.head();
    client.chunk();
    let stopped = rig.stop(DEADLINE);
    wait_until("new connections are refused", || TcpStream::connect(rig.address()).is_err());
    wait_until("on the socket too", || UnixStream::connect(rig.socket()).is_err());
    upstream.send_chunk(":\n\n");
    assert_eq!(client.chunk(), b":\n\n");
    assert!(stopped.try_recv().is_err(), "a stream is still open");
    upstream.end_stream();
    assert_eq!(client.pieces().1, Piece::Last);
    client.assert_ended();
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
    rig.assert_outcomes([1, 0, 0, 0]);
    assert!(!rig.socket().exists(), "the socket's file is removed");
}

#[test]
fn requests_that_wait_are_served_within_the_grace() {
    let (mut rig, engine) = Rig::with_one_slot();
    let mut first = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    let mut second = rig.waiting(0);
    let mut cold = rig.client();
    cold.ask("POST", "/v1/embeddings", &[], crate::harness::chat(false));
    let (mut call, _) = rig.control.lease_call();
    let stopped = rig.stop(DEADLINE);
    wait_until("new connections are refused", || TcpStream::connect(rig.address()).is_err());
    upstream.answer_ok("{}");
    let answer = first.message();
    assert_eq!((answer.head.status(), answer.head.get("connection")), (200, Some("close")));
    upstream.message();
    upstream.answer_ok("{}");
    assert_eq!(second.message().head.status(), 200);
    call.answer(
        "503 Service Unavailable",
        "",
        r#"{"code":"stopping","kind":"server_error","message":"bye"}"#,
    );
    assert_eq!(cold.message().refusal(), (503, "stopping".to_owned()));
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
}

#[test]
fn idle_connections_are_closed_at_once() {
    let (mut rig, engine) = Rig::with_engine();
    let mut busy = rig.asking(true);
    let upstream = engine.begin_stream();
    let mut fresh = rig.client();
    let mut used = rig.client();
    used.ping();
    wait_until("all are accepted", || rig.plane.snapshot().open_connections == 3);
    let stopped = rig.stop(DEADLINE);
    fresh.assert_ended();
    used.assert_ended();
    assert!(stopped.try_recv().is_err(), "a stream is still open");
    upstream.end_stream();
    busy.head();
    busy.pieces();
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
}

#[test]
fn a_stream_is_cancelled_within_the_grace() {
    let (mut rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("X-Request-Id", "long")], chat(true));
    let mut upstream = engine.begin_stream();
    client.head();
    client.chunk();
    // A connection that has begun a request is not idle.
    let mut other = rig.client();
    other.send("POST /engines/requests/long/cancel HTTP/1.1\r\nHost: localhost\r\n");
    let mut probe = rig.client();
    probe.ping();
    let stopped = rig.stop(DEADLINE * 3);
    probe.assert_ended();
    other.send("Content-Length: 0\r\n\r\n");
    assert_eq!(other.message().head.status(), 200);
    upstream.assert_ended();
    assert_eq!(client.pieces().1, Piece::Last);
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
    rig.assert_outcomes([0, 0, 0, 1]);
}

#[test]
fn who_outlasts_the_grace_is_told_so() {
    let (mut rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    client.head();
    client.chunk();
    let stopped = rig.stop(Duration::from_millis(50));
    assert!(!stopped.recv_timeout(DEADLINE).expect("it stops"));
    let (body, end) = client.pieces();
    assert_eq!(end, Piece::Last);
    let event = String::from_utf8(body).expect("text");
    assert!(event.starts_with("data: {\"error\":"), "{event}");
    assert!(event.contains("\"code\":\"stopping\"") && event.contains("server_error"), "{event}");
    upstream.assert_ended();
    rig.assert_outcomes([0, 0, 0, 1]);
    rig.assert_at_rest();
}

#[test]
fn who_has_no_answer_yet_when_the_grace_ends_gets_a_status() {
    let (mut rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let _upstream = engine.receive();
    let stopped = rig.stop(Duration::from_millis(50));
    let answer = client.message();
    assert_eq!(answer.refusal(), (503, "stopping".to_owned()));
    assert!(!stopped.recv_timeout(DEADLINE).expect("it stops"));
    rig.assert_outcomes([0, 0, 0, 1]);
    rig.assert_at_rest();
}

#[test]
fn all_threads_stop() {
    let mut rig = Rig::with(|config| config.threads = 3);
    let engine = rig.engine("first").with_slots(12);
    rig.publish(&[&engine]);
    // Enough for all threads to have some.
    let clients: Vec<_> = (0..12).map(|_| rig.asking(true)).collect();
    let upstreams: Vec<_> = (0..12).map(|_| engine.begin_stream()).collect();
    let stopped = rig.stop(DEADLINE);
    wait_until("new connections are refused", || TcpStream::connect(rig.address()).is_err());
    for upstream in upstreams {
        upstream.end_stream();
    }
    for mut client in clients {
        client.head();
        assert_eq!(client.pieces().1, Piece::Last);
    }
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
    rig.assert_outcomes([12, 0, 0, 0]);
}

#[test]
fn with_nothing_in_flight_it_stops_well() {
    let mut rig = Rig::new();
    let mut idle = rig.client();
    idle.ping();
    let stopped = rig.stop(Duration::from_secs(1));
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
    idle.assert_ended();
    // A new one may take its place at once.
    let again = Rig::new();
    assert_ne!(again.address(), "");
}

#[test]
fn without_a_grace_only_what_is_in_flight_is_cut() {
    for idle in [true, false] {
        let (mut rig, engine) = Rig::with_engine();
        let mut client = rig.client();
        client.ping();
        let _upstream = (!idle).then(|| {
            client.ask_chat(true);
            engine.begin_stream()
        });
        let stopped = rig.stop(Duration::ZERO);
        assert_eq!(stopped.recv_timeout(DEADLINE), Ok(idle));
    }
}

#[test]
fn a_successor_may_take_the_socket_while_we_drain() {
    let (mut rig, engine) = Rig::with_engine();
    let mut client = rig.unix_client();
    client.ask_chat(true);
    let upstream = engine.begin_stream();
    client.head();
    let stopped = rig.stop(DEADLINE);
    wait_until("the socket is free", || !rig.socket().exists());
    let successor = UnixListener::bind(rig.socket()).expect("the path is free");
    upstream.end_stream();
    assert_eq!(stopped.recv_timeout(DEADLINE), Ok(true));
    assert!(rig.socket().exists(), "the successor's socket stays");
    drop(successor);
}
