//! Requests in other dialects than the engine's, from the client's socket to the engine's and back: who leaves, what dies,
//! what is booked.

use std::time::Duration;

use model_runner_core::Config;
use serde_json::{Value, json};

use crate::harness::engine::{DONE, EVENT, STREAM_HEAD};
use crate::harness::{Engine, MODEL, Message, Piece, Rig, Wire, wait_for, wait_until};

mod background;
mod errors;

/// A dialect, by what its clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tongue {
    Anthropic,
    Responses,
    Chat,
    Generate,
}

impl Tongue {
    pub(crate) const ALL: [Self; 4] =
        [Self::Anthropic, Self::Responses, Self::Chat, Self::Generate];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Anthropic => "/v1/messages",
            Self::Responses => "/v1/responses",
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
        }
    }

    pub(crate) fn is_ollama(self) -> bool {
        matches!(self, Self::Chat | Self::Generate)
    }

    pub(crate) fn body(self, stream: bool) -> Value {
        let messages = json!([{ "role": "user", "content": "Hi" }]);
        match self {
            Self::Anthropic => {
                json!({ "model": MODEL, "max_tokens": 9, "messages": messages, "stream": stream })
            }
            Self::Responses => {
                json!({ "model": MODEL, "input": "Hi", "stream": stream, "store": false })
            }
            Self::Chat => json!({ "model": MODEL, "messages": messages, "stream": stream }),
            // Without the tokens to go on with, for which the engine would be asked again.
            Self::Generate => {
                json!({ "model": MODEL, "prompt": "Hi", "stream": stream, "raw": true })
            }
        }
    }

    pub(crate) fn ask(self, rig: &Rig, fields: &[(&str, &str)], stream: bool) -> Wire {
        let mut client = rig.client();
        client.ask("POST", self.path(), fields, self.body(stream).to_string());
        client
    }

    /// One event of the engine's: in text completions text stands elsewhere.
    fn event(self) -> String {
        match self {
            Self::Generate => {
                EVENT.replace("\"delta\":{\"content\":\" word\"}", "\"text\":\" word\"")
            }
            _ => EVENT.to_owned(),
        }
    }

    /// The text that a stream said so far.
    pub(crate) fn text(self, said: &[u8]) -> String {
        let said = std::str::from_utf8(said).expect("text");
        let data = said.lines().filter_map(|line| match self {
            Self::Anthropic | Self::Responses => line.strip_prefix("data: "),
            Self::Chat | Self::Generate => Some(line),
        });
        let text = |data: &str| {
            let event: Value = serde_json::from_str(data).expect("JSON");
            let text = match self {
                Self::Anthropic => &event["delta"]["text"],
                Self::Responses => &event["delta"],
                Self::Chat => &event["message"]["content"],
                Self::Generate => &event["response"],
            };
            text.as_str().unwrap_or_default().to_owned()
        };
        data.map(text).collect()
    }

    /// The last event of a stream.
    pub(crate) fn last(self, said: &[u8]) -> Value {
        let said = std::str::from_utf8(said).expect("text");
        let line = said.trim_end().lines().next_back().expect("an event");
        let data = if self.is_ollama() { line } else { line.strip_prefix("data: ").expect("data") };
        serde_json::from_str(data).expect("JSON")
    }

    /// Whether the last event says that all was said.
    pub(crate) fn is_whole(self, last: &Value) -> bool {
        match self {
            Self::Anthropic => last["type"] == "message_stop",
            Self::Responses => last["type"] == "response.completed",
            Self::Chat | Self::Generate => last["done"] == true,
        }
    }

    /// What the last event of a stream says went wrong.
    pub(crate) fn complaint(self, last: &Value) -> String {
        let message = match self {
            Self::Anthropic => {
                assert_eq!(last["type"], "error");
                &last["error"]["message"]
            }
            Self::Responses => &last["response"]["error"]["message"],
            Self::Chat | Self::Generate => &last["error"],
        };
        message.as_str().unwrap_or_else(|| panic!("no complaint: {last}")).to_owned()
    }

    /// Read until there is text.
    fn first_text(self, client: &mut Wire) -> Vec<u8> {
        let mut said = Vec::new();
        while self.text(&said).is_empty() {
            said.extend(client.chunk());
        }
        said
    }
}

/// An engine's stream with so many tokens, and what they took.
fn say(mut upstream: Wire, tongue: Tongue, tokens: usize) {
    for _ in 0..tokens {
        upstream.send_chunk(tongue.event());
    }
    upstream.send_chunk(
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    );
    upstream.send_chunk(format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{tokens},\
         \"prompt_tokens_details\":{{\"cached_tokens\":3}}}}}}\n\n"
    ));
    upstream.send_chunk(DONE);
    upstream.end_chunks_if_read();
}

/// An engine that has begun a stream and said one word.
fn begun(tongue: Tongue, engine: &Engine) -> Wire {
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    upstream.send_chunk(tongue.event());
    upstream
}

