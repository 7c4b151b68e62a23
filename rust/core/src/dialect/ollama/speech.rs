//! An engine's answer as Ollama's: a line for each piece, or one object for all.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{now, probabilities, quoted};
use crate::dialect::event::{CallPart, Event, Literal, Reason, Tally};
use crate::dialect::fields::Fields;
use crate::dialect::translation::{Encoder, Place, Question, Start};
use crate::error::Error;

/// Which of the two answers it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Generate(Context),
}

/// How the tokens are found with which a later request can go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// They are not told.
    Untold,
    /// Of this body the engine makes the prompt.
    Body(Vec<u8>),
    /// This is the prompt.
    Prompt(String),
    /// An array.
    Tokens(String),
}

/// Says an answer.
#[derive(Debug)]
pub(super) struct Speech {
    kind: Kind,
    /// As a JSON string.
    model: String,
    stream: bool,
    /// How many alternatives of each token are told; `None` if no probabilities are.
    top: Option<u8>,
    begun: Instant,
    load: Option<Duration>,
    /// Insides of JSON strings.
    text: Vec<u8>,
    thinking: Vec<u8>,
    /// Probabilities that were not told yet.
    logprobs: Vec<u8>,
    /// The call that the model is at.
    call: Option<Call>,
    /// The calls of a whole answer.
    calls: Vec<u8>,
    called: usize,
    reason: Reason,
    tally: Tally,
    failed: bool,
}

#[derive(Debug, Default)]
struct Call {
    index: u64,
    id: Vec<u8>,
    name: Vec<u8>,
    arguments: Vec<u8>,
}

impl Speech {
    pub(super) fn new(kind: Kind, model: &str, stream: bool, top: Option<u8>) -> Self {
        Self {
            kind,
            model: quoted(model),
            stream,
            top,
            begun: Instant::now(),
            load: None,
            text: Vec::new(),
            thinking: Vec::new(),
            logprobs: Vec::new(),
            call: None,
            calls: Vec::new(),
            called: 0,
            reason: Reason::default(),
            tally: Tally::default(),
            failed: false,
        }
    }

    fn open(&self, out: &mut Vec<u8>) {
        write(out, &[b"{\"model\":", self.model.as_bytes(), b",\"created_at\":\""]);
        write(out, &[now().as_bytes(), b"\","]);
    }

    /// What is said, in the members that the kind has for it.
    fn write_said(&self, text: &[u8], thinking: &[u8], calls: &[u8], out: &mut Vec<u8>) {
        let chat = self.kind == Kind::Chat;
        let open: &[u8] = if chat {
            b"\"message\":{\"role\":\"assistant\",\"content\":\""
        } else {
            b"\"response\":\""
        };
        write(out, &[open, text, b"\""]);
        if !thinking.is_empty() {
            write(out, &[b",\"thinking\":\"", thinking, b"\""]);
        }
        if !calls.is_empty() {
            write(out, &[b",\"tool_calls\":[", calls, b"]"]);
        }
        if chat {
            out.push(b'}');
        }
    }

    fn write_logprobs(&mut self, out: &mut Vec<u8>) {
        if !self.logprobs.is_empty() {
            write(out, &[b",\"logprobs\":[", &self.logprobs, b"]"]);
            self.logprobs.clear();
        }
    }

    /// A line in the middle of a stream.
    fn line(&mut self, text: &[u8], thinking: &[u8], calls: &[u8], out: &mut Vec<u8>) {
        self.open(out);
        self.write_said(text, thinking, calls, out);
        out.extend_from_slice(b",\"done\":false");
        self.write_logprobs(out);
        out.extend_from_slice(b"}\n");
    }

    fn hear_text(&mut self, text: Literal<'_>, out: &mut Vec<u8>) {
        if self.stream {
            self.line(text.0, b"", b"", out);
        }
        // What a stream has said is needed again for its tokens only.
        if !self.stream || matches!(self.kind, Kind::Generate(_)) {
            self.text.extend_from_slice(text.0);
        }
    }

    fn hear_call(&mut self, part: CallPart<'_>, out: &mut Vec<u8>) {
        if self.call.as_ref().is_some_and(|call| call.index != part.index) {
            self.end_call(out);
        }
        let call = self.call.get_or_insert_with(|| Call { index: part.index, ..Call::default() });
        call.id.extend_from_slice(part.id.0);
        call.name.extend_from_slice(part.name.0);
        call.arguments.extend_from_slice(part.arguments.0);
    }

