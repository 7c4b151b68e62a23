//! Errors for which llama-server blames itself, although the request is to blame: clients would send it again.

use crate::dialect::decoder;
use crate::error::Complaint;
use crate::splice;

#[cfg(test)]
mod tests;

const INVALID: &str = "invalid_request_error";

/// What a prompt is that has too many tokens, in the engine's words.
const TOO_LONG: &str = "exceed_context_size_error";

/// What llama.cpp b11434 says with status 500 of requests that will never work.
const CLIENTS_FAULT: [&str; 5] = [
    "input is not supported",
    "Failed to parse messages",
    "Failed to parse tools",
    "Failed to parse tool call arguments",
    "Failed to load image or audio file",
];

/// Put an engine's error right: status, type, and what to do.
pub(crate) fn judge(complaint: &mut Complaint) {
    if complaint.status != 500 {
        return;
    }
    if let Some((tokens, limit)) = batch(&complaint.message) {
        complaint.message = format!(
            "the input has {tokens} tokens, and this model takes at most {limit} at once (shorten or split it)"
        );
        TOO_LONG.clone_into(&mut complaint.kind);
        (complaint.prompt_tokens, complaint.context_size) = (Some(tokens), Some(limit));
    } else if CLIENTS_FAULT.iter().any(|words| complaint.message.contains(words)) {
        INVALID.clone_into(&mut complaint.kind);
    } else {
        return;
    }
    complaint.status = 400;
}

/// The document of an engine's error as it should be, and its status; `None` if it is right as it is.
pub(crate) fn reworded(document: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut complaint = decoder::complaint(document)?;
    let before = complaint.status;
    judge(&mut complaint);
    if complaint.status == before {
        return None;
    }
    let Complaint { status, message, kind, prompt_tokens, context_size } = complaint;
    let mut error = serde_json::json!({ "code": status, "message": message, "type": kind });
    if let (Some(tokens), Some(size), Some(error)) =
        (prompt_tokens, context_size, error.as_object_mut())
    {
        error.insert("n_prompt_tokens".to_owned(), tokens.into());
        error.insert("n_ctx".to_owned(), size.into());
    }
    let document = splice::set(document, &[("error", error.to_string().as_bytes())])?;
    Some((status, document))
}

/// `input (3002 tokens) is too large to process. increase the physical batch size (current batch size: 512)`
fn batch(message: &str) -> Option<(u64, u64)> {
    let (before, after) = message.split_once(" tokens) is too large to process")?;
    let (_, tokens) = before.rsplit_once('(')?;
    let (_, limit) = after.rsplit_once("batch size: ")?;
    Some((tokens.parse().ok()?, limit.trim_end_matches(')').parse().ok()?))
}
