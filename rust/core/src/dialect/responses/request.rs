//! From a request for a response to OpenAI's chat.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{items, tools};
use crate::dialect::chat::{
    Chat, Message, NamedSchema, Others, ResponseFormat, TemplateArguments, effort,
    join_first_systems,
};
use crate::dialect::fields::{Fields, invalid, join, text};
use crate::dialect::shorten;
use crate::error::Error;

/// Members that mean the same in both.
const ALIKE: [&str; 2] = ["temperature", "top_p"];

/// What a client asks for besides: what tokens were chosen from.
const LOGPROBS: &str = "message.output_text.logprobs";

/// What an engine is asked; `history` are the items before those of the request.
pub(super) fn chat<'a>(
    fields: &Fields<'a>,
    history: &'a [u8],
    share: f64,
) -> Result<Chat<'a>, Error> {
    let model = fields.model()?;
    let mut messages = Vec::new();
    if let Some(instructions) = fields.text("instructions", "")? {
        messages.push(Message::text("system", instructions));
    }
    items::messages(history, "previous_response_id", &mut messages)?;
    match fields.raw("input") {
        None => {}
        Some(input @ [b'[', ..]) => items::messages(input, "input", &mut messages)?,
        Some(input) => {
            let input = text(input)
                .ok_or_else(|| invalid("input", "must be a string or an array of items"))?;
            messages.push(Message::text("user", input));
        }
    }
    if messages.is_empty() {
        return Err(invalid("input", "must be a string or an array of items"));
    }
    join_first_systems(&mut messages);
    shorten::messages(&mut messages, share);
    let max_tokens = fields.get::<i64>("max_output_tokens", "", "a whole number")?;
    if max_tokens.is_some_and(|limit| limit < 1) {
        return Err(invalid("max_output_tokens", "must be 1 or more"));
    }
    let mut chat = Chat {
        model,
        messages,
        tools: tools::read(fields)?,
        max_tokens,
        parallel_tool_calls: fields.flag("parallel_tool_calls", "")?,
        response_format: format(fields)?,
        template_arguments: template_arguments(fields)?,
        others: Others(others(fields)?),
        ..Chat::default()
    };
    choose(fields, &mut chat)?;
    Ok(chat)
}

/// Refuse what would be ignored otherwise, and then missed.
pub(super) fn refuse_what_is_not_here(fields: &Fields<'_>) -> Result<(), Error> {
    for (name, instead) in [
        ("conversation", "go on with `previous_response_id` instead"),
        ("prompt", "send the prompt itself as `instructions` and `input`"),
    ] {
        if fields.raw(name).is_some() {
            return Err(invalid(name, format!("`{name}` is not supported: {instead}")));
        }
    }
    match fields.text("truncation", "")?.as_deref() {
        None | Some("auto" | "disabled") => Ok(()),
        Some(_) => Err(invalid("truncation", "must be `auto` or `disabled`")),
    }
}

fn others<'a>(fields: &Fields<'a>) -> Result<Vec<(&'static str, Cow<'a, RawValue>)>, Error> {
    let alike = |name| Some((name, Cow::Borrowed(fields.json(name)?)));
    let mut others: Vec<_> = ALIKE.into_iter().filter_map(alike).collect();
    let top = fields.get::<u8>("top_logprobs", "", "a number from 0 to 20")?;
    if top.is_some_and(|top| top > 20) {
        return Err(invalid("top_logprobs", "must be a number from 0 to 20"));
    }
    let included = fields.list("include", "")?;
    if included.into_iter().any(|it| text(it).as_deref() == Some(LOGPROBS)) || top.is_some() {
        for (name, value) in [
            ("logprobs", "true".to_owned()),
            // The engine tells nothing if none beside the token are wanted.
            ("top_logprobs", top.unwrap_or(1).clamp(1, 20).to_string()),
        ] {
            others.extend(RawValue::from_string(value).ok().map(|value| (name, Cow::Owned(value))));
        }
    }
    Ok(others)
}

