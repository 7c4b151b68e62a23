//! Images and sound, which Ollama's clients send as bare base64 in one list.

use std::borrow::Cow;

use crate::dialect::chat::{Address, Part, Sound};
use crate::dialect::fields::{Fields, invalid, join, text};
use crate::error::Error;

/// What the beginning of a file, in base64, says of its kind.
const KINDS: [(&str, &str); 5] = [
    ("iVBOR", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lG", "image/gif"),
    ("Qk", "image/bmp"),
    ("UklGR", "image/webp"),
];

/// `WAVE` at the ninth byte of a RIFF file, in base64.
const WAVE: (usize, &str) = (11, "XQVZF");

/// The parts that the `images` of a message, or of a request, are.
pub(super) fn parts<'a>(fields: &Fields<'a>, path: &str) -> Result<Vec<Part<'a>>, Error> {
    let path = join(path, "images");
    let read = |(place, raw): (usize, &'a [u8])| {
        let path = format!("{path}.{place}");
        let data = text(raw).ok_or_else(|| invalid(&path, "must be a string in base64"))?;
        part(data, &path)
    };
    fields
        .list("images", path.strip_suffix(".images").unwrap_or_default())?
        .into_iter()
        .enumerate()
        .map(read)
        .collect()
}

fn part<'a>(data: Cow<'a, str>, path: &str) -> Result<Part<'a>, Error> {
    if data.starts_with("data:") {
        return Ok(Part::ImageUrl { image_url: Address { url: data } });
    }
    let foreign =
        data.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || b"+/=\r\n".contains(&byte)));
    if let Some(at) = foreign {
        return Err(invalid(path, format!("illegal base64 data at input byte {at}")));
    }
    let (at, wave) = WAVE;
    if data.starts_with("UklGR") && data.get(at..).is_some_and(|rest| rest.starts_with(wave)) {
        return Ok(Part::InputAudio { input_audio: Sound { data, format: "wav".into() } });
    }
    if data.starts_with("SUQz") || data.starts_with("//") {
        return Ok(Part::InputAudio { input_audio: Sound { data, format: "mp3".into() } });
    }
    let kind = KINDS.iter().find(|(begin, _)| data.starts_with(begin));
    let kind = kind.map_or("image/jpeg", |(_, kind)| kind);
    Ok(Part::ImageUrl { image_url: Address { url: format!("data:{kind};base64,{data}").into() } })
}
