use http::HeaderName;
use http::header::{CONTENT_TYPE, SERVER};
use proptest::prelude::*;

use super::{Framing, Head, HeadError, parse};

fn head(raw: &str) -> Result<Head, HeadError> {
    let (head, length) = parse(raw.as_bytes(), &[])?.expect("a whole head");
    assert_eq!(length, raw.len());
    Ok(head)
}

fn with(fields: &str) -> Result<Head, HeadError> {
    head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))
}

#[test]
fn what_the_engine_says_is_kept_and_what_it_says_of_the_connection_is_not() {
    let raw = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n\
        Set-Cookie: a\r\nSet-Cookie: b\r\nTransfer-Encoding: Chunked\r\nUpgrade: h2c\r\nX-Mine: 1\r\n\
        Connection: x-mine, close\r\nKeep-Alive: timeout=5, max=100\r\n\r\n5\r\nhello";
    let (head, length) = parse(raw, &[SERVER]).unwrap().unwrap();
    assert_eq!(&raw[length..], b"5\r\nhello");
    assert_eq!((head.framing, head.keeps_open), (Framing::Chunked, false));
    let cookie = HeaderName::from_static("set-cookie");
    let names: Vec<_> = head.parts.headers.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [CONTENT_TYPE, cookie.clone(), cookie]);
    assert_eq!(head.parts.headers[CONTENT_TYPE], "text/event-stream");
}

#[test]
fn the_end_of_the_body_is_told_clearly_or_not_at_all() {
    for (fields, framing) in [
        ("Content-Length: 12\r\n", Framing::Length(12)),
        ("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("", Framing::UntilEnd),
    ] {
        assert_eq!(with(fields).unwrap().framing, framing);
    }
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(with(fields).unwrap_err(), HeadError::Framing, "{fields}");
    }
    let old = head("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.unwrap_err(), HeadError::Framing);
    for status in ["204 No Content", "304 Not Modified"] {
        let empty = head(&format!("HTTP/1.1 {status}\r\nContent-Length: 7\r\n\r\n")).unwrap();
        assert_eq!(empty.framing, Framing::Length(0));
    }
}

#[test]
fn informational_heads_are_skipped() {
    let head = head(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n",
    )
    .unwrap();
    assert_eq!(head.parts.status, 413);
    assert!(head.parts.headers.is_empty());
    assert!(parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", &[]).unwrap().is_none());
}

#[test]
fn what_is_no_answer_is_refused() {
    for raw in [
        "GET / HTTP/1.1\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    ] {
        assert!(matches!(head(raw), Err(HeadError::Malformed(_))), "{raw}");
    }
    assert_eq!(head("HTTP/1.1 099 ?\r\n\r\n").unwrap_err(), HeadError::Status);
    assert_eq!(head("HTTP/1.1 101 Upgraded\r\n\r\n").unwrap_err(), HeadError::Status);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
    assert!(matches!(head(&many), Err(HeadError::Malformed(httparse::Error::TooManyHeaders))));
}

#[test]
fn a_connection_is_kept_if_both_sides_know_how() {
    assert!(with("Connection: keep-alive\r\n").unwrap().keeps_open);
    for raw in ["HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"] {
        assert!(!head(raw).unwrap().keeps_open);
    }
}

proptest! {
    #[test]
    fn a_head_is_read_once_it_is_whole(body: Vec<u8>, cut: prop::sample::Index) {
        let head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let cut = cut.index(head.len());
        prop_assert!(parse(&head[..cut], &[]).unwrap().is_none());
        let (_, length) = parse(&[head, body.as_slice()].concat(), &[]).unwrap().unwrap();
        prop_assert_eq!(length, head.len());
    }

    #[test]
    fn no_bytes_are_too_strange(bytes: Vec<u8>) {
        let _ = parse(&bytes, &[]);
        let _ = parse(&[b"HTTP/1.1 200 OK\r\n", bytes.as_slice(), b"\r\n\r\n"].concat(), &[]);
    }
}
