//! Whole answers: what passes between client and engine, and what does not.

use crate::harness::client::CHAT;
use crate::harness::engine::{RECORDED_ANSWER, parts};
use crate::harness::{MODEL, Rig, chat};

/// Of the engine's head these reach the client, besides what frames the body.
const KEPT: [&str; 4] = ["content-length", "content-type", "date", "x-request-id"];

#[test]
fn a_whole_answer_passes_byte_for_byte() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    upstream.send(RECORDED_ANSWER);
    let answer = client.message();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.get("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.body, parts(RECORDED_ANSWER).1);
    let unexpected: Vec<_> =
        answer.head.fields.iter().filter(|(name, _)| !KEPT.contains(&name.as_str())).collect();
    assert!(unexpected.is_empty(), "the engine's own fields are not the client's: {unexpected:?}");
}

#[test]
fn the_tokens_of_a_whole_answer_are_counted() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    upstream.send(RECORDED_ANSWER);
    client.message();
    rig.assert_outcomes([1, 0, 0, 0]);
    let totals = rig.totals();
    assert_eq!(
        (totals.prompt_tokens, totals.cached_prompt_tokens, totals.completion_tokens),
        (22, 21, 4)
    );
    rig.assert_at_rest();
}

#[test]
fn the_engine_gets_the_body_the_query_and_the_trace_but_no_credentials() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let fields = [
        ("Authorization", "Bearer the-clients-own"),
        ("Cookie", "session=secret"),
        ("X-Conversation-Id", "another's"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Origin", "http://localhost:3000"),
        ("Accept", "text/event-stream"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    // Spacing, order, unknown members and escapes are the client's to choose.
    let body =
        r#"{ "messages" : [], "model":"ai/smollm2" ,"x":1e400, "stream": true, "y":"\u00e4\/" }"#;
    client.ask("POST", "/engines/llama.cpp/v1/chat/completions?a=1&b=%20x", &fields, body);
    let (mut upstream, request) = engine.receive();
    assert_eq!(request.head.start, "POST /v1/chat/completions?a=1&b=%20x HTTP/1.1");
    assert_eq!(request.body, body.as_bytes());
    let mut names: Vec<_> = request.head.fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected =
        ["accept", "authorization", "content-length", "content-type", "host", "traceparent"];
    assert_eq!(names, expected);
    assert_eq!(request.head.get("authorization"), Some("Bearer key-of-first"));
    assert_eq!(request.head.get("content-type"), Some("application/json"));
    assert_eq!(request.head.get("traceparent"), Some(fields[6].1));
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn every_spelling_of_a_path_leads_to_the_engines_own() {
    let (rig, engine) = Rig::with_engine();
    let paths = [
        CHAT,
        "/engines/v1/chat/completions",
        "/engines/llama.cpp/v1/chat/completions",
        "//engines//v1/chat/completions",
    ];
    for path in paths {
        let mut client = rig.client();
        client.ask("POST", path, &[("Connection", "close")], chat(false));
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.head.target(), CHAT, "for {path}");
        upstream.answer("200 OK", "Connection: close\r\n", "{}");
        client.message();
    }
}

#[test]
fn an_engines_refusal_passes_as_it_is() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let refusal = r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":512}}"#;
    for (status, code) in [("400 Bad Request", 400), ("500 Internal Server Error", 500)] {
        // Also where a stream was asked for, the engine refuses with a whole answer, and closes.
        client.ask_chat(true);
        let (mut upstream, _) = engine.receive();
        upstream.answer(status, "Connection: close\r\n", refusal);
        drop(upstream);
        let answer = client.message();
        assert_eq!(answer.head.status(), code);
        assert_eq!(answer.body, refusal.as_bytes());
    }
    rig.assert_outcomes([0, 1, 1, 0]);
}

#[test]
fn an_answer_without_a_body_passes() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    // llama-server's answer to a body over its own limit.
    upstream.send("HTTP/1.1 413 Payload Too Large\r\nServer: llama.cpp\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body), (413, Vec::new()));
    rig.assert_outcomes([0, 1, 0, 0]);
    rig.assert_at_rest();
}

#[test]
fn a_large_answer_passes_byte_for_byte_and_its_connection_is_kept() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let data: Vec<u32> = (0..200_000).collect();
    let body = format!(r#"{{"data":{data:?},"usage":{{"prompt_tokens":5,"total_tokens":5}}}}"#);
    let mut upstream = None;
    for _ in 0..2 {
        client.ask_chat(false);
        let upstream = upstream.get_or_insert_with(|| engine.accept());
        upstream.message();
        std::thread::scope(|scope| {
            scope.spawn(|| upstream.answer_ok(&body));
            assert!(client.message().body == body.as_bytes());
        });
    }
    rig.assert_outcomes([2, 0, 0, 0]);
    assert_eq!(rig.totals().prompt_tokens, 10);
}

#[test]
fn an_engine_may_answer_before_it_has_read_all() {
    let rig = Rig::with(|config| config.body_limit = 8 << 20);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = rig.client();
    let mut body = chat(false).into_bytes();
    // More than a Unix socket holds.
    body.resize(4 << 20, b' ');
    client.ask("POST", CHAT, &[], &body);
    let mut upstream = engine.accept();
    upstream.head();
    upstream.answer("413 Payload Too Large", "Connection: close\r\n", "{\"error\":{}}");
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body), (413, b"{\"error\":{}}".to_vec()));
    // The rest is not sent in vain.
    assert!(upstream.rest().len() < body.len());
    rig.assert_outcomes([0, 1, 0, 0]);
}

