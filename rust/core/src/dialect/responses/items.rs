//! What was said, as Responses' items: in chat's messages, and as they are kept.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::tools;
use crate::dialect::chat::{Address, Call, Content, Message, Part, Sound, Text};
use crate::dialect::fields::{Fields, invalid, join, text};
use crate::dialect::identifier;
use crate::error::Error;
use crate::peek::elements;
use crate::splice;

/// Add what items say. Thoughts, text and calls that follow each other are one message of the assistant's.
pub(super) fn messages<'a>(
    items: &'a [u8],
    path: &str,
    messages: &mut Vec<Message<'a>>,
) -> Result<(), Error> {
    let mut assistant: Option<Message<'a>> = None;
    for (place, raw) in elements(items).enumerate() {
        let path = format!("{path}.{place}");
        let item = Fields::of(raw, &path)?;
        let kind = item.text("type", &path)?;
        let role = item.text("role", &path)?;
        match (kind.as_deref(), role.as_deref()) {
            (Some("reasoning"), _) => {
                let turn = next_turn(&mut assistant, messages, |turn| {
                    turn.content.is_some() || !turn.tool_calls.is_empty()
                });
                turn.reasoning_content = Some(thoughts(&item, &path)?);
            }
            (Some("function_call"), _) => {
                let turn = assistant.get_or_insert_with(assistants);
                turn.tool_calls.push(call(&item, &path)?);
            }
            (Some("function_call_output"), _) => {
                messages.extend(assistant.take());
                messages.push(result(&item, &path)?);
            }
            (None | Some("message"), Some("assistant")) => {
                let turn = next_turn(&mut assistant, messages, |turn| {
                    turn.content.is_some() || !turn.tool_calls.is_empty()
                });
                turn.content = Some(content(&item, &path)?);
            }
            (None | Some("message"), Some(role @ ("user" | "system" | "developer"))) => {
                messages.extend(assistant.take());
                // Templates know the older name.
                let role = if role == "developer" { "system" } else { role }.to_owned();
                let content = Some(content(&item, &path)?);
                messages.push(Message { role: role.into(), content, ..Message::default() });
            }
            (None | Some("message"), _) => {
                let reason = "must be `user`, `assistant`, `system` or `developer`";
                return Err(invalid(&join(&path, "role"), reason));
            }
            (Some(kind), _) => {
                let reason = format!(
                    "items of type `{kind}` are not supported: give messages, function calls, their outputs, or reasoning"
                );
                return Err(invalid(&join(&path, "type"), reason));
            }
        }
    }
    messages.extend(assistant);
    Ok(())
}

fn assistants<'a>() -> Message<'a> {
    Message { role: "assistant".into(), ..Message::default() }
}

/// The assistant's turn that is going on, or a new one if that is over.
fn next_turn<'m, 'a>(
    assistant: &'m mut Option<Message<'a>>,
    messages: &mut Vec<Message<'a>>,
    is_over: impl Fn(&Message<'a>) -> bool,
) -> &'m mut Message<'a> {
    if assistant.as_ref().is_some_and(is_over) {
        messages.extend(assistant.take());
    }
    assistant.get_or_insert_with(assistants)
}

fn thoughts<'a>(item: &Fields<'a>, path: &str) -> Result<Text<'a>, Error> {
    let mut said = Vec::new();
    for name in ["content", "summary"] {
        for raw in item.list(name, path)? {
            said.extend(Fields::of(raw, path)?.text("text", path)?);
        }
        if !said.is_empty() {
            break;
        }
    }
    Ok(Cow::Owned(said.concat()))
}

fn call<'a>(item: &Fields<'a>, path: &str) -> Result<Call<'a>, Error> {
    let need = |name| {
        let found = item.text(name, path)?;
        found.ok_or_else(|| invalid(&join(path, name), "must be a string"))
    };
    let name = tools::joined(item.text("namespace", path)?.as_deref(), need("name")?);
    Ok(Call::new(need("call_id")?, name, need("arguments")?))
}

fn result<'a>(item: &Fields<'a>, path: &str) -> Result<Message<'a>, Error> {
    let id = item.text("call_id", path)?;
    let id = id.ok_or_else(|| invalid(&join(path, "call_id"), "must be a string"))?;
    let path = join(path, "output");
    let raw = item.raw("output").ok_or_else(|| invalid(&path, "must be a string or an array"))?;
    let output = if let Some(output) = text(raw) {
        output
    } else {
        let mut texts = Vec::new();
        for (place, raw) in elements(raw).enumerate() {
            match part(raw, &format!("{path}.{place}"))? {
                Part::Text { text } => texts.push(text),
                _ => return Err(invalid(&path, "a tool can answer with text only")),
            }
        }
        Cow::Owned(texts.join("\n"))
    };
    Ok(Message { tool_call_id: Some(id), ..Message::text("tool", output) })
}

