//! HTTP/2 without TLS, for clients that know beforehand that it is spoken.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::client::CHAT;
use crate::harness::engine::{DONE, EVENT, STREAM_HEAD};
use crate::harness::{DEADLINE, Rig, chat, wait_until};

const SOON: Duration = Duration::from_millis(100);

/// A client with one connection, driven by a thread of its own.
struct Client {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    _connection: JoinSet<()>,
}

impl Client {
    fn new(rig: &Rig) -> Self {
        Self::with_window(rig, 1 << 20)
    }

    /// `window`: how much of each answer may be under way.
    fn with_window(rig: &Rig, window: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = rig.address();
        let mut tasks = JoinSet::new();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("the data plane accepts");
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(window)
                .initial_connection_window_size(1 << 24)
                .handshake(stream)
                .await
                .expect("it speaks HTTP/2");
            tasks.spawn(async move {
                let _ = connection.await;
            });
            sender
        });
        Self { runtime, sender, _connection: tasks }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(DEADLINE, future).await.expect("it happens") })
    }

    fn request(&mut self, request: Request<()>, body: String) -> ResponseFuture {
        let sender = self.sender.clone();
        let mut sender = self.wait(sender.ready()).expect("the connection is open");
        let end = body.is_empty();
        let (response, mut stream) = sender.send_request(request, end).expect("a request is sent");
        if !end {
            stream.send_data(body.into(), true).expect("a body is sent");
        }
        response
    }

    fn ask(&mut self, method: Method, path: &str, body: String) -> ResponseFuture {
        let uri = format!("http://localhost{path}");
        let request = Request::builder().method(method).uri(uri).body(()).expect("a request");
        self.request(request, body)
    }

    fn ask_chat(&mut self, stream: bool) -> ResponseFuture {
        self.ask(Method::POST, CHAT, chat(stream))
    }

    fn head(&self, response: ResponseFuture) -> Response<RecvStream> {
        self.wait(response).expect("an answer")
    }

    fn chunk(&self, body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
        let chunk = self.wait(body.data());
        if let Some(Ok(chunk)) = &chunk {
            body.flow_control().release_capacity(chunk.len()).expect("it was received");
        }
        chunk
    }

    fn body(&self, body: &mut RecvStream) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk(body) {
            whole.extend_from_slice(&chunk.expect("the rest of the body"));
        }
        whole
    }

    fn ping(&mut self) {
        let response = self.ask(Method::GET, "/_control/", String::new());
        assert_eq!(self.head(response).status(), 404);
    }
}

#[test]
fn streams_of_one_connection_are_relayed_side_by_side() {
    let (rig, engine) = Rig::with_engine();
    let mut client = Client::new(&rig);
    let first = client.ask_chat(true);
    let first_upstream = engine.begin_stream();
    let second = client.ask_chat(true);
    let second_upstream = engine.begin_stream();
    let (mut first, mut second) = (client.head(first), client.head(second));
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["content-type"], "text/event-stream");
    for name in ["connection", "keep-alive", "transfer-encoding", "server"] {
        assert!(!first.headers().contains_key(name), "{name}");
    }
    second_upstream.end_stream();
    assert_eq!(client.body(second.body_mut()), [EVENT, DONE].concat().as_bytes());
    first_upstream.end_stream();
    assert_eq!(client.body(first.body_mut()), [EVENT, DONE].concat().as_bytes());
    rig.assert_outcomes([2, 0, 0, 0]);
    assert_eq!(rig.plane.snapshot().open_connections, 1);
}

#[test]
fn a_preface_in_pieces_is_a_preface() {
    let rig = Rig::new();
    let mut client = rig.client();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        client.send([*byte]);
        rig.client().ping();
    }
    client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let settings = client.exactly(9).expect("a frame");
    assert_eq!(settings[3], 4, "the server's settings come first: {settings:?}");
}

#[test]
fn what_only_begins_like_a_preface_is_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.send("PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.message().refusal(), (400, "malformed_head".to_owned()));
}

