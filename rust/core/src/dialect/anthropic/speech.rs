//! An engine's answer as Anthropic's message: a stream of blocks, or all of it.

use http::HeaderValue;
use serde_json::value::RawValue;

use crate::dialect::Dialect;
use crate::dialect::event::{CallPart, Event, Finish, Literal, Reason, Tally};
use crate::dialect::identifier;
use crate::dialect::translation::{Encoder, Start};
use crate::error::Error;

/// Says a message.
#[derive(Debug)]
pub(super) struct Speech {
    id: String,
    /// The model as a JSON string.
    model: String,
    stream: bool,
    /// Thoughts are asked for; others are not told.
    wants_thoughts: bool,
    stage: Stage,
    request_id: HeaderValue,
    /// The block that is being said.
    open: Option<Open>,
    /// How many blocks were begun.
    blocks: usize,
    /// The blocks of a whole answer, separated by commas.
    written: Vec<u8>,
    /// The arguments of the open call of a whole answer, the inside of a JSON string.
    arguments: Vec<u8>,
    reason: Option<Reason>,
    stop_string: Option<Vec<u8>>,
    tally: Tally,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Silent,
    Begun,
    Failed,
}

/// A block that is being said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    /// The call of that number.
    Call(u64),
}

impl Speech {
    pub(super) fn new(model: &str, stream: bool, wants_thoughts: bool) -> Self {
        Self {
            id: identifier::fresh("msg_"),
            model: serde_json::Value::from(model).to_string(),
            stream,
            wants_thoughts,
            stage: Stage::Silent,
            request_id: HeaderValue::from_static(""),
            open: None,
            blocks: 0,
            written: Vec::new(),
            arguments: Vec::new(),
            reason: None,
            stop_string: None,
            tally: Tally::default(),
        }
    }

    /// Begin the message, if nothing of it was said yet.
    fn begin(&mut self, out: &mut Vec<u8>) {
        let before = std::mem::replace(&mut self.stage, Stage::Begun);
        if before != Stage::Silent || !self.stream {
            return;
        }
        out.extend_from_slice(
            b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":",
        );
        self.write_message(out);
        out.extend_from_slice(b"}\n\n");
    }

    /// The whole message as it stands.
    fn write_message(&self, out: &mut Vec<u8>) {
        write(
            out,
            &[
                b"{\"id\":\"",
                self.id.as_bytes(),
                b"\",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                self.model.as_bytes(),
                b",\"content\":[",
                &self.written,
                b"],",
            ],
        );
        self.write_stop(out);
        out.extend_from_slice(b",\"usage\":");
        self.write_usage(out);
        out.push(b'}');
    }

