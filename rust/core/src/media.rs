//! Finds the addresses of media in a request, which llama-server would fetch itself wherever they lead, and puts what
//! was fetched in their place.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use crate::peek::{Members, elements};

#[cfg(test)]
mod tests;

/// One of these is in every request with media: in a part's `type`, or in the key of its address.
static MARKS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [Finder::new(b"_url"), Finder::new(b"input_")]);

/// Where a part of a message has its media: in a string, or in an object's `url` or `data`.
const HOLDERS: [&[u8]; 6] =
    [b"image_url", b"input_image", b"input_audio", b"audio_url", b"input_video", b"video_url"];

/// An address in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The string literal, quotes included.
    pub(crate) literal: Range<usize>,
    pub(crate) url: String,
}

/// A medium that is neither in the request nor an image that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MediaError {
    #[error(
        "`{0}` has an address that is not `http://…` or `https://…`: send the bytes as a `data:` URL"
    )]
    Scheme(&'static str),
    #[error("only images are fetched from an address: send the bytes of `{0}` in the request")]
    NotAnImage(&'static str),
}

impl MediaError {
    /// The member that is to blame.
    pub(crate) fn param(&self) -> &'static str {
        match self {
            Self::Scheme(holder) | Self::NotAnImage(holder) => holder,
        }
    }
}

/// The addresses of images in the body of a chat, of a template or of a count of tokens.
///
/// # Errors
/// [`MediaError`] for an address that is never fetched, neither by us nor by the engine.
pub(crate) fn addresses(body: &[u8]) -> Result<Vec<Address>, MediaError> {
    if !may_have_media(body) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (_, messages) in members(body).filter(|(name, _)| is_one(name, &[b"messages", b"input"])) {
        let contents = elements(messages)
            .flat_map(members)
            .filter(|(name, _)| is_one(name, &[b"content"]))
            .flat_map(|(_, content)| elements(content));
        for (name, value) in contents.flat_map(members) {
            let Some(holder) = holder(&name) else { continue };
            inspect(body, holder, value, &mut found)?;
            for (name, value) in members(value) {
                if is_one(&name, &[b"url", b"data"]) {
                    inspect(body, holder, value, &mut found)?;
                }
            }
        }
    }
    Ok(found)
}

/// Whether there can be media at all. Text has none of the marks, unless letters of them are written as escapes.
fn may_have_media(body: &[u8]) -> bool {
    MARKS.iter().any(|mark| mark.find(body).is_some())
        || memmem::find_iter(body, b"\\u00").any(|at| matches!(body.get(at + 4), Some(b'2'..=b'7')))
}

fn members(object: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, &[u8])> {
    let members = Members::open(object).into_iter().flatten();
    // What is malformed is the engine's to refuse.
    members.map_while(Result::ok).map(|member| (member.name(), member.value))
}

fn is_one(name: &[u8], known: &[&[u8]]) -> bool {
    known.contains(&name)
}

fn holder(name: &[u8]) -> Option<&'static str> {
    let known = HOLDERS.into_iter().find(|holder| *holder == name)?;
    std::str::from_utf8(known).ok()
}

/// Take `value` down if it is a string with an address.
fn inspect(
    body: &[u8],
    holder: &'static str,
    value: &[u8],
    found: &mut Vec<Address>,
) -> Result<(), MediaError> {
    // A megabyte of base64 is not decoded: no address begins with that.
    if !value.starts_with(b"\"") || value.starts_with(b"\"data:") {
        return Ok(());
    }
    let Ok(url) = serde_json::from_slice::<String>(value) else { return Ok(()) };
    let begins = |scheme: &str| {
        url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if begins("http://") || begins("https://") {
        if holder != "image_url" && holder != "input_image" {
            return Err(MediaError::NotAnImage(holder));
        }
        let start = value.as_ptr().addr() - body.as_ptr().addr();
        found.push(Address { literal: start..start + value.len(), url });
        return Ok(());
    }
    // The engine takes for an address what begins with these letters, and anything else for base64, which has no colon.
    if begins("http") || (url.contains(':') && !begins("data:")) {
        return Err(MediaError::Scheme(holder));
    }
    Ok(())
}

/// The body with what was `fetched` in place of each address; all other bytes stay. `None` if there is nothing for one of
/// them, or if it would have more than `limit` bytes.
pub(crate) fn replace(
    body: &[u8],
    addresses: &[Address],
    fetched: &[(&str, String)],
    limit: usize,
) -> Option<Vec<u8>> {
    let mut edited = Vec::with_capacity(body.len());
    let mut copied = 0;
    for Address { literal, url } in addresses {
        let (_, data) = fetched.iter().find(|(known, _)| known == url)?;
        edited.extend_from_slice(body.get(copied..literal.start)?);
        // Looked at each time: an address of 30 bytes may stand for 13 MB, in one body as often as it likes.
        if data.len() > limit.checked_sub(edited.len())? {
            return None;
        }
        serde_json::to_writer(&mut edited, data).ok()?;
        copied = literal.end;
    }
    edited.extend_from_slice(body.get(copied..)?);
    (edited.len() <= limit).then_some(edited)
}
