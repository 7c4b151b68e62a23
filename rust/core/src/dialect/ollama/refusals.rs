//! What is refused, in the words that Ollama's clients look for.

use std::borrow::Cow;

use crate::error::{Error, Refusal};

const LOCAL: &str = ":local";
const CLOUD: &str = ":cloud";

const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";
const DIED: &str = "an error was encountered while running the model";
const LONG: &str = "the prompt is longer than the context length currently available to the model";

/// Members of which is said in full what is wrong with them.
const TOLD: [&str; 4] = ["format", "raw", "think", "top_logprobs"];

/// An error in Ollama's words, as far as clients look for them; what to do next follows.
pub(crate) fn words(error: &Error) -> Cow<'static, str> {
    let advice = error.advice();
    let said = match error {
        Error::MissingModel => "model is required".to_owned(),
        Error::QueueFull { .. } => format!("{BUSY}: {advice}"),
        Error::EngineDied => format!("{DIED}: {advice}"),
        Error::EngineRefused(complaint) if complaint.is_about_length() => {
            format!("{LONG}: {advice}")
        }
        Error::InvalidField { param, reason } if TOLD.contains(&param.as_str()) => reason.clone(),
        Error::Refused(refusal) => return refused_words(refusal).unwrap_or(advice),
        _ => return advice,
    };
    said.into()
}

fn refused_words(refusal: &Refusal) -> Option<Cow<'static, str>> {
    let hint = refusal.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    match refusal.code.as_str() {
        "model_not_found" => {
            let name = refusal.reference.as_deref()?;
            Some(format!("model '{name}' not found{hint}").into())
        }
        "invalid_reference" => {
            Some(format!("invalid model name: {}{hint}", refusal.message).into())
        }
        _ => None,
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
