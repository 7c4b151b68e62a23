//! The synthetic engine's pace and faults, as a client sees them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{DEFAULTS, arguments, reply, reply_and_end, run, with_engine_of};
use crate::engine::Defaults;
use crate::transcript::embeddings;

#[test]
fn a_stream_that_dies_has_no_end() {
    let answer = reply(&json!({"stream": true, "x_events": 9, "x_die_after": 2}));
    assert!(answer.contains("-00000001 ") && !answer.contains("-00000002 "), "{answer}");
    assert!(!answer.contains("[DONE]") && !answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn usage_is_sent_to_whom_asked_for_it() {
    let options = json!({"include_usage": true});
    let answer = reply(&json!({"stream": true, "x_events": 2, "stream_options": options}));
    assert!(answer.contains("\"usage\":{\"completion_tokens\":2"), "{answer}");
    assert!(!reply(&json!({"stream": true})).contains("\"usage\""));
}

#[test]
fn bad_json_is_refused() {
    assert!(reply(&json!({"stream": "yes"})).starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_stream_that_dies_in_an_event_ends_in_its_middle() {
    let answer = reply(&json!({"stream": true, "x_events": 9, "x_half_event": 2}));
    let last = answer.rsplit("\r\n").next().unwrap();
    assert!(last.starts_with("data: {") && !last.ends_with('\n'), "{answer}");
    assert!(answer.contains("-00000001 ") && !answer.contains("-00000003 "), "{answer}");
}

#[test]
fn a_whole_answer_that_dies_ends_in_its_middle() {
    let answer = reply(&json!({"x_half_event": 0}));
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!body.is_empty() && serde_json::from_str::<Value>(body).is_err(), "{answer}");
}

#[test]
fn a_fault_can_be_a_reset() {
    let wish = json!({"stream": true, "x_events": 9, "x_half_event": 2});
    let (_, end) = reply_and_end(&wish);
    assert_eq!(end.unwrap(), 0);
    let mut wish = wish;
    wish["x_reset"] = json!(true);
    let (_, end) = reply_and_end(&wish);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_status_can_be_asked_for() {
    let answer = reply(&json!({"stream": true, "x_status": 503}));
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("programmed_error"), "{answer}");
    assert!(reply(&json!({"x_status": 200})).starts_with("HTTP/1.1 400 "));
    assert!(reply(&json!({"stream": true, "x_burst": 0})).starts_with("HTTP/1.1 400 "));
}

#[test]
fn events_of_a_burst_are_all_there() {
    let burst = json!({"stream": true, "x_events": 10, "x_burst": 4, "x_seed": 12_345_678});
    let mut single = burst.clone();
    single["x_burst"] = json!(1);
    assert_eq!(reply(&burst), reply(&single));
    let dying = json!({"stream": true, "x_events": 10, "x_burst": 4, "x_die_after": 6});
    let answer = reply(&dying);
    assert!(answer.contains("-00000005 ") && !answer.contains("-00000006 "), "{answer}");
}

#[test]
fn a_burst_keeps_the_pace() {
    // Ten events at 100 a second, five in a write: the second write is due after 50 ms.
    let start = Instant::now();
    reply(&json!({"stream": true, "x_events": 10, "x_rate": 100, "x_burst": 5}));
    assert!((50..500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn prefill_and_a_slow_head_take_their_time() {
    for wish in [json!({"stream": true}), json!({})] {
        let mut wish = wish;
        wish["x_prefill_ms"] = json!(60);
        wish["x_slow_head"] = json!(40);
        let start = Instant::now();
        let answer = reply(&wish);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    }
}

#[test]
fn jitter_makes_events_late_and_loses_none() {
    let wish = json!({"stream": true, "x_events": 5, "x_rate": 100, "x_jitter": 1.0});
    let answer = reply(&wish);
    assert!(answer.contains("-00000004 ") && answer.contains("[DONE]"), "{answer}");
    assert!(reply(&json!({"stream": true, "x_jitter": 1.5})).starts_with("HTTP/1.1 400 "));
}

#[test]
fn embeddings_have_the_size_that_was_asked_for() {
    let smallest = embeddings(12_345_678, 0).len();
    for length in [smallest, smallest + 1, smallest + 12, 1000, 1001, 100_000] {
        let answer = embeddings(12_345_678, length);
        assert_eq!(answer.len(), length);
        let value: Value = serde_json::from_slice(&answer).unwrap();
        assert!(!value["data"][0]["embedding"].as_array().unwrap().is_empty());
        assert_ne!(answer, embeddings(12_345_679, length));
    }
}

#[test]
fn connections_end_after_as_many_answers_as_were_set() {
    let defaults = Defaults { request_limit: 10, ..DEFAULTS };
    let report = with_engine_of(defaults, |address| async move {
        run(arguments("json --connections 1 --requests 50", &address)).await
    });
    assert_eq!(report["connections"], json!({"opened": 5, "stale": 0}), "{report}");
}

#[test]
fn idle_connections_are_closed_when_they_were_idle_for_too_long() {
    let defaults = Defaults { idle_limit: Duration::from_millis(20), ..DEFAULTS };
    let report = with_engine_of(defaults, |address| async move {
        run(arguments("json --connections 1 --requests 3 --think 60", &address)).await
    });
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["connections"], json!({"opened": 3, "stale": 2}), "{report}");
}
