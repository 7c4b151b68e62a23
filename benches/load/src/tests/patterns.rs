//! Closed loops with pauses, goodput, stuck readers, and what the command line refuses.

use std::time::Instant;

use clap::Parser;
use serde_json::json;

use super::{Load, arguments, measure, measure_against, run, stream_of, with_engine};

fn is_refused(line: &str) -> bool {
    Load::try_parse_from(format!("load {line} --target 127.0.0.1:1").split(' ')).is_err()
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    for line in [
        "json --arrivals poisson",
        "json --max-outstanding 5",
        "json --rate-requests 5 --think 1",
        "json --rate-requests 5 --gap-between 1..2",
        "json --rate-requests 5 --connections 2",
        "sse --rate-requests 5 --streams 2",
        "json --think-exponential",
        "json --gap-every 100",
        "json --gap-together",
        "json --gap-between 2..1",
        "json --gap-between 2",
        "chat --prompt hello",
    ] {
        assert!(is_refused(line), "{line}");
    }
    assert!(!is_refused("json --gap-between 4.9..5.1 --gap-every 100 --gap-together"));
}

#[test]
fn a_connection_thinks_between_its_requests() {
    let start = Instant::now();
    let report = measure("json --connections 1 --requests 5 --think 20");
    assert_eq!(report["requests"], 5, "{report}");
    // Four pauses between five requests; a user's time to think is not the server's.
    assert!(start.elapsed().as_millis() >= 80, "{report}");
    assert!(report["latency_us"]["p50"].as_f64().unwrap() < 15_000.0, "{report}");
}

#[test]
fn gaps_come_after_as_many_requests_as_were_asked_for() {
    let start = Instant::now();
    let line =
        "json --connections 2 --requests 40 --gap-between 0.05..0.06 --gap-every 10 --gap-together";
    let report = measure(line);
    assert_eq!((&report["requests"], &report["errors"]), (&json!(40), &json!(0)), "{report}");
    let milliseconds = start.elapsed().as_millis();
    assert!((50..1000).contains(&milliseconds), "{milliseconds} ms");
}

#[test]
fn a_gap_that_reaches_past_the_end_is_not_waited_for() {
    let start = Instant::now();
    let report = measure("json --connections 1 --duration 0.3 --gap-between 60..70 --gap-together");
    assert_eq!(report["requests"], 1, "{report}");
    assert!(start.elapsed().as_secs() < 30);
}

#[test]
fn large_answers_are_checked() {
    let report = measure("json --connections 1 --requests 5 --bytes 300000");
    assert_eq!((&report["requests"], &report["errors"]), (&json!(5), &json!(0)), "{report}");
}

#[test]
fn the_engines_own_counts_are_reported() {
    let report = with_engine(|address| async move {
        let line = format!("json --connections 1 --requests 200 --engine {address}");
        run(arguments(&line, &address)).await
    });
    assert_eq!(
        report["engine"],
        json!({"requests": 200, "connections": 2, "reuse": 0.99}),
        "{report}"
    );
}

#[test]
fn streams_that_are_too_slow_are_no_good_ones() {
    let line = "sse --streams 2 --requests 6 --rate 20 --events 3";
    let report = measure(&format!("{line} --slo-gap-ms 10"));
    assert_eq!(
        (&report["streams"], &report["goodput"]["streams"]),
        (&json!(6), &json!(0)),
        "{report}"
    );
    let report = measure(&format!("{line} --slo-gap-ms 1000 --slo-ttft-ms 1000"));
    assert_eq!(report["goodput"]["share"], 1.0, "{report}");
}

#[test]
fn stuck_readers_keep_their_streams_open() {
    let report = with_engine(|address| async move {
        let line = "sse --streams 1 --requests 2 --rate 0 --events 3 --duration 0.3 --stuck 5";
        run(arguments(&format!("{line} --engine {address}"), &address)).await
    });
    assert_eq!((&report["streams"], &report["errors"]), (&json!(2), &json!(0)), "{report}");
    assert_eq!(report["stuck"], json!({"held": 5, "ended": 0}), "{report}");
    assert_eq!(report["engine"]["requests"], 7, "{report}");
}

#[test]
fn stuck_streams_that_the_server_ends_are_counted() {
    let line = "sse --streams 0 --stuck 1 --duration 0.2";
    let report = measure_against(line, |seed| stream_of(seed, &[0]));
    assert_eq!(report["stuck"], json!({"held": 1, "ended": 1}), "{report}");
}

#[test]
fn a_table_says_what_the_json_says() {
    let report = with_engine(|address| async move {
        let Load::Sse(options) =
            arguments("sse --streams 1 --requests 3 --rate 0 --events 3", &address)
        else {
            unreachable!()
        };
        crate::load::sse::run(*options).await.unwrap()
    });
    let text = report.text();
    assert!(text.contains("3 answered, 0 failed"), "{text}");
    assert!(text.contains("first token") || text.contains("new connection"), "{text}");
}
