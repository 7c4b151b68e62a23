//! Tokens of a response, from the engine's own `timings` or `usage` and never guessed from text.

use serde::Deserialize;

use crate::peek::Members;

mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Prompts, StreamUsage};

/// Tokens that one response cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that the engine had in its cache; never more than `prompt_tokens`.
    pub cached_prompt_tokens: u64,
    /// Tokens produced; 0 for embeddings and rerankings.
    pub completion_tokens: u64,
    /// Those of them that were thoughts; 0 if the engine does not tell, as of a whole answer
    /// llama-server does not.
    pub reasoning_tokens: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            cached_prompt_tokens: self
                .cached_prompt_tokens
                .saturating_add(other.cached_prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
        }
    }
}

/// Reads the tokens of a whole answer, or of the data of one event.
///
/// llama-server's top-level `timings` (`cache_n`, `prompt_n`, `predicted_n`) come first, then
/// `usage` (`prompt_tokens`, `prompt_tokens_details.cached_tokens`, `completion_tokens`, and
/// `completion_tokens_details.reasoning_tokens` of engines that have it). `None` if the body is not
/// a JSON object, or has neither with counts that are integers from 0 up.
///
/// Of a whole answer with several choices llama-server reports the first choice only; the tokens
/// of the others are in no field of it.
pub fn from_json(body: &[u8]) -> Option<Usage> {
    let event = Event::read(body)?;
    event.timings().or_else(|| event.usage())
}

/// The parts of an answer or of an event that matter here, unparsed.
#[derive(Default)]
struct Event<'a> {
    choices: Option<&'a [u8]>,
    timings: Option<&'a [u8]>,
    usage: Option<&'a [u8]>,
    error: bool,
    /// The rest is of llama.cpp's own dialect, which has no choices.
    index: Option<&'a [u8]>,
    content: Option<&'a [u8]>,
    stop: bool,
}

impl<'a> Event<'a> {
    /// `None` if `data` is not a JSON object.
    fn read(data: &'a [u8]) -> Option<Self> {
        let mut event = Self::default();
        for member in Members::open(data).ok()? {
            let member = member.ok()?;
            match &*member.name() {
                b"choices" => event.choices = Some(member.value),
                b"timings" => event.timings = Some(member.value),
                b"usage" => event.usage = Some(member.value),
                b"error" => event.error = member.value != b"null",
                b"index" => event.index = Some(member.value),
                b"content" => event.content = Some(member.value),
                b"stop" => event.stop = member.value == b"true",
                _ => {}
            }
        }
        Some(event)
    }

    fn timings(&self) -> Option<Usage> {
        #[derive(Deserialize)]
        struct Timings {
            // Absent before llama.cpp counted what it took from the cache.
            #[serde(default, rename = "cache_n")]
            cached: u64,
            #[serde(rename = "prompt_n")]
            processed: u64,
            #[serde(rename = "predicted_n")]
            predicted: u64,
        }
        let timings: Timings = serde_json::from_slice(self.timings?).ok()?;
        Some(Usage {
            prompt_tokens: timings.cached.saturating_add(timings.processed),
            cached_prompt_tokens: timings.cached,
            completion_tokens: timings.predicted,
            reasoning_tokens: 0,
        })
    }

    fn usage(&self) -> Option<Usage> {
        // The other names are those of OpenAI's newer endpoints.
        #[derive(Deserialize)]
        struct Reported {
            #[serde(alias = "input_tokens")]
            prompt_tokens: u64,
            #[serde(alias = "output_tokens")]
            completion_tokens: Option<u64>,
            #[serde(alias = "input_tokens_details")]
            prompt_tokens_details: Option<PromptDetails>,
            #[serde(alias = "output_tokens_details")]
            completion_tokens_details: Option<CompletionDetails>,
        }
        #[derive(Deserialize)]
        struct PromptDetails {
            cached_tokens: Option<u64>,
        }
        #[derive(Deserialize)]
        struct CompletionDetails {
            reasoning_tokens: Option<u64>,
        }
        let usage: Reported = serde_json::from_slice(self.usage?).ok()?;
        let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
        let thought = usage.completion_tokens_details.and_then(|details| details.reasoning_tokens);
        let completion_tokens = usage.completion_tokens.unwrap_or(0);
        Some(Usage {
            prompt_tokens: usage.prompt_tokens,
            cached_prompt_tokens: cached.unwrap_or(0).min(usage.prompt_tokens),
            completion_tokens,
            reasoning_tokens: thought.unwrap_or(0).min(completion_tokens),
        })
    }
}
