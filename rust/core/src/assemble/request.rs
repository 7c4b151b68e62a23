//! Which requests for a whole answer may be asked as streams, and how they are asked.

use std::borrow::Cow;

use super::Shape;
use crate::peek::Members;
use crate::splice;

#[cfg(test)]
mod tests;

/// What the engine is asked for when its stream is to become a whole answer.
const AS_STREAM: [(&str, &[u8]); 2] =
    [("stream", b"true"), ("stream_options", b"{\"include_usage\":true}")];

/// The request for a stream from whose events the whole answer that `body` asks for can be put together.
///
/// `None` if the body is to be forwarded as it is: it asks for a stream itself, its `stream` is for the engine to
/// refuse, or llama-server's stream would not tell everything that its whole answer does. Measured, that is so for
///
/// - `stop`: what might have become a stop string is withheld from the stream, and is in the answer alone if the limit on
///   tokens comes first;
/// - `verbose`: the request and the text are repeated inside the answer, but not in a stream;
/// - probabilities in a chat: tokens without text of their own (the end of the turn, markup) lack theirs, and with tools
///   a stream is refused.
pub(crate) fn as_stream(body: &[u8], shape: Shape) -> Option<Vec<u8>> {
    let asked = Asked::read(body)?;
    let probabilities = is_on(asked.logprobs) || is_on(asked.n_probs);
    let untold = is_on(asked.verbose)
        || asked.stop.is_some_and(|stop| !matches!(stop, b"null" | b"[]"))
        || (probabilities && shape == Shape::Chat);
    if untold || !matches!(asked.stream, None | Some(b"false" | b"null")) {
        return None;
    }
    splice::set(body, &AS_STREAM)
}

/// The members on which it depends how an engine is asked, as they are spelled; of one given twice the last.
#[derive(Default)]
struct Asked<'a> {
    stream: Option<&'a [u8]>,
    logprobs: Option<&'a [u8]>,
    n_probs: Option<&'a [u8]>,
    stop: Option<&'a [u8]>,
    verbose: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut asked = Self::default();
        for member in Members::open(body).ok()? {
            let member = member.ok()?;
            let name: Cow<'_, [u8]> = member.name();
            let field = match &*name {
                b"stream" => &mut asked.stream,
                b"logprobs" => &mut asked.logprobs,
                b"n_probs" => &mut asked.n_probs,
                b"stop" => &mut asked.stop,
                b"verbose" => &mut asked.verbose,
                _ => continue,
            };
            *field = Some(member.value);
        }
        Some(asked)
    }
}

fn is_on(value: Option<&[u8]>) -> bool {
    !matches!(value, None | Some(b"null" | b"false" | b"0"))
}
