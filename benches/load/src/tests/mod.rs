//! Both ends against each other, and the readers against every way to cut their input.

mod chat;
mod engine;
mod open_loop;
mod patterns;

use std::time::Duration;

use bytes::BytesMut;
use clap::Parser;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

use crate::address::{Address, Listener, Stream};
use crate::engine::{self as synthetic, Defaults};
use crate::http::{Body, Framing, Head};
use crate::load;
use crate::transcript::Transcript;

#[derive(Parser)]
enum Load {
    Json(Box<load::json::Options>),
    Sse(Box<load::sse::Options>),
    Chat(Box<load::chat::Options>),
}

fn arguments(line: &str, address: &str) -> Load {
    Load::parse_from(format!("load {line} --target {address}").split(' '))
}

async fn run(load: Load) -> Value {
    match load {
        Load::Json(options) => load::json::run(*options).await,
        Load::Sse(options) => load::sse::run(*options).await,
        Load::Chat(options) => load::chat::run(*options).await,
    }
    .map(|report| serde_json::to_value(report).unwrap())
    .unwrap()
}

const DEFAULTS: Defaults =
    Defaults { events: 4, rate: 0.0, idle_limit: Duration::from_secs(5), request_limit: 100 };

fn with_engine<F: Future>(test: impl FnOnce(String) -> F) -> F::Output {
    with_engine_of(DEFAULTS, test)
}

fn with_engine_of<F: Future>(defaults: Defaults, test: impl FnOnce(String) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let server: JoinHandle<_> =
            tokio::task::spawn_local(synthetic::serve(vec![listener], defaults));
        let outcome = test(address).await;
        server.abort();
        outcome
    })
}

fn measure(line: &str) -> Value {
    with_engine(|address| async move { run(arguments(line, &address)).await })
}

/// All that the engine says to one request until it closes the connection.
fn reply(body: &Value) -> String {
    reply_and_end(body).0
}

/// The same, and how the connection ended.
fn reply_and_end(body: &Value) -> (String, std::io::Result<usize>) {
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    with_engine(|address| async move {
        let address: Address = address.parse().unwrap();
        let mut stream = Stream::connect(&address).await.unwrap();
        stream.write(request.as_bytes()).await.unwrap();
        let mut answer = BytesMut::new();
        let end = loop {
            match stream.read(&mut answer).await {
                Ok(count) if count > 0 => {}
                end => break end,
            }
        };
        (String::from_utf8(answer.to_vec()).unwrap(), end)
    })
}

#[test]
fn whole_answers_are_right_and_connections_end_at_the_hundredth() {
    let report = measure("json --connections 2 --requests 250");
    assert_eq!((&report["requests"], &report["errors"]), (&json!(250), &json!(0)), "{report}");
    let opened = report["connections"]["opened"].as_u64().unwrap();
    assert!((3..=4).contains(&opened), "{report}");
    assert_eq!(report["connections"]["stale"], 0);
}

#[test]
fn streams_are_right_and_counted() {
    let report = measure("sse --streams 8 --requests 24 --rate 0 --events 50");
    assert_eq!(report["streams"], 24, "{report}");
    assert_eq!((&report["events"], &report["missed_events"]), (&json!(1200), &json!(0)));
    // The engine closes after each stream, whatever its head says.
    assert_eq!(report["ttft_us"]["count"], 0);
}

#[test]
fn first_events_are_timed_on_kept_connections() {
    let report = measure("sse --streams 2 --requests 20 --rate 0 --events 3 --engine-keep-alive");
    assert_eq!(report["streams"], 20, "{report}");
    assert_eq!(report["ttft_us"]["count"], 18);
    assert_eq!(report["connections"]["opened"], 2);
}

#[test]
fn events_keep_the_pace() {
    let report = measure("sse --streams 1 --requests 1 --rate 100 --events 11");
    let median = report["gap_us"]["p50"].as_f64().unwrap();
    assert!((5_000.0..50_000.0).contains(&median), "{report}");
}

#[test]
fn nobody_at_the_target_is_an_error() {
    let Load::Json(options) = arguments("json --connections 1 --requests 2", "unix:/nonexistent")
    else {
        unreachable!()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = LocalSet::new().block_on(&runtime, load::json::run(*options)).unwrap();
    assert_eq!((report.requests, report.failures.errors), (Some(0), 2));
}

/// What a load says of a server that gives `answer` to a request with the seed, and closes.
fn measure_against(line: &str, answer: impl Fn(u32) -> Vec<u8> + 'static) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let server = tokio::task::spawn_local(async move {
            let mut stream = listener.accept().await.unwrap();
            let mut inbox = BytesMut::new();
            while !inbox.ends_with(b"}") {
                stream.read(&mut inbox).await.unwrap();
            }
            // A chat's request has no seed.
            let seed = std::str::from_utf8(&inbox[inbox.len() - 9..inbox.len() - 1]).unwrap();
            stream.write(&answer(seed.parse().unwrap_or(0))).await.unwrap();
        });
        let report = run(arguments(line, &address)).await;
        server.await.unwrap();
        report
    })
}

/// A whole response with the role and the token events of these numbers.
fn stream_of(seed: u32, tokens: &[u32]) -> Vec<u8> {
    let mut transcript = Transcript::new(seed, 5);
    let mut body = transcript.role();
    for &token in tokens {
        body.extend_from_slice(transcript.delta(token));
    }
    body.extend_from_slice(&transcript.finish());
    body.extend_from_slice(crate::transcript::DONE);
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(&body);
    answer
}