/// Which tools may, and which must be called. llama-server reads a choice of one tool as if nothing was said, so it is given
/// that tool only, and has to call one.
fn choose<'a>(fields: &Fields<'a>, chat: &mut Chat<'a>) -> Result<(), Error> {
    let Some(raw) = fields.raw("tool_choice") else { return Ok(()) };
    let wrong = || invalid("tool_choice", "must be `auto`, `none`, `required`, or name a function");
    chat.tool_choice = Some(match text(raw).as_deref() {
        Some("auto") => "auto",
        Some("none") => "none",
        Some("required") => "required",
        Some(_) => return Err(wrong()),
        None => {
            let choice = Fields::of(raw, "tool_choice").map_err(|_| wrong())?;
            let kind = choice.text("type", "tool_choice")?.unwrap_or_default();
            let (allowed, mode) = match &*kind {
                "function" => (vec![name_of(&choice, "tool_choice")?], "required"),
                "allowed_tools" => {
                    let required =
                        choice.text("mode", "tool_choice")?.as_deref() == Some("required");
                    let mut names = Vec::new();
                    for (place, raw) in choice.list("tools", "tool_choice")?.into_iter().enumerate()
                    {
                        let path = format!("tool_choice.tools.{place}");
                        names.push(name_of(&Fields::of(raw, &path)?, &path)?);
                    }
                    (names, if required { "required" } else { "auto" })
                }
                _ => return Err(wrong()),
            };
            chat.tools.retain(|tool| allowed.contains(&tool.function.name));
            if chat.tools.is_empty() {
                let names = allowed.join("`, `");
                return Err(invalid("tool_choice", format!("no tool is called `{names}`")));
            }
            mode
        }
    });
    if chat.tools.is_empty() && chat.tool_choice.take() == Some("required") {
        let reason = "`required`, and there is no tool that could be called here: give a function";
        return Err(invalid("tool_choice", reason));
    }
    Ok(())
}

fn name_of<'a>(choice: &Fields<'a>, path: &str) -> Result<Cow<'a, str>, Error> {
    let function = choice.raw("function").map(|raw| Fields::of(raw, path)).transpose()?;
    let name = function.as_ref().unwrap_or(choice).text("name", path)?;
    let name = name.ok_or_else(|| invalid(&join(path, "name"), "must be a string"))?;
    Ok(tools::joined(choice.text("namespace", path)?.as_deref(), name))
}

/// What the answer has to look like.
fn format<'a>(fields: &Fields<'a>) -> Result<Option<ResponseFormat<'a>>, Error> {
    let within = fields.raw("text").map(|raw| Fields::of(raw, "text")).transpose()?;
    let Some(raw) = within.and_then(|within| within.raw("format")) else { return Ok(None) };
    let path = "text.format";
    let format = Fields::of(raw, path)?;
    match format.text("type", path)?.as_deref() {
        None | Some("text") => Ok(None),
        Some("json_object") => Ok(Some(ResponseFormat::JsonObject)),
        Some("json_schema") => {
            let name =
                format.text("name", path)?.filter(|name| is_sane(name)).ok_or_else(|| {
                    invalid(
                        "text.format.name",
                        "must have 1 to 64 letters, digits, underscores or dashes",
                    )
                })?;
            let schema = format.raw("schema").filter(|schema| schema.starts_with(b"{"));
            let schema = schema.and_then(|_| format.json("schema"));
            let schema = schema
                .ok_or_else(|| invalid("text.format.schema", "must be a JSON Schema, an object"))?;
            Ok(Some(ResponseFormat::JsonSchema { json_schema: NamedSchema { name, schema } }))
        }
        Some(_) => {
            Err(invalid("text.format.type", "must be `text`, `json_object` or `json_schema`"))
        }
    }
}

fn is_sane(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn template_arguments<'a>(fields: &Fields<'a>) -> Result<Option<TemplateArguments<'a>>, Error> {
    let Some(raw) = fields.raw("reasoning") else { return Ok(None) };
    let wanted = Fields::of(raw, "reasoning")?.text("effort", "reasoning")?;
    Ok(wanted.map(|wanted| {
        let enable_thinking = Some(wanted != "none");
        let reasoning_effort = Some(wanted).filter(|wanted| wanted != "none").map(effort);
        TemplateArguments { enable_thinking, reasoning_effort }
    }))
}
