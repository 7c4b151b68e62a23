//! Everything that is not inference: the control plane answers, and the data plane changes nothing on the way.

use crate::harness::client::CHAT;
use crate::harness::rig::BODY_LIMIT;
use crate::harness::{Piece, Rig, chat, wait_for, wait_until};

#[test]
fn a_request_reaches_the_control_plane_as_it_was_sent() {
    let rig = Rig::new();
    let mut client = rig.client();
    let fields =
        [("Authorization", "Bearer key"), ("X-Anything", "a, b"), ("Accept", "application/json")];
    let body = r#"{"from":"ai/x"}"#;
    client.ask("POST", "/models/create?a=%2F&b", &fields, body);
    let (mut call, request) = rig.control.receive();
    assert_eq!(request.head.start, "POST /models/create?a=%2F&b HTTP/1.1");
    for (name, value) in fields {
        assert_eq!(request.head.get(&name.to_ascii_lowercase()), Some(value));
    }
    assert_eq!(request.head.get("host"), Some("localhost"));
    assert_eq!(request.head.get("content-type"), Some("application/json"));
    assert_eq!(request.body, body.as_bytes());
    call.answer("201 Created", "X-Own: yes\r\nLocation: /models/ai/x\r\n", "{\"id\":1}");
    let answer = client.message();
    assert_eq!(answer.head.status(), 201);
    assert_eq!(answer.head.get("x-own"), Some("yes"));
    assert_eq!(answer.head.get("location"), Some("/models/ai/x"));
    assert_eq!(answer.head.get("server"), None);
    assert_eq!(answer.body, b"{\"id\":1}");
    rig.assert_at_rest();
}

#[test]
fn every_method_is_forwarded() {
    let rig = Rig::new();
    let mut client = rig.client();
    for method in ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"] {
        client.ask(method, "/models/ai/x", &[], "");
        let (mut call, request) = rig.control.receive();
        assert_eq!(request.head.start, format!("{method} /models/ai/x HTTP/1.1"));
        call.answer_ok("{}");
        assert_eq!(client.message().body, b"{}");
    }
    client.ask("HEAD", "/", &[], "");
    let (mut call, _) = rig.control.receive();
    call.send("HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status(), head.get("content-length")), (200, Some("42")));
    client.ping();
}

#[test]
fn doubled_slashes_are_cleaned() {
    let rig = Rig::new();
    let cases = [
        ("//models//x", "/models/x"),
        ("/models//x/?a=//b", "/models/x?a=//b"),
        ("//models/a/../x", "/models/x"),
        ("/models/hf.co/a/b:Q4%20x", "/models/hf.co/a/b:Q4%20x"),
        ("/", "/"),
    ];
    for (sent, received) in cases {
        let mut client = rig.client();
        client.ask("GET", sent, &[], "");
        let (_, request) = rig.control.receive();
        assert_eq!(request.head.target(), received, "for {sent}");
    }
}

#[test]
fn the_private_paths_do_not_exist_from_outside() {
    let rig = Rig::new();
    let mut client = rig.client();
    for path in [
        "/_control/leases",
        "/_control",
        "/_control/",
        "//_control//leases",
        "/x/..//_control/leases",
    ] {
        client.ask("POST", path, &[], chat(false));
        assert_eq!(client.message().head.status(), 404, "of {path}");
    }
    assert!(rig.control.try_accept().is_none());
}

