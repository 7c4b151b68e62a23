//! The head of an answer: parsed by `httparse`, read strictly where the end of the body depends on it, and without what
//! speaks of one connection only.

use std::mem::MaybeUninit;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Response, StatusCode, response};

use super::body::Framing;

#[cfg(test)]
mod tests;

/// The longest head that is taken.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The most fields that are taken; llama-server sends six.
const MAX_FIELDS: usize = 100;

/// What speaks of one connection only (RFC 9110 §7.6.1), besides what is read here.
const HOP_BY_HOP: [&str; 3] = ["keep-alive", "proxy-connection", "upgrade"];

/// What engines say all the time; these need not be copied.
const FREQUENT: [&str; 4] =
    ["application/json; charset=utf-8", "text/event-stream", "application/json", "no"];

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    /// What of it is of interest beyond the connection.
    pub(crate) parts: response::Parts,
    /// How the end of its body is told.
    pub(crate) framing: Framing,
    /// The peer does not say that it closes the connection.
    pub(crate) keeps_open: bool,
}

/// It is not a head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("{0}")]
    Malformed(#[from] httparse::Error),
    #[error("it does not say clearly where the body ends")]
    Framing,
    #[error("its status is none")]
    Status,
    #[error("it has more than {MAX_HEAD} bytes")]
    TooLong,
    #[error("the connection ended inside it")]
    Cut,
}

/// Read the head that `bytes` begin with, and say how long it is. Informational ones before it (100, 103) are skipped.
/// `None` if it is not complete. Fields in `withheld` are left out.
pub(super) fn parse(
    bytes: &[u8],
    withheld: &[HeaderName],
) -> Result<Option<(Head, usize)>, HeadError> {
    let mut skipped = 0;
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut []);
        let rest = bytes.get(skipped..).unwrap_or_default();
        let httparse::Status::Complete(length) = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut answer, rest, &mut fields)?
        else {
            return Ok(None);
        };
        skipped += length;
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(HeadError::Status)?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // Never asked for.
            return Err(HeadError::Status);
        }
        if !status.is_informational() {
            return Ok(Some((read(status, &answer, withheld)?, skipped)));
        }
    }
}

fn read(
    status: StatusCode,
    answer: &httparse::Response<'_, '_>,
    withheld: &[HeaderName],
) -> Result<Head, HeadError> {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    let current = answer.version == Some(1);
    let mut connection = Connection { keeps_open: current, named: Vec::new() };
    let (mut length, mut chunked) = (None, false);
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| httparse::Error::HeaderName)?;
        if name == CONTENT_LENGTH {
            if length.replace(number(field.value)?).is_some() {
                return Err(HeadError::Framing);
            }
        } else if name == TRANSFER_ENCODING {
            // Of HTTP/1.0 it means nothing; other codings we did not ask for, and could not undo.
            if chunked || !current || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Framing);
            }
            chunked = true;
        } else if name == CONNECTION {
            connection.read(field.value);
        } else if !HOP_BY_HOP.contains(&name.as_str()) && !withheld.contains(&name) {
            parts.headers.append(name, value(field.value)?);
        }
    }
    connection.strip(&mut parts.headers);
    let framing = match (length, chunked) {
        (Some(_), true) => return Err(HeadError::Framing),
        _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => {
            Framing::Length(0)
        }
        (Some(length), false) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::UntilEnd,
    };
    Ok(Head { parts, framing, keeps_open: connection.keeps_open })
}

/// What the peer says of the connection.
struct Connection {
    keeps_open: bool,
    /// More fields that end here.
    named: Vec<HeaderName>,
}

impl Connection {
    fn read(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.keeps_open = false;
            } else if let Ok(name) = HeaderName::from_bytes(token) {
                self.named.push(name);
            }
        }
    }

    fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.named {
            headers.remove(name);
        }
    }
}

/// A `Content-Length`: digits and nothing else.
fn number(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Framing);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(HeadError::Framing)
}

fn value(bytes: &[u8]) -> Result<HeaderValue, HeadError> {
    match FREQUENT.iter().find(|known| known.as_bytes() == bytes) {
        Some(known) => Ok(HeaderValue::from_static(known)),
        None => Ok(HeaderValue::from_bytes(bytes).map_err(|_| httparse::Error::HeaderValue)?),
    }
}
