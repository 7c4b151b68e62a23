//! An engine's answer as a response: its events one by one, or the object that they end with.

use bytes::Bytes;

use super::frame::{Frame, Status};
use super::tools;
use crate::dialect::event::{CallPart, Event, Literal, Reason, Tally};
use crate::dialect::identifier;
use crate::dialect::translation::{Encoder, Question};
use crate::error::Error;

/// Says a response.
#[derive(Debug)]
pub(super) struct Speech {
    frame: Frame,
    stream: bool,
    /// Events so far.
    sequence: u64,
    /// The item that is being said.
    open: Option<Item>,
    /// Finished items, separated by commas.
    output: Vec<u8>,
    /// How many items were begun.
    items: usize,
    /// Probabilities of the text that comes next.
    logprobs: Vec<u8>,
    begun: bool,
    status: Status,
    tally: Tally,
    /// Pieces of thoughts, which are about as many tokens.
    thought: u64,
    /// The response at its end, once that is known.
    whole: Vec<u8>,
    /// Events that are told after it was kept.
    pending: Vec<u8>,
    asked: bool,
    /// Those of its tools.
    namespaces: Vec<String>,
}

/// An item that is being said; texts are insides of JSON strings.
#[derive(Debug)]
struct Item {
    kind: Kind,
    id: String,
    text: Vec<u8>,
    logprobs: Vec<u8>,
    call_id: Vec<u8>,
    name: Vec<u8>,
    /// What it is in; empty if in nothing.
    namespace: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    /// The call of that number.
    Call(u64),
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Reasoning => "rs_",
            Self::Message => "msg_",
            Self::Call(_) => "fc_",
        }
    }

    /// What its events are called after.
    fn events(self) -> &'static str {
        match self {
            Self::Reasoning => "reasoning_text",
            Self::Message => "output_text",
            Self::Call(_) => "function_call_arguments",
        }
    }
}

impl Speech {
    pub(super) fn new(frame: Frame, stream: bool) -> Self {
        Self {
            frame,
            stream,
            sequence: 0,
            open: None,
            output: Vec::new(),
            items: 0,
            logprobs: Vec::new(),
            begun: false,
            status: Status::InProgress,
            tally: Tally::default(),
            thought: 0,
            whole: Vec::new(),
            pending: Vec::new(),
            asked: false,
            namespaces: Vec::new(),
        }
    }

    /// Functions that are called may be in these namespaces.
    pub(super) fn with_namespaces(self, namespaces: Vec<String>) -> Self {
        Self { namespaces, ..self }
    }

