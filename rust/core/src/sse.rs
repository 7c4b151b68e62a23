//! Incremental boundaries of server-sent events over arbitrary chunking.

use std::mem;

use bytes::Bytes;
use memchr::memchr2;

#[cfg(test)]
mod tests;

/// Longest data of one event that is kept, in bytes. A token is some 250 bytes; this is room for a
/// whole answer in one event.
pub const MAX_EVENT: usize = 4 << 20;

/// The longest thing that stands before the data on its line: `data: `.
const FIELD: usize = 6;

/// Cuts a stream of chunks into the data of its events.
///
/// Lines may end with LF, CRLF or CR, and chunks may end anywhere, also inside a line end. Comments
/// and the fields `event`, `id` and `retry` are passed over, and so are events without data. A byte
/// order mark is not expected: no engine sends one.
///
/// An event whose lines lie in one chunk each is handed out as slices of these chunks; only a line
/// that is cut by the end of a chunk, or the second data line of an event, is copied. What is held
/// between two chunks is bounded by twice [`MAX_EVENT`] and the chunk that the event began in.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    /// The begin of a line whose end has not come, at most `limit + FIELD` bytes of it.
    line: Vec<u8>,
    /// The line was longer than what is kept of it.
    cut: bool,
    /// The last byte was a CR, so that a LF now is part of the same line end.
    after_return: bool,
    /// A line other than a comment came since the last event ended.
    begun: bool,
    data: Data,
}

/// The data lines of the event so far.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    Line(Bytes),
    Lines(Vec<u8>),
    TooLong,
}

impl Default for Splitter {
    fn default() -> Self {
        Self {
            limit: MAX_EVENT,
            line: Vec::new(),
            cut: false,
            after_return: false,
            begun: false,
            data: Data::None,
        }
    }
}

impl Splitter {
    /// Takes the next chunk and calls `on_data` for each event that it completes, in order.
    ///
    /// The data is what follows `data:` and one optional space; several data lines are joined with
    /// LF. An event with more than [`MAX_EVENT`] bytes of data is dropped, but so that it can be
    /// counted `on_data` is called for it too, with no bytes.
    pub fn push(&mut self, chunk: &Bytes, mut on_data: impl FnMut(Bytes)) {
        let mut at = 0;
        if !chunk.is_empty() && mem::take(&mut self.after_return) && chunk.first() == Some(&b'\n') {
            at = 1;
        }
        loop {
            let ahead = chunk.get(at..).unwrap_or_default();
            let Some(length) = memchr2(b'\n', b'\r', ahead) else {
                self.hold(ahead);
                return;
            };
            self.end_line(chunk, at..at + length, &mut on_data);
            at += length + 1;
            if ahead.get(length) == Some(&b'\r') {
                match ahead.get(length + 1) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
        }
    }

    /// Whether the stream so far ends inside an event: in a line, or before the blank line that
    /// ends the event. What is pending when the stream is over was never completed, and as the
    /// event stream format has it, is not an event.
    pub fn pending(&self) -> bool {
        self.begun || !self.line.is_empty()
    }

    /// Keeps the begin of a line for the next chunk.
    fn hold(&mut self, part: &[u8]) {
        let room = (self.limit + FIELD).saturating_sub(self.line.len());
        self.cut |= part.len() > room;
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn end_line(
        &mut self,
        chunk: &Bytes,
        range: std::ops::Range<usize>,
        on_data: &mut impl FnMut(Bytes),
    ) {
        if self.line.is_empty() {
            self.take_line(chunk, range, on_data);
        } else {
            self.hold(chunk.get(range).unwrap_or_default());
            let line = Bytes::from(mem::take(&mut self.line));
            self.take_line(&line, 0..line.len(), on_data);
            self.cut = false;
        }
    }

    /// Reads one whole line, which is `range` of `source`.
    fn take_line(
        &mut self,
        source: &Bytes,
        range: std::ops::Range<usize>,
        on_data: &mut impl FnMut(Bytes),
    ) {
        match source.get(range.clone()).unwrap_or_default() {
            [] => {
                self.begun = false;
                match mem::take(&mut self.data) {
                    Data::None => {}
                    Data::Line(data) => on_data(data),
                    Data::Lines(data) => on_data(Bytes::from(data)),
                    Data::TooLong => on_data(Bytes::new()),
                }
            }
            [b':', ..] => {}
            line => {
                self.begun = true;
                if let Some(skip) = data_offset(line) {
                    self.take_data(source.slice(range.start + skip..range.end));
                }
            }
        }
    }

    fn take_data(&mut self, line: Bytes) {
        let held = match &self.data {
            Data::None => 0,
            Data::Line(data) => data.len() + 1,
            Data::Lines(data) => data.len() + 1,
            Data::TooLong => return,
        };
        self.data = if self.cut || held + line.len() > self.limit {
            Data::TooLong
        } else {
            match mem::take(&mut self.data) {
                Data::Line(data) => Data::Lines([&data[..], b"\n", &line].concat()),
                Data::Lines(mut data) => {
                    data.push(b'\n');
                    data.extend_from_slice(&line);
                    Data::Lines(data)
                }
                Data::None | Data::TooLong => Data::Line(line),
            }
        };
    }
}

/// Where the value of a `data` field begins; `None` for any other field.
fn data_offset(line: &[u8]) -> Option<usize> {
    match line.strip_prefix(b"data")? {
        [] => Some(4),
        [b':', b' ', ..] => Some(6),
        [b':', ..] => Some(5),
        _ => None,
    }
}