const ONE_STREAM: &str = "sse --streams 1 --requests 1 --rate 0 --events 5";

#[test]
fn a_right_stream_of_another_server_passes() {
    let report = measure_against(ONE_STREAM, |seed| stream_of(seed, &[0, 1, 2, 3, 4]));
    assert_eq!((&report["errors"], &report["events"]), (&json!(0), &json!(5)), "{report}");
}

#[test]
fn events_that_are_swapped_lost_or_of_another_stream_are_seen() {
    let swapped = measure_against(ONE_STREAM, |seed| stream_of(seed, &[0, 2, 1, 3, 4]));
    assert_eq!((&swapped["errors"], &swapped["missed_events"]), (&json!(1), &json!(4)));
    let lost = measure_against(ONE_STREAM, |seed| stream_of(seed, &[0, 1, 3, 4]));
    assert_eq!((&lost["errors"], &lost["missed_events"]), (&json!(1), &json!(3)));
    let foreign = measure_against(ONE_STREAM, |seed| stream_of(seed + 1, &[0, 1, 2, 3, 4]));
    assert_eq!((&foreign["errors"], &foreign["missed_events"]), (&json!(1), &json!(5)));
}

/// The events of a stream as somebody wrote them who has read them: without the role, with other fields.
fn remade(seed: u32, tokens: &[u32]) -> Vec<u8> {
    let event =
        |number| format!("data: {{\"delta\":{{\"content\":\" {seed}-{number:08} \"}}}}\n\n");
    let body: String = tokens.iter().map(event).collect();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn of_answers_made_anew_the_texts_are_compared() {
    let line = format!("{ONE_STREAM} --remade");
    let right = measure_against(&line, |seed| remade(seed, &[0, 1, 2, 3, 4]));
    assert_eq!((&right["errors"], &right["events"]), (&json!(0), &json!(5)), "{right}");
    let lost = measure_against(&line, |seed| remade(seed, &[0, 1, 3, 4]));
    assert_eq!((&lost["errors"], &lost["missed_events"]), (&json!(1), &json!(3)), "{lost}");
    let foreign = measure_against(&line, |seed| remade(seed + 1, &[0, 1, 2, 3, 4]));
    assert_eq!((&foreign["errors"], &foreign["missed_events"]), (&json!(1), &json!(5)));
}

#[test]
fn the_engine_finds_in_a_text_what_translators_hand_on() {
    for dialect in ["anthropic", "responses"] {
        let line = "sse --streams 2 --requests 4 --rate 0 --events 7 --dialect";
        let report = measure(&format!("{line} {dialect}"));
        assert_eq!((&report["streams"], &report["errors"]), (&json!(4), &json!(0)), "{report}");
        assert_eq!((&report["events"], &report["missed_events"]), (&json!(28), &json!(0)));
    }
}

#[test]
fn an_answer_that_is_cut_is_an_error() {
    let report = measure_against(ONE_STREAM, |seed| {
        let whole = stream_of(seed, &[0, 1, 2, 3, 4]);
        whole[..whole.len() - 1].to_vec()
    });
    assert_eq!((&report["errors"], &report["streams"]), (&json!(1), &json!(0)), "{report}");
}

#[test]
fn a_status_and_a_wrong_answer_are_errors() {
    let line = "json --connections 1 --requests 1";
    let refused = |_| b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_vec();
    assert_eq!(measure_against(line, refused)["error_samples"], json!(["status 502"]));
    let wrong = |_| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec();
    assert_eq!(measure_against(line, wrong)["errors"], 1);
}

#[test]
fn an_event_has_the_length_of_a_real_one() {
    let mut transcript = Transcript::new(12_345_678, 64);
    assert!((230..=270).contains(&transcript.delta(63).len()));
    assert!((330..=400).contains(&transcript.json().len()));
    let event = String::from_utf8(transcript.delta(63).to_vec()).unwrap();
    let value: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(value["choices"][0]["delta"]["content"], " 12345678-00000063 ");
}

#[test]
fn a_chunked_body_is_read_however_it_is_cut() {
    let bytes = b"5\r\nhello\r\n1;x=y\r\n \r\n5\r\nworld\r\n0\r\nT: 1\r\n\r\nrest";
    for cut in 0..bytes.len() {
        let (mut input, mut content) = (BytesMut::new(), BytesMut::new());
        let mut body = Body::new(Framing::Chunked);
        input.extend_from_slice(&bytes[..cut]);
        let early = body.decode(&mut input, &mut content).unwrap();
        assert_eq!(early, cut >= bytes.len() - 4);
        input.extend_from_slice(&bytes[cut..]);
        assert!(body.decode(&mut input, &mut content).unwrap());
        assert_eq!((&content[..], &input[..]), (&b"hello world"[..], &b"rest"[..]));
    }
}

#[test]
fn a_head_is_read_when_it_is_complete() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nconnection: Close\r\n\r\nabc";
    let mut input = BytesMut::from(&bytes[..bytes.len() - 4]);
    assert!(Head::take(&mut input).unwrap().is_none());
    input.extend_from_slice(&bytes[bytes.len() - 4..]);
    let head = Head::take(&mut input).unwrap().unwrap();
    assert_eq!(head.framing, Some(Framing::Length(3)));
    assert_eq!((head.status(), head.close), (Some(200), true));
    assert_eq!(&input[..], b"abc");
}
