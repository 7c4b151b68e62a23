//! Ollama's chat, as OpenAI's.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::options::{self, Options};
use super::speech::{Kind, Speech};
use super::{images, now, open, quoted};
use crate::dialect::chat::{Call, Chat, Content, Message, Others, Part, Text, Tool};
use crate::dialect::fields::{Fields, invalid, join};
use crate::dialect::prefill::without_last;
use crate::dialect::shorten;
use crate::dialect::translation::{Encode, Reading, Request, Retry, Start, Task};
use crate::endpoint::Mode;
use crate::error::Error;

pub(super) fn read(body: &Bytes) -> Result<Reading, Error> {
    read_keeping(body, 1.0)
}

/// Read it, and leave out the oldest messages so that this share of the text is left.
fn read_keeping(body: &Bytes, share: f64) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let options = options::read(&fields)?;
    let said = fields.list("messages", "")?;
    if said.is_empty() {
        return Ok(idle(model, &options, |line| {
            line.push_str(",\"message\":{\"role\":\"assistant\",\"content\":\"\"}");
        }));
    }
    let mut messages = Vec::with_capacity(said.len());
    for (place, raw) in said.into_iter().enumerate() {
        messages.push(message(raw, &format!("messages.{place}"))?);
    }
    shorten::messages(&mut messages, share);
    let top = options::logprobs(&fields)?;
    let (template_arguments, thinking) = options::think(&fields)?;
    let mut needs = options.needs;
    let chat = Chat {
        model: Cow::Borrowed(&model),
        messages,
        tools: tools(&fields)?,
        max_tokens: options.max_tokens,
        stop: options.stop.iter().map(|stop| Cow::Borrowed(stop.as_str())).collect(),
        response_format: options::format(&fields)?,
        template_arguments,
        others: Others(others(&options, top)),
        ..Chat::default()
    };
    (needs.thinking, needs.tools) = (thinking, !chat.tools.is_empty());
    let body_of_chat = chat.body()?;
    if fields.flag("_debug_render_only", "")? == Some(true) {
        return Ok(rendered(model, body_of_chat, |prompt| {
            format!(
                "\"message\":{{\"role\":\"\",\"content\":\"\"}},\"done\":false,\"_debug_info\":{{\"rendered_template\":{prompt},\"image_count\":0}}"
            )
        }));
    }
    let stream = fields.flag("stream", "")?.unwrap_or(true);
    let encoder = Box::new(Speech::new(Kind::Chat, &model, stream, top));
    let encoder = without_last(&chat.messages, encoder);
    let task = Task::Speak {
        path: crate::dialect::chat::PATH,
        body: body_of_chat,
        encoder,
        names_stop: false,
    };
    let retry = shorter(&fields, body, share, read_keeping)?;
    Ok(Reading::Read(Box::new(Request { stream, retry, ..Request::new(model, task, needs) })))
}

/// How a prompt that is too long is asked for again, unless that is not wanted: with the oldest messages left out.
pub(super) fn shorter(
    fields: &Fields<'_>,
    body: &Bytes,
    share: f64,
    read: fn(&Bytes, f64) -> Result<Reading, Error>,
) -> Result<Option<Retry>, Error> {
    if fields.flag("truncate", "")? == Some(false) {
        return Ok(None);
    }
    let body = body.clone();
    Ok(Some(Box::new(move |complaint| {
        shorten::share(share, complaint).map(|share| read(&body, share))
    })))
}

/// Members that are passed on as they came.
pub(super) fn others(options: &Options, top: Option<u8>) -> Vec<(&'static str, Cow<'_, RawValue>)> {
    let mut others: Vec<_> =
        options.members.iter().map(|(name, value)| (*name, Cow::Borrowed(&**value))).collect();
    if let Some(top) = top {
        // The engine tells nothing if none beside the token are wanted.
        for (name, value) in
            [("logprobs", "true".to_owned()), ("top_logprobs", top.max(1).to_string())]
        {
            others.extend(RawValue::from_string(value).ok().map(|value| (name, Cow::Owned(value))));
        }
    }
    others
}

