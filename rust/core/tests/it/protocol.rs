//! HTTP as old or odd clients speak it.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::client::{CHAT, chat_with, request};
use crate::harness::engine::{DONE, EVENT, RECORDED_ANSWER, parts};
use crate::harness::{Piece, Rig, Wire, chat};

fn old_request(fields: &str) -> String {
    let body = chat(true);
    format!("POST {CHAT} HTTP/1.0\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn an_http_1_0_client_gets_a_stream_that_ends_with_its_connection() {
    for fields in ["", "Connection: keep-alive\r\n"] {
        let (rig, engine) = Rig::with_engine();
        let mut client = rig.client();
        client.send(old_request(fields));
        engine.begin_stream().end_stream();
        let head = client.head();
        assert_eq!(head.status(), 200);
        assert_eq!(head.get("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
        assert_eq!(client.rest(), [EVENT, DONE].concat().as_bytes());
        rig.assert_outcomes([1, 0, 0, 0]);
    }
}

#[test]
fn an_http_1_0_client_gets_whole_answers() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.send(old_request(""));
    engine.receive().0.send(RECORDED_ANSWER);
    let answer = client.message();
    assert_eq!(answer.body, parts(RECORDED_ANSWER).1);
    client.assert_ended();
}

#[test]
fn requests_in_one_packet_are_all_answered_in_order() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let first = request("POST", &format!("{CHAT}?first"), &[], chat(false).as_bytes());
    let second = request("POST", &format!("{CHAT}?second"), &[], chat(true).as_bytes());
    let third = request("GET", "/_control/", &[], b"");
    client.send([first, second, third].concat());
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.target(), format!("{CHAT}?first"));
    assert!(engine.try_accept().is_none(), "one at a time");
    upstream.answer_ok("{\"n\":1}");
    assert_eq!(client.message().body, b"{\"n\":1}");
    let request = upstream.message();
    assert_eq!(request.head.target(), format!("{CHAT}?second"));
    upstream.answer_ok("{\"n\":2}");
    assert_eq!(client.message().body, b"{\"n\":2}");
    assert_eq!(client.message().head.status(), 404);
}

#[test]
fn a_client_that_asks_to_close_gets_its_answer_first() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("Connection", "close")], chat(true));
    let upstream = engine.begin_stream();
    let head = client.head();
    assert_eq!(head.get("connection"), Some("close"));
    upstream.end_stream();
    assert_eq!(client.pieces().1, Piece::Last);
    client.assert_ended();
    rig.assert_outcomes([1, 0, 0, 0]);
}

#[test]
fn a_stream_is_not_held_to_the_time_for_heads() {
    let timeout = Duration::from_millis(100);
    let rig = Rig::with(|config| (config.head_timeout, config.idle_timeout) = (timeout, timeout));
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = rig.asking(true);
    let upstream = engine.begin_stream();
    client.head();
    client.chunk();
    // Another connection is dropped for being late; by then this one would have been as well.
    rig.client().rest();
    upstream.end_stream();
    assert_eq!(client.pieces().1, Piece::Last);
}

#[test]
fn what_is_not_http_is_refused() {
    let rig = Rig::new();
    for garbage in
        ["\u{16}\u{3}\u{1}\u{2}", "SSH-2.0-OpenSSH\r\n\r\n", "GET / HTTP/1.1\r\nbroken\r\n\r\n"]
    {
        let mut client = rig.client();
        client.send(garbage);
        client.finish_sending();
        assert_eq!(client.message().refusal(), (400, "malformed_head".to_owned()));
        client.assert_ended();
    }
    let mut client = rig.client();
    client.ping();
}

#[test]
fn two_lengths_are_refused() {
    // Whoever believes the other one sees a request inside the body.
    let (rig, engine) = Rig::with_engine();
    let body = chat(false);
    for framing in [
        format!("Content-Length: {}\r\nContent-Length: 5\r\n", body.len()),
        format!("Content-Length: -{}\r\n", body.len()),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
    ] {
        let mut client = rig.client();
        client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n{body}"));
        assert_eq!(client.message().refusal().0, 400, "of {framing}");
    }
    assert!(engine.try_accept().is_none());
}

#[test]
fn a_request_for_two_hosts_is_refused_wherever_it_goes() {
    // What stands in front may have let it in for the one, and we for the other.
    let (rig, engine) = Rig::with_engine();
    let body = chat(false);
    let length = body.len();
    for path in [CHAT, "/v1/models"] {
        let mut client = rig.client();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(client.message().refusal(), (400, "malformed_head".to_owned()), "of {path}");
    }
    assert!(engine.try_accept().is_none());
}

#[test]
fn a_request_without_a_host_is_refused_but_for_old_clients() {
    let (rig, engine) = Rig::with_engine();
    for target in ["/_control/", "http://localhost/_control/"] {
        let mut client = rig.client();
        client.send(format!("GET {target} HTTP/1.1\r\n\r\n"));
        assert_eq!(client.message().refusal(), (400, "malformed_head".to_owned()));
    }
    let mut old = rig.client();
    old.send(old_request(""));
    engine.begin_stream().end_stream();
    assert_eq!(old.head().status(), 200);
}

#[test]
fn an_absolute_target_is_understood() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", &format!("http://localhost{CHAT}?x"), &[], chat(false));
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.target(), format!("{CHAT}?x"));
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn the_unix_socket_serves_the_same() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.unix_client();
    client.ask_chat(true);
    engine.begin_stream().end_stream();
    assert_eq!(client.head().status(), 200);
    assert_eq!(client.pieces().1, Piece::Last);
}

#[test]
fn a_burst_of_clients_is_served_by_all_threads() {
    let rig = Rig::with(|config| {
        config.threads = 2;
        config.queue_limit = 100;
    });
    let engine = rig.engine("first").with_slots(2);
    rig.publish(&[&engine]);
    let mut clients: Vec<Wire> = Vec::new();
    for number in 0..40 {
        let mut client = if number % 2 == 0 { rig.client() } else { rig.unix_client() };
        client.ask("POST", CHAT, &[], chat_with("smollm2", true));
        clients.push(client);
    }
    for _ in 0..40 {
        engine.begin_stream().end_stream();
    }
    for client in &mut clients {
        assert_eq!(client.head().status(), 200);
        assert_eq!(client.pieces(), ([EVENT, DONE].concat().into_bytes(), Piece::Last));
    }
    rig.assert_outcomes([40, 0, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn a_socket_that_is_in_use_is_not_taken_over() {
    let rig = Rig::new();
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = Rig::config(directory.path());
    (config.port, config.socket) = (None, Some(rig.socket().to_owned()));
    let kind = |config| match model_runner_core::DataPlane::start(config) {
        Err(model_runner_core::runtime::StartError::Io(error)) => Some(error.kind()),
        _ => None,
    };
    assert_eq!(kind(config.clone()), Some(ErrorKind::AddrInUse));
    let port = rig.address().rsplit(':').next().and_then(|port| port.parse().ok());
    config.port = port;
    config.socket = None;
    assert_eq!(kind(config), Some(ErrorKind::AddrInUse));
    assert!(UnixStream::connect(rig.socket()).is_ok(), "the first still listens");
}