#[test]
fn a_stream_is_said_in_the_clients_words() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[], true);
        let (mut upstream, asked) = engine.receive();
        let asked = asked.json();
        assert_eq!((&asked["stream"], &asked["model"]), (&json!(true), &json!(MODEL)));
        upstream.send(STREAM_HEAD);
        say(upstream, tongue, 3);
        let head = client.head();
        assert_eq!(head.status(), 200);
        let kind = if tongue.is_ollama() { "application/x-ndjson" } else { "text/event-stream" };
        assert_eq!(head.get("content-type"), Some(kind));
        let id = head.get("x-request-id").expect("an ID");
        let named = (tongue == Tongue::Anthropic).then_some(id);
        assert_eq!(head.get("request-id"), named, "{tongue:?}");
        let (said, end) = client.pieces();
        assert_eq!(end, Piece::Last);
        assert_eq!(tongue.text(&said), " word word word");
        assert!(tongue.is_whole(&tongue.last(&said)));
        // The connection takes another request.
        client.ping();
        rig.assert_at_rest();
    }
}

#[test]
fn what_it_takes_is_booked_as_of_a_relayed_one() {
    for stream in [true, false] {
        for tongue in Tongue::ALL {
            let (rig, engine) = Rig::with_engine();
            let mut client = tongue.ask(&rig, &[], stream);
            let (mut upstream, _) = engine.receive();
            upstream.send(STREAM_HEAD);
            say(upstream, tongue, 3);
            client.head();
            if stream {
                client.pieces();
            }
            rig.assert_outcomes([1, 0, 0, 0]);
            let totals = rig.totals();
            assert_eq!(
                (totals.prompt_tokens, totals.cached_prompt_tokens, totals.completion_tokens),
                (7, 3, 3),
                "{tongue:?} {stream}"
            );
            rig.assert_at_rest();
        }
    }
}

#[test]
fn a_whole_answer_is_one_document() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[], false);
        let (mut upstream, asked) = engine.receive();
        assert_eq!(asked.json()["stream"], true, "so that it stops when the client leaves");
        upstream.send(STREAM_HEAD);
        say(upstream, tongue, 2);
        let answer = client.message();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.head.get("content-type"), Some("application/json; charset=utf-8"));
        let answer = answer.json();
        let text = match tongue {
            Tongue::Anthropic => &answer["content"][0]["text"],
            Tongue::Responses => &answer["output"][0]["content"][0]["text"],
            Tongue::Chat => &answer["message"]["content"],
            Tongue::Generate => &answer["response"],
        };
        assert_eq!(text, " word word");
    }
}

#[test]
fn a_client_that_leaves_stops_the_engine() {
    for stream in [true, false] {
        for tongue in Tongue::ALL {
            let (rig, engine) = Rig::with_engine();
            let mut client = tongue.ask(&rig, &[], stream);
            let mut upstream = begun(tongue, &engine);
            if stream {
                client.head();
                tongue.first_text(&mut client);
            }
            drop(client);
            upstream.assert_ended();
            rig.assert_outcomes([0, 0, 0, 1]);
            rig.assert_at_rest();
        }
    }
}

#[test]
fn a_client_that_leaves_with_the_last_event_has_it_all() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[], true);
        let mut upstream = begun(tongue, &engine);
        upstream.send_chunk(DONE);
        client.head();
        let mut said = Vec::new();
        while said.is_empty() || !tongue.is_whole(&tongue.last(&said)) {
            said.extend(client.chunk());
        }
        drop(client);
        upstream.assert_ended();
        rig.assert_outcomes([1, 0, 0, 0]);
        rig.assert_at_rest();
    }
}

#[test]
fn it_is_cancelled_by_its_id_and_says_so() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[("X-Request-Id", "one")], true);
        let mut upstream = begun(tongue, &engine);
        client.head();
        tongue.first_text(&mut client);
        cancel(&rig, "one");
        upstream.assert_ended();
        let (rest, end) = client.pieces();
        assert_eq!(end, Piece::Last);
        let last = tongue.last(&rest);
        assert!(!tongue.is_whole(&last));
        if tongue == Tongue::Responses {
            assert_eq!(last["type"], "response.failed");
            assert_eq!(last["response"]["status"], "cancelled");
        } else {
            assert_eq!(tongue.complaint(&last), "the request was cancelled");
        }
        rig.assert_outcomes([0, 0, 0, 1]);
        rig.assert_at_rest();
    }
}

pub(crate) fn cancel(rig: &Rig, id: &str) {
    let mut canceller = rig.client();
    canceller.ask("POST", &format!("/engines/requests/{id}/cancel"), &[], "");
    assert_eq!(canceller.message().head.status(), 200);
}