    /// A call is complete: Ollama tells none in pieces.
    fn end_call(&mut self, out: &mut Vec<u8>) {
        let Some(call) = self.call.take() else { return };
        let arguments = Literal(&call.arguments).text();
        let arguments = arguments.trim();
        let is_object = serde_json::from_str::<serde_json::Map<_, _>>(arguments).is_ok();
        if !is_object && !arguments.is_empty() {
            // It was cut off, and is no call that could be made; but it was said.
            self.hear_text(Literal(&call.arguments), out);
            return;
        }
        let arguments = if arguments.is_empty() { "{}" } else { arguments };
        // An answer is a line. In JSON no string has a bare end of line, so it stands between values.
        let arguments = arguments.replace(['\n', '\r'], " ");
        let mut said = b"{".to_vec();
        if !call.id.is_empty() {
            write(&mut said, &[b"\"id\":\"", &call.id, b"\","]);
        }
        let index = self.called.to_string();
        write(&mut said, &[b"\"function\":{\"index\":", index.as_bytes(), b",\"name\":\""]);
        write(&mut said, &[&call.name, b"\",\"arguments\":", arguments.as_bytes(), b"}}"]);
        self.called += 1;
        if self.stream {
            self.line(b"", b"", &said, out);
        } else {
            if !self.calls.is_empty() {
                self.calls.push(b',');
            }
            self.calls.extend_from_slice(&said);
        }
    }

    /// What stands at the end only.
    fn write_end(&mut self, out: &mut Vec<u8>) {
        let reason = if self.reason == Reason::Length { "length" } else { "stop" };
        out.extend_from_slice(format!(",\"done\":true,\"done_reason\":\"{reason}\"").as_bytes());
        self.write_logprobs(out);
        if let Kind::Generate(Context::Tokens(tokens)) = &self.kind {
            write(out, &[b",\"context\":", tokens.as_bytes()]);
        }
        let tally = self.tally;
        let durations = [
            ("total_duration", nanoseconds(self.begun.elapsed())),
            ("load_duration", nanoseconds(self.load.unwrap_or_default())),
            ("prompt_eval_count", u128::from(tally.prompt)),
            ("prompt_eval_duration", from_milliseconds(tally.prompt_ms)),
            ("eval_count", u128::from(tally.produced)),
            ("eval_duration", from_milliseconds(tally.produced_ms)),
        ];
        for (name, value) in durations {
            if value > 0 {
                out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
            }
        }
        out.push(b'}');
    }
}

fn nanoseconds(duration: Duration) -> u128 {
    duration.as_nanos()
}

fn from_milliseconds(milliseconds: f64) -> u128 {
    Duration::try_from_secs_f64(milliseconds / 1e3).map_or(0, nanoseconds)
}

impl Encoder for Speech {
    fn start(&mut self, start: &Start) {
        self.load = start.load;
    }

    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match *event {
            Event::Reasoning(text) if self.stream => self.line(b"", text.0, b"", out),
            Event::Reasoning(text) => self.thinking.extend_from_slice(text.0),
            Event::Logprobs(tokens) => {
                if let Some(told) = self.top.and_then(|top| probabilities::told(tokens, top)) {
                    if !self.logprobs.is_empty() {
                        self.logprobs.push(b',');
                    }
                    self.logprobs.extend_from_slice(&told);
                }
            }
            Event::Text(text) => self.hear_text(text, out),
            Event::Call(part) => self.hear_call(part, out),
            Event::Finish(finish) => {
                self.end_call(out);
                self.reason = finish.reason;
            }
            Event::Counted(tally) => self.tally = tally,
            Event::Begun(_) | Event::Failed(_) | Event::Done => {}
        }
    }

    fn fail(&mut self, error: &Error, out: &mut Vec<u8>) {
        // What was said of a call is told before.
        self.end_call(out);
        self.failed = true;
        let error = quoted(&super::words(error));
        write(out, &[b"{\"error\":", error.as_bytes(), b"}\n"]);
    }

    fn question(&mut self) -> Option<Question> {
        if self.failed {
            return None;
        }
        let Kind::Generate(context) = &mut self.kind else { return None };
        match context {
            Context::Body(body) => {
                let body = std::mem::take(body);
                Some(Question { place: Place::Engine("/apply-template"), body })
            }
            Context::Prompt(prompt) => {
                let content = format!("{prompt}{}", Literal(&self.text).text());
                let body = serde_json::json!({
                    "content": content, "add_special": false, "parse_special": true
                });
                let body = body.to_string().into_bytes();
                Some(Question { place: Place::Engine("/tokenize"), body })
            }
            Context::Untold | Context::Tokens(_) => None,
        }
    }

    fn learn(&mut self, answer: Result<Bytes, Error>) {
        let Kind::Generate(context) = &mut self.kind else { return };
        let fields = answer.as_deref().ok().and_then(|answer| Fields::of(answer, "").ok());
        let learned = fields.and_then(|fields| match context {
            Context::Body(_) => {
                fields.text("prompt", "").ok()?.map(|it| Context::Prompt(it.into_owned()))
            }
            _ => fields.json("tokens").map(|tokens| Context::Tokens(tokens.get().to_owned())),
        });
        // Without them the answer is whole, but cannot be gone on with.
        *context = learned.unwrap_or(Context::Untold);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        self.end_call(out);
        self.open(out);
        if self.stream {
            self.write_said(b"", b"", b"", out);
        } else {
            self.write_said(&self.text, &self.thinking, &self.calls, out);
        }
        self.write_end(out);
        if self.stream {
            out.push(b'\n');
        }
    }
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
