//! Errors in the words that clients of a dialect look for.

use std::borrow::Cow;

use crate::error::Error;

/// An error's words; Claude Code makes a conversation shorter if they begin as these do.
pub(super) fn anthropic(error: &Error) -> Cow<'static, str> {
    if let Error::EngineRefused(complaint) = error
        && complaint.is_about_length()
        && let (Some(tokens), Some(room)) = (complaint.prompt_tokens, complaint.context_size)
    {
        let hint = "`MODEL_RUNNER_CONTEXT_SIZE` gives models more";
        return format!("prompt is too long: {tokens} tokens > {room} maximum ({hint})").into();
    }
    error.advice()
}

#[cfg(test)]
mod tests {
    use super::{Error, anthropic};
    use crate::error::Complaint;

    #[test]
    fn a_prompt_that_is_too_long_is_called_so() {
        let complaint = Complaint {
            status: 400,
            message: "request (9 tokens) exceeds the available context size (8 tokens)".to_owned(),
            kind: "exceed_context_size_error".to_owned(),
            prompt_tokens: Some(9),
            context_size: Some(8),
        };
        let error = Error::EngineRefused(Box::new(complaint));
        assert!(anthropic(&error).starts_with("prompt is too long: 9 tokens > 8 maximum"));
        assert_eq!(error.code(), "context_length_exceeded");
    }
}
