//! One answer of the synthetic engine, write by write as llama-server does it, and its faults.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Engine, Request, add, take};
use crate::address::Stream;
use crate::transcript::{DONE, SEEDS, Transcript};

/// What holds for requests that do not say otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Defaults {
    pub(crate) events: u32,
    /// Events a second of one stream; 0 for no pause between them.
    pub(crate) rate: f64,
}

/// What becomes of the connection after an answer.
#[derive(PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    Close,
}

/// The fields of a request that the engine obeys. All others are ignored.
#[derive(Default, Deserialize)]
struct Wishes {
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
    /// Makes the answer this request's own.
    x_seed: Option<u32>,
    x_events: Option<u32>,
    x_rate: Option<f64>,
    /// Close the connection after so many events, without an end; a whole answer is not sent at all.
    x_die_after: Option<u32>,
    /// Pause once for so long, before the event of the number `x_stall_after` (0: after the head).
    #[serde(default)]
    x_stall_ms: u64,
    #[serde(default)]
    x_stall_after: u32,
    /// Keep the connection after a stream, which llama-server does not.
    #[serde(default)]
    x_keep_alive: bool,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Answers `request`; `last` says that the connection ends with this answer.
pub(super) async fn answer(
    stream: &mut Stream,
    engine: &Engine,
    request: &Request,
    last: bool,
) -> io::Result<Then> {
    let mut words = request.head.start.split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/x_stats")) => {
            let stats = serde_json::to_vec(&engine.counters.stats())?;
            send(stream, "200 OK", &stats, last).await
        }
        (Some("GET"), Some("/health")) => {
            send(stream, "200 OK", b"{\"status\":\"ok\"}", last).await
        }
        (Some("POST"), Some(_)) => generate(stream, engine, &request.body, last).await,
        _ => refuse(stream, "404 Not Found", "not_found_error").await,
    }
}

async fn refuse(stream: &mut Stream, status: &str, kind: &str) -> io::Result<Then> {
    let code = status.split(' ').next().unwrap_or(status);
    let body =
        format!("{{\"error\":{{\"code\":{code},\"message\":\"{status}\",\"type\":\"{kind}\"}}}}");
    // Every answer of 400 or more closes the connection.
    send(stream, status, body.as_bytes(), true).await?;
    Ok(Then::Close)
}

/// A whole answer in one write.
async fn send(stream: &mut Stream, status: &str, body: &[u8], last: bool) -> io::Result<Then> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n{}\r\n\r\n",
        body.len(),
        connection_header(last),
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    stream.write(&bytes).await?;
    Ok(Then::Keep)
}

fn connection_header(last: bool) -> &'static str {
    if last { "Connection: close" } else { "Keep-Alive: timeout=5, max=100" }
}

async fn generate(
    stream: &mut Stream,
    engine: &Engine,
    body: &[u8],
    last: bool,
) -> io::Result<Then> {
    let Ok(wishes) = serde_json::from_slice::<Wishes>(body) else {
        return refuse(stream, "400 Bad Request", "invalid_request_error").await;
    };
    let tokens = wishes.x_events.unwrap_or(engine.defaults.events);
    let transcript = Transcript::new(wishes.x_seed.unwrap_or(*SEEDS.start()), tokens);
    if !wishes.stream {
        if wishes.x_stall_ms > 0 {
            sleep(Duration::from_millis(wishes.x_stall_ms)).await;
        }
        if wishes.x_die_after.is_some() {
            return Ok(Then::Close);
        }
        return send(stream, "200 OK", &transcript.json(), last).await;
    }
    let mut pacing = Streaming {
        stream,
        transcript,
        tokens,
        rate: wishes.x_rate.unwrap_or(engine.defaults.rate),
        wishes: &wishes,
        chunk: Vec::with_capacity(1024),
    };
    add(&engine.counters.streams_open);
    let outcome = pacing.run(last).await;
    take(&engine.counters.streams_open);
    match outcome {
        Ok(()) if wishes.x_die_after.is_some() => Ok(Then::Close),
        Ok(()) => {
            add(&engine.counters.streams_completed);
            Ok(if wishes.x_keep_alive { Then::Keep } else { Then::Close })
        }
        Err(error) => {
            add(&engine.counters.streams_broken);
            Err(error)
        }
    }
}

/// A streamed answer on its way.
struct Streaming<'a> {
    stream: &'a mut Stream,
    transcript: Transcript,
    tokens: u32,
    rate: f64,
    wishes: &'a Wishes,
    chunk: Vec<u8>,
}

impl Streaming<'_> {
    async fn run(&mut self, last: bool) -> io::Result<()> {
        // The head promises keep-alive even though the connection will be closed: so does llama-server.
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\n\
             X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\n\
             Transfer-Encoding: chunked\r\n{}\r\n\r\n",
            connection_header(last)
        );
        self.stream.write(head.as_bytes()).await?;
        let mut start = Instant::now();
        for number in 0..self.tokens {
            if self.wishes.x_die_after == Some(number) {
                return Ok(());
            }
            if self.wishes.x_stall_ms > 0 && self.wishes.x_stall_after == number {
                let pause = Duration::from_millis(self.wishes.x_stall_ms);
                sleep(pause).await;
                start += pause;
            }
            self.send_token(number, start).await?;
        }
        if self.wishes.x_die_after.is_some() {
            return Ok(());
        }
        self.end().await
    }

    async fn send_token(&mut self, number: u32, start: Instant) -> io::Result<()> {
        if number == 0 {
            let mut first = self.transcript.role();
            first.extend_from_slice(self.transcript.delta(0));
            frame(&mut self.chunk, &first);
        } else {
            if self.rate > 0.0 {
                // From the start, not from the last event: a late one must not delay all others.
                sleep_until(start + Duration::from_secs_f64(f64::from(number) / self.rate)).await;
            }
            frame(&mut self.chunk, self.transcript.delta(number));
        }
        self.stream.write(&self.chunk).await
    }

    async fn end(&mut self) -> io::Result<()> {
        let mut finish = self.transcript.finish();
        if self.wishes.stream_options.include_usage {
            finish.extend_from_slice(&self.transcript.usage());
        }
        frame(&mut self.chunk, &finish);
        self.stream.write(&self.chunk).await?;
        frame(&mut self.chunk, DONE);
        self.stream.write(&self.chunk).await?;
        // llama-server sends the terminator in two pieces.
        self.stream.write(b"0\r\n").await?;
        self.stream.write(b"\r\n").await
    }
}

/// Makes `chunk` the HTTP chunk of `payload`.
fn frame(chunk: &mut Vec<u8>, payload: &[u8]) {
    chunk.clear();
    chunk.extend_from_slice(format!("{:x}\r\n", payload.len()).as_bytes());
    chunk.extend_from_slice(payload);
    chunk.extend_from_slice(b"\r\n");
}
