//! Streams: every byte, at once, whatever the packets looked like.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::harness::engine::{DONE, EVENT, RECORDED_STREAM, STREAM_HEAD, parts};
use crate::harness::{Engine, Piece, Rig, Wire};

/// The payload of the recorded stream, without its chunk framing.
fn payload() -> Vec<u8> {
    let (_, mut rest) = parts(RECORDED_STREAM);
    let mut payload = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk size");
        let size = std::str::from_utf8(&rest[..end]).expect("text");
        let size = usize::from_str_radix(size, 16).expect("a number");
        payload.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
        if size == 0 {
            return payload;
        }
    }
}

/// A client that asks again and again on one connection, and another that tells when the data plane has caught up.
struct Splits {
    rig: Rig,
    engine: Engine,
    client: Wire,
    other: Wire,
    payload: Vec<u8>,
}

impl Splits {
    fn new() -> Self {
        let (rig, engine) = Rig::with_engine();
        // A Unix socket holds some 200 packets however small they are, and the client reads at the end only. The
        // other must not be slow for reasons of TCP: it is asked thousands of times.
        let (client, other) = (rig.client(), rig.unix_client());
        Self { rig, engine, client, other, payload: payload() }
    }

    /// Send the recorded stream in these parts, each read by the data plane before the next is sent.
    fn check<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) {
        self.client.ask_chat(true);
        let (mut upstream, _) = self.engine.receive();
        for part in parts {
            upstream.send(part);
            self.other.ping();
        }
        drop(upstream);
        let head = self.client.head();
        assert_eq!(head.status(), 200);
        assert_eq!(self.client.pieces(), (self.payload.clone(), Piece::Last));
    }
}

#[test]
fn a_stream_passes_byte_for_byte_wherever_it_is_split() {
    let mut splits = Splits::new();
    for at in 0..=RECORDED_STREAM.len() {
        let (first, second) = RECORDED_STREAM.split_at(at);
        splits.check([first, second].into_iter());
    }
    let count = RECORDED_STREAM.len() as u64 + 1;
    splits.rig.assert_outcomes([count, 0, 0, 0]);
    let totals = splits.rig.totals();
    assert_eq!(totals.stream_events, 7 * count);
    assert_eq!((totals.prompt_tokens, totals.completion_tokens), (22 * count, 4 * count));
    splits.rig.assert_at_rest();
}

#[test]
fn a_stream_passes_one_byte_at_a_time() {
    let mut splits = Splits::new();
    splits.check(RECORDED_STREAM.chunks(1));
    splits.rig.assert_outcomes([1, 0, 0, 0]);
    assert_eq!(splits.rig.totals().completion_tokens, 4);
}

#[test]
fn a_stream_passes_in_pieces_of_any_size() {
    let splits = std::cell::RefCell::new(Splits::new());
    let sizes = proptest::collection::vec(1..400_usize, 1..20);
    proptest!(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() }, |(sizes in sizes)| {
        let mut rest = RECORDED_STREAM;
        let mut sizes = sizes.iter().cycle();
        splits.borrow_mut().check(std::iter::from_fn(|| {
            let size = (*sizes.next()?).min(rest.len());
            let (part, later) = rest.split_at(size);
            rest = later;
            (!part.is_empty()).then_some(part)
        }));
    });
}

#[test]
fn the_head_of_a_stream_says_stream_and_keeps_caches_out() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let upstream = engine.begin_stream();
    let head = client.head();
    let mut fields: Vec<_> =
        head.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    fields.retain(|(name, _)| !matches!(*name, "date" | "x-request-id"));
    fields.sort_unstable();
    let expected = [
        ("cache-control", "no-cache"),
        ("content-type", "text/event-stream"),
        ("transfer-encoding", "chunked"),
        ("x-accel-buffering", "no"),
    ];
    assert_eq!(fields, expected);
    upstream.end_stream();
    client.pieces();
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let (mut upstream, _) = engine.receive();
    // The head leaves the engine when its slot starts, long before the first token.
    upstream.send(STREAM_HEAD);
    client.head();
    // Comments keep connections alive while a long prompt is read.
    for event in [":\n\n", EVENT, ": ping\n\n", EVENT, "event: x\r\ndata: y\r\n\r\n", DONE] {
        upstream.send_chunk(event);
        assert_eq!(client.chunk(), event.as_bytes());
    }
    upstream.end_chunks();
    assert_eq!(client.piece(), Piece::Last);
}

#[test]
fn the_last_event_does_not_wait_for_the_end_of_the_stream() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    client.head();
    client.chunk();
    // llama-server sends the terminal chunk in two writes.
    upstream.send_chunk(DONE);
    assert_eq!(client.chunk(), DONE.as_bytes());
    upstream.send("0\r\n");
    rig.client().ping();
    upstream.send("\r\n");
    assert_eq!(client.piece(), Piece::Last);
    rig.assert_outcomes([1, 0, 0, 0]);
}

#[test]
fn a_stream_that_ends_without_done_counts_as_failed_but_passes_as_it_is() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    let error =
        "data: {\"error\":{\"code\":500,\"message\":\"Context size has been exceeded.\"}}\n\n";
    upstream.send_chunk(error);
    upstream.end_chunks();
    client.head();
    assert_eq!(client.pieces(), ([EVENT, error].concat().into_bytes(), Piece::Last));
    rig.assert_outcomes([0, 0, 1, 0]);
}

#[test]
fn the_first_event_does_not_wait_for_a_delayed_acknowledgement() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.client();
    let mut waits: Vec<Duration> = Vec::new();
    // A fresh connection acknowledges at once, which hides the fault: the first rounds do not count.
    for round in 0..15 {
        client.ask_chat(true);
        let (mut upstream, _) = engine.receive();
        upstream.send(STREAM_HEAD);
        client.head();
        let sent = Instant::now();
        upstream.send_chunk(EVENT);
        client.chunk();
        if round >= 4 {
            waits.push(sent.elapsed());
        }
        upstream.end_stream();
        client.pieces();
    }
    waits.sort_unstable();
    let median = waits[waits.len() / 2];
    assert!(median < Duration::from_millis(20), "an event waits {median:?} on a kept connection");
}
