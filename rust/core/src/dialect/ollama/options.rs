//! `options`, `keep_alive`, `think` and `format`, in the engine's words.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::dialect::chat::{NamedSchema, ResponseFormat, TemplateArguments, effort};
use crate::dialect::fields::{Fields, invalid, text};
use crate::dialect::translation::Needs;
use crate::error::Error;
use crate::peek::elements;

/// Options that the engine has by the same name: whole numbers.
const WHOLE: [&str; 3] = ["top_k", "repeat_last_n", "seed"];

/// The same: any numbers.
const NUMBERS: [&str; 7] = [
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// What a request says of how it is to be answered.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// Members of the engine's request, values as they are spelled.
    pub(super) members: Vec<(&'static str, Box<RawValue>)>,
    /// `None` for as many tokens as there is room for.
    pub(super) max_tokens: Option<i64>,
    pub(super) stop: Vec<String>,
    pub(super) needs: Needs,
}

/// Read `options` and `keep_alive`.
pub(super) fn read(fields: &Fields<'_>) -> Result<Options, Error> {
    let keep_alive = fields.raw("keep_alive").map(seconds).transpose()?;
    let mut options =
        Options { needs: Needs { keep_alive, ..Needs::default() }, ..Options::default() };
    let Some(raw) = fields.raw("options") else { return Ok(options) };
    let given = Fields::of(raw, "options")?;
    for name in WHOLE {
        if let Some(number) = whole(&given, name)? {
            options.members.push((name, spelled(number)));
        }
    }
    for name in NUMBERS {
        if number(&given, name)?.is_some() {
            options.members.extend(given.json(name).map(|value| (name, value.to_owned())));
        }
    }
    if let Some(keep) = whole(&given, "num_keep")? {
        options.members.push(("n_keep", spelled(keep)));
    }
    // Zero and less: without a limit of its own.
    options.max_tokens = whole(&given, "num_predict")?.filter(|limit| *limit > 0);
    options.needs.context_size =
        whole(&given, "num_ctx")?.map(|size| u32::try_from(size.max(4)).unwrap_or(u32::MAX));
    for (place, stop) in given.list("stop", "options")?.into_iter().enumerate() {
        let stop = text(stop)
            .ok_or_else(|| invalid(&format!("options.stop.{place}"), "must be a string"))?;
        options.stop.push(stop.into_owned());
    }
    Ok(options)
}

fn spelled(number: i64) -> Box<RawValue> {
    // A number always is JSON.
    RawValue::from_string(number.to_string()).unwrap_or_default()
}

fn number(given: &Fields<'_>, name: &str) -> Result<Option<f64>, Error> {
    given.get(name, "options", "a number")
}

/// A whole number; of others what is before the point.
fn whole(given: &Fields<'_>, name: &str) -> Result<Option<i64>, Error> {
    #[expect(clippy::cast_possible_truncation, reason = "it is what is wanted, and saturates")]
    number(given, name).map(|number| number.map(|number| number.trunc() as i64))
}

/// How long a model stays, in seconds; negative for ever.
fn seconds(raw: &[u8]) -> Result<f64, Error> {
    if let Ok(number) = serde_json::from_slice::<f64>(raw) {
        return Ok(number);
    }
    let wrong = |reason: String| invalid("keep_alive", reason);
    let Some(text) = text(raw) else {
        return Err(wrong("must be a number of seconds, or a duration such as `5m`".to_owned()));
    };
    duration(&text).ok_or_else(|| {
        wrong(format!("`{text}` is no duration: write `30s`, `5m`, `1h30m` or `-1s`"))
    })
}

/// A duration as Go writes it: `1h30m`, `-1.5s`, `0`.
fn duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.as_bytes() {
        [b'-', ..] => (-1.0, text.get(1..)?),
        [b'+', ..] => (1.0, text.get(1..)?),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    Some(sign * total)
}

/// What `think` says to the template, and whether the model has to be able to.
pub(super) fn think<'a>(
    fields: &Fields<'a>,
) -> Result<(Option<TemplateArguments<'a>>, bool), Error> {
    let Some(raw) = fields.raw("think") else { return Ok((None, false)) };
    let arguments = |enable_thinking, reasoning_effort| {
        (
            Some(TemplateArguments { enable_thinking: Some(enable_thinking), reasoning_effort }),
            enable_thinking,
        )
    };
    if let Ok(think) = serde_json::from_slice(raw) {
        return Ok(arguments(think, None));
    }
    match text(raw) {
        Some(level) if matches!(&*level, "low" | "medium" | "high" | "max") => {
            Ok(arguments(true, Some(effort(level))))
        }
        Some(other) => Err(invalid(
            "think",
            format!(
                "invalid think value: {other:?} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)"
            ),
        )),
        None => Err(invalid(
            "think",
            "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)",
        )),
    }
}

/// What the answer has to look like.
pub(super) fn format<'a>(fields: &Fields<'a>) -> Result<Option<ResponseFormat<'a>>, Error> {
    let Some(raw) = fields.raw("format") else { return Ok(None) };
    match (raw, text(raw).as_deref()) {
        (_, Some("")) => Ok(None),
        (_, Some("json")) => Ok(Some(ResponseFormat::JsonObject)),
        ([b'{', ..], _) => {
            let schema = fields.json("format").ok_or_else(|| invalid("format", "is not JSON"))?;
            let json_schema = NamedSchema { name: Cow::Borrowed("output"), schema };
            Ok(Some(ResponseFormat::JsonSchema { json_schema }))
        }
        _ => Err(invalid(
            "format",
            format!(
                "invalid format: {}; expected \"json\" or a valid JSON Schema object",
                String::from_utf8_lossy(raw)
            ),
        )),
    }
}

/// Whether, and of how many tokens beside each, probabilities are told.
pub(super) fn logprobs(fields: &Fields<'_>) -> Result<Option<u8>, Error> {
    let top: i64 = fields.get("top_logprobs", "", "a whole number")?.unwrap_or(0);
    let top = u8::try_from(top).ok().filter(|top| *top <= 20);
    let top =
        top.ok_or_else(|| invalid("top_logprobs", "top_logprobs must be between 0 and 20"))?;
    Ok(fields.flag("logprobs", "")?.unwrap_or(false).then_some(top))
}

/// The elements of a list of numbers, spelled as they are.
pub(super) fn numbers(raw: &[u8], path: &str) -> Result<Vec<i64>, Error> {
    let wrong = || invalid(path, "must be an array of whole numbers");
    if !raw.is_empty() && !raw.starts_with(b"[") {
        return Err(wrong());
    }
    elements(raw).map(|raw| serde_json::from_slice(raw).map_err(|_| wrong())).collect()
}
