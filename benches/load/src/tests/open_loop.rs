//! What an open loop sees of a pause, and a closed loop does not.

use bytes::BytesMut;
use serde_json::{Value, json};

use super::{arguments, run, with_engine};
use crate::address::{Address, Stream};

/// The engine says nothing to anybody for so long, from now on.
async fn freeze(address: &str, milliseconds: u64) {
    let address: Address = address.parse().unwrap();
    let mut stream = Stream::connect(&address).await.unwrap();
    let body = json!({"ms": milliseconds}).to_string();
    let request =
        format!("POST /x_freeze HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write(request.as_bytes()).await.unwrap();
    let mut answer = BytesMut::new();
    stream.read(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

/// A load on an engine that pauses for half a second at its beginning.
fn measure_with_a_pause(line: &str) -> Value {
    with_engine(|address| async move {
        freeze(&address, 500).await;
        run(arguments(line, &address)).await
    })
}

fn milliseconds(report: &Value, figure: &str, percentile: &str) -> f64 {
    report[figure][percentile].as_f64().unwrap() / 1000.0
}

#[test]
fn a_pause_delays_every_request_that_was_due_in_it() {
    // 400 requests in two seconds, of which 100 were due in the pause: a quarter waited for 250 ms on average.
    let line = "json --rate-requests 200 --duration 2";
    let open = measure_with_a_pause(line);
    assert_eq!((&open["requests"], &open["errors"]), (&json!(400), &json!(0)), "{open}");
    assert_eq!(open["starts"]["intended"], 400, "{open}");
    let (p50, p90) =
        (milliseconds(&open, "latency_us", "p50"), milliseconds(&open, "latency_us", "p90"));
    let p99 = milliseconds(&open, "latency_us", "p99");
    assert!(p50 < 100.0, "{open}");
    // 10 % of all waited for more than 300 ms, 1 % for more than 480 ms.
    assert!((200.0..450.0).contains(&p90), "{open}");
    assert!((400.0..1000.0).contains(&p99), "{open}");

    let closed = measure_with_a_pause("json --connections 1 --duration 2");
    let p99 = milliseconds(&closed, "latency_us", "p99");
    let max = milliseconds(&closed, "latency_us", "max");
    assert!(p99 < 100.0 && max > 400.0, "{closed}");
}

#[test]
fn a_pause_counts_too_for_requests_that_could_not_even_be_sent() {
    // One connection: all that were due in the pause waited here for their turn.
    let report = measure_with_a_pause("json --rate-requests 200 --duration 2 --max-outstanding 1");
    assert_eq!((&report["requests"], &report["errors"]), (&json!(400), &json!(0)), "{report}");
    assert_eq!(report["connections"]["stale"], 0, "{report}");
    assert!(milliseconds(&report, "latency_us", "p99") > 400.0, "{report}");
    let late = report["starts"]["late"].as_u64().unwrap();
    assert!(late >= 80, "{report}");
    assert!(milliseconds(&report["starts"], "lateness_us", "max") > 400.0, "{report}");
}

#[test]
fn requests_that_are_never_sent_are_said_to_be_dropped() {
    // Three seconds of pause, and nobody waits for more than a tenth of one.
    let line = "json --rate-requests 100 --duration 0.5 --max-outstanding 2 --patience 0.1";
    let report = with_engine(|address| async move {
        freeze(&address, 3000).await;
        run(arguments(line, &address)).await
    });
    let count = |value: &Value| value.as_u64().unwrap();
    let (errors, dropped) = (count(&report["errors"]), count(&report["starts"]["dropped"]));
    assert_eq!(count(&report["requests"]), 0, "{report}");
    assert!(dropped > 0 && errors + dropped == count(&report["starts"]["intended"]), "{report}");
}

#[test]
fn a_pause_in_a_stream_counts_for_every_event_that_it_delayed() {
    // Of 100 events, 2 ms apart, the 80 after the pause of 100 ms: a gap is one event's, the lag is that of all.
    let line = "sse --streams 1 --requests 1 --rate 500 --events 100";
    let report = with_engine(|address| async move {
        tokio::task::spawn_local({
            let address = address.clone();
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(40)).await;
                freeze(&address, 100).await;
            }
        });
        run(arguments(line, &address)).await
    });
    assert_eq!(report["missed_events"], 0, "{report}");
    assert!(milliseconds(&report, "gap_us", "max") > 50.0, "{report}");
    assert!(milliseconds(&report, "gap_us", "p90") < 50.0, "{report}");
    assert!(milliseconds(&report, "lag_us", "p90") > 50.0, "{report}");
}

#[test]
fn arrivals_at_random_have_the_rate_that_was_asked_for() {
    let report = with_engine(|address| async move {
        run(arguments("json --rate-requests 500 --arrivals poisson --duration 1", &address)).await
    });
    let requests = report["requests"].as_u64().unwrap();
    // Six standard deviations.
    assert!((366..=634).contains(&requests), "{report}");
    assert_eq!(report["errors"], 0, "{report}");
}

#[test]
fn streams_can_be_started_at_a_rate() {
    let line = "sse --rate-requests 50 --requests 20 --rate 0 --events 3 --slo-ttft-ms 1000";
    let report = with_engine(|address| async move { run(arguments(line, &address)).await });
    assert_eq!(
        (&report["streams"], &report["goodput"]["streams"]),
        (&json!(20), &json!(20)),
        "{report}"
    );
    assert_eq!(report["starts"]["intended"], 20, "{report}");
}
