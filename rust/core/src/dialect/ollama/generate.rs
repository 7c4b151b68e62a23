//! Ollama's generation: a prompt that becomes a user's message, a text as it is, or the middle between two texts.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::chat::{self, others};
use super::options;
use super::speech::{Context, Kind, Speech};
use super::{images, open};
use crate::dialect::chat::{Chat, Content, Message, NamedSchema, Others, Part, ResponseFormat};
use crate::dialect::fields::{Fields, invalid};
use crate::dialect::shorten;
use crate::dialect::translation::{Place, Question, Reading, Request, Retry, Task};
use crate::error::Error;

pub(super) fn read(body: &Bytes) -> Result<Reading, Error> {
    read_keeping(body, 1.0)
}

fn read_keeping(body: &Bytes, share: f64) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let prompt = fields.text("prompt", "")?.unwrap_or_default();
    let suffix = fields.text("suffix", "")?.filter(|suffix| !suffix.is_empty());
    if prompt.is_empty() && suffix.is_none() && fields.raw("images").is_none_or(|it| it == b"[]") {
        let options = options::read(&fields)?;
        return Ok(chat::idle(model, &options, |line| line.push_str(",\"response\":\"\"")));
    }
    let template = fields.text("template", "")?.filter(|template| !template.is_empty());
    let context = options::numbers(fields.raw("context").unwrap_or_default(), "context")?;
    let system = fields.text("system", "")?.filter(|system| !system.is_empty());
    let has_images = fields.raw("images").is_some_and(|images| images != b"[]");
    if fields.flag("raw", "")? == Some(true) {
        if template.is_some() || system.is_some() || !context.is_empty() {
            let reason = "raw mode does not support template, system, or context";
            return Err(invalid("raw", reason));
        }
        refuse_images(has_images, "raw")?;
        return text(body, &shorten::text(prompt, share), Context::Untold, share);
    }
    if let Some(template) = template {
        refuse_images(has_images, "template")?;
        let body = body.clone();
        let asked = json!({
            "model": model, "template": template, "system": system, "suffix": suffix,
            "prompt": shorten::text(prompt, share),
        });
        return Ok(asks(model, Place::Control("/_control/templates"), &asked, move |answer| {
            with_context(&body, member(answer, "prompt")?, share)
        }));
    }
    if let Some(suffix) = suffix {
        return infill(body, &model, &prompt, &suffix);
    }
    if context.is_empty() {
        return spoken(body, share);
    }
    refuse_images(has_images, "context")?;
    let body = body.clone();
    let messages = messages(&fields, share)?;
    let asked = json!({ "model": model, "messages": messages });
    Ok(asks(model, Place::Engine("/apply-template"), &asked, move |answer| {
        with_context(&body, member(answer, "prompt")?, share)
    }))
}

/// As for a chat, but a single prompt is not cut for who wants nothing of it forgotten.
fn shorter(fields: &Fields<'_>, body: &Bytes, share: f64) -> Result<Option<Retry>, Error> {
    if fields.flag("shift", "")? == Some(false) {
        return Ok(None);
    }
    chat::shorter(fields, body, share, read_keeping)
}

/// Ask first, and go on with a text of the answer.
fn asks(
    model: String,
    place: Place,
    asked: &serde_json::Value,
    then: impl FnOnce(&[u8]) -> Result<Reading, Error> + 'static,
) -> Reading {
    let question = Question { place, body: asked.to_string().into_bytes() };
    Reading::Asks { model, question, then: Box::new(then) }
}

fn member(answer: &[u8], name: &str) -> Result<String, Error> {
    let text = Fields::of(answer, "").and_then(|answer| answer.text(name, ""));
    let text = text.ok().flatten();
    text.map(Cow::into_owned)
        .ok_or_else(|| Error::EngineUnreachable(format!("its answer has no `{name}`")))
}

/// What only messages can have.
fn refuse_images(has_images: bool, with: &str) -> Result<(), Error> {
    if has_images {
        let reason = format!("cannot be given with `{with}`: leave that out, or use `/api/chat`");
        return Err(invalid("images", reason));
    }
    Ok(())
}

fn messages<'a>(fields: &Fields<'a>, share: f64) -> Result<Vec<Message<'a>>, Error> {
    let mut messages = Vec::new();
    if let Some(system) = fields.text("system", "")?.filter(|system| !system.is_empty()) {
        messages.push(Message::text("system", system));
    }
    let prompt = shorten::text(fields.text("prompt", "")?.unwrap_or_default(), share);
    let mut parts = images::parts(fields, "")?;
    if parts.is_empty() {
        messages.push(Message::text("user", prompt));
    } else {
        parts.insert(0, Part::Text { text: prompt });
        let content = Some(Content::Parts(parts));
        messages.push(Message { role: "user".into(), content, ..Message::default() });
    }
    Ok(messages)
}

