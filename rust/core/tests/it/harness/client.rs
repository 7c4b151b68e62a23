//! What clients send.

use super::{MODEL, Message, Wire};

/// Where a chat is asked for.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// The body of a chat request.
pub(crate) fn chat(stream: bool) -> String {
    chat_with(MODEL, stream)
}

/// The same for any model.
pub(crate) fn chat_with(model: &str, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    )
}

/// A whole request with a body of known length.
pub(crate) fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let framing = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    let fields = fields.concat();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{framing}\r\n");
    [head.as_bytes(), body].concat()
}

impl Wire {
    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) {
        self.send(request(method, target, fields, body.as_ref()));
    }

    pub(crate) fn ask_chat(&mut self, stream: bool) {
        self.ask("POST", CHAT, &[], chat(stream));
    }

    /// Ask for a chat, let the test answer it, and take the answer.
    pub(crate) fn chat(&mut self, answer: impl FnOnce()) -> Message {
        self.ask_chat(false);
        answer();
        self.message()
    }

    /// A round trip that the data plane answers by itself. When it returns, a data plane with one thread has looked at
    /// everything that was on its sockets before.
    pub(crate) fn ping(&mut self) {
        self.ask("GET", "/_control/", &[], "");
        let Message { head, .. } = self.message();
        assert_eq!(head.status(), 404);
    }
}
