//! Ollama's embeddings, as OpenAI's.

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{open, options, quoted};
use crate::dialect::fields::{Fields, invalid, text};
use crate::dialect::translation::{Encode, Needs, Place, Question, Reading, Request, Retry, Task};
use crate::endpoint::Mode;
use crate::error::{Complaint, Error};
use crate::peek::elements;

/// What an engine is asked.
#[derive(Serialize)]
struct Asked<'a> {
    model: &'a str,
    input: Vec<Input<'a>>,
    encoding_format: &'static str,
}

/// A text, or the tokens that are left of one.
#[derive(Serialize)]
#[serde(untagged)]
enum Input<'a> {
    Text(Cow<'a, str>),
    Tokens(Vec<i64>),
}

/// What an engine answers.
#[derive(Deserialize)]
struct Answered {
    data: Vec<Vector>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Vector {
    embedding: Vec<f64>,
}

#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    prompt_tokens: u64,
}

/// Tokens of an input that engines take at most, if they do not say.
const BATCH: usize = 2048;

pub(super) fn read(body: &Bytes) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let begun = Instant::now();
    let options = options::read(&fields)?;
    let inputs = inputs(fields.raw("input"))?;
    let dimensions: Option<i64> = fields.get("dimensions", "", "a whole number")?;
    let dimensions = dimensions.and_then(|count| usize::try_from(count).ok());
    let said = quoted(&model);
    if inputs.is_empty() {
        let answer = format!("{{\"model\":{said},\"embeddings\":[]}}").into_bytes();
        return Ok(idle(model, options.needs, answer));
    }
    let inputs = inputs.into_iter().map(Input::Text).collect();
    let encode: Encode = Box::new(move |answer, start| {
        let answered = vectors(answer)?;
        let embeddings: Vec<_> =
            answered.data.into_iter().map(|it| cut(it.embedding, dimensions)).collect();
        let answer = json!({
            "embeddings": embeddings,
            "total_duration": nanoseconds(begun.elapsed()),
            "load_duration": nanoseconds(start.load.unwrap_or_default()),
            "prompt_eval_count": answered.usage.map_or(0, |usage| usage.prompt_tokens),
        });
        let rest = answer.to_string();
        Ok(format!("{{\"model\":{said},{}", rest.trim_start_matches('{')).into_bytes())
    });
    let retry = match fields.flag("truncate", "")? {
        Some(false) => Some(refusal()),
        _ => Some(cutting(body.clone())),
    };
    ask(model, inputs, options.needs, encode, retry)
}

pub(super) fn read_one(body: &Bytes) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let options = options::read(&fields)?;
    let Some(prompt) = fields.text("prompt", "")?.filter(|prompt| !prompt.is_empty()) else {
        return Ok(idle(model, options.needs, b"{\"embedding\":[]}".to_vec()));
    };
    let encode: Encode = Box::new(|answer, _| {
        let vector = vectors(answer)?.data.into_iter().next();
        let embedding = vector.map(|vector| vector.embedding).unwrap_or_default();
        Ok(json!({ "embedding": embedding }).to_string().into_bytes())
    });
    ask(model, vec![Input::Text(prompt)], options.needs, encode, Some(refusal()))
}

fn ask(
    model: String,
    input: Vec<Input<'_>>,
    needs: Needs,
    encode: Encode,
    retry: Option<Retry>,
) -> Result<Reading, Error> {
    let body = serde_json::to_vec(&Asked { model: &model, input, encoding_format: "float" })
        .map_err(|error| Error::MalformedBody(error.to_string()))?;
    let (mode, path) = (Mode::Embedding, "/v1/embeddings");
    let task = Task::Document { mode, path, aside: false, body, encode };
    Ok(Reading::Read(Box::new(Request { retry, ..Request::new(model, task, needs) })))
}

fn idle(model: String, needs: Needs, answer: Vec<u8>) -> Reading {
    let task = if needs.keep_alive == Some(0.0) {
        Task::Unload { answer }
    } else {
        Task::Load { mode: Mode::Embedding, answer: Box::new(|_| answer) }
    };
    Reading::Read(Box::new(Request::new(model, task, needs)))
}

