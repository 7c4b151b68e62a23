use std::future::Future as _;
use std::io::Write as _;
use std::task::{Context, Waker};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, HeaderMap};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::decode;
use crate::error::Error;

const LIMIT: usize = 1024 * 1024;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

fn decoded(body: &[u8], encodings: &[&str]) -> Result<Bytes, Error> {
    let mut headers = HeaderMap::new();
    for encoding in encodings {
        headers.append(CONTENT_ENCODING, encoding.parse().unwrap());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(decode(Bytes::copy_from_slice(body), &headers, LIMIT))
}

fn refused(body: &[u8], encoding: &str) -> (u16, String) {
    let error = decoded(body, &[encoding]).unwrap_err();
    (error.status().as_u16(), error.to_string())
}

#[test]
fn what_has_no_coding_passes() {
    for encodings in [&[][..], &["identity"], &["", " , "]] {
        assert_eq!(decoded(b"text", encodings).unwrap(), "text");
    }
}

#[test]
fn one_coding_is_undone_and_no_more() {
    assert_eq!(decoded(&gzip(b"text"), &["gzip"]).unwrap(), "text");
    assert_eq!(decoded(&gzip(b"text"), &["X-GZIP"]).unwrap(), "text");
    assert_eq!(decoded(&zstd(b"text"), &["zstd"]).unwrap(), "text");
    assert_eq!(decoded(&gzip(b"text"), &["identity, gzip"]).unwrap(), "text");
    // 100 bytes may be millions of empty members, of which nothing comes.
    let both = zstd(&gzip(b"text"));
    assert_eq!(refused(&both, "gzip, zstd").0, 415);
    assert_eq!(decoded(&both, &["gzip", "zstd"]).unwrap_err().status(), 415);
}

#[test]
fn several_members_and_frames_are_one_body() {
    assert_eq!(decoded(&[gzip(b"a"), gzip(b"b")].concat(), &["gzip"]).unwrap(), "ab");
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let frames = [skippable.clone(), zstd(b"a"), zstd(b""), skippable, zstd(b"b")].concat();
    assert_eq!(decoded(&frames, &["zstd"]).unwrap(), "ab");
}

#[test]
fn other_codings_are_named_in_the_refusal() {
    for encoding in ["br", "deflate", "gzip, br", "aws-chunked"] {
        let (status, message) = refused(&gzip(b"text"), encoding);
        assert_eq!(status, 415);
        assert!(message.contains(encoding.rsplit(", ").next().unwrap()), "{message}");
    }
}

#[test]
fn what_is_broken_is_refused_with_the_reason() {
    for (body, encoding) in [(gzip(b"some text"), "gzip"), (zstd(b"some text"), "zstd")] {
        for length in 0..body.len() {
            let (status, message) = refused(&body[..length], encoding);
            assert_eq!(status, 400, "{encoding} cut to {length}");
            assert!(message.contains(encoding), "{message}");
        }
        let behind = [body.as_slice(), b"garbage"].concat();
        assert_eq!(refused(&behind, encoding).0, 400);
        assert_eq!(refused(b"{\"model\":1}", encoding).0, 400);
    }
}

#[test]
fn a_checksum_that_differs_is_noticed() {
    for (mut body, encoding) in [(gzip(b"some text"), "gzip"), (zstd(b"some text"), "zstd")] {
        let at = body.len() - if encoding == "gzip" { 6 } else { 2 };
        body[at] ^= 1;
        assert_eq!(refused(&body, encoding).0, 400, "{encoding}");
    }
}

#[test]
fn a_body_of_just_the_limit_passes_and_one_byte_more_does_not() {
    for encode in [gzip, zstd] {
        let encoding = if encode(b"")[0] == 0x1f { "gzip" } else { "zstd" };
        let body = encode(&vec![b'x'; LIMIT]);
        assert_eq!(decoded(&body, &[encoding]).unwrap().len(), LIMIT);
        assert_eq!(refused(&encode(&vec![b'x'; LIMIT + 1]), encoding).0, 413);
    }
}

#[test]
fn a_bomb_is_given_up_at_the_limit() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert_eq!(refused(&bomb, "gzip").0, 413);
}

#[test]
fn a_frame_that_wants_much_memory_is_refused() {
    // Magic number, no single segment, a window of 128 MiB.
    let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3];
    let (status, message) = refused(&header, "zstd");
    assert_eq!(status, 400);
    assert!(message.contains("134217728"), "{message}");
}

#[test]
fn what_decodes_to_nothing_does_not_hold_up_the_thread() {
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    // Gzip's header, then stored blocks without a byte.
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let blocks = [&header[..], &[0, 0, 0, 0xff, 0xff].repeat(100_000)].concat();
    for (encoding, body) in [
        ("gzip", gzip(b"").repeat(20_000)),
        ("gzip", blocks),
        ("zstd", zstd(b"").repeat(20_000)),
        ("zstd", [zstd(b""), skippable.repeat(20_000)].concat()),
    ] {
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_ENCODING, encoding.parse().unwrap());
        let mut decoding = Box::pin(decode(body.into(), &headers, LIMIT));
        let mut context = Context::from_waker(Waker::noop());
        let turns = (0..).take_while(|_| decoding.as_mut().poll(&mut context).is_pending());
        assert!(turns.count() >= 5, "{encoding}");
    }
}

proptest! {
    #[test]
    fn what_was_encoded_comes_back(text in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert_eq!(&decoded(&gzip(&text), &["gzip"]).unwrap()[..], &text[..]);
        prop_assert_eq!(&decoded(&zstd(&text), &["zstd"]).unwrap()[..], &text[..]);
    }

    #[test]
    fn any_bytes_are_answered_for(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (encoding, encoded) in [("gzip", gzip(&bytes)), ("zstd", zstd(&bytes))] {
            let mut encoded = encoded;
            for (index, with) in &flips {
                let at = index.index(encoded.len());
                encoded[at] ^= with;
            }
            let _ = decoded(&encoded, &[encoding]);
            let _ = decoded(&bytes, &[encoding]);
        }
    }
}