fn content<'a>(item: &Fields<'a>, path: &str) -> Result<Content<'a>, Error> {
    let path = join(path, "content");
    let raw = item.raw("content").unwrap_or(b"[]");
    if let Some(text) = text(raw) {
        return Ok(Content::Text(text));
    }
    if !raw.starts_with(b"[") {
        return Err(invalid(&path, "must be a string or an array of parts"));
    }
    let numbered = elements(raw).enumerate();
    let parts: Result<Vec<_>, Error> =
        numbered.map(|(place, raw)| part(raw, &format!("{path}.{place}"))).collect();
    let parts = parts?;
    Ok(if parts.is_empty() { Content::Text(Cow::Borrowed("")) } else { Content::of(parts) })
}

fn part<'a>(raw: &'a [u8], path: &str) -> Result<Part<'a>, Error> {
    let part = Fields::of(raw, path)?;
    let need = |name| {
        let found = part.text(name, path)?;
        found.ok_or_else(|| invalid(&join(path, name), "must be a string"))
    };
    match part.text("type", path)?.as_deref() {
        Some("input_text" | "output_text" | "text") => Ok(Part::Text { text: need("text")? }),
        Some("refusal") => Ok(Part::Text { text: need("refusal")? }),
        Some("input_image") => {
            let url = part.text("image_url", path)?.ok_or_else(|| {
                invalid(&join(path, "image_url"), "give the image by its address, or as a data URL")
            })?;
            Ok(Part::ImageUrl { image_url: Address { url } })
        }
        Some("input_audio") => {
            let path = join(path, "input_audio");
            let sound = part.raw("input_audio").unwrap_or_default();
            let sound = Fields::of(sound, &path)?;
            let data = sound.text("data", &path)?.unwrap_or_default();
            let format = sound.text("format", &path)?.unwrap_or_default();
            Ok(Part::InputAudio { input_audio: Sound { data, format } })
        }
        kind => {
            let kind = kind.unwrap_or("");
            let reason = format!("parts of type `{kind}` are not supported: give text or images");
            Err(invalid(&join(path, "type"), reason))
        }
    }
}

const REFERENCE: &str = "item_reference";

/// The items that an input only names.
pub(super) fn references(input: &[u8]) -> Vec<String> {
    elements(input).filter_map(reference).collect()
}

/// The item that this one stands for; a reference may leave out that it is one.
fn reference(raw: &[u8]) -> Option<String> {
    let item = Fields::of(raw, "").ok()?;
    let id = item.text("id", "").ok().flatten()?;
    match item.text("type", "").ok()?.as_deref() {
        Some(REFERENCE) => Some(id.into_owned()),
        None if item.raw("role").is_none() => Some(id.into_owned()),
        _ => None,
    }
}

/// An input with what is named in it put in the names' places; `told` are these items, in order.
pub(super) fn resolved(input: &[u8], told: &[u8]) -> Vec<u8> {
    let mut told = elements(told);
    let items = elements(input).map(|raw| match reference(raw) {
        Some(_) => told.next().unwrap_or(raw),
        None => raw,
    });
    [b"[", items.collect::<Vec<_>>().join(&b','.to_owned()).as_slice(), b"]"].concat()
}

/// A request's input as it is kept: items with identifiers, texts as parts.
pub(super) fn kept(input: Option<&[u8]>) -> Vec<u8> {
    let Some(input) = input else { return b"[]".to_vec() };
    let mut kept = b"[".to_vec();
    if input.starts_with(b"[") {
        for raw in elements(input) {
            if kept.len() > 1 {
                kept.push(b',');
            }
            kept.extend_from_slice(&item(raw));
        }
    } else {
        let message = [b"{\"role\":\"user\",\"content\":", input, b"}"].concat();
        kept.extend_from_slice(&item(&message));
    }
    kept.push(b']');
    kept
}

fn item(raw: &[u8]) -> Vec<u8> {
    let Ok(fields) = Fields::of(raw, "") else { return raw.to_vec() };
    let kind = fields.text("type", "").ok().flatten().unwrap_or(Cow::Borrowed("message"));
    let prefix = match &*kind {
        "function_call" => "fc_",
        "function_call_output" => "fco_",
        "reasoning" => "rs_",
        _ => "msg_",
    };
    let id = format!("\"{}\"", identifier::fresh(prefix));
    let kind = format!("\"{kind}\"");
    let role = fields.text("role", "").ok().flatten().unwrap_or_default();
    let parts = fields.json("content").map(RawValue::get).filter(|it| it.starts_with('"'));
    let parts = parts.map(|text| match &*role {
        "assistant" => format!("[{{\"type\":\"output_text\",\"text\":{text},\"annotations\":[]}}]"),
        _ => format!("[{{\"type\":\"input_text\",\"text\":{text}}}]"),
    });
    let mut wanted: Vec<(&str, &[u8])> = Vec::new();
    if fields.raw("id").is_none() {
        wanted.push(("id", id.as_bytes()));
    }
    if fields.raw("type").is_none() {
        wanted.push(("type", kind.as_bytes()));
    }
    if fields.raw("status").is_none() {
        wanted.push(("status", b"\"completed\""));
    }
    if let Some(parts) = &parts {
        wanted.push(("content", parts.as_bytes()));
    }
    splice::set(raw, &wanted).unwrap_or_else(|| raw.to_vec())
}
