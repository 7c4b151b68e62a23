//! The fields of a request's body that the engine obeys. All others are ignored.
//!
//! Routers that parse requests drop fields that they do not know. So the load says `seed`, and how many tokens at
//! which pace in `chat_template_kwargs`, which they hand on. Translators of other dialects hand on texts alone, so it is
//! found there, too.

use std::time::Duration;

use memchr::memmem;
use serde::{Deserialize, Deserializer};

/// The same for people.
pub(crate) const FIELDS: &str = "\
A request tells the engine what to do in fields of its JSON body:
  stream, stream_options.include_usage   as OpenAI has them
  x_seed         eight digits that the answer repeats
  x_events       tokens of the answer, each of which is an event of a stream
  x_rate         events a second; 0 for no pause between them
  x_jitter       events come late by up to this share of an interval, 0 to 1
  x_burst        events that share a write, sent when the first of them is due
  x_bytes        a whole answer is an embedding of so many bytes
  x_prefill_ms   wait before a whole answer, or between a stream's head and its first event
  x_slow_head    milliseconds between the two halves of the head
  x_stall_ms     one pause: before a whole answer, or before event number x_stall_after
  x_status       answer with this status (400 to 599) and an error
  x_die_after    close after so many events; do not send a whole answer at all
  x_half_event   close in the middle of the event of this number, or of a whole answer
  x_reset        such an end is a reset instead of a regular one (TCP only)
  x_keep_alive   keep the connection after a stream, which llama-server does not
  x_watch        in chat_template_kwargs only: note when the reader leaves, for GET /x_departures
x_seed, x_events and x_rate are also found in the text of a message, as x_seed=12345678.
GET /x_stats counts connections, requests and streams. GET /x_departures says, once, when readers left
that were watched: nanoseconds of CLOCK_MONOTONIC by seed, null for one that did not. POST /x_freeze
with {\"ms\": 500} stops all answers for that long.";

#[derive(Default, Deserialize)]
pub(super) struct Wishes {
    #[serde(default)]
    pub(super) stream: bool,
    #[serde(default)]
    pub(super) stream_options: StreamOptions,
    /// Makes the answer this request's own.
    #[serde(alias = "seed")]
    pub(super) x_seed: Option<u32>,
    x_events: Option<u32>,
    x_rate: Option<f64>,
    /// May have `x_events` and `x_rate`, too, and has `x_watch`.
    #[serde(default)]
    chat_template_kwargs: TemplateArguments,
    /// Whole answers only: embeddings of so many bytes instead of a chat's answer.
    pub(super) x_bytes: Option<usize>,
    /// Before a whole answer, or between the head of a stream and its first event.
    #[serde(default, deserialize_with = "milliseconds")]
    pub(super) x_prefill_ms: Duration,
    /// The head is sent in two halves, so far apart.
    #[serde(default, rename = "x_slow_head", deserialize_with = "milliseconds")]
    pub(super) slow_head: Duration,
    /// The share of an interval, at most 1, by which an event may come late.
    #[serde(default)]
    pub(super) x_jitter: f64,
    /// Events that share a write, the first of them deciding when.
    pub(super) x_burst: Option<u32>,
    /// Answer with this status and an error.
    pub(super) x_status: Option<u16>,
    /// Close the connection after so many events, without an end; a whole answer is not sent at all.
    pub(super) x_die_after: Option<u32>,
    /// Close in the middle of the event of this number; a whole answer ends in its middle.
    pub(super) x_half_event: Option<u32>,
    /// Faults of this request close the connection with a reset. TCP only: a Unix socket has none.
    #[serde(default)]
    pub(super) x_reset: bool,
    /// Pause once for so long, before the event of the number `x_stall_after` (0: after the head).
    #[serde(default, deserialize_with = "milliseconds")]
    pub(super) x_stall_ms: Duration,
    #[serde(default)]
    pub(super) x_stall_after: u32,
    /// Keep the connection after a stream, which llama-server does not.
    #[serde(default)]
    pub(super) x_keep_alive: bool,
}

#[derive(Default, Deserialize)]
struct TemplateArguments {
    x_events: Option<u32>,
    x_rate: Option<f64>,
    #[serde(default, rename = "x_watch")]
    watch: bool,
}

#[derive(Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

/// What `POST /x_freeze` takes.
#[derive(Deserialize)]
pub(super) struct Freeze {
    #[serde(deserialize_with = "milliseconds")]
    pub(super) ms: Duration,
}

fn milliseconds<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    u64::deserialize(input).map(Duration::from_millis)
}

impl Wishes {
    /// Those of a body.
    pub(super) fn read(body: &[u8]) -> serde_json::Result<Self> {
        let mut wishes: Self = serde_json::from_slice(body)?;
        if wishes.x_seed.is_none() {
            wishes.x_seed = said(body, b"x_seed=");
            wishes.x_events = wishes.x_events.or_else(|| said(body, b"x_events="));
            wishes.x_rate = wishes.x_rate.or_else(|| said(body, b"x_rate="));
        }
        Ok(wishes)
    }

    /// Tokens of the answer.
    pub(super) fn events(&self) -> Option<u32> {
        self.x_events.or(self.chat_template_kwargs.x_events)
    }

    /// Events a second.
    pub(super) fn rate(&self) -> Option<f64> {
        self.x_rate.or(self.chat_template_kwargs.x_rate)
    }

    /// When the reader leaves is to be noted.
    pub(super) fn is_watched(&self) -> bool {
        self.chat_template_kwargs.watch
    }

    /// What is asked for can be done.
    pub(super) fn are_possible(&self) -> bool {
        let status = self.x_status.is_none_or(|status| (400..=599).contains(&status));
        status && (0.0..=1.0).contains(&self.x_jitter) && self.x_burst != Some(0)
    }
}

/// A number that a text says.
fn said<T: std::str::FromStr>(body: &[u8], name: &[u8]) -> Option<T> {
    let from = memmem::find(body, name)? + name.len();
    let rest = &body[from..];
    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let end = rest.iter().position(|byte| !is_number(byte)).unwrap_or(rest.len());
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}