    /// Write an event: `parts` are its members behind its type, each with a comma before it.
    fn emit(&mut self, kind: &str, parts: &[&[u8]], out: &mut Vec<u8>) {
        if !self.stream {
            return;
        }
        let head = format!(
            "event: response.{kind}\ndata: {{\"type\":\"response.{kind}\",\"sequence_number\":{}",
            self.sequence
        );
        self.sequence += 1;
        out.extend_from_slice(head.as_bytes());
        write(out, parts);
        out.extend_from_slice(b"}\n\n");
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) || !self.stream {
            return;
        }
        let mut response = b",\"response\":".to_vec();
        self.frame.write(&Status::InProgress, b"", None, &mut response);
        self.emit("created", &[&response], out);
        self.emit("in_progress", &[&response], out);
    }

    /// Where in the response the open item, or its text, is; members with a comma before each.
    fn place(&self, with_content: bool) -> Vec<u8> {
        let id = self.open.as_ref().map_or("", |item| item.id.as_str());
        let output = self.items.saturating_sub(1);
        let content = if with_content { ",\"content_index\":0" } else { "" };
        format!(",\"item_id\":\"{id}\",\"output_index\":{output}{content}").into_bytes()
    }

    /// Go on with an item, or begin it and end the one before.
    fn turn_to(&mut self, kind: Kind, part: CallPart<'_>, out: &mut Vec<u8>) {
        self.begin(out);
        if self.open.as_ref().is_some_and(|item| item.kind == kind) {
            return;
        }
        self.close("completed", out);
        self.items += 1;
        let call_id = match (kind, part.id.is_empty()) {
            (Kind::Call(_), true) => identifier::fresh("call_").into_bytes(),
            _ => part.id.0.to_vec(),
        };
        let id = identifier::of_item(kind.prefix(), &self.frame.id, self.items);
        let name = part.name.text();
        let parted = tools::parted(&name, &self.namespaces);
        let (namespace, name) = parted
            .map_or((Vec::new(), part.name.0.to_vec()), |(space, name)| {
                (inside(space), inside(name))
            });
        let (text, logprobs) = (Vec::new(), Vec::new());
        let item = Item { kind, id, text, logprobs, call_id, name, namespace };
        if self.stream {
            let index = format!(",\"output_index\":{},\"item\":", self.items - 1);
            let mut empty = Vec::new();
            item.write("in_progress", false, &mut empty);
            self.open = Some(item);
            self.emit("output_item.added", &[index.as_bytes(), &empty], out);
            self.emit_part("content_part.added", out);
        } else {
            self.open = Some(item);
        }
    }

    /// An event with the part that the open item has its text in.
    fn emit_part(&mut self, event: &str, out: &mut Vec<u8>) {
        let Some(item) = self.open.as_ref().filter(|item| !matches!(item.kind, Kind::Call(_)))
        else {
            return;
        };
        let mut part = b",\"part\":".to_vec();
        item.write_part(&mut part);
        let place = self.place(true);
        self.emit(event, &[&place, &part], out);
    }

    /// The next piece of the open item's text.
    fn go_on(&mut self, piece: Literal<'_>, out: &mut Vec<u8>) {
        let logprobs = std::mem::take(&mut self.logprobs);
        let Some(item) = &mut self.open else { return };
        item.text.extend_from_slice(piece.0);
        if !item.logprobs.is_empty() && !logprobs.is_empty() {
            item.logprobs.push(b',');
        }
        item.logprobs.extend_from_slice(&logprobs);
        let kind = item.kind;
        if !self.stream {
            return;
        }
        let place = self.place(!matches!(kind, Kind::Call(_)));
        let mut parts: Vec<&[u8]> = vec![&place, b",\"delta\":\"", piece.0, b"\""];
        if kind == Kind::Message {
            parts.extend([&b",\"logprobs\":["[..], &logprobs, b"]"]);
        }
        let event = match kind {
            Kind::Reasoning => "reasoning_text.delta",
            Kind::Message => "output_text.delta",
            Kind::Call(_) => "function_call_arguments.delta",
        };
        self.emit(event, &parts, out);
    }

    /// End the open item.
    fn close(&mut self, status: &str, out: &mut Vec<u8>) {
        let Some(item) = &self.open else { return };
        let kind = item.kind;
        let mut said = Vec::new();
        item.write(status, true, &mut said);
        if self.stream {
            let place = self.place(!matches!(kind, Kind::Call(_)));
            let text = item.text.clone();
            let (name, logprobs) = (item.name.clone(), item.logprobs.clone());
            let parts: Vec<&[u8]> = match kind {
                Kind::Reasoning => vec![&place, b",\"text\":\"", &text, b"\""],
                Kind::Message => {
                    vec![&place, b",\"text\":\"", &text, b"\",\"logprobs\":[", &logprobs, b"]"]
                }
                Kind::Call(_) => {
                    vec![&place, b",\"name\":\"", &name, b"\",\"arguments\":\"", &text, b"\""]
                }
            };
            self.emit(&format!("{}.done", kind.events()), &parts, out);
            self.emit_part("content_part.done", out);
            let index = format!(",\"output_index\":{},\"item\":", self.items.saturating_sub(1));
            self.emit("output_item.done", &[index.as_bytes(), &said], out);
        }
        if !self.output.is_empty() {
            self.output.push(b',');
        }
        self.output.extend_from_slice(&said);
        self.open = None;
    }

    /// All is said that will be.
    fn settle(&mut self, out: &mut Vec<u8>) {
        if !self.whole.is_empty() {
            return;
        }
        self.begin(out);
        let is_whole = self.status == Status::Completed;
        self.close(if is_whole { "completed" } else { "incomplete" }, out);
        let usage = Some((self.tally, self.thought)).filter(|(tally, _)| tally.prompt > 0);
        self.frame.write(&self.status, &self.output, usage, &mut self.whole);
    }
}

