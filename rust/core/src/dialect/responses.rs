//! OpenAI's Responses, with what was said before kept by the control plane.

use bytes::Bytes;

use super::fields::Fields;
use super::shorten;
use super::translation::{Background, Needs, Place, Question, Reading, Request, Retry, Task};
use crate::endpoint::Mode;
use crate::error::Error;
use crate::splice;

mod frame;
mod items;
mod request;
mod speech;
mod tools;

use frame::Frame;
use speech::Speech;

/// Read a request for a response.
///
/// # Errors
/// [`Error::MalformedBody`], [`Error::MissingModel`], [`Error::InvalidField`].
pub(super) fn create(body: &Bytes) -> Result<Reading, Error> {
    with_references(body, |body| with_history(body, |body, history| respond(body, history, 1.0)))
}

/// Read a question for how many tokens the input of a request would be.
///
/// # Errors
/// Those of [`create`].
pub(super) fn count_tokens(body: &Bytes) -> Result<Reading, Error> {
    with_references(body, |body| with_history(body, count))
}

fn count(body: &Bytes, history: &Bytes) -> Result<Reading, Error> {
    let chat = request::chat(&Fields::of_body(body)?, history, 1.0)?;
    let task = Task::Document {
        mode: Mode::Completion,
        path: "/v1/chat/completions/input_tokens",
        aside: true,
        body: chat.body()?,
        encode: Box::new(|counted, _| {
            super::counted_tokens(counted, |tokens| {
                format!("{{\"object\":\"response.input_tokens\",\"input_tokens\":{tokens}}}")
            })
        }),
    };
    let (model, needs) = (chat.model.into_owned(), Needs::default());
    let request = Request::new(model, task, needs);
    Ok(Reading::Read(Box::new(request)))
}

/// Have the items told first that the input only names.
fn with_references(
    body: &Bytes,
    then: fn(&Bytes) -> Result<Reading, Error>,
) -> Result<Reading, Error> {
    let fields = Fields::of_body(body)?;
    let wanted = items::references(fields.raw("input").unwrap_or_default());
    if wanted.is_empty() {
        return then(body);
    }
    let model = fields.model()?.into_owned();
    let asked = serde_json::json!({ "ids": wanted }).to_string().into_bytes();
    let question = Question { place: Place::Control("/_control/responses/items"), body: asked };
    let body = body.clone();
    let resolve = move |answer: &[u8]| {
        let told = Fields::of(answer, "")?.raw("items").unwrap_or(b"[]");
        let fields = Fields::of_body(&body)?;
        let input = items::resolved(fields.raw("input").unwrap_or_default(), told);
        let resolved = splice::set(&body, &[("input", &input)]);
        then(&resolved.ok_or(Error::MissingModel)?.into())
    };
    Ok(Reading::Asks { model, question, then: Box::new(resolve) })
}

/// Have what was said before told first, if the request goes on with it.
fn with_history(
    body: &Bytes,
    then: fn(&Bytes, &Bytes) -> Result<Reading, Error>,
) -> Result<Reading, Error> {
    let fields = Fields::of_body(body)?;
    let model = fields.model()?.into_owned();
    let Some(previous) = fields.text("previous_response_id", "")? else {
        return then(body, &Bytes::from_static(b"[]"));
    };
    let asked = serde_json::json!({ "id": previous }).to_string().into_bytes();
    let question = Question { place: Place::Control("/_control/responses/history"), body: asked };
    let body = body.clone();
    let then = move |answer: &[u8]| {
        let items = Fields::of(answer, "")?.raw("items").unwrap_or(b"[]").to_vec();
        then(&body, &items.into())
    };
    Ok(Reading::Asks { model, question, then: Box::new(then) })
}

fn respond(body: &Bytes, history: &Bytes, share: f64) -> Result<Reading, Error> {
    let fields = Fields::of_body(body)?;
    request::refuse_what_is_not_here(&fields)?;
    let chat = request::chat(&fields, history, share)?;
    let stream = fields.flag("stream", "")?.unwrap_or(false);
    let frame = Frame::new(&fields)?;
    let background = frame.background.then(|| Background::of(&frame));
    let task = Task::Speak {
        path: super::chat::PATH,
        body: chat.body()?,
        // What goes on without its client is heard as a stream, so that its failure is kept, too.
        encoder: Box::new(
            Speech::new(frame, stream || background.is_some())
                .with_namespaces(tools::namespaces(&fields)),
        ),
        names_stop: false,
    };
    let (model, needs) = (chat.model.into_owned(), Needs::default());
    let mut request = Request::new(model, task, needs);
    request.stream = stream || background.is_some();
    request.retry = retry(&fields, body, history, share)?;
    request.background = background;
    Ok(Reading::Read(Box::new(request)))
}

fn retry(
    fields: &Fields<'_>,
    body: &Bytes,
    history: &Bytes,
    share: f64,
) -> Result<Option<Retry>, Error> {
    if fields.text("truncation", "")?.as_deref() != Some("auto") {
        return Ok(None);
    }
    let (body, history) = (body.clone(), history.clone());
    Ok(Some(Box::new(move |complaint| {
        shorten::share(share, complaint).map(|share| respond(&body, &history, share))
    })))
}

#[cfg(test)]
mod tests;