#[test]
fn a_request_body_is_streamed_and_not_limited() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.send(
        "POST /models/load HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.send_chunk("first");
    // The control plane has the begin while the end is not even made.
    let mut call = rig.control.accept();
    let head = call.head();
    assert_eq!(head.get("transfer-encoding"), Some("chunked"));
    assert_eq!(call.chunk(), b"first");
    let part = vec![b'x'; BODY_LIMIT / 2];
    let sender = std::thread::spawn(move || {
        for _ in 0..16 {
            client.send_chunk(&part);
        }
        client.end_chunks();
        client
    });
    let (body, end) = call.pieces();
    assert_eq!((body.len(), end), (8 * BODY_LIMIT, Piece::Last));
    let mut client = sender.join().expect("all was sent");
    call.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn a_large_body_of_known_length_passes_too() {
    let rig = Rig::new();
    let mut client = rig.client();
    let body = vec![b'y'; 4 * BODY_LIMIT];
    let expected = body.clone();
    let sender = std::thread::spawn(move || {
        client.ask("PUT", "/models/load", &[], body);
        client
    });
    let (mut call, request) = rig.control.receive();
    assert_eq!(request.head.get("transfer-encoding"), None);
    assert!(request.body == expected);
    call.answer_ok("{}");
    assert_eq!(sender.join().expect("all was sent").message().head.status(), 200);
}

#[test]
fn an_answer_is_streamed() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("POST", "/models/create", &[], "{}");
    let (mut call, _) = rig.control.receive();
    call.send(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(client.head().status(), 200);
    for line in ["{\"type\":\"progress\"}\n", "{\"type\":\"success\"}\n"] {
        call.send_chunk(line);
        assert_eq!(client.chunk(), line.as_bytes());
    }
    call.end_chunks();
    assert_eq!(client.piece(), Piece::Last);
    client.ping();
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.send(
        "POST /models/load HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let mut call = rig.control.accept();
    call.head();
    call.answer("400 Bad Request", "Connection: close\r\n", "no");
    assert_eq!(client.message().body, b"no");
}

#[test]
fn a_client_that_leaves_is_noticed_by_the_control_plane() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("POST", "/models/create", &[], "{}");
    let (mut call, _) = rig.control.receive();
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head();
    drop(client);
    call.assert_ended();
    rig.assert_at_rest();
}

#[test]
fn a_control_plane_that_dies_inside_an_answer_cuts_it() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.ask("GET", "/models", &[], "");
    let (mut call, _) = rig.control.receive();
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head();
    drop(call);
    assert_eq!(client.piece(), Piece::Cut);
    rig.assert_at_rest();
}

#[test]
fn a_control_plane_that_is_gone_does_not_stop_inference() {
    let rig = Rig::with(|config| {
        config.control_socket.set_extension("gone");
    });
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = rig.client();
    client.ask("GET", "/models", &[], "");
    let answer = client.message();
    assert_eq!(answer.refusal(), (503, "control_unreachable".to_owned()));
    client.ask("POST", CHAT, &[], chat(true));
    engine.begin_stream().end_stream();
    assert_eq!(client.head().status(), 200);
    client.pieces();
    wait_until("both are counted", || {
        rig.refused("control_unreachable") == 1 && rig.totals().requests_ok == 1
    });
}

#[test]
fn what_speaks_of_one_connection_is_not_forwarded() {
    let rig = Rig::new();
    let mut client = rig.client();
    let fields = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=9"),
        ("X-Kept", "1"),
    ];
    client.ask("GET", "/models", &fields, "");
    let (mut call, request) = rig.control.receive();
    assert_eq!((request.head.get("x-hop"), request.head.get("keep-alive")), (None, None));
    assert_eq!(request.head.get("x-kept"), Some("1"));
    call.answer("200 OK", "Connection: close, X-Back\r\nX-Back: 1\r\nX-Kept: 2\r\n", "{}");
    let answer = client.message();
    assert_eq!((answer.head.get("x-back"), answer.head.get("connection")), (None, None));
    assert_eq!(answer.head.get("x-kept"), Some("2"));
    client.ping();
}

#[test]
fn a_request_has_one_framing_when_it_arrives() {
    let rig = Rig::new();
    let lengths = [
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
    ];
    for framing in lengths {
        let mut client = rig.client();
        // From here on no open connection means that it was closed, and not that it is still to be accepted.
        client.ping();
        client.send(format!(
            "POST /models/create HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
        ));
        // Refusing it is right as well.
        if let Some(mut call) = wait_for("an answer", || {
            rig.control
                .try_accept()
                .map(Some)
                .or_else(|| (rig.plane.snapshot().open_connections == 0).then_some(None))
        }) {
            let request = call.message();
            assert_eq!(request.head.get("content-length"), None);
            assert_eq!(request.body, b"body");
        }
    }
}

#[test]
fn an_old_client_is_forwarded_as_a_new_one() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.send("GET /models HTTP/1.0\r\n\r\n");
    let (mut call, request) = rig.control.receive();
    assert_eq!(request.head.start, "GET /models HTTP/1.1");
    assert!(request.head.get("host").is_some());
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    call.send_chunk("[]");
    call.end_chunks();
    assert_eq!(client.head().get("transfer-encoding"), None);
    assert_eq!(client.rest(), b"[]");
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.send("POST /models/load HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let mut call = rig.control.accept();
    call.head();
    // Whether the control plane says so too does not matter.
    call.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head().status(), 100);
    client.send("body");
    assert_eq!(call.exactly(4), Some(b"body".to_vec()));
    call.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}
