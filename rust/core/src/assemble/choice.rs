//! One choice of an answer, grown from the pieces of it that the events bring.

use super::{Raw, Shape, count, keep, member};
use crate::peek::{Members, elements};

/// One choice so far.
#[derive(Debug, Default)]
pub(super) struct Choice {
    index: u64,
    /// The inside of the literal of the text, or of the message's `content`.
    text: Vec<u8>,
    /// The message's other strings, `reasoning_content` for one: key, and the inside of the literal.
    strings: Vec<(Box<[u8]>, Vec<u8>)>,
    /// What of the message is neither a string nor a tool call.
    values: Vec<Raw>,
    tools: Vec<Tool>,
    role: Option<Box<[u8]>>,
    finish_reason: Option<Box<[u8]>>,
    /// The inside of the array of the tokens' probabilities.
    logprobs: Option<Vec<u8>>,
    /// Of how many tokens the probabilities are in it or are not to be.
    probable: u64,
    /// Members of the choice that are not known here.
    others: Vec<Raw>,
    usage: Option<Box<[u8]>>,
    timings: Option<Box<[u8]>>,
    /// The latest event had something of the message.
    spoke: bool,
    /// The engine's count of tokens when something of the message last came.
    told: u64,
    /// The literal of the stop string that ended it, while its tokens are among those with probabilities.
    stop_string: Option<Box<[u8]>>,
    /// The literal of the stop string that ended it, if it is to be told.
    named_stop: Option<Box<[u8]>>,
}

/// One tool call so far; strings are the insides of literals.
#[derive(Debug, Default)]
struct Tool {
    index: u64,
    name: Vec<u8>,
    arguments: Vec<u8>,
    kind: Option<Box<[u8]>>,
    id: Option<Box<[u8]>>,
    others: Vec<Raw>,
}

impl Choice {
    pub(super) fn new(index: u64) -> Self {
        Self { index, ..Self::default() }
    }

    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn usage(&self) -> Option<&[u8]> {
        self.usage.as_deref()
    }

    pub(super) fn timings(&self) -> Option<&[u8]> {
        self.timings.as_deref()
    }

    /// Roughly the bytes that it will take.
    pub(super) fn size(&self) -> usize {
        let tools: usize = self.tools.iter().map(|tool| tool.arguments.len() + 256).sum();
        let strings: usize = self.strings.iter().map(|(_, text)| text.len() + 32).sum();
        let logprobs = self.logprobs.as_ref().map_or(0, Vec::len);
        self.text.len() + strings + tools + logprobs + 256
    }

    /// Take the engine's counts; each replaces the one before.
    pub(super) fn report(&mut self, usage: Option<&[u8]>, timings: Option<&[u8]>) {
        if let Some(usage) = usage {
            self.usage = Some(usage.into());
        }
        if let Some(timings) = timings {
            if std::mem::take(&mut self.spoke) {
                self.told = produced(timings);
            }
            self.timings = Some(timings.into());
        }
    }

    /// Take what the engine says of the stop string that ended it.
    pub(super) fn ended_by(&mut self, stop_string: Option<&[u8]>) {
        let stop_string = stop_string.filter(|literal| !inside(literal).is_empty());
        if self.logprobs.is_some() && stop_string.is_some() {
            self.stop_string = stop_string.map(Into::into);
        }
    }

    /// Tell what the engine says of the stop string that ended it.
    pub(super) fn names_stop(&mut self, stop_string: Option<&[u8]>) {
        if let Some(literal) = stop_string.filter(|literal| !inside(literal).is_empty()) {
            self.named_stop = Some(literal.into());
        }
    }

    pub(super) fn stop_string(&self) -> Option<&[u8]> {
        self.stop_string.as_deref()
    }

    /// The inside of the literal of its text.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// How many tokens there are, those of the prompt included.
    pub(super) fn tokens(&self) -> u64 {
        let timings = self.timings.as_deref().unwrap_or_default();
        ["cache_n", "prompt_n", "predicted_n"].map(|name| count(timings, name)).iter().sum()
    }

    /// How many tokens no event has told the probabilities of.
    pub(super) fn untold(&self) -> u64 {
        self.timings.as_deref().map_or(0, produced).saturating_sub(self.probable)
    }

    /// Whether one token lacks its probabilities, and that is the one with which the model ended its turn.
    pub(super) fn is_unended(&self) -> bool {
        let stopped = self.finish_reason.as_deref() == Some(b"\"stop\"");
        stopped && self.stop_string.is_none() && self.untold() == 1
    }

