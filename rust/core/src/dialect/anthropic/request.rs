//! From Anthropic's request to OpenAI's chat.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::blocks;
use super::unsupported;
use crate::dialect::chat::{
    Chat, Message, NamedSchema, Others, ResponseFormat, TemplateArguments, Text, Tool, effort,
    join_first_systems,
};
use crate::dialect::fields::{self, Fields, invalid, join};
use crate::error::Error;

/// Members that mean the same in both dialects.
const ALIKE: [&str; 3] = ["temperature", "top_p", "top_k"];

/// What an engine is asked.
pub(super) fn chat<'a>(fields: &Fields<'a>) -> Result<Chat<'a>, Error> {
    let model = fields.model()?;
    refuse_what_is_not_here(fields)?;
    let mut messages = system(fields)?;
    let said = fields.list("messages", "")?;
    if said.is_empty() {
        return Err(invalid("messages", "must be an array with at least one message"));
    }
    for (place, message) in said.into_iter().enumerate() {
        blocks::message(message, &format!("messages.{place}"), &mut messages)?;
    }
    join_first_systems(&mut messages);
    let max_tokens = fields.get::<i64>("max_tokens", "", "a whole number")?;
    if max_tokens.is_some_and(|limit| limit < 1) {
        return Err(invalid("max_tokens", "must be 1 or more"));
    }
    let mut chat = Chat {
        model,
        messages,
        tools: tools(fields)?,
        max_tokens,
        stop: stops(fields)?,
        response_format: format(fields)?,
        template_arguments: Some(template_arguments(fields)?),
        ..Chat::default()
    };
    choose(fields, &mut chat)?;
    chat.others = Others(others(fields));
    Ok(chat)
}

/// Whether thoughts are asked for: without `thinking` Anthropic's models have none.
pub(super) fn wants_thoughts(fields: &Fields<'_>) -> Result<bool, Error> {
    let Some(thinking) = fields.raw("thinking") else { return Ok(false) };
    let kind = Fields::of(thinking, "thinking")?.text("type", "thinking")?;
    match kind.as_deref() {
        Some("enabled" | "adaptive") => Ok(true),
        Some("disabled") => Ok(false),
        _ => Err(invalid("thinking.type", "must be `enabled`, `adaptive` or `disabled`")),
    }
}

fn refuse_what_is_not_here(fields: &Fields<'_>) -> Result<(), Error> {
    for (name, instead) in [
        ("mcp_servers", "connect to them yourself, and give their tools as `tools`"),
        ("container", "run code yourself, and give a tool for it"),
    ] {
        if fields.raw(name).is_some_and(|value| value != b"[]") {
            return Err(unsupported(name, &format!("`{name}`"), instead));
        }
    }
    Ok(())
}

fn others<'a>(fields: &Fields<'a>) -> Vec<(&'static str, Cow<'a, RawValue>)> {
    let alike = |name| Some((name, Cow::Borrowed(fields.json(name)?)));
    let mut others: Vec<_> = ALIKE.into_iter().filter_map(alike).collect();
    let budget = fields.raw("thinking").and_then(|thinking| {
        Fields::of(thinking, "thinking").ok().and_then(|thinking| thinking.json("budget_tokens"))
    });
    others.extend(budget.map(|budget| ("thinking_budget_tokens", Cow::Borrowed(budget))));
    others
}

fn system<'a>(fields: &Fields<'a>) -> Result<Vec<Message<'a>>, Error> {
    let Some(raw) = fields.raw("system") else { return Ok(Vec::new()) };
    let text = blocks::plain(raw, "system")?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Message::text("system", text)])
}

fn stops<'a>(fields: &Fields<'a>) -> Result<Vec<Text<'a>>, Error> {
    let stops = fields.list("stop_sequences", "")?.into_iter().enumerate();
    let read = |(place, raw)| {
        fields::text(raw)
            .ok_or_else(|| invalid(&format!("stop_sequences.{place}"), "must be a string"))
    };
    stops.map(read).collect()
}

