//! An answer that goes on with the assistant's last message: engines say that message again, clients of these dialects
//! have it already.

use bytes::Bytes;

use super::chat::{Content, Message};
use super::event::{Event, Literal};
use super::translation::{Encoder, Question, Start};
use crate::error::Error;

/// Leaves out of an answer the text that it repeats.
#[derive(Debug)]
struct Unrepeated {
    encoder: Box<dyn Encoder>,
    /// What is to be repeated still.
    left: String,
    /// What was left out so far.
    heard: String,
}

/// An encoder that is not told what the last message says, if an answer to these messages goes on with it.
pub(crate) fn without_last(
    messages: &[Message<'_>],
    encoder: Box<dyn Encoder>,
) -> Box<dyn Encoder> {
    match messages.last() {
        Some(Message { role, content: Some(Content::Text(text)), tool_calls, .. })
            if role == "assistant" && tool_calls.is_empty() && !text.is_empty() =>
        {
            let left = text.clone().into_owned();
            Box::new(Unrepeated { encoder, left, heard: String::new() })
        }
        _ => encoder,
    }
}

impl Unrepeated {
    fn hear(&mut self, piece: Literal<'_>, out: &mut Vec<u8>) {
        let text = piece.text();
        if let Some(left) = self.left.strip_prefix(&*text) {
            self.heard.push_str(&text);
            self.left = left.to_owned();
            return;
        }
        let rest = match text.strip_prefix(&*self.left) {
            Some(rest) => rest.to_owned(),
            // It is no repetition, so nothing of it may be lost.
            None => std::mem::take(&mut self.heard) + &text,
        };
        self.left.clear();
        self.tell(rest, out);
    }

    /// The answer ends. What repeats a part of the message only is no repetition of it.
    fn settle(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.left).is_empty() {
            let heard = std::mem::take(&mut self.heard);
            self.tell(heard, out);
        }
    }

    fn tell(&mut self, text: String, out: &mut Vec<u8>) {
        let quoted = serde_json::Value::from(text).to_string();
        if let Some(text) = Literal::of(quoted.as_bytes()).filter(|text| !text.is_empty()) {
            self.encoder.event(&Event::Text(text), out);
        }
    }
}

impl Encoder for Unrepeated {
    fn start(&mut self, start: &Start) {
        self.encoder.start(start);
    }

    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match *event {
            Event::Text(piece) if !self.left.is_empty() => self.hear(piece, out),
            Event::Finish(_) => {
                self.settle(out);
                self.encoder.event(event, out);
            }
            _ => self.encoder.event(event, out),
        }
    }

    fn fail(&mut self, error: &Error, out: &mut Vec<u8>) {
        self.encoder.fail(error, out);
    }

    fn question(&mut self) -> Option<Question> {
        self.encoder.question()
    }

    fn learn(&mut self, answer: Result<Bytes, Error>) {
        self.encoder.learn(answer);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.encoder.end(out);
    }
}

#[cfg(test)]
mod tests {
    use super::{Encoder, Error, Event, Literal, Message, without_last};
    use crate::dialect::event::{Finish, Reason};

    /// Says nothing but the text.
    #[derive(Debug)]
    struct Plain;

    impl Encoder for Plain {
        fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
            if let Event::Text(text) = event {
                out.extend_from_slice(text.text().as_bytes());
            }
        }

        fn fail(&mut self, _error: &Error, _out: &mut Vec<u8>) {}

        fn end(&mut self, _out: &mut Vec<u8>) {}
    }

    fn said(last: &'static str, by: &'static str, pieces: &[&str]) -> String {
        let mut encoder = without_last(&[Message::text(by, last)], Box::new(Plain));
        let mut out = Vec::new();
        for piece in pieces {
            encoder.event(&Event::Text(Literal(piece.as_bytes())), &mut out);
        }
        let finish = Finish { reason: Reason::Stop, stop_string: None };
        encoder.event(&Event::Finish(finish), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_repeated_is_left_out_however_it_comes() {
        assert_eq!(said("It is", "assistant", &["It is sunny", " now"]), " sunny now");
        assert_eq!(said("It is", "assistant", &["It", " is", " sunny"]), " sunny");
        assert_eq!(said("a \"b\"", "assistant", &[r#"a \"b\"\n"#, "c"]), "\nc");
    }

    #[test]
    fn what_is_no_repetition_is_told_whole() {
        assert_eq!(said("It is", "assistant", &["It", " was", " sunny"]), "It was sunny");
        assert_eq!(said("It is", "user", &["It is", " sunny"]), "It is sunny");
        assert_eq!(said("It is", "assistant", &["It"]), "It");
    }
}
