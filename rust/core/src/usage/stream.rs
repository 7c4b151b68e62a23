//! The tokens of a streamed answer, added up event by event.

use std::num::NonZeroU64;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::{Event, Usage};
use crate::peek::Members;

/// Which choices of an answer share a prompt, whose tokens then count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prompts {
    /// All: there is one prompt.
    #[default]
    One,
    /// So many in a row: text completions take several prompts, and number the choices of the first
    /// before those of the second.
    Each(NonZeroU64),
}

impl Prompts {
    /// What a request asks of an engine's path.
    pub fn asked(path: &str, body: &[u8]) -> Self {
        if matches!(path, "/v1/completions" | "/completion" | "/completions" | "/infill") {
            Self::Each(choices_asked(body).unwrap_or(NonZeroU64::MIN))
        } else {
            Self::One
        }
    }

    fn of(self, choice: u64) -> u64 {
        match self {
            Self::One => 0,
            Self::Each(choices) => choice / choices,
        }
    }
}

/// `n_cmpl`, or else `n`, as llama-server reads them; `None` if neither is a number from 1 up.
fn choices_asked(body: &[u8]) -> Option<NonZeroU64> {
    let (mut own, mut openai) = (None, None);
    for member in Members::open(body).ok()?.map_while(Result::ok) {
        match &*member.name() {
            b"n_cmpl" => own = Some(member.value),
            b"n" => openai = Some(member.value),
            _ => {}
        }
    }
    // It takes 2.0 for 2.
    let number: f64 = serde_json::from_slice(own.or(openai)?).ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    NonZeroU64::new(number as u64)
}

/// Adds up the tokens of a streamed response, event by event.
///
/// llama-server's `timings` count one choice from its beginning. Where they stand depends on the
/// request, as recorded from it:
///
/// | request | events that have `timings` |
/// |---|---|
/// | chat | the last of each choice |
/// | chat, `include_usage` | one per choice with no choice in it, directly after the choice's last |
/// | chat, `timings_per_token` | all of a choice but the first |
/// | both | deltas, and the one per choice with no choice in it |
/// | text completions | the last of each choice; with `timings_per_token` all |
///
/// So the latest `timings` of each choice hold, and those without a choice belong to the choice that
/// spoke last. A choice that has none yet was cut off, or goes on: it has produced a token for each
/// event with content. Choices of one prompt report the same prompt, which counts once.
///
/// Engines without `timings` send a `usage` for the whole response, alone or growing with each
/// event: the last one holds.
#[derive(Debug, Default)]
pub struct StreamUsage {
    prompts: Prompts,
    events: u64,
    content_events: u64,
    reasoning_events: u64,
    done: bool,
    error: bool,
    choices: Vec<Choice>,
    /// Position of the choice that spoke last.
    latest: usize,
    /// The latest `usage` of events without `timings`.
    usage: Option<Usage>,
}

/// One choice so far.
#[derive(Debug)]
struct Choice {
    index: u64,
    content_events: u64,
    timings: Option<Usage>,
    /// It said that it is complete, as llama.cpp's own dialect does instead of `[DONE]`.
    stopped: bool,
}

/// Choices of one response that are counted, which bounds the memory of a stream: 72 bytes each. A
/// choice is an answer to one of the prompts, of which a text completion may have many.
const MAX_CHOICES: usize = 4096;

impl StreamUsage {
    /// For the answer to a request with such prompts.
    pub fn new(prompts: Prompts) -> Self {
        Self { prompts, ..Self::default() }
    }

    /// Takes the data of the next event; `[DONE]` is not an event here.
    pub fn observe(&mut self, data: &Bytes) {
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        self.events += 1;
        if let Some(spoken) = plain_delta(data) {
            self.hear(spoken);
            return;
        }
        let Some(event) = Event::read(data) else { return };
        self.error |= event.error;
        if let Some(spoken) = event.spoken() {
            self.hear(spoken);
        }
        let timings = event.timings();
        if timings.is_none() {
            self.usage = event.usage().or(self.usage);
        } else if self.choices.is_empty() {
            self.hear(Spoken::default());
        }
        if let Some(choice) = self.choices.get_mut(self.latest) {
            choice.timings = timings.or(choice.timings);
            choice.stopped |= event.stop;
        }
    }

    /// Tokens so far, over all choices: what the engine has reported, and of choices that it has not
    /// reported yet what they have said.
    pub fn total(&self) -> Usage {
        let mut total = if self.choices.iter().any(|choice| choice.timings.is_some()) {
            self.timed()
        } else {
            let mut reported = self.usage.unwrap_or_default();
            if self.usage.is_none() || !self.done {
                reported.completion_tokens = reported.completion_tokens.max(self.content_events);
            }
            reported
        };
        total.reasoning_tokens =
            total.reasoning_tokens.max(self.reasoning_events).min(total.completion_tokens);
        total
    }

    /// Whether the stream is complete: `[DONE]` came, or each choice said that it is.
    pub fn saw_done(&self) -> bool {
        self.done || (!self.choices.is_empty() && self.choices.iter().all(|choice| choice.stopped))
    }

    /// Whether an event was an error: a top-level `error` that is not `null`.
    pub fn saw_error(&self) -> bool {
        self.error
    }

