//! What a request asks an engine to do, in the words of OpenTelemetry, and the histograms kept for each such operation.

use crate::account::{Entry, Outcome};
use crate::histogram::{DURATION, FIRST_TOKEN, Histogram, PER_TOKEN, TOKENS, micros};
use crate::snapshot::OperationTotals;

/// `gen_ai.operation.name`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    TextCompletion,
    Embeddings,
    Rerank,
    Transcription,
    /// Whatever needs an engine, but generates nothing: counting tokens, for one.
    #[default]
    Other,
}

impl Operation {
    pub(crate) const ALL: [Self; 6] = [
        Self::Chat,
        Self::TextCompletion,
        Self::Embeddings,
        Self::Rerank,
        Self::Transcription,
        Self::Other,
    ];

    /// What an engine does at this path of its own.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" | "/completion" | "/completions" | "/infill" => Self::TextCompletion,
            "/v1/embeddings" | "/embeddings" | "/embedding" => Self::Embeddings,
            "/v1/rerank" | "/rerank" | "/reranking" => Self::Rerank,
            "/v1/audio/transcriptions" => Self::Transcription,
            _ => Self::Other,
        }
    }

    /// The convention's word where it has one.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Transcription => "transcription",
            Self::Other => "other",
        }
    }
}

/// One thread's histograms of one operation.
#[derive(Debug)]
pub(super) struct OperationShard {
    /// By outcome.
    durations: [Histogram; Outcome::ALL.len()],
    first_token: Histogram,
    per_token: Histogram,
    input: Histogram,
    output: Histogram,
}

impl OperationShard {
    pub(super) fn new() -> Self {
        Self {
            durations: std::array::from_fn(|_| Histogram::new(&DURATION)),
            first_token: Histogram::new(&FIRST_TOKEN),
            per_token: Histogram::new(&PER_TOKEN),
            input: Histogram::new(&TOKENS),
            output: Histogram::new(&TOKENS),
        }
    }

    pub(super) fn book(&self, outcome: Outcome, entry: &Entry) {
        if let Some(durations) = self.durations.get(outcome as usize) {
            durations.record_time(entry.duration);
        }
        let usage = entry.usage;
        if usage.prompt_tokens > 0 {
            self.input.record(usage.prompt_tokens);
        }
        if usage.completion_tokens > 0 {
            self.output.record(usage.completion_tokens);
        }
        // The convention speaks of successful responses only.
        if outcome == Outcome::Ok
            && let Some(first_token) = entry.first_token
        {
            self.first_token.record_time(first_token);
            if let Some(each) = entry.per_token() {
                self.per_token.record(each);
            }
        }
    }

    /// All threads' together.
    pub(super) fn sum(operation: Operation, shards: &[&Self]) -> OperationTotals {
        let all = |field: fn(&Self) -> &Histogram| shards.iter().copied().map(field);
        let durations = Outcome::ALL.map(|outcome| {
            let of = shards.iter().filter_map(|shard| shard.durations.get(outcome as usize));
            (outcome.name(), Histogram::total(&DURATION, of))
        });
        OperationTotals {
            operation: operation.name(),
            durations: durations.into(),
            time_to_first_token: Histogram::total(&FIRST_TOKEN, all(|shard| &shard.first_token)),
            time_per_output_token: Histogram::total(&PER_TOKEN, all(|shard| &shard.per_token)),
            input_tokens: Histogram::total(&TOKENS, all(|shard| &shard.input)),
            output_tokens: Histogram::total(&TOKENS, all(|shard| &shard.output)),
        }
    }
}

impl Entry {
    /// Microseconds that a choice took for each token after its first; `None` if there was but one.
    fn per_token(&self) -> Option<u64> {
        // Choices are generated side by side, so each had the whole span for its share of the tokens.
        let choices = self.choices.max(1);
        let followers = self.usage.completion_tokens.saturating_sub(choices);
        micros(self.pace.span()).saturating_mul(choices).checked_div(followers)
    }
}
