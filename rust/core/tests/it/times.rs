//! When things happened to a request: loads, queues, first tokens, gaps, and readers who fell asleep.

use std::time::{Duration, Instant};

use model_runner_core::snapshot::{Histogram, OperationTotals};

use crate::harness::client::{CHAT, chat_with};
use crate::harness::engine::{DONE, EVENT, STREAM_HEAD};
use crate::harness::{MODEL, Rig, chat, wait_until};

/// Long enough to be told from what takes no time.
const WHILE: Duration = Duration::from_millis(30);

/// What comes first in a chat, before the prompt was even looked at.
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";

const LAST: &str = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"delta\":{}}],\
    \"timings\":{\"cache_n\":0,\"prompt_n\":5,\"predicted_n\":3}}\n\n";

fn count(histogram: &Histogram) -> u64 {
    histogram.counts.iter().sum()
}

fn pass(time: Duration) {
    let began = Instant::now();
    wait_until("some time has passed", || began.elapsed() >= time);
}

/// What was measured of the only operation of the only model.
fn measured(rig: &Rig) -> OperationTotals {
    let [operation] = rig.totals().operations.try_into().expect("one operation");
    operation
}

#[test]
fn a_wait_for_a_load_is_told_from_a_wait_for_a_slot() {
    let rig = Rig::new();
    let engine = rig.engine("first").with_slots(1);
    let mut first = rig.asking(true);
    let (mut call, _) = rig.control.lease_call();
    pass(WHILE);
    rig.publish(&[&engine]);
    call.grant("first");
    let mut upstream = engine.begin_stream();
    let second = rig.waiting(0);
    pass(WHILE);
    upstream.send_chunk(DONE);
    upstream.end_chunks();
    first.head();
    first.pieces();
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    rig.assert_outcomes([2, 0, 0, 0]);
    drop(second);
    let totals = rig.totals();
    assert_eq!((count(&totals.load_waits), count(&totals.queue_waits)), (1, 2));
    let (load, queue) = (totals.load_waits.sum, totals.queue_waits.sum);
    assert!(load >= WHILE.as_secs_f64() && queue >= WHILE.as_secs_f64(), "{load} {queue}");
    assert!((load + queue - totals.queue_seconds).abs() < 1e-4, "{load} {queue}");
    // One of the two waited for no slot.
    assert_eq!(totals.queue_waits.counts[0], 1);
}

#[test]
fn the_first_token_is_the_first_content_not_the_first_byte() {
    for stream in [true, false] {
        let (rig, engine) = Rig::with_engine();
        let mut client = rig.asking(stream);
        let (mut upstream, _) = engine.receive();
        upstream.send(STREAM_HEAD);
        upstream.send_chunk(ROLE);
        rig.client().ping();
        pass(WHILE);
        upstream.send_chunk(EVENT);
        rig.client().ping();
        pass(WHILE);
        upstream.send_chunk(EVENT.repeat(2));
        rig.client().ping();
        upstream.send_chunk(LAST);
        upstream.end_stream();
        let head = client.head();
        assert_eq!(head.status(), 200);
        rig.assert_outcomes([1, 0, 0, 0]);
        let (totals, operation) = (rig.totals(), measured(&rig));
        assert_eq!(operation.operation, "chat");
        assert_eq!(count(&operation.time_to_first_token), 1);
        let first_token = operation.time_to_first_token.sum;
        assert!(first_token >= WHILE.as_secs_f64(), "{first_token}");
        if stream {
            assert!(totals.first_byte_seconds <= first_token - WHILE.as_secs_f64());
        }
        // Three tokens: a gap, and two that came at once.
        let gaps = &totals.inter_token_gaps;
        assert_eq!((count(gaps), gaps.counts[0]), (2, 1));
        assert!(gaps.sum >= WHILE.as_secs_f64(), "{}", gaps.sum);
        let each = operation.time_per_output_token.sum;
        assert!((each - gaps.sum / 2.0).abs() < 1e-4, "{each}");
        assert_eq!((operation.input_tokens.sum, operation.output_tokens.sum), (5.0, 3.0));
    }
}

#[test]
fn a_cancelled_request_is_no_successful_response() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    client.head();
    client.chunk();
    upstream.send_chunk(EVENT);
    client.chunk();
    drop(client);
    upstream.rest();
    rig.assert_outcomes([0, 0, 0, 1]);
    let operation = measured(&rig);
    assert_eq!(count(&operation.time_to_first_token), 0);
    assert_eq!(count(&operation.time_per_output_token), 0);
    assert_eq!(count(&rig.totals().inter_token_gaps), 1);
    let cancelled = operation.durations.iter().find(|(outcome, _)| *outcome == "cancelled");
    assert_eq!(cancelled.map(|(_, times)| count(times)), Some(1));
}

#[test]
fn each_operation_is_measured_by_itself() {
    let (rig, engine) = Rig::with_engine();
    for path in [CHAT, "/engines/v1/completions"] {
        let mut client = rig.client();
        client.ask("POST", path, &[], chat_with(MODEL, true));
        let (mut upstream, _) = engine.receive();
        upstream.answer("200 OK", "Connection: close\r\n", "{}");
        client.message();
    }
    rig.assert_outcomes([2, 0, 0, 0]);
    let operations = rig.totals().operations;
    let names: Vec<_> = operations.iter().map(|operation| operation.operation).collect();
    assert_eq!(names, ["chat", "text_completion"]);
}

#[test]
fn a_reader_who_fell_asleep_is_timed_out() {
    let rig = Rig::with(|config| config.write_timeout = Duration::from_millis(200));
    let engine = rig.engine("first");
    rig.publish(&[&engine]);
    // A Unix socket, for the buffers of TCP grow to many megabytes.
    let mut asleep = rig.unix_client();
    asleep.ask("POST", CHAT, &[], chat(true));
    let mut upstream = engine.begin_stream();
    let filler = format!("2000\r\n{}\r\n", ":".repeat(0x2000));
    // Until the data plane gives up.
    while upstream.try_send(&filler).is_ok() {}
    wait_until("it is booked", || rig.totals().requests_timed_out == 1);
    rig.assert_outcomes([0, 0, 0, 0]);
    assert_eq!(rig.totals().completion_tokens, 1);
    // Whoever leaves afterwards has left.
    let client = rig.asking(true);
    let mut upstream = engine.begin_stream();
    drop(client);
    upstream.rest();
    rig.assert_outcomes([0, 0, 0, 1]);
    assert_eq!(rig.totals().requests_timed_out, 1);
    rig.assert_at_rest();
}