/// The prompt is what a user says.
fn spoken(body: &Bytes, share: f64) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let options = options::read(&fields)?;
    let top = options::logprobs(&fields)?;
    let (template_arguments, thinking) = options::think(&fields)?;
    let chat = Chat {
        model: Cow::Borrowed(&model),
        messages: messages(&fields, share)?,
        max_tokens: options.max_tokens,
        stop: options.stop.iter().map(|stop| Cow::Borrowed(stop.as_str())).collect(),
        response_format: options::format(&fields)?,
        template_arguments,
        others: Others(others(&options, top)),
        ..Chat::default()
    };
    let asked = chat.body()?;
    if fields.flag("_debug_render_only", "")? == Some(true) {
        return Ok(chat::rendered(model, asked, |prompt| {
            format!(
                "\"response\":\"\",\"done\":false,\"_debug_info\":{{\"rendered_template\":{prompt},\"image_count\":0}}"
            )
        }));
    }
    let is_text = chat.messages.iter().all(|it| matches!(it.content, Some(Content::Text(_))));
    let context = if is_text { Context::Body(asked.clone()) } else { Context::Untold };
    let stream = fields.flag("stream", "")?.unwrap_or(true);
    let encoder = Box::new(Speech::new(Kind::Generate(context), &model, stream, top));
    let mut needs = options.needs;
    needs.thinking = thinking;
    let path = crate::dialect::chat::PATH;
    let task = Task::Speak { path, body: asked, encoder, names_stop: false };
    let retry = shorter(&fields, body, share)?;
    Ok(Reading::Read(Box::new(Request { stream, retry, ..Request::new(model, task, needs) })))
}

/// Put what was said before in front of a prompt, if the request has it as tokens.
fn with_context(body: &Bytes, prompt: String, share: f64) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let context = options::numbers(fields.raw("context").unwrap_or_default(), "context")?;
    if context.is_empty() {
        return text(body, &prompt.clone(), Context::Prompt(prompt), share);
    }
    let body = body.clone();
    let asked = json!({ "tokens": context });
    Ok(asks(model, Place::Engine("/detokenize"), &asked, move |answer| {
        let prompt = member(answer, "content")? + &prompt;
        text(&body, &prompt.clone(), Context::Prompt(prompt), share)
    }))
}

/// What an engine is asked to go on with.
#[derive(Serialize)]
struct Completion<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_prefix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_suffix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_predict: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    json_schema: Option<Cow<'a, RawValue>>,
    #[serde(flatten)]
    others: Others<'a>,
}

/// The prompt is gone on with as it is.
fn text(body: &Bytes, prompt: &str, context: Context, share: f64) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let options = options::read(&fields)?;
    let top = options::logprobs(&fields)?;
    let asked = Completion {
        model: &model,
        prompt: Some(prompt),
        input_prefix: None,
        input_suffix: None,
        n_predict: options.max_tokens,
        stop: &options.stop,
        json_schema: schema(options::format(&fields)?),
        others: Others(others(&options, top)),
    };
    let retry = shorter(&fields, body, share)?;
    speak(&fields, "/v1/completions", &asked, context, retry)
}

/// What is missing between two texts.
fn infill(body: &Bytes, model: &str, prefix: &str, suffix: &str) -> Result<Reading, Error> {
    let (fields, _) = open(body)?;
    let options = options::read(&fields)?;
    let asked = Completion {
        model,
        prompt: None,
        input_prefix: Some(prefix),
        input_suffix: Some(suffix),
        n_predict: options.max_tokens,
        stop: &options.stop,
        json_schema: None,
        others: Others(others(&options, None)),
    };
    speak(
        &fields,
        "/infill",
        &asked,
        Context::Untold,
        Some(by_template(body, model, prefix, suffix)),
    )
}

/// A model without tokens for it was made with a template that says how it is asked.
fn by_template(body: &Bytes, model: &str, prefix: &str, suffix: &str) -> Retry {
    let asked = json!({ "model": model, "prompt": prefix, "suffix": suffix });
    let (body, model) = (body.clone(), model.to_owned());
    Box::new(move |complaint| {
        (complaint.status == 501).then(|| {
            Ok(asks(model, Place::Control("/_control/templates"), &asked, move |answer| {
                text(&body, &member(answer, "prompt")?, Context::Untold, 1.0)
            }))
        })
    })
}

fn speak(
    fields: &Fields<'_>,
    path: &'static str,
    asked: &Completion<'_>,
    context: Context,
    retry: Option<Retry>,
) -> Result<Reading, Error> {
    let serialized = serde_json::to_vec(asked);
    let serialized = serialized.map_err(|error| Error::MalformedBody(error.to_string()))?;
    let stream = fields.flag("stream", "")?.unwrap_or(true);
    let top = options::logprobs(fields)?;
    let encoder = Box::new(Speech::new(Kind::Generate(context), asked.model, stream, top));
    let mut needs = options::read(fields)?.needs;
    needs.insert = asked.input_suffix.is_some();
    let task = Task::Speak { path, body: serialized, encoder, names_stop: false };
    let model = asked.model.to_owned();
    Ok(Reading::Read(Box::new(Request { stream, retry, ..Request::new(model, task, needs) })))
}

/// The schema of an answer; any JSON is an empty one.
fn schema(format: Option<ResponseFormat<'_>>) -> Option<Cow<'_, RawValue>> {
    match format? {
        ResponseFormat::JsonObject => RawValue::from_string("{}".to_owned()).ok().map(Cow::Owned),
        ResponseFormat::JsonSchema { json_schema: NamedSchema { schema, .. } } => {
            Some(Cow::Borrowed(schema))
        }
    }
}
