//! Fewer `dimensions` of embeddings, which llama-server does not hear: the first ones, at length 1 again.

use crate::dialect::fields::invalid;
use crate::error::Error;
use crate::peek::{Members, elements};
use crate::splice;

#[cfg(test)]
mod tests;

const DIMENSIONS: &str = "dimensions";

/// Six bits each, in the order of their values.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// How many dimensions a request wants; `None` if it does not say.
///
/// # Errors
/// [`Error::InvalidField`] for what is no number of them.
pub(crate) fn dimensions(value: &[u8]) -> Result<Option<usize>, Error> {
    if value == b"null" {
        return Ok(None);
    }
    let count = serde_json::from_slice(value).ok().filter(|count: &usize| *count > 0);
    count.map(Some).ok_or_else(|| invalid(DIMENSIONS, "must be a whole number from 1 up"))
}

/// The engine's answer with so many dimensions.
///
/// # Errors
/// [`Error::InvalidField`] if the model has fewer; [`Error::EngineUnreachable`] if the answer cannot be read.
pub(crate) fn shorten(answer: &[u8], count: usize) -> Result<Vec<u8>, Error> {
    let data = member(answer, b"data").ok_or_else(unreadable)?;
    let mut cut: Vec<u8> = b"[".to_vec();
    for (place, entry) in elements(data).enumerate() {
        if place > 0 {
            cut.push(b',');
        }
        let vector = member(entry, b"embedding").ok_or_else(unreadable)?;
        let shorter = if vector.starts_with(b"\"") {
            in_base64(vector, count)?
        } else {
            in_numbers(vector, count)?
        };
        let entry = splice::set(entry, &[("embedding", &shorter)]).ok_or_else(unreadable)?;
        cut.extend_from_slice(&entry);
    }
    cut.push(b']');
    splice::set(answer, &[("data", &cut)]).ok_or_else(unreadable)
}

fn in_numbers(vector: &[u8], count: usize) -> Result<Vec<u8>, Error> {
    let numbers: Vec<f32> = serde_json::from_slice(vector).map_err(|_| unreadable())?;
    if numbers.len() == count {
        return Ok(vector.to_vec());
    }
    let spelled: Vec<String> = cut(numbers, count)?.iter().map(f32::to_string).collect();
    Ok(format!("[{}]", spelled.join(",")).into_bytes())
}

fn in_base64(literal: &[u8], count: usize) -> Result<Vec<u8>, Error> {
    let spelled: String = serde_json::from_slice(literal).map_err(|_| unreadable())?;
    let bytes = decode(spelled.as_bytes()).ok_or_else(unreadable)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    let bytes: Vec<u8> = cut(numbers, count)?.into_iter().flat_map(f32::to_le_bytes).collect();
    Ok([b"\"", encode(&bytes).as_slice(), b"\""].concat())
}

fn cut(mut vector: Vec<f32>, count: usize) -> Result<Vec<f32>, Error> {
    if vector.len() < count {
        let reason = format!("the embeddings of this model have {}", vector.len());
        return Err(invalid(DIMENSIONS, reason));
    }
    vector.truncate(count);
    let squares: f64 = vector.iter().map(|number| f64::from(*number).powi(2)).sum();
    let length = squares.sqrt();
    if length > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "what it was before")]
        for number in &mut vector {
            *number = (f64::from(*number) / length) as f32;
        }
    }
    Ok(vector)
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut digits = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).ok();
            let digit = digit.and_then(|digit| DIGITS.get(digit)).copied();
            digits.push(digit.filter(|_| place <= group.len()).unwrap_or(b'='));
        }
    }
    digits
}

fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits.iter().take_while(|digit| **digit != b'=') {
        let value = DIGITS.iter().position(|known| known == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 255).ok()?);
        }
    }
    Some(bytes)
}

fn member<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let found = Members::open(object).ok()?.flatten().find(|member| member.key() == name);
    found.map(|member| member.value)
}

fn unreadable() -> Error {
    Error::EngineUnreachable("its vectors cannot be read".to_owned())
}