    fn write_stop(&self, out: &mut Vec<u8>) {
        let stop_string = self.stop_string.as_deref();
        let reason: &[u8] = match self.reason {
            None => b"null",
            Some(Reason::Stop) if stop_string.is_some() => b"\"stop_sequence\"",
            Some(Reason::Stop) => b"\"end_turn\"",
            Some(Reason::Length) => b"\"max_tokens\"",
            Some(Reason::Calls) => b"\"tool_use\"",
        };
        write(out, &[b"\"stop_reason\":", reason, b",\"stop_sequence\":"]);
        match stop_string {
            Some(text) => write(out, &[b"\"", text, b"\""]),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn write_usage(&self, out: &mut Vec<u8>) {
        let Tally { prompt, cached, produced, .. } = self.tally;
        let usage = format!(
            "{{\"input_tokens\":{},\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":{cached},\"output_tokens\":{produced}}}",
            prompt.saturating_sub(cached),
        );
        out.extend_from_slice(usage.as_bytes());
    }

    /// Go on with a block, or begin it and end the one before.
    fn turn_to(&mut self, block: Open, part: CallPart<'_>, out: &mut Vec<u8>) {
        if self.open == Some(block) {
            return;
        }
        self.close(out);
        self.open = Some(block);
        let index = self.blocks;
        self.blocks += 1;
        let fresh;
        let id = if part.id.is_empty() && matches!(block, Open::Call(_)) {
            fresh = identifier::fresh("toolu_");
            fresh.as_bytes()
        } else {
            part.id.0
        };
        let head = match block {
            Open::Thinking => b"{\"type\":\"thinking\",\"thinking\":\"".to_vec(),
            Open::Text => b"{\"type\":\"text\",\"text\":\"".to_vec(),
            Open::Call(_) => [
                b"{\"type\":\"tool_use\",\"id\":\"",
                id,
                b"\",\"name\":\"",
                part.name.0,
                b"\",\"input\":",
            ]
            .concat(),
        };
        if self.stream {
            let begin = format!(
                "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":",
            );
            let rest: &[u8] = match block {
                Open::Thinking => b"\",\"signature\":\"\"}",
                Open::Text => b"\"}",
                Open::Call(_) => b"{}}",
            };
            write(out, &[begin.as_bytes(), &head, rest, b"}\n\n"]);
        } else {
            if index > 0 {
                self.written.push(b',');
            }
            self.written.extend_from_slice(&head);
        }
    }

    /// The next piece of the open block.
    fn go_on(&mut self, piece: Literal<'_>, out: &mut Vec<u8>) {
        let Some(open) = self.open else { return };
        if !self.stream {
            match open {
                Open::Call(_) => self.arguments.extend_from_slice(piece.0),
                Open::Thinking | Open::Text => self.written.extend_from_slice(piece.0),
            }
            return;
        }
        let delta: &[u8] = match open {
            Open::Thinking => b"{\"type\":\"thinking_delta\",\"thinking\":\"",
            Open::Text => b"{\"type\":\"text_delta\",\"text\":\"",
            Open::Call(_) => b"{\"type\":\"input_json_delta\",\"partial_json\":\"",
        };
        self.write_delta(&[delta, piece.0, b"\"}"], out);
    }

    fn write_delta(&self, delta: &[&[u8]], out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        );
        out.extend_from_slice(self.blocks.saturating_sub(1).to_string().as_bytes());
        out.extend_from_slice(b",\"delta\":");
        write(out, delta);
        out.extend_from_slice(b"}\n\n");
    }

    /// End the open block.
    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open.take() else { return };
        if self.stream {
            if open == Open::Thinking {
                // What others would prove the thoughts with; clients send it back with them.
                let signature =
                    [b"{\"type\":\"signature_delta\",\"signature\":\"", self.id.as_bytes()];
                self.write_delta(&[signature[0], signature[1], b"\"}"], out);
            }
            let index = self.blocks.saturating_sub(1);
            let stop = format!(
                "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n"
            );
            out.extend_from_slice(stop.as_bytes());
            return;
        }
        match open {
            Open::Thinking => {
                write(&mut self.written, &[b"\",\"signature\":\"", self.id.as_bytes(), b"\"}"]);
            }
            Open::Text => self.written.extend_from_slice(b"\"}"),
            Open::Call(_) => {
                let arguments = std::mem::take(&mut self.arguments);
                self.write_input(&arguments);
                self.written.push(b'}');
            }
        }
    }

    /// The input of a call, of which `arguments` are the text.
    fn write_input(&mut self, arguments: &[u8]) {
        let text = Literal(arguments).text();
        match text.trim() {
            "" => self.written.extend_from_slice(b"{}"),
            object
                if object.starts_with('{') && serde_json::from_str::<&RawValue>(object).is_ok() =>
            {
                self.written.extend_from_slice(object.as_bytes());
            }
            // It was cut off. Anthropic's documentation has this for what is no JSON, and clients can send it back.
            _ => write(&mut self.written, &[b"{\"INVALID_JSON\":\"", arguments, b"\"}"]),
        }
    }

    fn finish(&mut self, finish: Finish<'_>) {
        self.reason = Some(finish.reason);
        self.stop_string = finish.stop_string.map(|text| text.0.to_vec());
    }
}

impl Encoder for Speech {
    fn start(&mut self, start: &Start) {
        self.request_id = start.request_id.clone();
    }

    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match *event {
            Event::Begun(tally) => {
                self.tally = tally;
                self.begin(out);
            }
            Event::Reasoning(_) if !self.wants_thoughts => {}
            Event::Reasoning(text) => {
                self.begin(out);
                self.turn_to(Open::Thinking, CallPart::default(), out);
                self.go_on(text, out);
            }
            Event::Text(text) => {
                self.begin(out);
                self.turn_to(Open::Text, CallPart::default(), out);
                self.go_on(text, out);
            }
            Event::Call(part) => {
                self.begin(out);
                self.turn_to(Open::Call(part.index), part, out);
                if !part.arguments.is_empty() {
                    self.go_on(part.arguments, out);
                }
            }
            Event::Finish(finish) => self.finish(finish),
            Event::Counted(tally) => self.tally = tally,
            Event::Logprobs(_) | Event::Failed(_) | Event::Done => {}
        }
    }

    fn fail(&mut self, error: &Error, out: &mut Vec<u8>) {
        self.stage = Stage::Failed;
        out.extend_from_slice(&Dialect::Anthropic.event(error, &self.request_id));
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.stage == Stage::Failed {
            return;
        }
        self.begin(out);
        self.close(out);
        self.reason.get_or_insert_default();
        if !self.stream {
            self.write_message(out);
            return;
        }
        out.extend_from_slice(
            b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{",
        );
        self.write_stop(out);
        out.extend_from_slice(b"},\"usage\":");
        self.write_usage(out);
        out.extend_from_slice(b"}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
