//! Which requests for a whole answer may be asked as streams, and how they are asked.

use super::{Plan, Shape, Told};
use crate::peek::{Member, Members};
use crate::splice::{self, Edit};

#[cfg(test)]
mod tests;

/// A request for a stream, in place of one for a whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AsStream {
    pub(crate) body: Vec<u8>,
    pub(crate) plan: Plan,
}

/// The members on which it depends how an engine is asked; of one given twice the last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes<'a> {
    stream: Option<Member<'a>>,
    stream_options: Option<Member<'a>>,
    timings_per_token: Option<Member<'a>>,
    response_fields: Option<Member<'a>>,
    logprobs: Option<Member<'a>>,
    top_logprobs: Option<Member<'a>>,
    n_probs: Option<Member<'a>>,
    post_sampling_probs: Option<Member<'a>>,
    pub(crate) tools: Option<Member<'a>>,
    stop: Option<Member<'a>>,
    verbose: Option<Member<'a>>,
    pub(crate) tool_choice: Option<Member<'a>>,
    pub(crate) dimensions: Option<Member<'a>>,
    pub(crate) json_schema: Option<Member<'a>>,
    pub(crate) response_format: Option<Member<'a>>,
    names_stop: bool,
}

impl<'a> Wishes<'a> {
    /// Those in a body; `None` if it is no object.
    pub(crate) fn read(body: &'a [u8]) -> Option<Self> {
        let mut wishes = Self::default();
        for member in Members::open(body).ok()? {
            let member = member.ok()?;
            wishes.note(&member.name(), member);
        }
        Some(wishes)
    }

    /// The same; if `names_stop`, each choice is to say which stop string ended it.
    pub(crate) fn naming_stop(mut self, names_stop: bool) -> Self {
        self.names_stop = names_stop;
        self
    }

    /// Whether there are tools.
    pub(crate) fn has_tools(&self) -> bool {
        is_filled(self.tools)
    }

    /// Take the next member of the body.
    pub(crate) fn note(&mut self, name: &[u8], member: Member<'a>) {
        let wish = match name {
            b"stream" => &mut self.stream,
            b"stream_options" => &mut self.stream_options,
            b"timings_per_token" => &mut self.timings_per_token,
            b"response_fields" => &mut self.response_fields,
            b"logprobs" => &mut self.logprobs,
            b"top_logprobs" => &mut self.top_logprobs,
            b"n_probs" => &mut self.n_probs,
            b"post_sampling_probs" => &mut self.post_sampling_probs,
            b"tools" => &mut self.tools,
            b"stop" => &mut self.stop,
            b"verbose" => &mut self.verbose,
            b"tool_choice" => &mut self.tool_choice,
            b"dimensions" => &mut self.dimensions,
            b"json_schema" => &mut self.json_schema,
            b"response_format" => &mut self.response_format,
            _ => return,
        };
        *wish = Some(member);
    }

    /// The request for a stream from whose events the whole answer that `body`, which they are of, asks for can be put together.
    ///
    /// `None` if the body is to be forwarded as it is: it asks for a stream itself, its `stream` is for the engine to
    /// refuse, or llama-server's stream would not tell everything that its whole answer does. Measured, that is so for
    ///
    /// - `verbose`: the request and the text are repeated inside the answer, but not in a stream;
    /// - probabilities in a chat with tools: a stream is refused;
    /// - probabilities after sampling in a chat: those of the token that ends the turn cannot be had afterwards.
    ///
    /// With `stop` alone a stream lacks text only if the limit on tokens comes while the last ones are withheld, because they
    /// may become a stop string. Counts with each event tell whether it was so. With probabilities, too, it must be known
    /// which stop string ended the text: the answer leaves out as many tokens as that has when it is tokenized. The same
    /// goes for the stop strings that an engine has by itself (`has_stops`).
    pub(crate) fn as_stream(
        &self,
        body: &'a [u8],
        shape: Shape,
        has_stops: bool,
    ) -> Option<AsStream> {
        let chat = shape == Shape::Chat;
        let none = chat && self.top_logprobs.is_some_and(|count| count.value == b"0");
        let probabilities = (is_on(self.logprobs) && !none) || is_on(self.n_probs);
        let stops = has_stops || is_filled(self.stop);
        let untellable = is_filled(self.tools) || is_on(self.post_sampling_probs);
        let untold = is_on(self.verbose) || (chat && probabilities && untellable);
        let whole = self.stream.is_none_or(|stream| matches!(stream.value, b"false" | b"null"));
        if untold || !whole {
            return None;
        }
        let names_stop = self.names_stop && stops;
        let mut edits = self.edits();
        let (told, wanted) = match (probabilities, stops) {
            (true, _) if chat => (Told::Probabilities, &mut edits[..]),
            (true, true) => (Told::Tokens, &mut edits[..]),
            (false, true) if self.names_stop => (Told::Tokens, &mut edits[..]),
            (false, true) => (Told::Tokens, &mut edits[..3]),
            (_, false) => (Told::Usage, &mut edits[..2]),
        };
        Some(AsStream {
            body: splice::apply(body, wanted)?,
            plan: Plan { shape, told, names_stop },
        })
    }

    /// What the engine is asked for when its stream is to become a whole answer.
    fn edits(&self) -> [Edit<'a>; 5] {
        [
            ("stream", &b"true"[..], self.stream),
            ("stream_options", b"{\"include_usage\":true}", self.stream_options),
            ("timings_per_token", b"true", self.timings_per_token),
            // So that an event at the end names the stop string that ended the text, and nothing else besides.
            ("verbose", b"true", self.verbose),
            ("response_fields", b"[\"stopping_word\"]", self.response_fields),
        ]
        .map(|(name, value, present)| Edit { name, value, present })
    }
}

fn is_filled(member: Option<Member<'_>>) -> bool {
    member.is_some_and(|member| !matches!(member.value, b"null" | b"[]"))
}

fn is_on(member: Option<Member<'_>>) -> bool {
    member.is_some_and(|member| !matches!(member.value, b"null" | b"false" | b"0"))
}
