//! Streams of OpenAI's events as llama-server sends them, mended on their way:
//!
//! - a chat of which the first token is withheld, as a piece of a character is, begins without a role;
//! - of several choices each counts itself only;
//! - several prompts begin with `data: null`.

use bytes::Bytes;
use memchr::memmem;

use crate::assemble::{self, Shape};
use crate::peek::{Members, elements};
use crate::splice;
use crate::usage::Usage;

#[cfg(test)]
mod tests;

/// More of one event than this is not waited for.
const LONGEST: usize = 1 << 20;

/// Members of an event that are its own, not the stream's.
const OWN: [&[u8]; 6] =
    [b"choices", b"usage", b"timings", b"prompt_progress", b"error", b"__verbose"];

/// What is still to be seen to in a stream.
#[derive(Debug)]
pub(crate) struct Mend {
    shape: Shape,
    /// The answer has several choices, so that counts are to be seen to, up to its end.
    several: bool,
    /// Choices of a chat that have begun.
    begun: Vec<u64>,
    /// The begin of an event.
    held: Vec<u8>,
    /// The first event that counts one choice of a chat.
    counts: Option<Vec<u8>>,
    done: bool,
}

/// What becomes of an event.
enum Fate {
    Kept,
    /// These stand in its place.
    Replaced(Vec<u8>),
}

impl Mend {
    /// For a stream with so many choices; `None` if nothing can be wrong with it.
    pub(crate) fn new(shape: Shape, choices: usize) -> Option<Self> {
        let several = choices > 1;
        (several || shape == Shape::Chat).then(|| Self {
            shape,
            several,
            begun: Vec::new(),
            held: Vec::new(),
            counts: None,
            done: false,
        })
    }

    /// Whether the rest of the stream is right as it is.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The whole events of the next chunk as they should be; `counted` says how many tokens there are by then.
    pub(crate) fn pass(&mut self, chunk: Bytes, counted: impl Fn() -> Usage) -> Bytes {
        let bytes = if self.held.is_empty() {
            chunk
        } else {
            self.held.extend_from_slice(&chunk);
            std::mem::take(&mut self.held).into()
        };
        // As llama.cpp does not write lines, they are left alone.
        self.done |= memchr::memchr(b'\r', &bytes).is_some();
        let (mut at, mut mended) = (0, None);
        while !self.done {
            let ahead = bytes.get(at..).unwrap_or_default();
            let Some(end) = memmem::find(ahead, b"\n\n") else { break };
            let event = ahead.get(..end + 2).unwrap_or_default();
            match self.fate(event, &counted).unwrap_or(Fate::Kept) {
                Fate::Kept => append(&mut mended, event),
                Fate::Replaced(others) => {
                    mended.get_or_insert_with(|| bytes.slice(..at).to_vec()).extend(others);
                }
            }
            at += event.len();
        }
        let rest = bytes.slice(at..);
        self.done |= rest.len() > LONGEST;
        if self.done {
            append(&mut mended, &rest);
            at = bytes.len();
        } else {
            self.held = rest.to_vec();
        }
        mended.map_or_else(|| bytes.slice(..at), Bytes::from)
    }

    /// `None` if the event has nothing that matters here.
    fn fate(&mut self, event: &[u8], counted: impl Fn() -> Usage) -> Option<Fate> {
        match event.strip_prefix(b"data:")?.trim_ascii() {
            b"null" => Some(Fate::Replaced(Vec::new())),
            b"[DONE]" => {
                self.done = true;
                let counts = self.counts.take()?;
                let sum = with_sum(&counts, counted())?;
                Some(Fate::Replaced([said(&sum).as_slice(), event].concat()))
            }
            data if self.shape == Shape::Chat => self.chat(event, data),
            data => Some(Fate::Replaced(said(&with_sum(data, counted())?))),
        }
    }

    fn chat(&mut self, event: &[u8], data: &[u8]) -> Option<Fate> {
        let choices = value(data, b"choices")?;
        let Some(choice) = elements(choices).next() else {
            value(data, b"usage").filter(|_| self.several)?;
            self.counts.get_or_insert_with(|| data.to_vec());
            return Some(Fate::Replaced(Vec::new()));
        };
        let index = value(choice, b"index").and_then(|it| serde_json::from_slice(it).ok());
        let index = index.unwrap_or(0);
        if self.begun.contains(&index) {
            return None;
        }
        self.begun.push(index);
        self.done = !self.several;
        if value(choice, b"delta").is_none_or(|delta| value(delta, b"role").is_some()) {
            return None;
        }
        Some(Fate::Replaced([said(&begin(data, index)?).as_slice(), event].concat()))
    }
}

/// The event with which a choice of a chat begins, as llama-server sends it otherwise.
fn begin(data: &[u8], index: u64) -> Option<Vec<u8>> {
    let mut event = format!(
        "{{\"choices\":[{{\"finish_reason\":null,\"index\":{index},\"delta\":{{\"role\":\"assistant\",\"content\":null}}}}]"
    )
    .into_bytes();
    for member in Members::open(data).ok()?.flatten() {
        if !OWN.contains(&member.key()) {
            let parts: [&[u8]; 4] = [b",\"", member.key(), b"\":", member.value];
            event.extend_from_slice(&parts.concat());
        }
    }
    event.push(b'}');
    Some(event)
}

/// An event that counts, with what all choices have; `None` if it counts nothing.
fn with_sum(data: &[u8], counted: Usage) -> Option<Vec<u8>> {
    let usage = value(data, b"usage").filter(|usage| usage.starts_with(b"{"))?;
    splice::set(data, &[("usage", &assemble::summed(usage, counted)?)])
}

fn said(data: &[u8]) -> Vec<u8> {
    [b"data: ", data, b"\n\n"].concat()
}

fn append(mended: &mut Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(mended) = mended {
        mended.extend_from_slice(bytes);
    }
}

fn value<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let found = Members::open(object).ok()?.flatten().find(|member| member.key() == name);
    found.map(|member| member.value)
}
