//! Puts a whole answer together from the events of a stream, as llama-server would have given it.
//!
//! Strings are never decoded: the inside of one literal after another is the inside of the literal of the whole, so
//! what the client reads is spelled as the engine spelled it.

use crate::peek::{Members, elements};
use crate::splice;
use crate::usage::Usage;

mod choice;
mod missing;
mod request;
#[cfg(test)]
pub(crate) mod tests;

use choice::Choice;
pub(crate) use missing::Question;
pub(crate) use request::{AsStream, Wishes};

/// Which of OpenAI's two answers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `chat.completion`, from chunks with `delta`.
    Chat,
    /// `text_completion`, from chunks with `text`.
    Text,
}

impl Shape {
    /// The shape of the answers at an engine's path, where they can be streamed.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Text),
            _ => None,
        }
    }

    fn object(self) -> &'static [u8] {
        match self {
            Self::Chat => b"\"chat.completion\"",
            Self::Text => b"\"text_completion\"",
        }
    }
}

/// What the events of a stream are asked to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The counts at the end.
    Usage,
    /// How many tokens there are with each event, for the last ones may be withheld.
    Tokens,
    /// The same, for each token's probabilities must be in an event.
    Probabilities,
}

/// What is to be made of which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) told: Told,
    /// Each choice is to say which stop string ended it, as `stop_string`.
    pub(crate) names_stop: bool,
}

/// Members of an answer that every event repeats, in the answer's order around `object` and `usage`.
const BEFORE: [&[u8]; 3] = [b"created", b"model", b"system_fingerprint"];

/// A raw member: key without quotes, and value.
type Raw = (Box<[u8]>, Box<[u8]>);

/// A stream's events so far, as an answer.
#[derive(Debug)]
pub(crate) struct Assembler {
    plan: Plan,
    choices: Vec<Choice>,
    /// Where the last event with a choice belongs, and the counts in an event without one too.
    latest: u64,
    /// Members of the top level; of one that comes again the last.
    members: Vec<Raw>,
    /// What stood behind the choices of an event that had nothing to count: in most events it is the same again.
    tail: Vec<u8>,
    error: Option<Vec<u8>>,
    done: bool,
    unreadable: bool,
    /// A token was not told of: it will not be the engine's own answer.
    lacking: bool,
}

/// What a stream became.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assembled {
    /// The whole answer.
    Answer(Vec<u8>),
    /// The engine's error, shaped as its answer with an error status is.
    Refused {
        /// The status that it would have, as the engine says.
        status: Option<u16>,
        /// The event's data.
        body: Vec<u8>,
    },
    /// The engine withheld something, which is in its own whole answer only.
    Withheld,
    /// The stream ended early, or something in it could not be read.
    Cut,
}

impl Assembler {
    /// Of a stream as a client asks for it.
    pub(crate) fn new(shape: Shape) -> Self {
        Self::of(Plan { shape, told: Told::Usage, names_stop: false })
    }

    pub(crate) fn of(plan: Plan) -> Self {
        Self {
            plan,
            choices: Vec::new(),
            latest: 0,
            members: Vec::new(),
            tail: Vec::new(),
            error: None,
            done: false,
            unreadable: false,
            lacking: false,
        }
    }