    /// Whether a token will lack its probabilities. Thoughts are set apart by tokens without events.
    pub(super) fn lacks_probabilities(&self) -> bool {
        let lacking = self.untold() > 0 && !self.is_unended() && !self.is_stopped_by_ascii();
        lacking || !self.strings.is_empty()
    }

    /// Whether the last tokens may be without events, for the answer leaves them out. Pieces of characters have neither
    /// events nor probabilities, but count as tokens, so there must be none.
    fn is_stopped_by_ascii(&self) -> bool {
        self.stop_string.as_deref().is_some_and(<[u8]>::is_ascii)
    }

    /// Leave out the probabilities of the last tokens, those of the stop string, of which `untold` had no event; `None` if
    /// those are more. The engine says `null` if none are left.
    pub(super) fn leave_out(&mut self, tokens: u64, untold: u64) -> Option<()> {
        let dropped = usize::try_from(tokens.checked_sub(untold)?).ok()?;
        let all = [b"[", self.logprobs.as_deref().unwrap_or_default(), b"]"].concat();
        let all: Vec<&[u8]> = elements(&all).collect();
        let left = all.get(..all.len().saturating_sub(dropped))?;
        self.logprobs = Some(left.join(&b',')).filter(|left| !left.is_empty());
        self.stop_string = None;
        self.probable += untold;
        Some(())
    }

    /// Whether the limit on tokens came when some were not in any event, in a stream that is counted event by event; or
    /// whether tokens are still to be left out.
    pub(super) fn is_withheld(&self) -> bool {
        if self.stop_string.is_some() {
            return true;
        }
        let limited = self.finish_reason.as_deref() == Some(b"\"length\"");
        limited && self.told < self.timings.as_deref().map_or(0, produced)
    }

    /// Take a choice of an event; `None` if it cannot be read.
    pub(super) fn take(&mut self, raw: &[u8]) -> Option<()> {
        self.spoke = false;
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            match (&*member.name(), member.value) {
                (b"delta", delta) => self.take_delta(delta)?,
                (b"text", text) => self.take_text(inside(text)),
                (b"index", _) | (b"finish_reason" | b"logprobs", b"null") => {}
                (b"finish_reason", reason) => self.finish_reason = Some(reason.into()),
                (b"logprobs", logprobs) => self.take_logprobs(logprobs)?,
                (_, value) => keep(&mut self.others, member.key(), value),
            }
        }
        Some(())
    }

    fn take_delta(&mut self, delta: &[u8]) -> Option<()> {
        for member in Members::open(delta).ok()? {
            let member = member.ok()?;
            match (&*member.name(), member.value) {
                // Said again with each report of progress.
                (b"role", role) => self.role = Some(role.into()),
                (b"content", text) => self.take_text(inside(text)),
                (b"tool_calls", calls) => {
                    for call in elements(calls) {
                        self.take_tool(call)?;
                    }
                }
                (_, b"null") => {}
                (_, [b'"', ..]) => self.take_string(member.key(), inside(member.value)),
                (_, value) => keep(&mut self.values, member.key(), value),
            }
        }
        Some(())
    }

    fn take_text(&mut self, text: &[u8]) {
        self.spoke |= !text.is_empty();
        self.text.extend_from_slice(text);
    }

    fn take_string(&mut self, key: &[u8], text: &[u8]) {
        self.spoke |= !text.is_empty();
        match self.strings.iter_mut().find(|(known, _)| **known == *key) {
            Some((_, known)) => known.extend_from_slice(text),
            None => self.strings.push((key.into(), text.to_vec())),
        }
    }

    fn take_tool(&mut self, raw: &[u8]) -> Option<()> {
        self.spoke = true;
        let mut index = None;
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            if member.key() == b"index" {
                index = serde_json::from_slice(member.value).ok();
                break;
            }
        }
        // Without an index it is a call of its own.
        let position =
            index.and_then(|index| self.tools.iter().position(|tool| tool.index == index));
        if let Some(tool) = position.and_then(|position| self.tools.get_mut(position)) {
            return tool.take(raw);
        }
        let index = index
            .unwrap_or_else(|| self.tools.iter().map(|tool| tool.index + 1).max().unwrap_or(0));
        let mut tool = Tool { index, ..Tool::default() };
        tool.take(raw)?;
        self.tools.push(tool);
        Some(())
    }

    fn take_logprobs(&mut self, raw: &[u8]) -> Option<()> {
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            if &*member.name() == b"content" {
                for token in elements(member.value) {
                    self.take_token(token);
                }
            }
        }
        Some(())
    }

    pub(super) fn take_token(&mut self, token: &[u8]) {
        let tokens = self.logprobs.get_or_insert_default();
        if !tokens.is_empty() {
            tokens.push(b',');
        }
        tokens.extend_from_slice(token);
        self.probable += 1;
    }

    /// Write it as the answer has it.
    pub(super) fn write(&self, shape: Shape, answer: &mut Vec<u8>) {
        let index = self.index.to_string();
        let finish_reason = self.finish_reason.as_deref().unwrap_or(b"null");
        match shape {
            Shape::Chat => {
                answer.extend_from_slice(b"{\"finish_reason\":");
                answer.extend_from_slice(finish_reason);
                member(answer, b"index", index.as_bytes());
                answer.extend_from_slice(b",\"message\":");
                self.write_message(answer);
                if self.logprobs.is_some() {
                    self.write_logprobs(answer);
                }
            }
            Shape::Text => {
                answer.extend_from_slice(b"{\"text\":\"");
                answer.extend_from_slice(&self.text);
                answer.push(b'"');
                member(answer, b"index", index.as_bytes());
                self.write_logprobs(answer);
                member(answer, b"finish_reason", finish_reason);
            }
        }
        if let Some(literal) = &self.named_stop {
            member(answer, b"stop_string", literal);
        }
        for (key, value) in &self.others {
            member(answer, key, value);
        }
        answer.push(b'}');
    }

    fn write_message(&self, answer: &mut Vec<u8>) {
        answer.extend_from_slice(b"{\"role\":");
        // The engine sends the role with the first token, and never if that token is a piece of a character.
        answer.extend_from_slice(self.role.as_deref().unwrap_or(b"\"assistant\""));
        string(answer, b"content", &self.text);
        for (key, text) in &self.strings {
            string(answer, key, text);
        }
        for (key, value) in &self.values {
            member(answer, key, value);
        }
        if !self.tools.is_empty() {
            answer.extend_from_slice(b",\"tool_calls\":[");
            let mut tools: Vec<_> = self.tools.iter().collect();
            tools.sort_unstable_by_key(|tool| tool.index);
            for (position, tool) in tools.into_iter().enumerate() {
                if position > 0 {
                    answer.push(b',');
                }
                tool.write(answer);
            }
            answer.push(b']');
        }
        answer.push(b'}');
    }

    fn write_logprobs(&self, answer: &mut Vec<u8>) {
        match &self.logprobs {
            None => member(answer, b"logprobs", b"null"),
            Some(tokens) => {
                answer.extend_from_slice(b",\"logprobs\":{\"content\":[");
                answer.extend_from_slice(tokens);
                answer.extend_from_slice(b"]}");
            }
        }
    }
}

