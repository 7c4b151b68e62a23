//! What is learned from an answer while it passes: tokens, events, and whether it was complete.

use bytes::{Bytes, BytesMut};

use crate::sse::Splitter;
use crate::usage::{self, Prompts, StreamUsage, Usage};

/// Whole answers up to this size are parsed as one; of longer ones (batches of embeddings) only both ends are kept, for
/// engines put the counts before or after the data.
const WHOLE: usize = 256 * 1024;
const END: usize = 16 * 1024;

/// Watches the body of one answer.
#[derive(Debug)]
pub(crate) enum Observer {
    /// An event stream.
    Stream {
        /// Finds the events.
        splitter: Splitter,
        /// Reads them.
        usage: StreamUsage,
    },
    /// One JSON document.
    Document {
        /// The first bytes, all of them if there are few.
        head: BytesMut,
        /// The last bytes, once there are many.
        tail: BytesMut,
    },
}

/// What was learned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) usage: Usage,
    /// Choices that said something, where that is known.
    pub(crate) choices: u64,
    pub(crate) stream_events: u64,
    /// The engine said itself that it failed.
    pub(crate) error: bool,
}

impl Observer {
    /// Watches an event stream.
    pub(crate) fn stream(prompts: Prompts) -> Self {
        Self::Stream { splitter: Splitter::default(), usage: StreamUsage::new(prompts) }
    }

    /// Watches one JSON document.
    pub(crate) fn document() -> Self {
        Self::Document { head: BytesMut::new(), tail: BytesMut::new() }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Events with something produced so far: about as many tokens. A document has none.
    pub(crate) fn content_events(&self) -> u64 {
        match self {
            Self::Stream { usage, .. } => usage.content_events(),
            Self::Document { .. } => 0,
        }
    }

    /// An event of our own, set apart from one that the engine had begun.
    pub(crate) fn on_new_line(&self, event: Bytes) -> Bytes {
        match self {
            Self::Stream { splitter, .. } if splitter.pending() => {
                Bytes::from([b"\n\n", event.as_ref()].concat())
            }
            _ => event,
        }
    }

    pub(crate) fn observe(&mut self, chunk: &Bytes) {
        self.observe_with(chunk, |_| ());
    }

    /// The same, and shows the data of each event to somebody else as well.
    pub(crate) fn observe_with(&mut self, chunk: &Bytes, mut show: impl FnMut(&Bytes)) {
        match self {
            Self::Stream { splitter, usage } => splitter.push(chunk, |data| {
                usage.observe(&data);
                show(&data);
            }),
            Self::Document { head, tail } => {
                let room = WHOLE.saturating_sub(head.len()).min(chunk.len());
                let (first, rest) = chunk.split_at(room);
                head.extend_from_slice(first);
                if tail.is_empty() && !rest.is_empty() {
                    // The ends overlap, so that what lies across the border is whole in one of them.
                    tail.extend_from_slice(
                        head.get(head.len().saturating_sub(END)..).unwrap_or_default(),
                    );
                }
                tail.extend_from_slice(rest);
                if tail.len() > 4 * END {
                    *tail = BytesMut::from(tail.get(tail.len() - END..).unwrap_or_default());
                }
            }
        }
    }

    /// What was produced so far; of a stream that was cut, one token for each content event.
    pub(crate) fn findings(&self) -> Findings {
        match self {
            Self::Stream { usage, .. } => Findings {
                usage: usage.total(),
                choices: usage.choices(),
                stream_events: usage.events(),
                error: usage.saw_error() || !usage.saw_done(),
            },
            Self::Document { head, tail } => {
                Findings { usage: document_usage(head, tail), ..Findings::default() }
            }
        }
    }
}

fn document_usage(head: &[u8], tail: &[u8]) -> Usage {
    if tail.is_empty() {
        return usage::from_json(head).unwrap_or_default();
    }
    usage_within(tail).or_else(|| usage_within(head)).unwrap_or_default()
}

/// The counts in a part of a document. A quote inside a JSON string is escaped, so `"usage":{` is never text.
fn usage_within(part: &[u8]) -> Option<Usage> {
    member(part, b"\"timings\":").or_else(|| member(part, b"\"usage\":"))
}

/// The counts in the object that follows `key`, colon included.
fn member(part: &[u8], key: &[u8]) -> Option<Usage> {
    let start = memchr::memmem::find(part, &[key, b"{"].concat())?;
    let value = part.get(start + key.len()..)?;
    // The object may hold others: it ends at the first brace that makes it whole.
    let object = memchr::memmem::find_iter(value, b"}").find_map(|end| {
        let object = value.get(..=end)?;
        serde_json::from_slice::<serde::de::IgnoredAny>(object).ok().map(|_| object)
    })?;
    usage::from_json(&[b"{", key, object, b"}"].concat())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Observer, Prompts, WHOLE};

    #[test]
    fn counts_of_a_huge_answer_are_found_at_either_end() {
        let counts = r#""usage":{"prompt_tokens":7,"total_tokens":7}"#;
        let data = format!(r#""data":[{}1]"#, "0.125,".repeat(WHOLE / 3));
        for document in [format!("{{{counts},{data}}}"), format!("{{{data},{counts}}}")] {
            let mut observer = Observer::document();
            for chunk in document.as_bytes().chunks(60_000) {
                observer.observe(&Bytes::copy_from_slice(chunk));
            }
            assert_eq!(observer.findings().usage.prompt_tokens, 7);
        }
    }

    #[test]
    fn counts_that_lie_across_the_border_are_found() {
        let counts = r#""usage":{"prompt_tokens":7,"total_tokens":7}"#;
        for shift in 0..60 {
            let before = format!(r#"{{"data":"{}""#, "x".repeat(WHOLE - 70 + shift));
            let document = format!("{before},{counts},\"more\":\"{}\"}}", "y".repeat(100));
            let mut observer = Observer::document();
            observer.observe(&Bytes::from(document.into_bytes()));
            assert_eq!(observer.findings().usage.prompt_tokens, 7, "{shift}");
        }
    }

    #[test]
    fn timings_of_a_huge_answer_win_over_its_usage() {
        let timings = r#""timings":{"cache_n":2,"prompt_n":3,"predicted_n":5}"#;
        let usage = r#""usage":{"prompt_tokens":5,"completion_tokens":5}"#;
        let text = "z".repeat(WHOLE);
        let document = format!(r#"{{"content":"{text}",{usage},{timings}}}"#);
        let mut observer = Observer::document();
        observer.observe(&Bytes::from(document.into_bytes()));
        assert_eq!(observer.findings().usage.cached_prompt_tokens, 2);
    }

    #[test]
    fn a_stream_without_its_end_is_an_error() {
        let mut observer = Observer::stream(Prompts::One);
        observer.observe(&Bytes::from_static(b"data: {\"choices\":[]}\n\n"));
        assert!(observer.findings().error);
        observer.observe(&Bytes::from_static(b"data: [DONE]\n\n"));
        assert!(!observer.findings().error);
    }
}
