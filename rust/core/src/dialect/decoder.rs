//! From llama-server's JSON to events: chat and text completions, native completions, streamed or whole.

use serde::Deserialize;

use super::event::{CallPart, Event, Finish, Literal, Reason, Tally};
use crate::error::Complaint;
use crate::peek::{Members, elements};

#[cfg(test)]
mod tests;

/// Say what the data of a stream's event, or a whole answer, says. Of several choices the first is heard.
///
/// `None` if it cannot be read; then nothing, or not all of it, was said.
pub(crate) fn read<'a>(data: &'a [u8], mut say: impl FnMut(Event<'a>)) -> Option<()> {
    // llama-server begins the stream of several prompts with `null`.
    match data.trim_ascii() {
        b"[DONE]" => say(Event::Done),
        b"null" => {}
        event => Parts::read(event)?.say(&mut say)?,
    }
    Some(())
}

/// What an engine's error document says; `None` if it is none.
pub(crate) fn complaint(document: &[u8]) -> Option<Complaint> {
    let error = Members::open(document).ok()?.flatten().find(|member| member.key() == b"error")?;
    Some(complain(error.value))
}

/// The members of an event that matter, raw.
#[derive(Default)]
struct Parts<'a> {
    choice: Option<&'a [u8]>,
    progress: Option<&'a [u8]>,
    usage: Option<&'a [u8]>,
    timings: Option<&'a [u8]>,
    error: Option<&'a [u8]>,
    verbose: Option<&'a [u8]>,
    /// Of llama.cpp's own dialect, which has no choices.
    content: Option<&'a [u8]>,
    stopped: bool,
    stop_type: Option<&'a [u8]>,
    stopping_word: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn read(event: &'a [u8]) -> Option<Self> {
        let mut parts = Self::default();
        for member in Members::open(event).ok()? {
            let member = member.ok()?;
            let value = Some(member.value).filter(|value| *value != b"null");
            match member.key() {
                b"choices" => parts.choice = elements(member.value).next(),
                b"prompt_progress" => parts.progress = value,
                b"usage" => parts.usage = value,
                b"timings" => parts.timings = value,
                b"error" => parts.error = value,
                b"__verbose" => parts.verbose = value,
                b"content" => parts.content = value,
                b"stop" => parts.stopped = member.value == b"true",
                b"stop_type" => parts.stop_type = value,
                b"stopping_word" => parts.stopping_word = value,
                _ => {}
            }
        }
        Some(parts)
    }

    fn say(self, say: &mut impl FnMut(Event<'a>)) -> Option<()> {
        if let Some(error) = self.error {
            say(Event::Failed(complain(error)));
            return Some(());
        }
        if let Some(tally) = self.progress.and_then(progressed) {
            say(Event::Begun(tally));
        }
        if let Some(choice) = self.choice {
            let stop_string = self.verbose.and_then(|verbose| inner(verbose, b"stopping_word"));
            Choice::read(choice)?.say(stop_string, say)?;
        } else if let Some(text) = filled(self.content) {
            say(Event::Text(text));
        }
        if self.stopped {
            let limited = self.stop_type == Some(b"\"limit\"");
            let reason = if limited { Reason::Length } else { Reason::Stop };
            say(Event::Finish(Finish { reason, stop_string: filled(self.stopping_word) }));
        }
        if let Some(tally) = self.timings.and_then(timed).or_else(|| self.usage.and_then(used)) {
            say(Event::Counted(tally));
        }
        if self.stopped {
            say(Event::Done);
        }
        Some(())
    }
}

/// The members of a choice that matter, raw.
#[derive(Default)]
struct Choice<'a> {
    message: Option<&'a [u8]>,
    text: Option<&'a [u8]>,
    finish_reason: Option<&'a [u8]>,
    stop_string: Option<&'a [u8]>,
    logprobs: Option<&'a [u8]>,
}

impl<'a> Choice<'a> {
    fn read(raw: &'a [u8]) -> Option<Self> {
        let mut choice = Self::default();
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            let value = Some(member.value).filter(|value| *value != b"null");
            match member.key() {
                b"delta" | b"message" => choice.message = value,
                b"text" => choice.text = value,
                b"finish_reason" => choice.finish_reason = value,
                b"stop_string" => choice.stop_string = value,
                b"logprobs" => choice.logprobs = value,
                _ => {}
            }
        }
        Some(choice)
    }

    fn say(self, stop_string: Option<&'a [u8]>, say: &mut impl FnMut(Event<'a>)) -> Option<()> {
        let tokens = self.logprobs.and_then(|logprobs| inner(logprobs, b"content"));
        let logprobs = tokens
            .and_then(|tokens| tokens.strip_prefix(b"[")?.strip_suffix(b"]"))
            .filter(|tokens| !tokens.is_empty());
        if let Some(message) = self.message {
            speak(message, logprobs, say)?;
        } else {
            say_text(logprobs, filled(self.text), say);
        }
        if let Some(reason) = self.finish_reason {
            let reason = match reason {
                b"\"length\"" => Reason::Length,
                b"\"tool_calls\"" => Reason::Calls,
                _ => Reason::Stop,
            };
            let stop_string = filled(stop_string.or(self.stop_string));
            say(Event::Finish(Finish { reason, stop_string }));
        }
        Some(())
    }
}