impl Item {
    /// The item; without what it says if that has not been said.
    fn write(&self, status: &str, said: bool, out: &mut Vec<u8>) {
        let head = |kind: &str| format!("{{\"id\":\"{}\",\"type\":\"{kind}\"", self.id);
        match self.kind {
            Kind::Reasoning => {
                write(out, &[head("reasoning").as_bytes(), b",\"summary\":[],\"content\":["]);
            }
            Kind::Message => {
                write(out, &[head("message").as_bytes(), b",\"role\":\"assistant\",\"content\":["]);
            }
            Kind::Call(_) => {
                let text: &[u8] = if said { &self.text } else { b"" };
                write(out, &[head("function_call").as_bytes(), b",\"call_id\":\"", &self.call_id]);
                write(out, &[b"\",\"name\":\"", &self.name, b"\",\"arguments\":\"", text, b"\""]);
                if !self.namespace.is_empty() {
                    write(out, &[b",\"namespace\":\"", &self.namespace, b"\""]);
                }
            }
        }
        if !matches!(self.kind, Kind::Call(_)) {
            if said {
                self.write_part(out);
            }
            out.push(b']');
        }
        write(out, &[b",\"status\":\"", status.as_bytes(), b"\"}"]);
    }

    fn write_part(&self, out: &mut Vec<u8>) {
        if self.kind == Kind::Reasoning {
            write(out, &[b"{\"type\":\"reasoning_text\",\"text\":\"", &self.text, b"\"}"]);
        } else {
            write(out, &[b"{\"type\":\"output_text\",\"text\":\"", &self.text]);
            write(out, &[b"\",\"annotations\":[],\"logprobs\":[", &self.logprobs, b"]}"]);
        }
    }
}

impl Encoder for Speech {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match *event {
            Event::Begun(_) => self.begin(out),
            Event::Reasoning(text) => {
                self.thought += u64::from(self.stream);
                self.turn_to(Kind::Reasoning, CallPart::default(), out);
                self.go_on(text, out);
            }
            Event::Logprobs(tokens) => {
                if !self.logprobs.is_empty() {
                    self.logprobs.push(b',');
                }
                self.logprobs.extend_from_slice(tokens);
            }
            Event::Text(text) => {
                self.turn_to(Kind::Message, CallPart::default(), out);
                self.go_on(text, out);
            }
            Event::Call(part) => {
                self.turn_to(Kind::Call(part.index), part, out);
                if !part.arguments.is_empty() {
                    self.go_on(part.arguments, out);
                }
            }
            Event::Finish(finish) => {
                let cut = finish.reason == Reason::Length;
                self.status = if cut { Status::Incomplete } else { Status::Completed };
            }
            Event::Counted(tally) => self.tally = tally,
            Event::Failed(_) | Event::Done => {}
        }
    }

    fn fail(&mut self, error: &Error, _out: &mut Vec<u8>) {
        self.status = Status::of(error);
    }

    fn question(&mut self) -> Option<Question> {
        // What ends here has to be told in the stream, before the response is.
        if !self.frame.store || std::mem::replace(&mut self.asked, true) {
            return None;
        }
        if self.status == Status::InProgress {
            self.status = Status::Completed;
        }
        let mut said = Vec::new();
        self.settle(&mut said);
        self.pending = said;
        Some(self.frame.keep(&self.whole))
    }

    fn learn(&mut self, answer: Result<Bytes, Error>) {
        if answer.is_err() {
            // Nobody will find it, so it must not say so.
            self.frame.store = false;
            self.whole.clear();
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.pending);
        if self.status == Status::InProgress {
            self.status = Status::Completed;
        }
        self.settle(out);
        if self.stream {
            let response = std::mem::take(&mut self.whole);
            let event = match self.status {
                // No event of OpenAI's says that a response was cancelled; its status does.
                Status::Failed(..) | Status::Cancelled => "failed",
                Status::Incomplete => "incomplete",
                _ => "completed",
            };
            self.emit(event, &[b",\"response\":", &response], out);
        } else {
            out.append(&mut self.whole);
        }
    }
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A text as the inside of a JSON string.
fn inside(text: &str) -> Vec<u8> {
    let quoted = serde_json::Value::from(text).to_string();
    Literal::of(quoted.as_bytes()).unwrap_or_default().0.to_vec()
}
