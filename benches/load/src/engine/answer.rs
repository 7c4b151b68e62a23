//! One answer of the synthetic engine, to whatever was asked.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::counters::{Counted, add};
use super::departures::Watch;
use super::streaming::Streaming;
use super::wishes::{Freeze, Wishes};
use super::{Engine, Request};
use crate::address::Stream;
use crate::random::Random;
use crate::transcript::{SEEDS, Transcript, embeddings};

/// What becomes of the connection after an answer.
#[derive(PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    Close,
}

/// How an answer ended.
#[derive(PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    /// As the request wished: without its end.
    Fault,
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
            send(stream, &whole("200 OK", &stats, last)).await
        }
        (Some("GET"), Some("/x_departures")) => {
            send(stream, &whole("200 OK", &engine.departures.take()?, last)).await
        }
        (Some("GET"), Some("/health")) => {
            send(stream, &whole("200 OK", b"{\"status\":\"ok\"}", last)).await
        }
        (Some("POST"), Some("/x_freeze")) => {
            match serde_json::from_slice::<Freeze>(&request.body) {
                Ok(freeze) => {
                    engine.freeze(freeze.ms);
                    send(stream, &whole("200 OK", b"{}", last)).await
                }
                Err(_) => refuse(stream, "400 Bad Request", "invalid_request_error").await,
            }
        }
        (Some("POST"), Some(_)) => {
            engine.thaw().await;
            generate(stream, engine, &request.body, last).await
        }
        _ => refuse(stream, "404 Not Found", "not_found_error").await,
    }
}

async fn refuse(stream: &mut Stream, status: &str, kind: &str) -> io::Result<Then> {
    let code = status.split(' ').next().unwrap_or(status);
    let body =
        format!("{{\"error\":{{\"code\":{code},\"message\":\"{status}\",\"type\":\"{kind}\"}}}}");
    // Every answer of 400 or more closes the connection.
    send(stream, &whole(status, body.as_bytes(), true)).await?;
    Ok(Then::Close)
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<Then> {
    stream.write(bytes).await?;
    Ok(Then::Keep)
}

/// The head and the body of an answer that is no stream.
fn whole(status: &str, body: &[u8], last: bool) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n{}\r\n\r\n",
        body.len(),
        connection_header(last),
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn connection_header(last: bool) -> &'static str {
    if last { "Connection: close" } else { "Keep-Alive: timeout=5, max=100" }
}

/// Sends a head, in two halves if they are to be apart.
pub(super) async fn send_head(stream: &mut Stream, head: &[u8], apart: Duration) -> io::Result<()> {
    if apart == Duration::ZERO {
        return stream.write(head).await;
    }
    let (first, second) = head.split_at(head.len() / 2);
    stream.write(first).await?;
    sleep(apart).await;
    stream.write(second).await
}

async fn generate(
    stream: &mut Stream,
    engine: &Engine,
    body: &[u8],
    last: bool,
) -> io::Result<Then> {
    let wishes = match Wishes::read(body) {
        Ok(wishes) if wishes.are_possible() => wishes,
        _ => return refuse(stream, "400 Bad Request", "invalid_request_error").await,
    };
    let then = if wishes.is_watched() {
        watched(stream, engine, &wishes, last).await?
    } else {
        as_wished(stream, engine, &wishes, last).await?
    };
    if wishes.x_reset && then == Then::Close {
        stream.reset_on_close()?;
    }
    Ok(then)
}

async fn as_wished(
    stream: &mut Stream,
    engine: &Engine,
    wishes: &Wishes,
    last: bool,
) -> io::Result<Then> {
    match wishes.x_status {
        Some(status) => {
            sleep(wishes.x_prefill_ms).await;
            refuse(stream, &format!("{status} As Asked"), "programmed_error").await
        }
        None if wishes.stream => generate_stream(stream, engine, wishes, last).await,
        None => generate_whole(stream, engine, wishes, last).await,
    }
}

/// The same, until the reader leaves.
async fn watched(
    stream: &mut Stream,
    engine: &Engine,
    wishes: &Wishes,
    last: bool,
) -> io::Result<Then> {
    let watch = Watch::new(stream)?;
    let seed = wishes.x_seed.unwrap_or(*SEEDS.start());
    engine.departures.expect(seed);
    tokio::select! {
        then = as_wished(stream, engine, wishes, last) => {
            if then.is_err() {
                // An event that was due at that moment told it first.
                engine.departures.note(seed);
            }
            then
        }
        () = watch.closed() => {
            engine.departures.note(seed);
            if wishes.stream {
                add(&engine.counters.streams_broken);
            }
            Ok(Then::Close)
        }
    }
}

async fn generate_whole(
    stream: &mut Stream,
    engine: &Engine,
    wishes: &Wishes,
    last: bool,
) -> io::Result<Then> {
    let pause = wishes.x_prefill_ms + wishes.x_stall_ms;
    if pause > Duration::ZERO {
        sleep(pause).await;
    }
    engine.thaw().await;
    if wishes.x_die_after.is_some() {
        return Ok(Then::Close);
    }
    let seed = wishes.x_seed.unwrap_or(*SEEDS.start());
    let body = match wishes.x_bytes {
        Some(length) => embeddings(seed, length),
        None => Transcript::new(seed, wishes.events().unwrap_or(engine.defaults.events)).json(),
    };
    let bytes = whole("200 OK", &body, last);
    if wishes.x_half_event.is_some() {
        stream.write(&bytes[..bytes.len() - body.len() / 2]).await?;
        return Ok(Then::Close);
    }
    let (head, body) = bytes.split_at(bytes.len() - body.len());
    if wishes.slow_head > Duration::ZERO {
        send_head(stream, head, wishes.slow_head).await?;
        return send(stream, body).await;
    }
    send(stream, &bytes).await
}

async fn generate_stream(
    stream: &mut Stream,
    engine: &Engine,
    wishes: &Wishes,
    last: bool,
) -> io::Result<Then> {
    let tokens = wishes.events().unwrap_or(engine.defaults.events);
    let seed = wishes.x_seed.unwrap_or(*SEEDS.start());
    let mut streaming = Streaming {
        stream,
        engine,
        wishes,
        transcript: Transcript::new(seed, tokens),
        tokens,
        rate: wishes.rate().unwrap_or(engine.defaults.rate),
        noise: Random::new(u64::from(seed)),
        chunk: Vec::with_capacity(1024),
    };
    // Also while it is given up in the middle, for its reader has left.
    let _open = Counted::new(&engine.counters.streams_open);
    match streaming.run(last).await {
        Ok(Ending::Fault) => Ok(Then::Close),
        Ok(Ending::Whole) => {
            add(&engine.counters.streams_completed);
            Ok(if wishes.x_keep_alive { Then::Keep } else { Then::Close })
        }
        Err(error) => {
            add(&engine.counters.streams_broken);
            Err(error)
        }
    }
}
