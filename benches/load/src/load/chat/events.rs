//! What the answers of OpenAI-compatible servers say: text, the end, an error, and how many tokens.

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What a chunk of a stream or a whole answer says. The rest is of no interest.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    timings: Option<Timings>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    /// The name that llama.cpp has for it; others say `reasoning`.
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens: u64,
}

/// llama.cpp's own.
#[derive(Deserialize)]
struct Timings {
    #[serde(default, rename = "predicted_n")]
    completion: u64,
    #[serde(default, rename = "prompt_n")]
    prompt: u64,
    /// Those of the prompt that the engine knew.
    #[serde(default, rename = "cache_n")]
    cached: u64,
}

/// Tokens of the completion and of the prompt, by where they were found.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) usage: Option<(u64, u64)>,
    pub(super) timings: Option<(u64, u64)>,
}

impl Answer {
    fn read(json: &[u8]) -> anyhow::Result<Self> {
        let answer = serde_json::from_slice::<Self>(json);
        let answer = answer.with_context(|| {
            format!("an answer that cannot be read: {}", String::from_utf8_lossy(json))
        })?;
        match &answer.error {
            Some(error) => bail!("the server says: {error}"),
            None => Ok(answer),
        }
    }

    fn counted(&self) -> Counted {
        let usage = self.usage.as_ref();
        let timings = self.timings.as_ref();
        Counted {
            usage: usage.map(|usage| (usage.completion_tokens, usage.prompt_tokens)),
            timings: timings.map(|timings| (timings.completion, timings.prompt + timings.cached)),
        }
    }
}

impl Choice {
    fn has_content(&self) -> bool {
        let is_said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        is_said(&self.text)
            || self.delta.as_ref().is_some_and(|delta| {
                is_said(&delta.content)
                    || is_said(&delta.reasoning_content)
                    || is_said(&delta.reasoning)
                    || delta.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            })
    }
}

/// A whole answer.
pub(super) fn read_whole(body: &[u8]) -> anyhow::Result<Counted> {
    let answer = Answer::read(body)?;
    ensure!(!answer.choices.is_empty(), "an answer without choices");
    Ok(answer.counted())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Text, a thought or a piece of a tool call.
    Content,
    /// The role, the end, counts, comments.
    Other,
}

/// The events of one stream.
#[derive(Default)]
pub(super) struct Events {
    pub(super) counted: Counted,
    /// Events with content so far.
    pub(super) content: u64,
    pub(super) done: bool,
}

impl Events {
    /// Takes one line from the front of `input`; None if there is no whole one. `ended` says that no more will come.
    pub(super) fn take(
        &mut self,
        input: &mut BytesMut,
        ended: bool,
    ) -> anyhow::Result<Option<Event>> {
        let line = match memchr(b'\n', input) {
            Some(end) => {
                let line = input.split_to(end);
                input.advance(1);
                line
            }
            None if ended && !input.is_empty() => input.split(),
            None => return Ok(None),
        };
        // OpenAI's servers send each event's data on one line.
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(Some(Event::Other)) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(Some(Event::Other));
        }
        let answer = Answer::read(data)?;
        let counted = answer.counted();
        self.counted.usage = counted.usage.or(self.counted.usage);
        self.counted.timings = counted.timings.or(self.counted.timings);
        if answer.choices.iter().any(Choice::has_content) {
            self.content += 1;
            return Ok(Some(Event::Content));
        }
        Ok(Some(Event::Other))
    }
}