impl Tool {
    fn take(&mut self, raw: &[u8]) -> Option<()> {
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            match (&*member.name(), member.value) {
                (b"index", _) | (_, b"null") => {}
                (b"id", id) => self.id = Some(id.into()),
                (b"type", kind) => self.kind = Some(kind.into()),
                (b"function", function) => self.take_function(function)?,
                (_, value) => keep(&mut self.others, member.key(), value),
            }
        }
        Some(())
    }

    fn take_function(&mut self, raw: &[u8]) -> Option<()> {
        for member in Members::open(raw).ok()? {
            let member = member.ok()?;
            match &*member.name() {
                b"name" => self.name.extend_from_slice(inside(member.value)),
                b"arguments" => self.arguments.extend_from_slice(inside(member.value)),
                _ => {}
            }
        }
        Some(())
    }

    fn write(&self, answer: &mut Vec<u8>) {
        answer.extend_from_slice(b"{\"type\":");
        answer.extend_from_slice(self.kind.as_deref().unwrap_or(b"\"function\""));
        answer.extend_from_slice(b",\"function\":{\"name\":\"");
        answer.extend_from_slice(&self.name);
        answer.push(b'"');
        string(answer, b"arguments", &self.arguments);
        answer.push(b'}');
        if let Some(id) = &self.id {
            member(answer, b"id", id);
        }
        for (key, value) in &self.others {
            member(answer, key, value);
        }
        answer.push(b'}');
    }
}

/// How many tokens there are, as the engine's `timings` say.
fn produced(timings: &[u8]) -> u64 {
    count(timings, "predicted_n")
}

/// What stands between the quotes of a literal; nothing if it is no string.
fn inside(literal: &[u8]) -> &[u8] {
    literal.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or_default()
}

/// Write `,"key":"text"`.
fn string(answer: &mut Vec<u8>, key: &[u8], text: &[u8]) {
    answer.extend_from_slice(b",\"");
    answer.extend_from_slice(key);
    answer.extend_from_slice(b"\":\"");
    answer.extend_from_slice(text);
    answer.push(b'"');
}