#[test]
fn an_upgrade_to_http2_is_not_taken_up() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let fields = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
    ];
    client.ask("POST", CHAT, &fields, chat(false));
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.get("upgrade"), None);
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn a_stream_that_is_reset_stops_its_engine_and_no_other() {
    let (rig, engine) = Rig::with_engine();
    let mut client = Client::new(&rig);
    let leaving = client.ask_chat(true);
    let mut left = engine.begin_stream();
    let staying = client.ask_chat(true);
    let upstream = engine.begin_stream();
    let mut staying = client.head(staying);
    let leaving = client.head(leaving);
    drop(leaving);
    left.rest();
    upstream.end_stream();
    assert_eq!(client.body(staying.body_mut()), [EVENT, DONE].concat().as_bytes());
    rig.assert_outcomes([1, 0, 0, 1]);
}

#[test]
fn a_request_that_is_reset_leaves_the_queue() {
    let (rig, engine) = Rig::with_one_slot();
    let mut client = Client::new(&rig);
    let first = client.ask_chat(true);
    let upstream = engine.begin_stream();
    let second = client.ask_chat(true);
    wait_until("it waits", || rig.runner().queued == 1);
    drop(second);
    wait_until("it waits no more", || rig.runner().queued == 0);
    upstream.end_stream();
    client.body(client.head(first).body_mut());
}

#[test]
fn a_client_that_leaves_stops_all_its_engines() {
    let (rig, engine) = Rig::with_engine();
    let mut client = Client::new(&rig);
    let (_first, _second) = (client.ask_chat(true), client.ask_chat(true));
    let (mut first, mut second) = (engine.begin_stream(), engine.begin_stream());
    drop(client);
    first.rest();
    second.rest();
    rig.assert_at_rest();
    rig.assert_outcomes([0, 0, 0, 2]);
}

#[test]
fn a_stream_without_window_stops_its_engine_and_is_given_up() {
    let rig = Rig::with(|config| config.write_timeout = SOON);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = Client::with_window(&rig, 1000);
    let stuck = client.ask_chat(true);
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    let frame = [b"2000\r\n".as_slice(), &[b':'; 0x2000], b"\r\n"].concat();
    let mut sent = 0;
    while upstream.try_send(&frame).is_ok() {
        sent += frame.len();
        assert!(sent < 2 << 20, "{sent} bytes were taken for a stream that does not read");
    }
    let mut stuck = client.head(stuck);
    let end = loop {
        // What had been sent is still there to read; nothing is released.
        match client.wait(stuck.body_mut().data()).expect("the stream does not end well") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(end.reason().is_some_and(|reason| reason != Reason::NO_ERROR), "{end}");
    assert_eq!(rig.totals().requests_timed_out, 1);
    // The connection, and what else is on it, is none the worse for it.
    client.ping();
}

#[test]
fn a_connection_that_takes_nothing_is_given_up_with_all_its_streams() {
    let rig = Rig::with(|config| config.write_timeout = SOON);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    // A Unix socket, for the buffers of TCP grow to many megabytes; and windows that never close.
    let mut client = rig.unix_client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send([&[0, 0, 6, 4, 0, 0, 0, 0, 0], &[0, 4][..], &[0x7f, 0xff, 0xff, 0xff]].concat());
    client.send([&[0, 0, 4, 8, 0, 0, 0, 0, 0][..], &[0x7f, 0xff, 0, 0]].concat());
    let body = chat(true);
    // POST (3), http (6), a path, an authority (0 and the index of the name, then the value).
    let mut head = vec![0x83, 0x86, 0x04, u8::try_from(CHAT.len()).expect("short")];
    head.extend_from_slice(CHAT.as_bytes());
    head.extend_from_slice(b"\x01\x09localhost");
    let frame = |kind, flags, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a short frame");
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    };
    client.send(frame(1, 4, &head));
    client.send(frame(0, 1, body.as_bytes()));
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    let chunk = [b"2000\r\n".as_slice(), &[b':'; 0x2000], b"\r\n"].concat();
    let mut sent = 0;
    while upstream.try_send(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 4 << 20, "{sent} bytes were taken for a client that does not read");
    }
    wait_until("it is gone", || rig.plane.snapshot().open_connections == 0);
    wait_until("it is booked", || rig.totals().requests_timed_out == 1);
}

