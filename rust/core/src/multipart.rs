//! Finds a text field in a raw `multipart/form-data` body (RFC 7578) without copying the files in it.

use std::borrow::Cow;

use memchr::memchr;
use memchr::memmem;

#[cfg(test)]
mod tests;

/// RFC 2046 §5.1.1.
const MAX_BOUNDARY: usize = 70;

/// Of one part. Real ones are below 300 bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Forms that anybody means have a dozen.
const MAX_PARTS: usize = 1000;

/// What is wrong with a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    #[error("the `Content-Type` is not `multipart/form-data` with a `boundary`")]
    NoBoundary,
    #[error("the form does not begin with the boundary that its `Content-Type` names")]
    NoForm,
    #[error("a part of the form is malformed at byte {at}")]
    Malformed {
        /// Offset from the start of the body.
        at: usize,
    },
    #[error("the form ends within a part")]
    Cut,
    #[error("the form has more than {MAX_PARTS} parts")]
    TooManyParts,
    #[error("a field of the form is not UTF-8")]
    NotText,
}

/// The value of the first field of that name; files are no fields. `None` if there is none.
///
/// # Errors
/// A [`FormError`] if what comes before the field, or all if there is none, is no form.
pub(crate) fn field<'a>(
    body: &'a [u8],
    content_type: &[u8],
    name: &str,
) -> Result<Option<&'a str>, FormError> {
    let boundary = boundary(content_type).ok_or(FormError::NoBoundary)?;
    for part in Parts::open(body, &boundary)? {
        let part = part?;
        if part.name.as_deref() == Some(name.as_bytes()) && !part.is_file {
            return std::str::from_utf8(part.content).map(Some).map_err(|_| FormError::NotText);
        }
    }
    Ok(None)
}

/// The boundary that a `Content-Type` of a form names.
fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let end = memchr(b';', content_type)?;
    let (kind, parameters) = content_type.split_at(end);
    if !kind.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, b"boundary")?.into_owned();
    let allowed = |byte: &u8| (b' '..=b'~').contains(byte);
    let sane = (1..=MAX_BOUNDARY).contains(&boundary.len())
        && boundary.iter().all(allowed)
        && boundary.last() != Some(&b' ');
    sane.then_some(boundary)
}

/// The value of `; name=value` or `; name="value"` in a header field's parameters.
fn parameter<'a>(mut rest: &'a [u8], wanted: &[u8]) -> Option<Cow<'a, [u8]>> {
    loop {
        rest = rest.trim_ascii_start().strip_prefix(b";")?;
        let (name, behind) = rest.split_at(memchr(b'=', rest)?);
        let behind = behind.strip_prefix(b"=")?.trim_ascii_start();
        let (value, next) = value(behind)?;
        if name.trim_ascii().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = next;
    }
}

/// A token or a quoted string, and what follows it.
fn value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let (token, next) = text.split_at(memchr(b';', text).unwrap_or(text.len()));
        return Some((Cow::Borrowed(token.trim_ascii()), next));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Cow::Owned(value), quoted.get(at + 1..)?)),
            // A quote, or itself; browsers leave the backslashes of file names alone.
            b'\\' if matches!(quoted.get(at + 1), Some(b'"' | b'\\')) => {
                value.push(*bytes.next()?.1);
            }
            byte => value.push(*byte),
        }
    }
    None
}

/// One part of a form.
#[derive(Debug)]
struct Part<'a> {
    name: Option<Cow<'a, [u8]>>,
    is_file: bool,
    content: &'a [u8],
}

/// The parts of a form, one by one.
struct Parts<'a> {
    body: &'a [u8],
    delimiter: Vec<u8>,
    /// Behind a delimiter.
    at: usize,
    count: usize,
    ended: bool,
}

impl<'a> Parts<'a> {
    fn open(body: &'a [u8], boundary: &[u8]) -> Result<Self, FormError> {
        let delimiter = [b"\r\n--", boundary].concat();
        // The first one needs no line before it, but may have some.
        let first = delimiter.get(2..).unwrap_or_default();
        let at = if body.starts_with(first) {
            first.len()
        } else {
            memmem::find(body, &delimiter).ok_or(FormError::NoForm)? + delimiter.len()
        };
        Ok(Self { body, delimiter, at, count: 0, ended: false })
    }

    fn part(&mut self) -> Result<Option<Part<'a>>, FormError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Ok(None);
        }
        self.count += 1;
        if self.count > MAX_PARTS {
            return Err(FormError::TooManyParts);
        }
        let end = memmem::find(rest, &self.delimiter).ok_or(FormError::Cut)?;
        let text = rest.get(..end).unwrap_or_default();
        let (head, content) = split(text).ok_or(FormError::Malformed { at: self.at })?;
        self.at += end + self.delimiter.len();
        let disposition = disposition(head).unwrap_or_default();
        Ok(Some(Part {
            name: parameter(disposition, b"name"),
            is_file: parameter(disposition, b"filename").is_some(),
            content,
        }))
    }
}

/// Head and content of what lies between two delimiters.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // Padding may stand between a delimiter and the end of its line.
    let padding = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let lines = text.get(padding..)?.strip_prefix(b"\r\n")?;
    if let Some(content) = lines.strip_prefix(b"\r\n") {
        return Some((b"", content));
    }
    match memmem::find(lines.get(..lines.len().min(MAX_HEAD))?, b"\r\n\r\n") {
        Some(blank) => Some((lines.get(..blank)?, lines.get(blank + 4..)?)),
        // The line break behind the blank line may be the next delimiter's: there is no content then.
        None => Some((lines.strip_suffix(b"\r\n").filter(|head| head.len() < MAX_HEAD)?, b"")),
    }
}

/// The parameters of `Content-Disposition: form-data`.
fn disposition(head: &[u8]) -> Option<&[u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at(memchr(b':', line)?);
        if !name.trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            return None;
        }
        let value = value.get(1..)?.trim_ascii();
        let (kind, parameters) = value.split_at(memchr(b';', value)?);
        kind.trim_ascii().eq_ignore_ascii_case(b"form-data").then_some(parameters)
    })
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, FormError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let part = self.part().transpose();
        self.ended = !matches!(part, Some(Ok(_)));
        part
    }
}
