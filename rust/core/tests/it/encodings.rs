//! Bodies with a `Content-Encoding`: the engine gets what was encoded.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::harness::client::CHAT;
use crate::harness::rig::BODY_LIMIT;
use crate::harness::{Rig, chat};

fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: impl AsRef<[u8]>) -> Vec<u8> {
    compress_to_vec(text.as_ref(), CompressionLevel::Fastest)
}

#[test]
fn the_engine_gets_the_body_as_it_was() {
    let (rig, engine) = Rig::with_engine();
    for (encoding, body) in [
        ("gzip", gzip(chat(true))),
        ("x-gzip", gzip(chat(true))),
        ("zstd", zstd(chat(true))),
        ("identity", chat(true).into_bytes()),
    ] {
        let mut client = rig.client();
        client.ask("POST", CHAT, &[("Content-Encoding", encoding)], &body);
        let (mut upstream, request) = engine.receive();
        assert_eq!(request.body, chat(true).as_bytes(), "{encoding}");
        assert_eq!(request.head.get("content-encoding"), None);
        assert_eq!(request.head.get("content-length"), Some(&*chat(true).len().to_string()));
        upstream.answer("200 OK", "Connection: close\r\n", "{}");
        assert_eq!(client.message().head.status(), 200);
    }
    rig.assert_at_rest();
}

#[test]
fn what_is_taken_is_said_where_something_else_comes() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    for encoding in ["br", "deflate", "compress", "gzip, br", "gzip, gzip"] {
        client.ask("POST", CHAT, &[("Content-Encoding", encoding)], chat(false));
        let answer = client.message();
        assert_eq!(answer.refusal(), (415, "unsupported_encoding".to_owned()), "{encoding}");
        assert_eq!(answer.head.get("accept-encoding"), Some("gzip, zstd"));
    }
    assert!(engine.try_accept().is_none());
    assert_eq!(rig.refused("unsupported_encoding"), 5);
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let bomb = vec![b' '; 64 * BODY_LIMIT];
    for (encoding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb))] {
        assert!(body.len() < BODY_LIMIT);
        client.ask("POST", CHAT, &[("Content-Encoding", encoding)], body);
        assert_eq!(client.message().refusal(), (413, "body_too_large".to_owned()), "{encoding}");
        client = rig.client();
    }
    assert!(engine.try_accept().is_none());
}

#[test]
fn what_is_not_what_it_claims_is_refused() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let whole = gzip(chat(false));
    for (encoding, body) in [
        ("gzip", chat(false).into_bytes()),
        ("zstd", whole.clone()),
        ("gzip", whole[..20].to_vec()),
    ] {
        client.ask("POST", CHAT, &[("Content-Encoding", encoding)], body);
        let answer = client.message();
        assert_eq!(answer.refusal(), (400, "malformed_body".to_owned()));
        assert!(
            answer.json()["error"]["message"].as_str().is_some_and(|text| text.contains(encoding))
        );
    }
    assert!(engine.try_accept().is_none());
}