    /// Whether nothing that matters comes any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.done || self.unreadable || self.lacking || self.error.is_some()
    }

    /// Take the data of the next event.
    pub(crate) fn push(&mut self, data: &[u8]) {
        // llama-server begins the stream of several prompts with `null`.
        match data {
            b"[DONE]" => self.done = true,
            b"null" => {}
            event => {
                if self.take(event).is_none() {
                    self.unreadable = true;
                }
            }
        }
    }

    fn take(&mut self, event: &[u8]) -> Option<()> {
        let (mut usage, mut timings, mut stop_string) = (None, None, None);
        let mut tail: &[u8] = b"";
        for member in Members::open(event).ok()? {
            let member = member.ok()?;
            match &*member.name() {
                b"choices" => {
                    for choice in elements(member.value) {
                        self.take_choice(choice)?;
                    }
                    tail = event.get(member.at + member.value.len()..)?;
                    if tail == self.tail {
                        return Some(());
                    }
                }
                b"usage" if member.value != b"null" => usage = Some(member.value),
                b"timings" => timings = Some(member.value),
                b"error" if member.value != b"null" => self.error = Some(event.into()),
                // The client did not ask for it.
                b"__verbose" if self.plan.told != Told::Usage => {
                    stop_string = inner(member.value, b"stopping_word");
                }
                // Chunks only: an answer has an `object` of its own, and no progress to tell.
                b"object" | b"prompt_progress" | b"usage" | b"error" => {}
                _ => keep(&mut self.members, member.key(), member.value),
            }
        }
        let counts = usage.or(timings).or(stop_string);
        if counts.is_none() && self.error.is_none() {
            self.tail = tail.to_vec();
        }
        if let Some(choice) = self.choices.iter_mut().find(|choice| choice.index() == self.latest) {
            choice.report(usage, timings);
            choice.ended_by(stop_string);
            if self.plan.names_stop {
                choice.names_stop(stop_string);
            }
            self.lacking |= self.plan.told == Told::Probabilities && choice.lacks_probabilities();
        }
        Some(())
    }

    fn take_choice(&mut self, raw: &[u8]) -> Option<()> {
        let mut index = 0;
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            if member.key() == b"index" {
                index = serde_json::from_slice(member.value).ok()?;
                break;
            }
        }
        self.latest = index;
        find(&mut self.choices, index).take(raw)
    }

    /// The answer; `counted` are the tokens of all choices together.
    pub(crate) fn finish(&mut self, counted: Usage) -> Assembled {
        if let Some(body) = self.error.take() {
            return Assembled::Refused { status: status(&body), body };
        }
        if self.lacking {
            return Assembled::Withheld;
        }
        if !self.done || self.unreadable {
            return Assembled::Cut;
        }
        let mut choices = self.choices.iter();
        if match self.plan.told {
            Told::Usage => false,
            Told::Tokens => choices.any(Choice::is_withheld),
            Told::Probabilities => {
                choices.any(|choice| choice.is_withheld() || choice.is_unended())
            }
        } {
            return Assembled::Withheld;
        }
        Assembled::Answer(self.so_far(counted))
    }

    /// Whether there is anything of an answer yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// The answer as far as it has come.
    pub(crate) fn so_far(&mut self, counted: Usage) -> Vec<u8> {
        self.choices.sort_unstable_by_key(Choice::index);
        let text: usize = self.choices.iter().map(Choice::size).sum();
        let mut answer = Vec::with_capacity(text + 1024);
        answer.extend_from_slice(b"{\"choices\":[");
        for (position, choice) in self.choices.iter().enumerate() {
            if position > 0 {
                answer.push(b',');
            }
            choice.write(self.plan.shape, &mut answer);
        }
        answer.push(b']');
        let (before, after): (Vec<_>, Vec<_>) =
            self.members.iter().partition(|(key, _)| BEFORE.contains(&&**key));
        for (key, value) in before {
            member(&mut answer, key, value);
        }
        member(&mut answer, b"object", self.plan.shape.object());
        if let Some(usage) = self.usage(counted) {
            member(&mut answer, b"usage", &usage);
        }
        for (key, value) in after {
            member(&mut answer, key, value);
        }
        // The engine times the first choice.
        if let Some(timings) = self.choices.iter().find_map(Choice::timings) {
            member(&mut answer, b"timings", timings);
        }
        answer.push(b'}');
        answer
    }

    /// The usage of the answer: each choice counts itself only, so of several the sum is put into that of the first.
    fn usage(&self, counted: Usage) -> Option<Vec<u8>> {
        let mut reported = self.choices.iter().filter_map(Choice::usage);
        let first = reported.next()?;
        let sum = reported.next().and_then(|_| summed(first, counted));
        Some(sum.unwrap_or_else(|| first.to_vec()))
    }
}

/// The `code` of an error.
fn status(error: &[u8]) -> Option<u16> {
    let code = inner(error, b"error").and_then(|error| inner(error, b"code"))?;
    serde_json::from_slice(code).ok()
}

/// A number of an object; none is 0.
fn count(object: &[u8], name: &str) -> u64 {
    inner(object, name.as_bytes()).and_then(|count| serde_json::from_slice(count).ok()).unwrap_or(0)
}

fn inner<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let found = Members::open(object).ok()?.flatten().find(|member| &*member.name() == name);
    found.map(|member| member.value)
}

/// The usage of one choice with the tokens of all of them.
pub(crate) fn summed(usage: &[u8], counted: Usage) -> Option<Vec<u8>> {
    let number = |count: u64| count.to_string().into_bytes();
    let total = counted.prompt_tokens.saturating_add(counted.completion_tokens);
    let mut wanted = vec![
        ("completion_tokens", number(counted.completion_tokens)),
        ("prompt_tokens", number(counted.prompt_tokens)),
        ("total_tokens", number(total)),
    ];
    if let Some(details) = inner(usage, b"prompt_tokens_details") {
        let cached = number(counted.cached_prompt_tokens);
        let details = splice::set(details, &[("cached_tokens", &cached)])?;
        wanted.push(("prompt_tokens_details", details));
    }
    let wanted: Vec<(&str, &[u8])> =
        wanted.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    splice::set(usage, &wanted)
}

fn find(choices: &mut Vec<Choice>, index: u64) -> &mut Choice {
    let position = choices.iter().position(|choice| choice.index() == index).unwrap_or_else(|| {
        choices.push(Choice::new(index));
        choices.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "found or pushed above")]
    &mut choices[position]
}

/// Remember a member, in place of an earlier one of that name.
fn keep(members: &mut Vec<Raw>, key: &[u8], value: &[u8]) {
    match members.iter_mut().find(|(known, _)| **known == *key) {
        Some((_, known)) if **known == *value => {}
        Some((_, known)) => *known = value.into(),
        None => members.push((key.into(), value.into())),
    }
}

/// Write `,"key":value`.
fn member(answer: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    answer.extend_from_slice(b",\"");
    answer.extend_from_slice(key);
    answer.extend_from_slice(b"\":");
    answer.extend_from_slice(value);
}