    /// Events with data, without `[DONE]`; errors and events too long to be read count.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Events that carry something produced: text, content, reasoning or tool calls that are not
    /// empty, in their first choice.
    ///
    /// One event per token as llama-server streams, except tokens withheld because they end inside
    /// a UTF-8 character, may begin a stop string, or are markup of a tool call, and tokens that end
    /// one part of a message and begin another, which make two.
    pub fn content_events(&self) -> u64 {
        self.content_events
    }

    /// Choices that have said or reported something.
    pub fn choices(&self) -> u64 {
        self.choices.len() as u64
    }

    fn hear(&mut self, spoken: Spoken) {
        let content = u64::from(spoken.said != Said::Nothing);
        self.content_events += content;
        self.reasoning_events += u64::from(spoken.said == Said::Thought);
        let is_it = |choice: &Choice| choice.index == spoken.index;
        if !self.choices.get(self.latest).is_some_and(is_it) {
            // From the end: of many choices the engine works on the last few.
            self.latest =
                self.choices.iter().rposition(is_it).unwrap_or_else(|| self.begin(spoken.index));
        }
        if let Some(choice) = self.choices.get_mut(self.latest) {
            choice.content_events += content;
        }
    }

    /// The position of a choice that has not spoken before; none if there are too many.
    fn begin(&mut self, index: u64) -> usize {
        if self.choices.len() == MAX_CHOICES {
            return usize::MAX;
        }
        self.choices.push(Choice { index, content_events: 0, timings: None, stopped: false });
        self.choices.len() - 1
    }

    fn timed(&self) -> Usage {
        let mut total = Usage::default();
        let mut prompts = Vec::with_capacity(self.choices.len());
        for choice in &self.choices {
            let completion =
                choice.timings.map_or(choice.content_events, |timings| timings.completion_tokens);
            total.completion_tokens = total.completion_tokens.saturating_add(completion);
            if let Some(timings) = choice.timings {
                let prompt = (timings.prompt_tokens, timings.cached_prompt_tokens);
                prompts.push((self.prompts.of(choice.index), prompt));
            }
        }
        // Of what choices say of the same prompt the most, should they not agree.
        prompts.sort_unstable_by(|one, other| other.cmp(one));
        prompts.dedup_by_key(|(prompt, _)| *prompt);
        for (_, (tokens, cached)) in prompts {
            total.prompt_tokens = total.prompt_tokens.saturating_add(tokens);
            total.cached_prompt_tokens = total.cached_prompt_tokens.saturating_add(cached);
        }
        total
    }
}

/// What the first choice of an event brings. Engines send one choice per event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spoken {
    index: u64,
    said: Said,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    Thought,
    /// Anything else: text, a tool call.
    Answer,
}

impl Spoken {
    /// The first choice of a raw array; `None` if it has none.
    fn first_of(choices: &[u8]) -> Option<Self> {
        let first = choices.strip_prefix(b"[")?;
        let mut spoken = Self::default();
        for member in Members::open(first).ok()? {
            let member = member.ok()?;
            match &*member.name() {
                b"index" => spoken.index = serde_json::from_slice(member.value).unwrap_or(0),
                b"delta" => spoken.said = said_in(member.value),
                b"text" if !is_empty(member.value) => spoken.said = Said::Answer,
                _ => {}
            }
        }
        Some(spoken)
    }
}

impl Event<'_> {
    fn spoken(&self) -> Option<Spoken> {
        if let Some(choices) = self.choices {
            return Spoken::first_of(choices);
        }
        if self.content.is_none() && !self.stop {
            return None;
        }
        let index = self.index.and_then(|index| serde_json::from_slice(index).ok()).unwrap_or(0);
        let empty = self.content.is_none_or(is_empty);
        Some(Spoken { index, said: if empty { Said::Nothing } else { Said::Answer } })
    }
}

/// The choice of an event that carries something produced, and has nothing else that is looked for.
///
/// This is nearly every event of a stream, recognised by llama-server's own spelling in a third of
/// the time of a full reading (0.17 of 0.44 µs); what it does not recognise is read in full, with
/// the same result.
pub(super) fn plain_delta(data: &[u8]) -> Option<Spoken> {
    /// With its quotes a key can stand nowhere inside a string: there they would be escaped.
    static OTHERS: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| ["\"timings\"", "\"usage\"", "\"error\""].map(Finder::new));
    data.strip_prefix(b"{\"choices\":")
        .and_then(Spoken::first_of)
        .filter(|spoken| spoken.said != Said::Nothing)
        .filter(|_| OTHERS.iter().all(|key| key.find(data).is_none()))
}

fn said_in(delta: &[u8]) -> Said {
    let Ok(members) = Members::open(delta) else { return Said::Nothing };
    let mut said = Said::Nothing;
    for member in members.flatten().filter(|member| !is_empty(member.value)) {
        match &*member.name() {
            b"content" | b"tool_calls" => return Said::Answer,
            b"reasoning_content" | b"reasoning" => said = Said::Thought,
            _ => {}
        }
    }
    said
}

fn is_empty(value: &[u8]) -> bool {
    matches!(value, b"null" | b"\"\"" | b"[]")
}