fn inputs(raw: Option<&[u8]>) -> Result<Vec<Cow<'_, str>>, Error> {
    let wrong = || invalid("input", "invalid input type: give a string, or an array of strings");
    match raw {
        None => Ok(Vec::new()),
        Some(raw @ [b'[', ..]) => {
            elements(raw).map(|input| text(input).ok_or_else(wrong)).collect()
        }
        Some(raw) => {
            let input = text(raw).ok_or_else(wrong)?;
            Ok(Some(input).filter(|input| !input.is_empty()).into_iter().collect())
        }
    }
}

fn vectors(answer: &[u8]) -> Result<Answered, Error> {
    serde_json::from_slice(answer)
        .map_err(|error| Error::EngineUnreachable(format!("its vectors cannot be read: {error}")))
}

/// The first so many numbers, at length 1 again.
fn cut(mut vector: Vec<f64>, dimensions: Option<usize>) -> Vec<f64> {
    match dimensions {
        Some(count) if count > 0 && count < vector.len() => {
            vector.truncate(count);
            let length = vector.iter().map(|number| number * number).sum::<f64>().sqrt();
            if length > 0.0 {
                for number in &mut vector {
                    *number /= length;
                }
            }
            vector
        }
        _ => vector,
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Say that an input is too long, in Ollama's words.
fn refusal() -> Retry {
    Box::new(|complaint| {
        let reason = "the input length exceeds the context length";
        is_too_long(complaint).then(|| Err(invalid("input", reason)))
    })
}

fn is_too_long(complaint: &Complaint) -> bool {
    complaint.is_about_length() || complaint.message.contains("larger than the max context size")
}

/// Ask again with as many tokens of each input as fit.
fn cutting(body: Bytes) -> Retry {
    Box::new(move |complaint| {
        if !is_too_long(complaint) {
            return None;
        }
        let limit = complaint.context_size.and_then(|size| usize::try_from(size).ok());
        let limit = limit.unwrap_or(BATCH);
        Some(tokens_of(&body, limit))
    })
}

/// Have the inputs that may be too long made tokens, one after the other.
fn tokens_of(body: &Bytes, limit: usize) -> Result<Reading, Error> {
    let (fields, model) = open(body)?;
    let texts = inputs(fields.raw("input"))?;
    // A token has a byte or more.
    let long = |(_, text): &(usize, Cow<'_, str>)| text.len() >= limit;
    let long: Vec<_> = texts
        .iter()
        .cloned()
        .enumerate()
        .filter(long)
        .map(|(place, text)| (place, text.into_owned()))
        .collect();
    Cutting { body: body.clone(), model, long: long.into_iter(), known: Vec::new(), limit }.next()
}

/// Inputs on their way to be cut.
struct Cutting {
    body: Bytes,
    model: String,
    /// Those that may be too long, with their places among all; of a body of any size each is looked at once.
    long: std::vec::IntoIter<(usize, String)>,
    /// What is left of those before, as tokens.
    known: Vec<(usize, Vec<i64>)>,
    limit: usize,
}

impl Cutting {
    fn next(mut self) -> Result<Reading, Error> {
        let Some((place, text)) = self.long.next() else { return self.asked() };
        let asked = json!({ "model": self.model, "content": text, "add_special": true });
        let question =
            Question { place: Place::Engine("/tokenize"), body: asked.to_string().into_bytes() };
        let model = self.model.clone();
        let then = move |answer: &[u8]| {
            let tokens = Fields::of(answer, "")?.raw("tokens").unwrap_or_default();
            let mut tokens = options::numbers(tokens, "tokens")?;
            tokens.truncate(self.limit);
            self.known.push((place, tokens));
            self.next()
        };
        Ok(Reading::Asks { model, question, then: Box::new(then) })
    }

    fn asked(self) -> Result<Reading, Error> {
        let reading = read(&self.body)?;
        let Reading::Read(mut request) = reading else { return Ok(reading) };
        let (fields, _) = open(&self.body)?;
        let mut input: Vec<_> = inputs(fields.raw("input"))?.into_iter().map(Input::Text).collect();
        for (place, tokens) in self.known {
            if let Some(input) = input.get_mut(place) {
                *input = Input::Tokens(tokens);
            }
        }
        let asked = Asked { model: &request.model, input, encoding_format: "float" };
        if let Task::Document { body, .. } = &mut request.task {
            *body = serde_json::to_vec(&asked)
                .map_err(|error| Error::MalformedBody(error.to_string()))?;
        }
        request.retry = Some(refusal());
        Ok(Reading::Read(request))
    }
}
