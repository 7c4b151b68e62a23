//! What Anthropic's messages hold, as OpenAI's messages.

use std::borrow::Cow;

use super::unsupported;
use crate::dialect::chat::{Address, Call, Content, Message, Part, Text};
use crate::dialect::fields::{self, Fields, invalid, join};
use crate::error::Error;
use crate::peek::elements;

/// Add what a message says. One of the user's may be several of OpenAI's, which has the results of tools apart.
pub(super) fn message<'a>(
    raw: &'a [u8],
    path: &str,
    messages: &mut Vec<Message<'a>>,
) -> Result<(), Error> {
    let message = Fields::of(raw, path)?;
    let role = message.text("role", path)?.unwrap_or_default();
    let Some(content) = message.raw("content") else {
        return Err(invalid(&join(path, "content"), "must be a string or an array of blocks"));
    };
    let path = join(path, "content");
    match &*role {
        "user" => user(content, &path, messages),
        "assistant" => {
            messages.push(assistant(content, &path)?);
            Ok(())
        }
        "system" => {
            messages.push(Message::text("system", plain(content, &path)?));
            Ok(())
        }
        _ => Err(invalid(
            &path.replace(".content", ".role"),
            format!("must be `user` or `assistant`, not `{role}`"),
        )),
    }
}

/// The text of a string, or of blocks of text.
pub(super) fn plain<'a>(raw: &'a [u8], path: &str) -> Result<Text<'a>, Error> {
    if let Some(text) = fields::text(raw) {
        return Ok(text);
    }
    let mut texts = Vec::new();
    for (block, path) in blocks(raw, path)? {
        texts.push(block.text("text", &path)?.unwrap_or_default());
    }
    Ok(match texts.as_mut_slice() {
        [text] => std::mem::take(text),
        texts => Cow::Owned(texts.join("\n")),
    })
}

/// The blocks of an array, with their paths.
fn blocks<'a>(raw: &'a [u8], path: &str) -> Result<Vec<(Fields<'a>, String)>, Error> {
    if !raw.starts_with(b"[") {
        return Err(invalid(path, "must be a string or an array of blocks"));
    }
    let numbered = elements(raw).enumerate();
    let open = |(place, raw)| {
        let path = format!("{path}.{place}");
        Ok((Fields::of(raw, &path)?, path))
    };
    numbered.map(open).collect()
}

fn user<'a>(content: &'a [u8], path: &str, messages: &mut Vec<Message<'a>>) -> Result<(), Error> {
    if let Some(text) = fields::text(content) {
        messages.push(Message::text("user", text));
        return Ok(());
    }
    let mut parts = Vec::new();
    for (block, path) in blocks(content, path)? {
        if block.text("type", &path)?.as_deref() == Some("tool_result") {
            say(&mut parts, messages);
            messages.push(result(&block, &path, &mut parts)?);
        } else {
            parts.push(part(&block, &path)?);
        }
    }
    say(&mut parts, messages);
    Ok(())
}

fn say<'a>(parts: &mut Vec<Part<'a>>, messages: &mut Vec<Message<'a>>) {
    if !parts.is_empty() {
        let content = Some(Content::of(std::mem::take(parts)));
        messages.push(Message { role: "user".into(), content, ..Message::default() });
    }
}

/// A tool's result. Images in it are for the user to show: few templates take them from a tool.
fn result<'a>(
    block: &Fields<'a>,
    path: &str,
    images: &mut Vec<Part<'a>>,
) -> Result<Message<'a>, Error> {
    let mut texts: Vec<Text<'a>> = Vec::new();
    if let Some(content) = block.raw("content") {
        let path = join(path, "content");
        if let Some(text) = fields::text(content) {
            texts.push(text);
        } else {
            for (inner, path) in blocks(content, &path)? {
                match part(&inner, &path)? {
                    Part::Text { text } => texts.push(text),
                    image => images.push(image),
                }
            }
        }
    }
    let mut text = match texts.as_mut_slice() {
        [text] => std::mem::take(text),
        texts => Cow::Owned(texts.join("\n")),
    };
    if block.flag("is_error", path)? == Some(true) {
        text = Cow::Owned(format!("Error: {text}"));
    }
    let id = block.text("tool_use_id", path)?;
    let id = id.ok_or_else(|| invalid(&join(path, "tool_use_id"), "must be a string"))?;
    Ok(Message { tool_call_id: Some(id), ..Message::text("tool", text) })
}