/// Say what a message, or what is new of it, says: thoughts, then text, then calls.
fn speak<'a>(
    message: &'a [u8],
    logprobs: Option<&'a [u8]>,
    say: &mut impl FnMut(Event<'a>),
) -> Option<()> {
    let (mut text, mut thought, mut calls) = (None, None, None);
    for member in Members::open(message).ok()? {
        let member = member.ok()?;
        match member.key() {
            b"content" => text = filled(Some(member.value)),
            b"tool_calls" => calls = Some(member.value),
            b"reasoning_content" | b"reasoning" => thought = filled(Some(member.value)).or(thought),
            _ => {}
        }
    }
    // They are those of the thought, if there is no text.
    let (before, logprobs) = if text.is_none() { (logprobs, None) } else { (None, logprobs) };
    if let Some(tokens) = before {
        say(Event::Logprobs(tokens));
    }
    if let Some(thought) = thought {
        say(Event::Reasoning(thought));
    }
    say_text(logprobs, text, say);
    for (place, raw) in calls.into_iter().flat_map(elements).enumerate() {
        say(Event::Call(call(raw, place as u64)?));
    }
    Some(())
}

fn say_text<'a>(
    logprobs: Option<&'a [u8]>,
    text: Option<Literal<'a>>,
    say: &mut impl FnMut(Event<'a>),
) {
    if let Some(tokens) = logprobs {
        say(Event::Logprobs(tokens));
    }
    if let Some(text) = text {
        say(Event::Text(text));
    }
}

/// One of a message's calls; whole messages do not number them.
fn call(raw: &[u8], place: u64) -> Option<CallPart<'_>> {
    let mut part = CallPart { index: place, ..CallPart::default() };
    for member in Members::open(raw).ok()? {
        let member = member.ok()?;
        match member.key() {
            b"index" => part.index = serde_json::from_slice(member.value).unwrap_or(place),
            b"id" => part.id = Literal::of(member.value).unwrap_or_default(),
            b"function" => {
                for member in Members::open(member.value).ok()? {
                    let member = member.ok()?;
                    match member.key() {
                        b"name" => part.name = Literal::of(member.value).unwrap_or_default(),
                        b"arguments" => {
                            part.arguments = Literal::of(member.value).unwrap_or_default();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(part)
}

fn inner<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let found = Members::open(object).ok()?.flatten().find(|member| member.key() == name);
    found.map(|member| member.value)
}

fn filled(literal: Option<&[u8]>) -> Option<Literal<'_>> {
    literal.and_then(Literal::of).filter(|text| !text.is_empty())
}

fn complain(error: &[u8]) -> Complaint {
    let mut complaint = parse_complaint(error);
    if complaint.message.is_empty() {
        "the engine failed, and does not say why".clone_into(&mut complaint.message);
    }
    complaint
}

fn parse_complaint(error: &[u8]) -> Complaint {
    #[derive(Deserialize)]
    struct Said {
        code: Option<serde_json::Value>,
        #[serde(default)]
        message: String,
        #[serde(default, rename = "type")]
        kind: String,
        n_prompt_tokens: Option<u64>,
        n_ctx: Option<u64>,
    }
    match serde_json::from_slice::<Said>(error) {
        Ok(Said { code, message, kind, n_prompt_tokens, n_ctx }) => {
            let status = code.and_then(|code| code.as_u64()).and_then(|code| code.try_into().ok());
            let status = status.filter(|status| (400..600).contains(status));
            Complaint {
                status: status.unwrap_or(500),
                message,
                kind,
                prompt_tokens: n_prompt_tokens,
                context_size: n_ctx,
            }
        }
        Err(_) => Complaint {
            status: 500,
            message: Literal::of(error)
                .map_or_else(|| String::from_utf8_lossy(error), Literal::text)
                .into_owned(),
            ..Complaint::default()
        },
    }
}

fn progressed(progress: &[u8]) -> Option<Tally> {
    #[derive(Deserialize)]
    struct Progress {
        total: u64,
        #[serde(default)]
        cache: u64,
    }
    let progress: Progress = serde_json::from_slice(progress).ok()?;
    Some(Tally { prompt: progress.total, cached: progress.cache, ..Tally::default() })
}

fn timed(timings: &[u8]) -> Option<Tally> {
    #[derive(Deserialize)]
    struct Timings {
        #[serde(default)]
        cache_n: u64,
        prompt_n: u64,
        predicted_n: u64,
        #[serde(default)]
        prompt_ms: f64,
        #[serde(default)]
        predicted_ms: f64,
    }
    let timings: Timings = serde_json::from_slice(timings).ok()?;
    Some(Tally {
        prompt: timings.cache_n.saturating_add(timings.prompt_n),
        cached: timings.cache_n,
        produced: timings.predicted_n,
        prompt_ms: timings.prompt_ms,
        produced_ms: timings.predicted_ms,
    })
}

/// Of engines that do not time what they do.
fn used(usage: &[u8]) -> Option<Tally> {
    let usage = crate::usage::from_json(&[b"{\"usage\":", usage, b"}"].concat())?;
    Some(Tally {
        prompt: usage.prompt_tokens,
        cached: usage.cached_prompt_tokens,
        produced: usage.completion_tokens,
        ..Tally::default()
    })
}
