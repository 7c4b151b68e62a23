//! Copies a raw JSON document and replaces what its rules say, in one pass; everything else stays as it is spelled.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

use super::rules::Rule;

#[cfg(test)]
mod tests;

/// Deeper documents are not looked into: what is redacted is hidden as a whole, what is not is shown.
const DEPTH: usize = 64;

/// `document` as `rule` shows it; `None` if it is not one JSON value.
pub(super) fn rewrite(document: &[u8], rule: Rule) -> Option<Vec<u8>> {
    begin(document, rule, usize::MAX).map(|(output, _)| output)
}

/// Its begin, of at least `limit` bytes if there are so many, and how many bytes of `document` were not looked at: a long
/// one of numbers takes 20 ns each.
pub(super) fn begin(document: &[u8], rule: Rule, limit: usize) -> Option<(Vec<u8>, usize)> {
    let mut rewriter =
        Rewriter { document, at: 0, copied: 0, output: Vec::new(), limit, is_full: false };
    let whole = rewriter.value(rule, 0);
    if rewriter.is_full {
        rewriter.copy_until(rewriter.at);
        return Some((rewriter.output, document.len() - rewriter.at));
    }
    whole?;
    if rewriter.significant().is_some() {
        return None;
    }
    rewriter.copy_until(document.len());
    Some((rewriter.output, 0))
}

struct Rewriter<'a> {
    document: &'a [u8],
    at: usize,
    /// What stands before is in the output, in one form or the other.
    copied: usize,
    output: Vec<u8>,
    /// No more output than this is wanted.
    limit: usize,
    /// There is so much, and what follows is not looked at.
    is_full: bool,
}

impl Rewriter<'_> {
    fn value(&mut self, rule: Rule, depth: usize) -> Option<()> {
        self.is_full = self.output.len() + self.at.saturating_sub(self.copied) >= self.limit;
        if self.is_full {
            return None;
        }
        match self.significant()? {
            b'{' if rule.opens() && depth < DEPTH => self.object(rule, depth + 1),
            b'[' if rule.opens() && depth < DEPTH => self.array(rule, depth + 1),
            b'{' | b'[' => {
                let range = self.nested()?;
                if !rule.is_open() {
                    let note = format!("\"[redacted: {} bytes]\"", range.len());
                    self.replace(range, note.as_bytes());
                }
                Some(())
            }
            b'"' => {
                let range = self.string()?;
                self.text(rule, range)
            }
            _ => {
                let range = self.scalar()?;
                let is_number = matches!(self.slice(&range), [b'-' | b'0'..=b'9', ..]);
                if is_number && !rule.shows_numbers() {
                    self.replace(range, b"0");
                }
                Some(())
            }
        }
    }

    fn text(&mut self, rule: Rule, range: Range<usize>) -> Option<()> {
        // Most strings are shown as they are, and need not be decoded for that.
        if rule.is_open() && rule != Rule::Media && !self.slice(&range).starts_with(b"\"data:") {
            return Some(());
        }
        let replacement = match decode(self.slice(&range)) {
            Some(text) => rule.text(&text),
            None if rule.is_open() => None,
            None => Some(format!("[redacted: {} bytes]", range.len())),
        };
        let Some(replacement) = replacement else { return Some(()) };
        let literal = serde_json::to_vec(&replacement).ok()?;
        self.replace(range, &literal);
        Some(())
    }

    fn object(&mut self, rule: Rule, depth: usize) -> Option<()> {
        self.at += 1;
        if self.significant()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            if self.significant()? != b'"' {
                return None;
            }
            let range = self.string()?;
            let key = decode(self.slice(&range)).unwrap_or_default().into_owned();
            if !rule.shows_key(&key) {
                self.replace(range, b"\"[redacted]\"");
            }
            if self.significant()? != b':' {
                return None;
            }
            self.at += 1;
            self.value(rule.member(&key), depth)?;
            if self.ends(b'}')? {
                return Some(());
            }
        }
    }

    fn array(&mut self, rule: Rule, depth: usize) -> Option<()> {
        self.at += 1;
        if self.significant()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.value(rule.element(), depth)?;
            if self.ends(b']')? {
                return Some(());
            }
        }
    }

    /// Consumes what separates two members or elements, or ends them.
    fn ends(&mut self, closing: u8) -> Option<bool> {
        let byte = self.significant()?;
        self.at += 1;
        match byte {
            b',' => Some(false),
            _ if byte == closing => Some(true),
            _ => None,
        }
    }

    /// The next byte that is not white space; it is not consumed.
    fn significant(&mut self) -> Option<u8> {
        let ahead = self.document.get(self.at..)?;
        let skipped = ahead.iter().take_while(|byte| b" \n\r\t".contains(byte)).count();
        self.at += skipped;
        ahead.get(skipped).copied()
    }

    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.at += 1;
        loop {
            self.at += memchr(b'"', self.document.get(self.at..)?)?;
            let inside = self.document.get(start + 1..self.at)?;
            self.at += 1;
            let backslashes = inside.iter().rev().take_while(|byte| **byte == b'\\').count();
            if backslashes % 2 == 0 {
                return Some(start..self.at);
            }
        }
    }

    /// Consumes an array or an object, whatever is in it.
    fn nested(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match *self.document.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(start..self.at);
            }
        }
    }

    /// Consumes a number or a literal, which must be one.
    fn scalar(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let ahead = self.document.get(start..)?;
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = ahead.iter().take_while(is_part).count();
        self.at += length;
        let scalar = ahead.get(..length)?;
        serde_json::from_slice::<serde::de::IgnoredAny>(scalar).ok()?;
        Some(start..self.at)
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.document.get(range.clone()).unwrap_or_default()
    }

    fn copy_until(&mut self, end: usize) {
        self.output.extend_from_slice(self.document.get(self.copied..end).unwrap_or_default());
        self.copied = end;
    }

    fn replace(&mut self, range: Range<usize>, replacement: &[u8]) {
        self.copy_until(range.start);
        self.output.extend_from_slice(replacement);
        self.copied = range.end;
    }
}

/// A string literal as text; borrowed where it has no escapes.
fn decode(literal: &[u8]) -> Option<Cow<'_, str>> {
    let inside = literal.get(1..literal.len().checked_sub(1)?)?;
    if memchr(b'\\', inside).is_none() {
        return std::str::from_utf8(inside).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(literal).ok().map(Cow::Owned)
}
