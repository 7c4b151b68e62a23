//! Where the body of an answer ends, and what of the bytes on the wire belongs to it.
//!
//! Strict: a body that is framed in any other way than RFC 9112 has it is broken, never guessed at, for a wrong guess is
//! a truncated answer that looks whole, or a piece of one answer in another.

#[cfg(test)]
mod tests;

/// Bytes of chunk extensions, or of trailers, that are skipped between two pieces of data.
const MAX_BETWEEN: u32 = 16 * 1024;

/// The body cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the connection ended inside the answer")]
    Cut,
    #[error("the answer is not framed as HTTP has it")]
    Malformed,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Neither: it ends with the connection.
    UntilEnd,
}

/// Finds the body in the bytes of a connection, however they are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decoder {
    state: State,
    /// It was said in advance how much data there is.
    measured: bool,
    /// Bytes of framing since the last byte of data.
    between: u32,
    /// The peer sent more than its answer.
    excess: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to come.
    Length(u64),
    UntilEnd,
    Chunked(Step),
    Ended,
    Broken(BodyError),
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first digit of a chunk's size.
    FirstDigit,
    /// More digits of it.
    Size(u64),
    /// White space behind the size.
    Space(u64),
    /// An extension of the chunk.
    Extension(u64),
    /// The line feed behind the size.
    SizeFeed(u64),
    /// So many bytes of data.
    Data(u64),
    DataReturn,
    DataFeed,
    /// The first byte of a trailer, or of the empty line that ends the body.
    Trailer,
    /// The rest of a trailer.
    TrailerRest,
    TrailerFeed,
    LastFeed,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Step::FirstDigit),
            Framing::UntilEnd => State::UntilEnd,
        };
        let measured = matches!(framing, Framing::Length(_));
        Self { state, measured, between: 0, excess: false }
    }

    /// Take the bytes that came next. What of them is data is moved to the front of `bytes`; returns how much it is.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> usize {
        match self.state {
            State::Chunked(step) => self.decode_chunks(step, bytes),
            State::Length(left) => {
                let data = bounded(left, bytes.len());
                self.excess = data < bytes.len();
                self.state = match left - data as u64 {
                    0 => State::Ended,
                    left => State::Length(left),
                };
                data
            }
            State::UntilEnd => bytes.len(),
            State::Ended | State::Broken(_) => {
                self.excess |= !bytes.is_empty();
                0
            }
        }
    }

    fn decode_chunks(&mut self, mut step: Step, bytes: &mut [u8]) -> usize {
        let (mut data, mut at) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            if let Step::Data(left) = step {
                let length = bounded(left, bytes.len() - at);
                bytes.copy_within(at..at + length, data);
                data += length;
                at += length;
                self.between = 0;
                step = match left - length as u64 {
                    0 => Step::DataReturn,
                    left => Step::Data(left),
                };
                continue;
            }
            at += 1;
            self.between += 1;
            match step.after(byte) {
                _ if self.between > MAX_BETWEEN => {
                    self.state = State::Broken(BodyError::Malformed);
                    return data;
                }
                Some(State::Chunked(next)) => step = next,
                Some(end) => {
                    self.state = end;
                    self.excess = at < bytes.len();
                    return data;
                }
                None => {
                    self.state = State::Broken(BodyError::Malformed);
                    return data;
                }
            }
        }
        self.state = State::Chunked(step);
        data
    }

    /// The connection has ended.
    pub(super) fn end(&mut self) {
        self.state = match self.state {
            State::UntilEnd | State::Ended => State::Ended,
            State::Broken(error) => State::Broken(error),
            State::Length(_) | State::Chunked(_) => State::Broken(BodyError::Cut),
        };
    }

    /// The connection has failed, which also is no end of a body that ends with it.
    pub(super) fn fail(&mut self) {
        if self.state != State::Ended {
            self.state = State::Broken(BodyError::Cut);
        }
    }

    /// `None` while more is to come.
    pub(super) fn outcome(&self) -> Option<Result<(), BodyError>> {
        match self.state {
            State::Ended => Some(Ok(())),
            State::Broken(error) => Some(Err(error)),
            _ => None,
        }
    }

    /// Data that is still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => self.measured.then_some(0),
        }
    }

    /// It has ended, and the next byte would be the next answer's.
    pub(super) fn ended_cleanly(&self) -> bool {
        self.state == State::Ended && !self.excess
    }
}

impl Step {
    /// Where `byte` leads; `None` if it must not stand here.
    fn after(self, byte: u8) -> Option<State> {
        let next = match (self, byte) {
            (Self::FirstDigit, _) => Self::Size(digit(byte)?),
            (Self::Size(size) | Self::Space(size), b' ' | b'\t') => Self::Space(size),
            (Self::Size(size) | Self::Space(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Space(size) | Self::Extension(size), b'\r') => {
                Self::SizeFeed(size)
            }
            (Self::Size(size), _) => Self::Size(size.checked_mul(16)? + digit(byte)?),
            (Self::Extension(size), _) if byte != b'\n' => Self::Extension(size),
            (Self::SizeFeed(0), b'\n') => Self::Trailer,
            (Self::SizeFeed(size), b'\n') => Self::Data(size),
            (Self::DataReturn, b'\r') => Self::DataFeed,
            (Self::DataFeed | Self::TrailerFeed, b'\n') => self.next_line(),
            (Self::Trailer, b'\r') => Self::LastFeed,
            (Self::TrailerRest, b'\r') => Self::TrailerFeed,
            (Self::Trailer | Self::TrailerRest, _) if byte != b'\n' => Self::TrailerRest,
            (Self::LastFeed, b'\n') => return Some(State::Ended),
            _ => return None,
        };
        Some(State::Chunked(next))
    }

    fn next_line(self) -> Self {
        if self == Self::DataFeed { Self::FirstDigit } else { Self::Trailer }
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// The lesser of the two.
fn bounded(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}
