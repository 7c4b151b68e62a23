//! What is refused, in the words that Ollama's clients look for.

use std::borrow::Cow;

use crate::error::{Error, Refusal};

const LOCAL: &str = ":local";
const CLOUD: &str = ":cloud";

/// An error in Ollama's words, as far as clients look for them; what to do next follows.
pub(crate) fn words(error: &Error) -> Cow<'static, str> {
    let (said, hint) = match error {
        Error::MissingModel => ("model is required".to_owned(), None),
        Error::QueueFull { .. } => {
            let busy = "server busy, please try again.  maximum pending requests exceeded";
            return format!("{busy}: {}", error.advice()).into();
        }
        Error::EngineDied => {
            let died = "an error was encountered while running the model";
            return format!("{died}: {}", error.advice()).into();
        }
        Error::Refused(refusal) => match (refusal.code.as_str(), refusal.reference.as_deref()) {
            ("model_not_found", Some(name)) => {
                (format!("model '{name}' not found"), refusal.hint.as_deref())
            }
            ("invalid_reference", _) => {
                return format!("invalid model name: {}", error.advice()).into();
            }
            _ => return error.advice(),
        },
        _ => return error.advice(),
    };
    match hint {
        Some(hint) => format!("{said} ({hint})").into(),
        None => said.into(),
    }
}

/// A name without the `:local` that rules hosted models out.
///
/// # Errors
/// [`Error::Refused`] if it is the name of a hosted one, as it is where names are looked up for lists.
pub(super) fn local(name: &str) -> Result<&str, Error> {
    let lowered = name.trim().to_ascii_lowercase();
    let ends = |suffix: &str| lowered.ends_with(suffix);
    if ends(&format!("{LOCAL}{CLOUD}")) || ends(&format!("{CLOUD}{LOCAL}")) {
        let both = format!("use either :local or :cloud, not both: \"{}\"", name.trim());
        return Err(refused(400, "invalid_parameter", both));
    }
    if ends(LOCAL) {
        let length = name.trim_end().len() - LOCAL.len();
        return Ok(name.get(..length).unwrap_or_default());
    }
    let tag = lowered.rsplit('/').next().and_then(|last| last.split_once(':'));
    if tag.is_some_and(|(_, tag)| tag == "cloud" || tag.ends_with("-cloud")) {
        let text = "ollama cloud is disabled: remote model is unavailable";
        return Err(refused(403, "hosted_elsewhere", text.to_owned()));
    }
    Ok(name)
}

fn refused(status: u16, code: &str, message: String) -> Error {
    Error::Refused(Box::new(Refusal {
        status,
        code: code.to_owned(),
        kind: "invalid_request_error".to_owned(),
        message,
        hint: None,
        param: Some("model".to_owned()),
        retry_after: None,
        reference: None,
    }))
}

#[cfg(test)]
mod tests;
