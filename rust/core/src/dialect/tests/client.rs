//! Clients that read streams to the letter, each in its dialect: what they heard, or a panic at what no client could read.

use serde_json::Value;

use crate::dialect::Dialect;
use crate::dialect::translation::tests::{dialect_of, read_by_client};
use crate::endpoint::Foreign;

/// What a client heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) text: String,
    pub(super) thoughts: String,
    /// Names, and arguments as text.
    pub(super) calls: Vec<(String, String)>,
    /// The last event said that it is whole.
    pub(super) whole: bool,
    /// The model's own reason: there was no more room.
    pub(super) cut: bool,
}

pub(super) fn listen(foreign: Foreign, said: &[u8]) -> Heard {
    let events = read_by_client(foreign, said);
    match dialect_of(foreign) {
        Dialect::Anthropic => anthropic(&events),
        Dialect::Ollama => ollama(&events),
        Dialect::OpenAi => responses(&events),
    }
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}"))
}

/// Blocks are begun one after the other, and each ends before the next; one event ends it all.
fn anthropic(events: &[Value]) -> Heard {
    let mut heard = Heard::default();
    let (mut open, mut blocks, mut is_over) = (None, 0, false);
    for (place, event) in events.iter().enumerate() {
        assert!(!is_over, "after the end: {event}");
        let kind = string(&event["type"]);
        assert_eq!(kind == "message_start", place == 0 && kind != "error", "{event}");
        match kind {
            "message_start" => assert_eq!(event["message"]["content"], Value::Array(Vec::new())),
            "content_block_start" => {
                assert_eq!((open, &event["index"]), (None, &Value::from(blocks)));
                let block = &event["content_block"];
                let kind = string(&block["type"]);
                if kind == "tool_use" {
                    assert!(!string(&block["id"]).is_empty());
                    heard.calls.push((string(&block["name"]).to_owned(), String::new()));
                }
                open = Some(kind);
                blocks += 1;
            }
            "content_block_delta" => {
                assert_eq!(event["index"], blocks - 1);
                let delta = &event["delta"];
                match (string(&delta["type"]), open.expect("an open block")) {
                    ("text_delta", "text") => heard.text += string(&delta["text"]),
                    ("thinking_delta", "thinking") => heard.thoughts += string(&delta["thinking"]),
                    ("signature_delta", "thinking") => {}
                    ("input_json_delta", "tool_use") => {
                        let call = heard.calls.last_mut().expect("a call");
                        call.1 += string(&delta["partial_json"]);
                    }
                    other => panic!("{other:?}"),
                }
            }
            "content_block_stop" => {
                assert!(open.take().is_some());
                assert_eq!(event["index"], blocks - 1);
            }
            "message_delta" => {
                assert_eq!(open, None);
                assert!(event["usage"]["output_tokens"].is_u64());
                heard.cut = string(&event["delta"]["stop_reason"]) == "max_tokens";
                heard.whole = true;
            }
            "message_stop" => {
                assert!(heard.whole);
                is_over = true;
            }
            "error" => {
                assert!(!string(&event["error"]["message"]).is_empty() && !heard.whole);
                is_over = true;
            }
            other => panic!("{other}"),
        }
    }
    assert!(is_over, "{events:?}");
    heard
}

/// Every line but the last says that there is more.
fn ollama(lines: &[Value]) -> Heard {
    let mut heard = Heard::default();
    let (last, before) = lines.split_last().expect("a line");
    for line in before {
        assert_eq!(line["done"], false, "{line}");
        note(line, &mut heard);
    }
    if let Some(error) = last.get("error") {
        assert!(!string(error).is_empty());
    } else {
        assert_eq!(last["done"], true);
        heard.cut = string(&last["done_reason"]) == "length";
        heard.whole = true;
        note(last, &mut heard);
    }
    heard
}

fn note(line: &Value, heard: &mut Heard) {
    assert_eq!(line["model"], "m");
    let (text, rest) = match line.get("message") {
        Some(message) => (&message["content"], message),
        None => (&line["response"], line),
    };
    heard.text += string(text);
    heard.thoughts += rest.get("thinking").map_or("", string);
    for call in rest.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let function = &call["function"];
        assert!(function["arguments"].is_object());
        assert_eq!(function["index"], heard.calls.len());
        let arguments = function["arguments"].to_string();
        heard.calls.push((string(&function["name"]).to_owned(), arguments));
    }
}

/// Sequence numbers have no gaps, an item's events all name it, and what it ends with is what was said.
fn responses(events: &[Value]) -> Heard {
    let mut listener = Listener::default();
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], place, "{event}");
        let kind = string(&event["type"]).strip_prefix("response.").expect("of a response");
        assert_eq!(kind == "created", place == 0);
        assert_eq!(kind == "in_progress", place == 1);
        let is_end = ["completed", "incomplete", "failed", "cancelled"].contains(&kind);
        assert_eq!(is_end, place == events.len() - 1, "{event}");
        match kind {
            "created" | "in_progress" => assert_eq!(event["response"]["status"], "in_progress"),
            _ if is_end => listener.end(kind, &event["response"]),
            _ => listener.item_event(kind, event),
        }
    }
    listener.heard
}

#[derive(Default)]
struct Listener<'a> {
    heard: Heard,
    items: Vec<&'a Value>,
    open: Option<&'a Value>,
    /// By the open item.
    said: String,
}

impl<'a> Listener<'a> {
    fn item_event(&mut self, kind: &str, event: &'a Value) {
        assert_eq!(event["output_index"], self.items.len(), "{event}");
        if let Some(id) = event.get("item_id") {
            assert_eq!(*id, self.open.expect("an open item")["id"], "{event}");
        }
        assert!(event.get("content_index").is_none_or(|index| *index == 0));
        match kind {
            "output_item.added" => {
                assert!(self.open.is_none());
                self.open = Some(&event["item"]);
                self.said.clear();
            }
            "output_text.delta" | "reasoning_text.delta" | "function_call_arguments.delta" => {
                self.said += string(&event["delta"]);
            }
            "output_text.done" | "reasoning_text.done" => assert_eq!(event["text"], *self.said),
            "function_call_arguments.done" => assert_eq!(event["arguments"], *self.said),
            "content_part.added" | "content_part.done" => {
                assert!(event["part"]["text"].is_string());
            }
            "output_item.done" => self.item(&event["item"]),
            other => panic!("{other}"),
        }
    }

    fn item(&mut self, item: &'a Value) {
        assert_eq!(item["id"], self.open.take().expect("an open item")["id"]);
        self.items.push(item);
        let said = self.said.as_str();
        match string(&item["type"]) {
            "message" => {
                assert_eq!(item["content"][0]["text"], said);
                self.heard.text += said;
            }
            "reasoning" => {
                assert_eq!(item["content"][0]["text"], said);
                self.heard.thoughts += said;
            }
            "function_call" => {
                assert_eq!(item["arguments"], said);
                let name = string(&item["name"]).to_owned();
                self.heard.calls.push((name, said.to_owned()));
            }
            other => panic!("{other}"),
        }
    }

    fn end(&mut self, kind: &str, response: &Value) {
        assert!(self.open.is_none(), "{response}");
        assert_eq!(response["status"], kind);
        let output: Vec<&Value> = response["output"].as_array().expect("items").iter().collect();
        assert_eq!(output, self.items);
        assert_eq!(response["error"].is_null(), kind != "failed", "{response}");
        self.heard.whole = kind == "completed" || kind == "incomplete";
        self.heard.cut = kind == "incomplete";
    }
}
