//! Undoes the `Content-Encoding` of a request body, within the limit on bodies and without holding up the thread.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use bytes::buf::Reader;
use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, HeaderMap};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::error::Error;

#[cfg(test)]
mod tests;

/// What is taken, as `Accept-Encoding` says it.
pub(crate) const ACCEPTED: &str = "gzip, zstd";

/// What a zstd frame may ask to be kept of what was decoded; RFC 9659 allows a client no more.
const ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// Bytes, decoded or encoded, between two looks at the other connections of the thread: 0.3 ms of gzip.
const PIECE: usize = 64 * 1024;

/// The same in zstd's blocks, of which each has at most 128 KiB, and frames.
const STEPS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What `body` holds. A read that has worked for a while without a result is `WouldBlock`, and goes on when repeated:
    /// members, frames and blocks may be empty, and a body may have millions of them.
    fn over(self, body: Bytes) -> Box<dyn BufRead> {
        match self {
            Self::Gzip => {
                let paced = Paced { source: body.reader(), left: PIECE };
                Box::new(BufReader::with_capacity(PIECE, MultiGzDecoder::new(paced)))
            }
            Self::Zstd => Box::new(BufReader::with_capacity(PIECE, Frames::new(body.reader()))),
        }
    }
}

/// The body without the coding that `headers` name. There may be one: of several, what comes out of the first is bounded
/// by nothing, and takes hours of decoding although nothing comes out of the last.
///
/// # Errors
/// [`Error::UnsupportedEncoding`] for a coding that is not taken, [`Error::BodyTooLarge`] as soon as more than `limit`
/// bytes came out, [`Error::MalformedBody`] for what is not in the coding that it claims.
pub(crate) async fn decode(body: Bytes, headers: &HeaderMap, limit: usize) -> Result<Bytes, Error> {
    let Some(coding) = coding(headers)? else { return Ok(body) };
    let mut source = coding.over(body);
    let mut decoded = Vec::new();
    loop {
        let piece = match source.fill_buf() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::task::yield_now().await;
                continue;
            }
            piece => piece.map_err(|error| {
                Error::MalformedBody(format!("it is not valid {}: {error}", coding.name()))
            })?,
        };
        let length = piece.len();
        if length == 0 {
            return Ok(decoded.into());
        }
        if length > limit - decoded.len() {
            return Err(Error::BodyTooLarge { limit });
        }
        if length > decoded.capacity() - decoded.len() {
            // As a vector grows, but never beyond the limit.
            let more = decoded.len().max(PIECE).min(limit - decoded.len());
            decoded.reserve_exact(more);
        }
        decoded.extend_from_slice(piece);
        source.consume(length);
        tokio::task::yield_now().await;
    }
}

/// The coding of a body.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Error> {
    let mut codings = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let named = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        for name in named.split(',').map(str::trim) {
            match name {
                "" | "identity" => {}
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "zstd" => codings.push(Coding::Zstd),
                other => return Err(Error::UnsupportedEncoding(other.to_owned())),
            }
        }
    }
    if codings.len() > 1 {
        return Err(Error::UnsupportedEncoding(format!("{} codings at once", codings.len())));
    }
    Ok(codings.pop())
}

/// Bytes of which only so many can be had at a time.
struct Paced {
    source: Reader<Bytes>,
    left: usize,
}

impl BufRead for Paced {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.left == 0 {
            self.left = PIECE;
            return Err(ErrorKind::WouldBlock.into());
        }
        let bytes = self.source.fill_buf()?;
        Ok(bytes.get(..self.left).unwrap_or(bytes))
    }

    fn consume(&mut self, count: usize) {
        self.left -= count;
        self.source.consume(count);
    }
}

impl Read for Paced {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(space)?;
        self.consume(count);
        Ok(count)
    }
}

/// What several zstd frames, one behind the other, hold.
struct Frames {
    source: Reader<Bytes>,
    decoder: FrameDecoder,
    inside: bool,
    /// Nothing at all is no frame.
    begun: bool,
}

impl Frames {
    fn new(source: Reader<Bytes>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self { source, decoder, inside: false, begun: false }
    }

    /// Do one piece of the work: how many bytes were decoded, 0 at the end; `None` if it brought none.
    fn step(&mut self, space: &mut [u8]) -> std::io::Result<Option<usize>> {
        if !self.inside {
            if self.begun && self.source.fill_buf()?.is_empty() {
                return Ok(Some(0));
            }
            self.open()?;
            return Ok(None);
        }
        let count = self.decoder.read(space)?;
        if count > 0 {
            return Ok(Some(count));
        }
        if self.decoder.is_finished() {
            self.close()?;
        } else {
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(std::io::Error::other)?;
        }
        Ok(None)
    }

    /// Begin the next frame, or pass over one that is to be skipped.
    fn open(&mut self) -> std::io::Result<()> {
        self.begun = true;
        match self.decoder.init(&mut self.source) {
            Ok(()) => {
                self.inside = true;
                Ok(())
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => self.skip(u64::from(length)),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }

    fn skip(&mut self, length: u64) -> std::io::Result<()> {
        let skipped = std::io::copy(&mut (&mut self.source).take(length), &mut std::io::sink())?;
        if skipped < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The frame has been read to its end.
    fn close(&mut self) -> std::io::Result<()> {
        self.inside = false;
        let stated = self.decoder.get_checksum_from_data();
        if stated.is_some() && stated != self.decoder.get_calculated_checksum() {
            return Err(std::io::Error::other("the checksum differs"));
        }
        Ok(())
    }
}

impl Read for Frames {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        for _ in 0..STEPS {
            if let Some(count) = self.step(space)? {
                return Ok(count);
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }
}
