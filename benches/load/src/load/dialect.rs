//! The same request for a stream in other dialects than the engine's, for servers that translate them.

use clap::ValueEnum;

use super::options::Target;
use crate::transcript::SEEDS;

const SYSTEM: &str = "You are a helpful assistant.";
const USER: &str = "Write a haiku about the cost of a proxy.";

/// In whose words a stream is asked for, and comes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Dialect {
    /// The engine's own.
    Chat,
    Anthropic,
    Ollama,
    Responses,
}

impl Dialect {
    /// What stands between two events.
    pub(super) fn separator(self) -> &'static [u8] {
        match self {
            Self::Ollama => b"\n",
            Self::Chat | Self::Anthropic | Self::Responses => b"\n\n",
        }
    }

    /// The body of a request; `None` in the engine's own, which has fields for what it is to do. The others say it in
    /// the text of the user, for that is all that every translator hands on.
    pub(super) fn body(self, target: &Target, events: u32, rate: f64) -> Option<String> {
        let model = &target.model;
        let user = format!("{USER} x_events={events} x_rate={rate} x_seed={}", SEEDS.start());
        let system = serde_json::json!({ "role": "system", "content": SYSTEM });
        let message = serde_json::json!({ "role": "user", "content": user });
        let body = match self {
            Self::Chat => return None,
            Self::Anthropic => serde_json::json!({
                "model": model, "max_tokens": events, "system": SYSTEM, "messages": [message],
                "temperature": 0.7, "stream": true,
            }),
            Self::Ollama => serde_json::json!({
                "model": model, "messages": [system, message], "options": { "temperature": 0.7 },
            }),
            Self::Responses => serde_json::json!({
                "model": model, "instructions": SYSTEM, "input": user, "temperature": 0.7,
                "stream": true, "store": false,
            }),
        };
        Some(body.to_string())
    }
}