fn message<'a>(raw: &'a [u8], path: &str) -> Result<Message<'a>, Error> {
    let message = Fields::of(raw, path)?.in_any_case();
    let role = message.text("role", path)?.unwrap_or_default();
    let text = message.text("content", path)?.unwrap_or_default();
    let mut parts = images::parts(&message, path)?;
    let content = if parts.is_empty() {
        Content::Text(text)
    } else {
        if !text.is_empty() {
            parts.insert(0, Part::Text { text });
        }
        Content::Parts(parts)
    };
    Ok(Message {
        role: lower(role),
        content: Some(content),
        reasoning_content: message.text("thinking", path)?.filter(|text| !text.is_empty()),
        tool_calls: calls(&message, path)?,
        tool_call_id: message.text("tool_call_id", path)?.filter(|id| !id.is_empty()),
        name: message.text("tool_name", path)?.filter(|name| !name.is_empty()),
    })
}

fn lower(role: Text<'_>) -> Text<'_> {
    if role.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(role.to_ascii_lowercase())
    } else {
        role
    }
}

fn calls<'a>(message: &Fields<'a>, path: &str) -> Result<Vec<Call<'a>>, Error> {
    let read = |(place, raw): (usize, &'a [u8])| {
        let path = format!("{path}.tool_calls.{place}");
        let call = Fields::of(raw, &path)?.in_any_case();
        let id = call.text("id", &path)?.unwrap_or_default();
        let path = join(&path, "function");
        let function = call.raw("function").ok_or_else(|| invalid(&path, "must be an object"))?;
        let function = Fields::of(function, &path)?.in_any_case();
        let name = function.text("name", &path)?.unwrap_or_default();
        let arguments = match function.raw("arguments") {
            None => "{}",
            Some([b'{', ..]) => function.json("arguments").map_or("{}", RawValue::get),
            Some(_) => return Err(invalid(&join(&path, "arguments"), "must be an object")),
        };
        Ok(Call::new(id, name, Cow::Borrowed(arguments)))
    };
    message.list("tool_calls", path)?.into_iter().enumerate().map(read).collect()
}

fn tools<'a>(fields: &Fields<'a>) -> Result<Vec<Tool<'a>>, Error> {
    let read = |(place, raw): (usize, &'a [u8])| {
        let path = format!("tools.{place}");
        let tool = Fields::of(raw, &path)?.in_any_case();
        let path = join(&path, "function");
        let function = tool.raw("function").ok_or_else(|| invalid(&path, "must be an object"))?;
        let function = Fields::of(function, &path)?.in_any_case();
        let name = function.text("name", &path)?.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| invalid(&join(&path, "name"), "must be a string"))?;
        let description = function.text("description", &path)?;
        Ok(Tool::new(name, description, function.json("parameters")))
    };
    fields.list("tools", "")?.into_iter().enumerate().map(read).collect()
}

/// Have the model loaded or, if it is not to stay, unloaded; `answer` writes what the kind of request answers besides.
pub(super) fn idle(
    model: String,
    options: &Options,
    answer: impl Fn(&mut String) + 'static,
) -> Reading {
    let said = quoted(&model);
    let line = move |reason: &str| {
        let mut line = format!("{{\"model\":{said},\"created_at\":\"{}\"", now());
        answer(&mut line);
        line.push_str(",\"done\":true,\"done_reason\":\"");
        line.push_str(reason);
        line.push_str("\"}");
        line.into_bytes()
    };
    let needs = options.needs;
    let task = if needs.keep_alive == Some(0.0) {
        Task::Unload { answer: line("unload") }
    } else {
        let answer = Box::new(move |_: &Start| line("load"));
        Task::Load { mode: Mode::Completion, answer }
    };
    Reading::Read(Box::new(Request::new(model, task, needs)))
}

/// What the template makes of a request, and nothing else.
pub(super) fn rendered(
    model: String,
    body: Vec<u8>,
    rest: impl Fn(&str) -> String + 'static,
) -> Reading {
    let said = quoted(&model);
    let encode: Encode = Box::new(move |answer, _| {
        let prompt = Fields::of(answer, "").ok().and_then(|answer| answer.json("prompt"));
        let rest = rest(prompt.map_or("\"\"", RawValue::get));
        Ok(format!("{{\"model\":{said},\"created_at\":\"{}\",{rest}}}", now()).into_bytes())
    });
    let (mode, path) = (Mode::Completion, "/apply-template");
    let task = Task::Document { mode, path, aside: true, body, encode };
    let needs = crate::dialect::translation::Needs::default();
    Reading::Read(Box::new(Request::new(model, task, needs)))
}