fn tools<'a>(fields: &Fields<'a>) -> Result<Vec<Tool<'a>>, Error> {
    let read = |(place, raw): (usize, &'a [u8])| {
        let path = format!("tools.{place}");
        let tool = Fields::of(raw, &path)?;
        let name = tool.text("name", &path)?.unwrap_or_default();
        match tool.text("type", &path)?.as_deref() {
            None | Some("custom") => {}
            Some(kind) => {
                return Err(unsupported(
                    &path,
                    &format!("the tool `{kind}`"),
                    "give a tool of your own, with `name` and `input_schema`",
                ));
            }
        }
        if name.is_empty() {
            return Err(invalid(&join(&path, "name"), "must be a string that is not empty"));
        }
        let schema = tool.json("input_schema");
        if schema.is_none() {
            return Err(invalid(&join(&path, "input_schema"), "must be a JSON Schema"));
        }
        Ok(Tool::new(name, tool.text("description", &path)?, schema))
    };
    fields.list("tools", "")?.into_iter().enumerate().map(read).collect()
}

/// Which tools may, and which must be called. llama-server reads a choice of one tool as if nothing was said, so it is given that
/// tool only, and has to call one.
fn choose<'a>(fields: &Fields<'a>, chat: &mut Chat<'a>) -> Result<(), Error> {
    let Some(raw) = fields.raw("tool_choice") else { return Ok(()) };
    let choice = Fields::of(raw, "tool_choice")?;
    chat.tool_choice = Some(match choice.text("type", "tool_choice")?.as_deref() {
        Some("auto") => "auto",
        Some("any") => "required",
        Some("none") => "none",
        Some("tool") => {
            let name = choice.text("name", "tool_choice")?.unwrap_or_default();
            chat.tools.retain(|tool| tool.function.name == name);
            if chat.tools.is_empty() {
                return Err(invalid("tool_choice.name", format!("no tool is called `{name}`")));
            }
            "required"
        }
        _ => {
            return Err(invalid("tool_choice.type", "must be `auto`, `any`, `tool` or `none`"));
        }
    });
    if chat.tools.is_empty() {
        chat.tool_choice = None;
    }
    if choice.flag("disable_parallel_tool_use", "tool_choice")? == Some(true) {
        chat.parallel_tool_calls = Some(false);
    }
    Ok(())
}

/// What the answer has to look like: `output_config.format`, or what it was called before.
fn format<'a>(fields: &Fields<'a>) -> Result<Option<ResponseFormat<'a>>, Error> {
    let config = fields.raw("output_config").map(|raw| Fields::of(raw, "output_config"));
    let within = config.transpose()?.and_then(|config| config.raw("format"));
    let (raw, path) = match (within, fields.raw("output_format")) {
        (Some(raw), _) => (raw, "output_config.format"),
        (None, Some(raw)) => (raw, "output_format"),
        (None, None) => return Ok(None),
    };
    let format = Fields::of(raw, path)?;
    if format.text("type", path)?.as_deref() != Some("json_schema") {
        return Err(invalid(&join(path, "type"), "must be `json_schema`"));
    }
    let schema = format
        .json("schema")
        .ok_or_else(|| invalid(&join(path, "schema"), "must be a JSON Schema"))?;
    let json_schema = NamedSchema { name: Cow::Borrowed("output"), schema };
    Ok(Some(ResponseFormat::JsonSchema { json_schema }))
}

fn template_arguments<'a>(fields: &Fields<'a>) -> Result<TemplateArguments<'a>, Error> {
    let wanted = match fields.raw("output_config") {
        Some(config) => Fields::of(config, "output_config")?.text("effort", "output_config")?,
        None => None,
    };
    let enable_thinking = Some(wants_thoughts(fields)?);
    Ok(TemplateArguments { enable_thinking, reasoning_effort: wanted.map(effort) })
}
