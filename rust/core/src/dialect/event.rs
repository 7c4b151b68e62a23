//! What an engine says, in no client's words.

use std::borrow::Cow;

use serde::Deserialize;

use crate::error::Complaint;

/// The inside of a JSON string literal, escapes as the engine spelled them: put between quotes it is JSON again, so
/// most text is never decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Literal<'a>(pub(crate) &'a [u8]);

impl<'a> Literal<'a> {
    /// Of a literal with its quotes; `None` if it is no string.
    pub(crate) fn of(value: &'a [u8]) -> Option<Self> {
        value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).map(Self)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// As text; what is no text is replaced.
    pub(crate) fn text(self) -> Cow<'a, str> {
        /// `Cow` alone would always be owned.
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        if memchr::memchr(b'\\', self.0).is_none() {
            return String::from_utf8_lossy(self.0);
        }
        let literal = [b"\"", self.0, b"\""].concat();
        let decoded = serde_json::from_slice(&literal).map(|Text(text)| text.into_owned());
        decoded.map_or_else(|_| String::from_utf8_lossy(self.0), Cow::Owned)
    }
}

/// One thing that an engine says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event<'a> {
    /// The engine has begun; the tokens of the prompt are known, if it was asked for progress.
    Begun(Tally),
    /// The next piece of the model's thoughts.
    Reasoning(Literal<'a>),
    /// What the tokens of the next text were chosen from: the inside of OpenAI's array.
    Logprobs(&'a [u8]),
    /// The next piece of the text.
    Text(Literal<'a>),
    /// The next piece of a tool call.
    Call(CallPart<'a>),
    /// The model is at its end.
    Finish(Finish<'a>),
    /// What it took, all of it.
    Counted(Tally),
    /// The engine failed, and says no more.
    Failed(Complaint),
    /// The engine says no more.
    Done,
}

/// A piece of a tool call; what does not come with it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallPart<'a> {
    /// Which of the answer's calls.
    pub(crate) index: u64,
    pub(crate) id: Literal<'a>,
    pub(crate) name: Literal<'a>,
    /// Of the text of a JSON object.
    pub(crate) arguments: Literal<'a>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finish<'a> {
    pub(crate) reason: Reason,
    /// The stop string that ended it, if the engine was asked to say.
    pub(crate) stop_string: Option<Literal<'a>>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The model ended its turn, or a stop string did.
    #[default]
    Stop,
    /// There is no more room, or the limit on tokens was reached.
    Length,
    /// The model waits for the results of tools.
    Calls,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Tokens of the prompt, cached ones included.
    pub(crate) prompt: u64,
    /// Those of them that were cached.
    pub(crate) cached: u64,
    /// Tokens produced.
    pub(crate) produced: u64,
    /// Milliseconds for the prompt; 0 if the engine does not say.
    pub(crate) prompt_ms: f64,
    /// Milliseconds for what was produced.
    pub(crate) produced_ms: f64,
}