#[test]
fn an_engine_that_refuses_early_and_closes_is_heard() {
    let rig = Rig::with(|config| config.body_limit = 8 << 20);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = rig.client();
    let mut body = chat(false).into_bytes();
    body.resize(4 << 20, b' ');
    client.ask("POST", CHAT, &[], &body);
    let mut upstream = engine.accept();
    upstream.head();
    upstream.answer("413 Payload Too Large", "Connection: close\r\n", "");
    // With most of the request unread, so that writing the rest of it fails.
    drop(upstream);
    assert_eq!(client.message().head.status(), 413);
    assert!(rig.control.try_accept().is_none(), "no other engine is asked");
    rig.assert_outcomes([0, 1, 0, 0]);
}

#[test]
fn a_request_that_fills_the_engines_socket_arrives_whole() {
    let rig = Rig::with(|config| config.body_limit = 8 << 20);
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    let mut client = rig.client();
    let prompt: Vec<u32> = (0..400_000).collect();
    let body = format!(r#"{{"prompt":{prompt:?},"model":"{MODEL}","stream":true}}"#);
    for _ in 0..2 {
        client.ask("POST", CHAT, &[], &body);
        let mut upstream = engine.accept();
        // It waits until the engine reads, and nobody else does.
        rig.client().ping();
        assert!(upstream.message().body == body.as_bytes(), "every byte, once, in order");
        upstream.answer_ok("{}");
        assert_eq!(client.message().head.status(), 200);
        drop(upstream);
    }
    rig.assert_outcomes([2, 0, 0, 0]);
}

#[test]
fn what_an_engine_says_before_its_answer_is_not_the_answer() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(false);
    let (mut upstream, _) = engine.receive();
    upstream.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    rig.client().ping();
    upstream.answer_ok("{}");
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.head.get("link")), (200, None));
}

#[test]
fn an_answer_that_may_end_in_two_places_is_a_bad_gateway() {
    for fields in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 20\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
    ] {
        let (rig, engine) = Rig::with_engine();
        let mut client = rig.asking(false);
        let (mut upstream, _) = engine.receive();
        upstream.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{{}}"));
        assert_eq!(client.message().refusal(), (502, "engine_unreachable".to_owned()), "{fields}");
        upstream.assert_ended();
        rig.assert_outcomes([0, 0, 1, 0]);
    }
}
