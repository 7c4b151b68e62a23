//! What of a JSON document is shown: media are cut, and in what is redacted only words of the API stay.
//!
//! Redaction is closed: whatever is not known to be harmless is replaced by its length, also under keys that no API has.

#[cfg(test)]
mod tests;

/// How a value is to be treated, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Shown; only media in it are cut.
    Plain,
    /// An image, a recording or a file, or what holds it.
    Media,
    /// An answer of which the user's words are taken out, as it begins.
    Answer,
    /// The inside of it.
    Answered,
    /// A document that was ranked, of such an answer.
    Ranked,
    /// A request of which everything is taken out that is no parameter.
    Request,
    /// An answer of which everything is taken out that is no figure.
    Response,
    /// A parameter that is not known: numbers and truth values are shown.
    Parameter,
    /// What has a known form in a request: its members are judged one by one.
    Asked,
    /// The same in an answer, where the IDs are the engine's.
    Told,
    /// What describes a function; its name is shown.
    Function,
    /// A word of the API's vocabulary, a number or a truth value.
    Word,
    /// Counts and times.
    Figures,
    /// Nothing of it is shown.
    Hidden,
}

/// Members whose values are words of the API, or numbers that say nothing about the text.
const WORDS: [&str; 28] = [
    "code",
    "created",
    "detail",
    "effort",
    "encoding_format",
    "finish_reason",
    "format",
    "index",
    "max_tokens",
    "media_type",
    "model",
    "n",
    "object",
    "reasoning_effort",
    "relevance_score",
    "role",
    "score",
    "service_tier",
    "status",
    "stop_reason",
    "stream",
    "strict",
    "system_fingerprint",
    "tool_choice",
    "top_n",
    "truncation",
    "type",
    "verbosity",
];

/// Members that have members of a known form, or a list of such.
const FORMS: [&str; 19] = [
    "choices",
    "content",
    "data",
    "delta",
    "documents",
    "error",
    "file",
    "image_url",
    "input",
    "input_audio",
    "message",
    "messages",
    "output",
    "prompt",
    "reasoning",
    "results",
    "source",
    "tool_calls",
    "tools",
];

/// Members in which engines repeat what they were asked.
const ECHOES: [&str; 8] = [
    "__verbose",
    "document",
    "documents",
    "generation_settings",
    "input",
    "instructions",
    "metadata",
    "prompt",
];

/// Members that are media wherever they stand, or hold them.
const MEDIA: [&str; 11] = [
    "audio_url",
    "b64_json",
    "file",
    "file_data",
    "image",
    "image_url",
    "images",
    "input_audio",
    "multimodal_data",
    "source",
    "video_url",
];

/// The members of those that are the media themselves.
const DATA: [&str; 4] = ["b64_json", "data", "file_data", "url"];

impl Rule {
    /// The rule for the member of that name.
    pub(super) fn member(self, name: &str) -> Self {
        match self {
            Self::Plain if MEDIA.contains(&name) => Self::Media,
            Self::Media if DATA.contains(&name) => Self::Media,
            Self::Plain | Self::Media => Self::Plain,
            Self::Answer | Self::Answered | Self::Ranked => self.answered(name),
            Self::Request => self.known(name).unwrap_or(Self::Parameter),
            Self::Response | Self::Asked | Self::Told | Self::Function => {
                self.known(name).unwrap_or(Self::Hidden)
            }
            Self::Figures => Self::Figures,
            Self::Parameter | Self::Word | Self::Hidden => Self::Hidden,
        }
    }

    fn answered(self, name: &str) -> Self {
        match name {
            "text" if self == Self::Ranked => Self::Hidden,
            // Its message may quote the request.
            "error" => Self::Told,
            "results" => Self::Ranked,
            _ if ECHOES.contains(&name) => Self::Hidden,
            _ if MEDIA.contains(&name) => Self::Media,
            _ => Self::Answered,
        }
    }

    fn known(self, name: &str) -> Option<Self> {
        let inside = match self {
            Self::Request | Self::Asked => Self::Asked,
            _ => Self::Told,
        };
        match name {
            "usage" | "timings" | "stream_options" => Some(Self::Figures),
            _ if name.ends_with("_details") => Some(Self::Figures),
            "function" => Some(Self::Function),
            "name" if self == Self::Function => Some(Self::Word),
            "id" if matches!(self, Self::Response | Self::Told) => Some(Self::Word),
            _ if FORMS.contains(&name) => Some(inside),
            _ if WORDS.contains(&name) => Some(Self::Word),
            _ => None,
        }
    }

    /// The rule for an element of a list.
    pub(super) fn element(self) -> Self {
        match self {
            // A list of ranked documents, as one of llama-server's two forms has it.
            Self::Answer => Self::Ranked,
            Self::Request => Self::Asked,
            Self::Response => Self::Told,
            other => other,
        }
    }

    /// Whether objects and lists are looked into, or replaced as a whole.
    pub(super) fn opens(self) -> bool {
        !matches!(self, Self::Parameter | Self::Word | Self::Hidden)
    }

    /// Whether nothing is replaced but media.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Plain | Self::Media | Self::Answer | Self::Answered | Self::Ranked)
    }

    /// Whether numbers and truth values are shown.
    pub(super) fn shows_numbers(self) -> bool {
        self.is_open() || matches!(self, Self::Parameter | Self::Word | Self::Figures)
    }

    /// What is shown in place of a string; `None` for itself.
    pub(super) fn text(self, text: &str) -> Option<String> {
        match self {
            Self::Media => shortened(text),
            _ if self.is_open() => {
                // Wherever it stands: nobody writes such a prompt by hand.
                let head = text.get(..128).unwrap_or(text);
                let is_data = text.starts_with("data:") && head.contains(";base64,");
                if is_data { shortened(text) } else { None }
            }
            Self::Word if is_word(text) => None,
            _ => Some(format!("[redacted: {} characters]", text.chars().count())),
        }
    }

    /// Whether a key may be shown.
    pub(super) fn shows_key(self, key: &str) -> bool {
        self.is_open() || (key.len() <= 40 && is_word(key))
    }
}

/// Text of this many characters is shown of media, as in Docker Model Runner.
const SHOWN: usize = 100;

/// `data:image/png;base64,<first 100 characters>...[truncated N chars]`; `None` if it is short enough.
fn shortened(text: &str) -> Option<String> {
    let (head, payload) = match text.split_once(',') {
        Some((head, payload)) if text.starts_with("data:") => (&text[..=head.len()], payload),
        _ => ("", text),
    };
    let count = payload.chars().count();
    let shown: String = payload.chars().take(SHOWN).collect();
    (count > SHOWN).then(|| format!("{head}{shown}...[truncated {} chars]", count - SHOWN))
}

/// Whether a string can be a word of an API, the name of a model or an ID.
fn is_word(text: &str) -> bool {
    text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:@+".contains(&byte))
}
