//! OpenAI's chat request, which every other dialect's becomes. What a client sent as JSON goes through it unread.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::Error;

/// The engine's path for it.
pub(crate) const PATH: &str = "/v1/chat/completions";

/// Text that a client sent.
pub(crate) type Text<'a> = Cow<'a, str>;

/// What an engine is asked; empty members are left out. `stream` is set when it is sent.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Chat<'a> {
    pub(crate) model: Text<'a>,
    pub(crate) messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_choice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stop: Vec<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_format: Option<ResponseFormat<'a>>,
    #[serde(rename = "chat_template_kwargs", skip_serializing_if = "Option::is_none")]
    pub(crate) template_arguments: Option<TemplateArguments<'a>>,
    /// The engine is to say how many tokens the prompt has before it says anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) return_progress: Option<bool>,
    /// Members with the same name and meaning in both dialects.
    #[serde(flatten)]
    pub(crate) others: Others<'a>,
}

/// Members that are passed on as they came.
#[derive(Debug, Default)]
pub(crate) struct Others<'a>(pub(crate) Vec<(&'static str, Cow<'a, RawValue>)>);

impl Serialize for Others<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// One message.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Message<'a> {
    pub(crate) role: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<Text<'a>>,
    /// Of the tool that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Text<'a>>,
}

/// What a message holds.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Content<'a> {
    Text(Text<'a>),
    Parts(Vec<Part<'a>>),
}

/// One part of what a message holds.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Part<'a> {
    Text { text: Text<'a> },
    ImageUrl { image_url: Address<'a> },
    InputAudio { input_audio: Sound<'a> },
}

/// Where an image is, or is itself.
#[derive(Debug, Serialize)]
pub(crate) struct Address<'a> {
    pub(crate) url: Text<'a>,
}

/// Sound, in base64.
#[derive(Debug, Serialize)]
pub(crate) struct Sound<'a> {
    pub(crate) data: Text<'a>,
    pub(crate) format: Text<'a>,
}

/// A call that the model made before.
#[derive(Debug, Serialize)]
pub(crate) struct Call<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) id: Text<'a>,
    #[serde(rename = "type")]
    pub(crate) kind: Function,
    pub(crate) function: Called<'a>,
}

/// What was called.
#[derive(Debug, Serialize)]
pub(crate) struct Called<'a> {
    pub(crate) name: Text<'a>,
    /// The text of a JSON object.
    pub(crate) arguments: Text<'a>,
}

/// The only kind of tool that there is.
#[derive(Debug, Default, Serialize)]
pub(crate) enum Function {
    #[default]
    #[serde(rename = "function")]
    Function,
}

/// A tool that the model may call.
#[derive(Debug, Serialize)]
pub(crate) struct Tool<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: Function,
    pub(crate) function: Declared<'a>,
}

/// How it is called.
#[derive(Debug, Serialize)]
pub(crate) struct Declared<'a> {
    pub(crate) name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Text<'a>>,
    /// A JSON Schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<&'a RawValue>,
}

/// What the answer has to look like.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponseFormat<'a> {
    JsonObject,
    JsonSchema { json_schema: NamedSchema<'a> },
}

/// A JSON Schema with a name.
#[derive(Debug, Serialize)]
pub(crate) struct NamedSchema<'a> {
    pub(crate) name: Text<'a>,
    pub(crate) schema: &'a RawValue,
}

/// What chat templates ask for by these names, where they do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct TemplateArguments<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enable_thinking: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_effort: Option<Text<'a>>,
}

/// The level of effort that templates know, of one that a client asks for.
pub(crate) fn effort(wanted: Text<'_>) -> Text<'_> {
    if wanted == "minimal" {
        Cow::Borrowed("low")
    } else if matches!(&*wanted, "xhigh" | "max") {
        Cow::Borrowed("high")
    } else {
        wanted
    }
}

/// Make one message of those of the system's that come first: there are templates that refuse a second one.
pub(crate) fn join_first_systems(messages: &mut Vec<Message<'_>>) {
    let count = messages.iter().take_while(|it| it.role == "system").count();
    let texts: Vec<_> = messages.iter().take(count).map_while(Message::as_text).collect();
    if texts.len() == count && count > 1 {
        let text = texts.join("\n\n");
        messages.splice(..count, [Message::text("system", text)]);
    }
}

impl<'a> Message<'a> {
    /// What it says, if that is text alone.
    fn as_text(&self) -> Option<Text<'_>> {
        match self.content.as_ref()? {
            Content::Text(text) => Some(Cow::Borrowed(text)),
            Content::Parts(parts) => {
                let texts = parts.iter().map(|part| match part {
                    Part::Text { text } => Some(&**text),
                    _ => None,
                });
                Some(Cow::Owned(texts.collect::<Option<Vec<_>>>()?.join("\n")))
            }
        }
    }

    /// Somebody says a text.
    pub(crate) fn text(role: &'static str, text: impl Into<Text<'a>>) -> Self {
        let content = Some(Content::Text(text.into()));
        Self { role: role.into(), content, ..Self::default() }
    }
}

impl<'a> Content<'a> {
    /// Of parts: as one text where that is all there is, for not every template takes parts.
    pub(crate) fn of(mut parts: Vec<Part<'a>>) -> Self {
        if let [Part::Text { text }] = parts.as_mut_slice() {
            return Self::Text(std::mem::take(text));
        }
        Self::Parts(parts)
    }
}

impl<'a> Tool<'a> {
    pub(crate) fn new(
        name: Text<'a>,
        description: Option<Text<'a>>,
        parameters: Option<&'a RawValue>,
    ) -> Self {
        Self { kind: Function::Function, function: Declared { name, description, parameters } }
    }
}

impl<'a> Call<'a> {
    pub(crate) fn new(id: Text<'a>, name: Text<'a>, arguments: Text<'a>) -> Self {
        Self { id, kind: Function::Function, function: Called { name, arguments } }
    }
}

impl Chat<'_> {
    /// As the engine reads it.
    ///
    /// # Errors
    /// Never: strings, numbers and what was JSON before always serialise.
    pub(crate) fn body(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| Error::MalformedBody(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Message, Part, effort, join_first_systems};

    fn told(messages: &[Message<'_>]) -> Vec<String> {
        messages
            .iter()
            .map(|it| format!("{}: {}", it.role, it.as_text().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn the_first_messages_of_the_system_become_one() {
        let part = |text| Part::Text { text };
        let parts = Content::Parts(vec![part("b".into()), part("c".into())]);
        let mut messages = vec![
            Message::text("system", "a"),
            Message { role: "system".into(), content: Some(parts), ..Message::default() },
            Message::text("user", "d"),
            Message::text("system", "e"),
        ];
        join_first_systems(&mut messages);
        assert_eq!(told(&messages), ["system: a\n\nb\nc", "user: d", "system: e"]);
    }

    #[test]
    fn efforts_become_the_three_that_templates_know() {
        let all = ["minimal", "low", "medium", "high", "xhigh", "max"];
        let known = all.map(|wanted| effort(wanted.into()).into_owned());
        assert_eq!(known, ["low", "low", "medium", "high", "high", "high"]);
    }
}
