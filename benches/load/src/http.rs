//! As much of HTTP/1.1 as both ends need: message heads and chunked bodies, read incrementally.
//!
//! Written by hand, because the two ends must cost little beside the proxy between them, and because
//! the engine's writes and the client's reads are what is being measured.

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use memchr::memmem;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    /// Of answers only: where the connection ends.
    UntilClose,
}

/// The head of a request or of a response.
#[derive(Debug)]
pub(crate) struct Head {
    /// `POST /v1/chat/completions HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) start: String,
    /// None if the head does not say it.
    pub(crate) framing: Option<Framing>,
    /// The connection ends with this message.
    pub(crate) close: bool,
}

impl Head {
    /// Takes a head from the front of `buffer`; None if it is not complete yet.
    pub(crate) fn take(buffer: &mut BytesMut) -> anyhow::Result<Option<Self>> {
        let Some(end) = memmem::find(buffer, b"\r\n\r\n") else {
            ensure!(buffer.len() <= 64 * 1024, "a head of more than 64 KiB");
            return Ok(None);
        };
        let bytes = buffer.split_to(end + 4);
        let text = std::str::from_utf8(&bytes).context("a head that is not text")?;
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let start = lines.next().context("a head without a first line")?.to_owned();
        let close = start.starts_with("HTTP/1.0 ");
        let mut head = Self { start, framing: None, close };
        for line in lines {
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            head.note(name, value.trim())?;
        }
        Ok(Some(head))
    }

    fn note(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().context("a length that is no number")?;
            self.framing = Some(Framing::Length(length));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.framing = Some(Framing::Chunked);
        } else if name.eq_ignore_ascii_case("connection") {
            self.close = !value.eq_ignore_ascii_case("keep-alive")
                && (self.close || value.eq_ignore_ascii_case("close"));
        }
        Ok(())
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }
}

enum Expecting {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
    End,
    Nothing,
}

/// Reads a body, however its bytes are cut into reads.
pub(crate) struct Body {
    expecting: Expecting,
    chunked: bool,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self { expecting: Expecting::Nothing, chunked: false },
            Framing::Length(length) => Self { expecting: Expecting::Data(length), chunked: false },
            Framing::Chunked => Self { expecting: Expecting::Size, chunked: true },
            Framing::UntilClose => Self { expecting: Expecting::End, chunked: false },
        }
    }

    /// The connection has ended: says whether that was to be the body's end, and takes it as that.
    pub(crate) fn ends_with_connection(&mut self) -> bool {
        let ends = matches!(self.expecting, Expecting::End | Expecting::Nothing);
        if ends {
            self.expecting = Expecting::Nothing;
        }
        ends
    }

    /// Moves what `input` has of the body to `content`, and says whether that was all of it.
    pub(crate) fn decode(
        &mut self,
        input: &mut BytesMut,
        content: &mut BytesMut,
    ) -> anyhow::Result<bool> {
        loop {
            self.expecting = match self.expecting {
                Expecting::Nothing => return Ok(true),
                Expecting::End => {
                    content.extend_from_slice(input);
                    input.clear();
                    return Ok(false);
                }
                Expecting::Data(left) => {
                    let taken = left.min(input.len());
                    content.extend_from_slice(&input[..taken]);
                    input.advance(taken);
                    match left - taken {
                        0 if self.chunked => Expecting::DataEnd,
                        0 => Expecting::Nothing,
                        more => {
                            self.expecting = Expecting::Data(more);
                            return Ok(false);
                        }
                    }
                }
                Expecting::Size => match take_line(input)? {
                    Some(line) => match chunk_size(&line)? {
                        0 => Expecting::Trailer,
                        size => Expecting::Data(size),
                    },
                    None => return Ok(false),
                },
                Expecting::DataEnd => match take_line(input)? {
                    Some(line) if line.is_empty() => Expecting::Size,
                    Some(_) => bail!("a chunk longer than its size"),
                    None => return Ok(false),
                },
                Expecting::Trailer => match take_line(input)? {
                    Some(line) if line.is_empty() => Expecting::Nothing,
                    Some(_) => Expecting::Trailer,
                    None => return Ok(false),
                },
            }
        }
    }
}

fn take_line(input: &mut BytesMut) -> anyhow::Result<Option<BytesMut>> {
    let Some(end) = memmem::find(input, b"\r\n") else {
        ensure!(input.len() <= 1024, "a chunk's size line of more than 1 KiB");
        return Ok(None);
    };
    let line = input.split_to(end);
    input.advance(2);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(line)?;
    let digits = text.split(';').next().unwrap_or(text).trim();
    usize::from_str_radix(digits, 16).with_context(|| format!("`{text}` is no chunk size"))
}