#[test]
fn who_waits_is_told_in_comments_where_there_are_any() {
    for tongue in Tongue::ALL {
        let beating = |config: &mut Config| config.heartbeat = Some(Duration::from_millis(20));
        let rig = Rig::with(beating);
        let mut client = tongue.ask(&rig, &[], true);
        let (mut call, _) = rig.control.lease_call();
        if !tongue.is_ollama() {
            client.head();
            assert_eq!(client.chunk(), b": waiting\n\n");
            assert_eq!(client.chunk(), b": waiting\n\n");
        }
        let engine = rig.engine("first");
        rig.publish(&[&engine]);
        call.grant("first");
        let (mut upstream, _) = engine.receive();
        upstream.send(STREAM_HEAD);
        say(upstream, tongue, 1);
        if tongue.is_ollama() {
            client.head();
        }
        let (said, end) = client.pieces();
        assert_eq!(end, Piece::Last);
        assert_eq!(tongue.text(&said), " word");
        assert_eq!(tongue.is_ollama(), !String::from_utf8_lossy(&said).contains("data: "));
        assert!(!tongue.is_ollama() || !said.starts_with(b":"));
    }
}

#[test]
fn a_reader_who_takes_nothing_stops_the_engine() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut slow = rig.unix_client();
        slow.ask("POST", tongue.path(), &[], tongue.body(true).to_string());
        let (mut upstream, _) = engine.receive();
        upstream.send(STREAM_HEAD);
        let events = tongue.event().repeat(100);
        let frame = format!("{:x}\r\n{events}\r\n", events.len());
        let (mut sent, mut still) = (0, 0);
        // It is stuck once nothing moves while others are served again and again.
        let mut other = rig.client();
        while still < 20 {
            let written = upstream.send_some(&frame.as_bytes()[sent % frame.len()..]);
            sent += written;
            assert!(sent < 4 << 20, "{sent} bytes were taken for a client that does not read");
            still = if written == 0 { still + 1 } else { 0 };
            other.ping();
        }
        // Nothing is lost when it goes on reading.
        let rest = (frame.len() - sent % frame.len()) % frame.len();
        let words = (sent + rest) / frame.len() * 100;
        let sender = std::thread::spawn(move || {
            upstream.send(&frame.as_bytes()[frame.len() - rest..]);
            upstream.send_chunk(DONE);
            upstream.end_chunks();
        });
        slow.head();
        let (said, end) = slow.pieces();
        sender.join().expect("all was sent");
        assert_eq!(end, Piece::Last);
        assert_eq!(tongue.text(&said).len(), words * " word".len());
    }
}

#[test]
fn the_record_has_what_was_asked_and_what_the_engine_said() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[("X-Request-Id", "one")], true);
        let (mut upstream, _) = engine.receive();
        upstream.send(STREAM_HEAD);
        say(upstream, tongue, 2);
        client.head();
        client.pieces();
        let record = wait_for("the record of a request that ended", || {
            let mut reader = rig.client();
            reader.ask("GET", "/engines/requests", &[], "");
            let read = reader.message().json();
            let record = read[0]["records"][0].clone();
            (record["status_code"] == 200).then_some(record)
        });
        assert!(record["url"].as_str().is_some_and(|url| url.ends_with(tongue.path())), "{record}");
        assert!(record.to_string().contains("word"), "{record}");
    }
}

#[test]
fn only_who_wants_a_model_loaded_gets_nothing() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[("X-Preload-Only", "true")], false);
        let answer = client.message();
        assert_eq!((answer.head.status(), answer.body.len()), (200, 0), "{tongue:?}");
        assert!(engine.try_accept().is_none());
    }
}

/// A question that the data plane puts to the control plane.
pub(crate) fn told(rig: &Rig, path: &str) -> (Wire, Value) {
    let (wire, Message { head, body }) = rig.control.receive();
    assert_eq!(head.target(), path);
    (wire, serde_json::from_slice(&body).expect("JSON"))
}

#[test]
fn a_response_is_kept_before_it_is_told() {
    for kept in [true, false] {
        let (rig, engine) = Rig::with_engine();
        let mut client = rig.client();
        let body = json!({ "model": MODEL, "input": "Hi", "stream": true });
        client.ask("POST", "/v1/responses", &[], body.to_string());
        let (mut upstream, _) = engine.receive();
        upstream.send(STREAM_HEAD);
        say(upstream, Tongue::Responses, 1);
        let (mut control, told) = told(&rig, "/_control/responses");
        assert_eq!(told["response"]["output"][0]["content"][0]["text"], " word");
        if kept {
            control.answer("204 No Content", "", "");
        } else {
            control.answer(
                "500 Internal Server Error",
                "",
                r#"{"code":"full","kind":"server_error","message":"no"}"#,
            );
        }
        client.head();
        let (said, end) = client.pieces();
        assert_eq!(end, Piece::Last);
        let last = Tongue::Responses.last(&said);
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["store"], kept);
        wait_until("it is booked", || rig.totals().requests_ok == 1);
        rig.assert_at_rest();
    }
}
