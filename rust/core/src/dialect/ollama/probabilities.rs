//! What tokens were chosen from, as Ollama tells it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A token as the engine tells of it, and as Ollama does, which leaves out its number.
#[derive(Deserialize, Serialize)]
struct Token<'a> {
    #[serde(borrow, rename = "token")]
    text: &'a RawValue,
    logprob: f64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    bytes: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<Token<'a>>,
}

/// `tokens`, the inside of the engine's array, with at most `top` alternatives each; `None` if they cannot be read.
pub(super) fn told(tokens: &[u8], top: u8) -> Option<Vec<u8>> {
    let array = [b"[", tokens, b"]"].concat();
    let mut tokens: Vec<Token<'_>> = serde_json::from_slice(&array).ok()?;
    for token in &mut tokens {
        token.top_logprobs.truncate(usize::from(top));
    }
    let told = serde_json::to_vec(&tokens).ok()?;
    told.strip_prefix(b"[").and_then(|told| told.strip_suffix(b"]")).map(<[u8]>::to_vec)
}