#[test]
fn a_slow_stream_is_not_given_up() {
    let rig = Rig::with(|config| config.write_timeout = 3 * SOON);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = Client::new(&rig);
    let quiet = client.ask_chat(true);
    let upstream = engine.begin_stream();
    let mut quiet = client.head(quiet);
    client.chunk(quiet.body_mut());
    // Nothing waits for the client, so the limit does not count, however long the engine thinks.
    std::thread::park_timeout(4 * SOON);
    upstream.end_stream();
    assert_eq!(client.body(quiet.body_mut()), DONE.as_bytes());
}

#[test]
fn an_answer_to_head_has_no_body() {
    let rig = Rig::new();
    let mut client = Client::new(&rig);
    let response = client.ask(Method::HEAD, CHAT, String::new());
    let mut response = client.head(response);
    assert_eq!(response.status(), 405);
    assert!(client.body(response.body_mut()).is_empty());
    client.ping();
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let rig = Rig::with(|config| config.head_limit = 10_000);
    let mut client = Client::new(&rig);
    let request = Request::builder()
        .uri("http://localhost/models")
        .header("x-large", "x".repeat(20_000))
        .body(())
        .expect("a request");
    let response = client.request(request, String::new());
    assert_eq!(client.head(response).status(), 431);
    client.ping();
}

#[test]
fn a_body_that_stops_coming_is_given_up() {
    let rig = Rig::with(|config| config.body_timeout = SOON);
    let client = Client::new(&rig);
    let mut sender = client.wait(client.sender.clone().ready()).expect("it is open");
    let request = Request::post(format!("http://localhost{CHAT}")).body(()).expect("a request");
    let (response, mut stream) = sender.send_request(request, false).expect("a request is sent");
    stream.send_data("{".into(), false).expect("a piece is sent");
    assert_eq!(client.head(response).status(), 408);
}

#[test]
fn the_name_of_the_server_is_checked() {
    let rig = Rig::new();
    let mut client = Client::new(&rig);
    let request = Request::get("http://evil.example/models").body(()).expect("a request");
    let response = client.request(request, String::new());
    assert_eq!(client.head(response).status(), 403);
}

#[test]
fn a_connection_without_streams_is_closed_and_one_with_a_stream_is_not() {
    let rig = Rig::with(|config| config.idle_timeout = SOON);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut busy = Client::new(&rig);
    let response = busy.ask_chat(true);
    let upstream = engine.begin_stream();
    let mut response = busy.head(response);
    let mut idle = Client::new(&rig);
    idle.ping();
    wait_until("the idle one is closed", || rig.plane.snapshot().open_connections == 1);
    upstream.end_stream();
    assert_eq!(busy.body(response.body_mut()), [EVENT, DONE].concat().as_bytes());
}

#[test]
fn streams_in_flight_end_within_the_grace() {
    let (mut rig, engine) = Rig::with_engine();
    let mut client = Client::new(&rig);
    let response = client.ask_chat(true);
    let upstream = engine.begin_stream();
    let mut response = client.head(response);
    let stopped = rig.stop(DEADLINE);
    wait_until("new connections are refused", || {
        std::net::TcpStream::connect(rig.address()).is_err()
    });
    upstream.end_stream();
    assert_eq!(client.body(response.body_mut()), [EVENT, DONE].concat().as_bytes());
    assert!(stopped.recv_timeout(DEADLINE).expect("it stops"));
}

#[test]
fn a_stream_without_window_can_be_cancelled() {
    let (rig, engine) = Rig::with_engine();
    let mut client = Client::with_window(&rig, 1000);
    let request = Request::post(format!("http://localhost{CHAT}")).header("x-request-id", "stuck");
    let _stuck = client.request(request.body(()).expect("a request"), chat(true));
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    upstream.send_chunk([b':'; 0x2000]);
    client.ping();
    let cancel = "/engines/requests/stuck/cancel";
    let answer = client.ask(Method::POST, cancel, String::new());
    assert_eq!(client.head(answer).status(), 200);
    upstream.rest();
    rig.assert_outcomes([0, 0, 0, 1]);
    client.ping();
    rig.assert_at_rest();
}