fn part<'a>(block: &Fields<'a>, path: &str) -> Result<Part<'a>, Error> {
    match block.text("type", path)?.as_deref() {
        Some("text") => {
            let text = block.text("text", path)?;
            let text = text.ok_or_else(|| invalid(&join(path, "text"), "must be a string"))?;
            Ok(Part::Text { text })
        }
        Some("image") => Ok(Part::ImageUrl { image_url: Address { url: image(block, path)? } }),
        Some("document" | "search_result") => Ok(Part::Text { text: written(block, path)? }),
        Some(kind) => Err(unsupported(
            path,
            &format!("a block of type `{kind}`"),
            "give `text`, `image`, `document` or `tool_result`",
        )),
        None => Err(invalid(&join(path, "type"), "must be a string")),
    }
}

/// The source of a block, opened.
fn source<'a>(block: &Fields<'a>, path: &str) -> Result<Fields<'a>, Error> {
    let path = join(path, "source");
    Fields::of(block.raw("source").ok_or_else(|| invalid(&path, "must be an object"))?, &path)
}

fn image<'a>(block: &Fields<'a>, path: &str) -> Result<Text<'a>, Error> {
    let (source, path) = (source(block, path)?, join(path, "source"));
    let need = |name| {
        let found = source.text(name, &path)?;
        found.ok_or_else(|| invalid(&join(&path, name), "must be a string"))
    };
    match source.text("type", &path)?.as_deref() {
        Some("base64") => {
            Ok(Cow::Owned(format!("data:{};base64,{}", need("media_type")?, need("data")?)))
        }
        Some("url") => need("url"),
        _ => Err(unsupported(&path, "this source", "send images as `base64` or by `url`")),
    }
}

/// The text of a document.
fn written<'a>(block: &Fields<'a>, path: &str) -> Result<Text<'a>, Error> {
    if let Some(content) = block.raw("content") {
        return plain(content, &join(path, "content"));
    }
    let (source, path) = (source(block, path)?, join(path, "source"));
    match source.text("type", &path)?.as_deref() {
        Some("text") => Ok(source.text("data", &path)?.unwrap_or_default()),
        Some("content") => plain(source.raw("content").unwrap_or(b"[]"), &join(&path, "content")),
        _ => Err(unsupported(&path, "this document", "send its text, or images of its pages")),
    }
}

fn assistant<'a>(content: &'a [u8], path: &str) -> Result<Message<'a>, Error> {
    if let Some(text) = fields::text(content) {
        return Ok(Message::text("assistant", text));
    }
    let mut message = Message { role: "assistant".into(), ..Message::default() };
    let mut parts = Vec::new();
    let mut thoughts: Vec<Text<'a>> = Vec::new();
    for (block, path) in blocks(content, path)? {
        match block.text("type", &path)?.as_deref() {
            Some("thinking") => thoughts.extend(block.text("thinking", &path)?),
            // Nobody here can read it.
            Some("redacted_thinking") => {}
            Some("tool_use") => message.tool_calls.push(call(&block, &path)?),
            _ => parts.push(part(&block, &path)?),
        }
    }
    if !parts.is_empty() {
        message.content = Some(Content::of(parts));
    }
    if !thoughts.is_empty() {
        message.reasoning_content = Some(Cow::Owned(thoughts.concat()));
    }
    Ok(message)
}

fn call<'a>(block: &Fields<'a>, path: &str) -> Result<Call<'a>, Error> {
    let need = |name| {
        let found = block.text(name, path)?;
        found.ok_or_else(|| invalid(&join(path, name), "must be a string"))
    };
    let input = block.json("input").map_or("{}", |input| input.get());
    Ok(Call::new(need("id")?, need("name")?, Cow::Borrowed(input)))
}
