//! Requests of which llama-server would die, and all that it answers with it.
//!
//! To hold an answer to a format, it has its grammar read what the template lets the answer begin with. A grammar aborts
//! the process at a token that ends a turn (`llama-grammar.cpp:1455`, b11434). So there must be none: neither in what a
//! template puts before an answer, which may depend on whether there are tools, nor in a last message of the assistant's,
//! which the answer goes on with.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::assemble::Wishes;
use crate::engine;
use crate::error::Error;
use crate::peek::{Members, elements};
use crate::routes::{Runner, Turns};
use crate::worker::Worker;

/// What an answer is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// The member of the request that says so.
    param: &'static str,
    has_tools: bool,
}

impl Form {
    /// That of a chat; `None` if its answer is free.
    pub(super) fn of(wishes: &Wishes<'_>) -> Option<Self> {
        let has_tools = wishes.has_tools();
        let required = wishes.tool_choice.is_some_and(|choice| choice.value == b"\"required\"");
        let param = if required && has_tools {
            "tool_choice"
        } else if wishes.json_schema.is_some_and(|schema| schema.value != b"null") {
            "json_schema"
        } else if wishes.response_format.is_some_and(|format| is_format(format.value)) {
            "response_format"
        } else {
            return None;
        };
        Some(Self { param, has_tools })
    }

    /// See that the engine survives a chat with this body.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if it would not.
    pub(super) async fn check(
        self,
        body: &[u8],
        worker: &Worker,
        runner: &Runner,
    ) -> Result<(), Error> {
        let turns = match runner.turns.get() {
            Some(turns) => turns,
            // What cannot be found out is looked for again by the next one.
            None => match learn(worker, runner).await {
                Some(turns) => runner.turns.get_or_init(|| turns),
                None => return Ok(()),
            },
        };
        let early = if self.has_tools { turns.end_early_with_tools } else { turns.end_early };
        if early {
            let reason = "the chat template of this model ends a turn where its answer begins, so that no format can be \
                          asked of it: leave this out";
            return Err(Error::InvalidField {
                param: self.param.to_owned(),
                reason: reason.to_owned(),
            });
        }
        let Some(begun) = begun(body) else { return Ok(()) };
        match turns.ends.iter().find(|end| begun.contains(&***end)) {
            None => Ok(()),
            Some(end) => Err(Error::InvalidField {
                param: "messages".to_owned(),
                reason: format!(
                    "the last message is the begin of the answer, and has `{end}` in it, which ends the model's turn: no \
                     format can be asked of such an answer"
                ),
            }),
        }
    }
}

/// Whether a `response_format` is any but text.
fn is_format(format: &[u8]) -> bool {
    let members = Members::open(format).into_iter().flatten().flatten();
    members.filter(|member| member.key() == b"type").any(|member| member.value != b"\"text\"")
}

/// What the answer goes on with, if the last message is the assistant's.
fn begun(body: &[u8]) -> Option<String> {
    let messages = Members::open(body).ok()?.flatten().filter(|member| member.key() == b"messages");
    let last: Value = serde_json::from_slice(elements(messages.last()?.value).last()?).ok()?;
    let mut text = String::new();
    if last.get("role")? == "assistant" {
        gather(&last, &mut text);
    }
    Some(text)
}

/// All text that there is in a message: which of it a template takes, nobody knows.
fn gather(value: &Value, text: &mut String) {
    match value {
        Value::String(part) => text.push_str(part),
        Value::Array(parts) => parts.iter().for_each(|part| gather(part, text)),
        Value::Object(members) => {
            // Kinds would stand between the parts.
            let members = members.iter().filter(|(name, _)| *name != "type");
            members.for_each(|(_, part)| gather(part, text));
        }
        _ => {}
    }
}

/// Ask the engine how the turns of its model end.
async fn learn(worker: &Worker, runner: &Runner) -> Option<Turns> {
    /// Of `ignore_eos` it makes a bias on each token that ends a turn.
    #[derive(Deserialize)]
    struct Biased {
        #[serde(rename = "generation_settings/logit_bias")]
        tokens: Vec<Bias>,
    }
    #[derive(Deserialize)]
    struct Bias {
        token: i64,
    }
    #[derive(Deserialize)]
    struct Text {
        content: String,
    }
    let fields = ["generation_settings/logit_bias"];
    let asked = json!({ "prompt": "a", "n_predict": 0, "ignore_eos": true, "cache_prompt": false, "response_fields": fields });
    let biased: Biased = ask("/completion", &asked, worker, runner).await?;
    let mut ends = Vec::with_capacity(biased.tokens.len());
    for Bias { token } in biased.tokens {
        let asked = json!({ "tokens": [token] });
        let Text { content } = ask("/detokenize", &asked, worker, runner).await?;
        if !content.is_empty() {
            ends.push(content.into_boxed_str());
        }
    }
    let mut early = [false; 2];
    for (has_tools, early) in [false, true].into_iter().zip(&mut early) {
        // A template that renders none of it renders no request either.
        let begin = begin(has_tools, worker, runner).await.unwrap_or_default();
        *early = ends.iter().any(|end| begin.contains(&**end));
    }
    let [end_early, end_early_with_tools] = early;
    Some(Turns { ends, end_early, end_early_with_tools })
}

/// What the template puts before an answer: all from where it differs from the same chat without an answer.
async fn begin(has_tools: bool, worker: &Worker, runner: &Runner) -> Option<String> {
    #[derive(Deserialize)]
    struct Rendered {
        prompt: String,
    }
    let says = |role: &str| json!({ "role": role, "content": "a" });
    let mut chat = json!({ "messages": [says("user"), says("assistant"), says("user")] });
    if has_tools {
        let schema = json!({ "type": "object", "properties": {} });
        let function = json!({ "name": "a", "description": "a", "parameters": schema });
        let tools = json!([{ "type": "function", "function": function }]);
        chat.as_object_mut()?.insert("tools".to_owned(), tools);
    }
    let with: Rendered = ask("/apply-template", &chat, worker, runner).await?;
    chat.as_object_mut()?.insert("add_generation_prompt".to_owned(), false.into());
    let without: Rendered = ask("/apply-template", &chat, worker, runner).await?;
    let same =
        with.prompt.bytes().zip(without.prompt.bytes()).take_while(|(one, other)| one == other);
    Some(String::from_utf8_lossy(with.prompt.as_bytes().get(same.count()..)?).into_owned())
}

async fn ask<T: serde::de::DeserializeOwned>(
    path: &'static str,
    body: &Value,
    worker: &Worker,
    runner: &Runner,
) -> Option<T> {
    let answer =
        engine::question(path, body.to_string().into_bytes(), worker, runner).await.ok()?;
    serde_json::from_slice(&answer).ok()
}
