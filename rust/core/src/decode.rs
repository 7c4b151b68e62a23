//! Undoes the `Content-Encoding` of a request body, within the limit on bodies and without holding up the thread.

use std::io::{BufRead, BufReader, Read};

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

/// Codings that may lie on one another. Each costs a decoder of its own, and nobody has a reason for two.
const MAX_CODINGS: usize = 3;

/// What a zstd frame may ask to be kept of what was decoded; RFC 9659 allows a client no more.
const ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// Decoded bytes between two looks at the other connections of the thread: 0.3 ms of gzip.
const PIECE: usize = 64 * 1024;

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

    fn over(self, source: Box<dyn BufRead>) -> Box<dyn BufRead> {
        match self {
            Self::Gzip => Box::new(BufReader::with_capacity(PIECE, MultiGzDecoder::new(source))),
            Self::Zstd => Box::new(BufReader::with_capacity(PIECE, Frames::new(source))),
        }
    }
}

/// The body without the codings that `headers` name, the last one first.
///
/// # Errors
/// [`Error::UnsupportedEncoding`] for a coding that is not taken, [`Error::BodyTooLarge`] as soon as more than `limit`
/// bytes came out, [`Error::MalformedBody`] for what is not in the coding that it claims.
pub(crate) async fn decode(body: Bytes, headers: &HeaderMap, limit: usize) -> Result<Bytes, Error> {
    let codings = codings(headers)?;
    let Some(outermost) = codings.last() else { return Ok(body) };
    let mut source: Box<dyn BufRead> = Box::new(body.reader());
    for coding in codings.iter().rev() {
        source = coding.over(source);
    }
    let mut decoded = Vec::new();
    loop {
        let piece = source.fill_buf().map_err(|error| {
            Error::MalformedBody(format!("it is not valid {}: {error}", outermost.name()))
        })?;
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

/// The codings of a body, in the order in which they were applied.
fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Error> {
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
    if codings.len() > MAX_CODINGS {
        return Err(Error::UnsupportedEncoding(format!("{} codings at once", codings.len())));
    }
    Ok(codings)
}

/// What several zstd frames, one behind the other, hold.
struct Frames {
    source: Box<dyn BufRead>,
    decoder: FrameDecoder,
    inside: bool,
    /// Nothing at all is no frame.
    begun: bool,
}

impl Frames {
    fn new(source: Box<dyn BufRead>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self { source, decoder, inside: false, begun: false }
    }

    /// Begin the next frame that is not to be skipped; false at the end.
    fn open(&mut self) -> std::io::Result<bool> {
        loop {
            if self.begun && self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            self.begun = true;
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(u64::from(length))?,
                Err(error) => return Err(std::io::Error::other(error)),
            }
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
        loop {
            if !self.inside {
                if !self.open()? {
                    return Ok(0);
                }
                self.inside = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(std::io::Error::other)?;
            }
            let count = self.decoder.read(space)?;
            if count > 0 {
                return Ok(count);
            }
            self.close()?;
        }
    }
}
