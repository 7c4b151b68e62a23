//! An engine that does what the test says, byte for byte as llama-server does it.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use model_runner_core::endpoint::Mode;
use model_runner_core::{Capabilities, Route};
use socket2::SockRef;

use super::{MODEL, MODEL_ID, Message, Wire, wait_for};

/// A stream as llama-server sent it: head, chunks, `[DONE]`.
pub(crate) const RECORDED_STREAM: &[u8] = include_bytes!("../recorded/chat_stream.http");

/// A whole answer as llama-server sent it.
pub(crate) const RECORDED_ANSWER: &[u8] = include_bytes!("../recorded/chat_answer.http");

/// The head of every stream of llama-server. It promises to keep the connection, and does not.
pub(crate) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n\
    X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
    Keep-Alive: timeout=5, max=100\r\n\r\n";

/// One event with one token, and with the role that the first of a chat has.
pub(crate) const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" word\"},\"finish_reason\":null}]}\n\n";

/// The end of a complete stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// Split a recorded exchange into head and body.
pub(crate) fn parts(recorded: &[u8]) -> (&[u8], &[u8]) {
    let end = recorded.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    recorded.split_at(end + 4)
}

/// An engine's socket. Nothing is accepted or answered but by the test.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) id: String,
    pub(crate) slots: usize,
    mode: Mode,
    path: PathBuf,
    listener: UnixListener,
    /// Connections on which nothing has come yet: some are opened in advance.
    silent: RefCell<Vec<UnixStream>>,
}

impl Engine {
    pub(crate) fn new(directory: &Path, id: &str) -> Self {
        let path = directory.join(format!("{id}.sock"));
        let listener = UnixListener::bind(&path).expect("a socket in a fresh directory");
        listener.set_nonblocking(true).expect("a listener need not block");
        Self {
            id: id.to_owned(),
            slots: 4,
            mode: Mode::Completion,
            path,
            listener,
            silent: RefCell::default(),
        }
    }

    pub(crate) fn with_slots(self, slots: usize) -> Self {
        Self { slots, ..self }
    }

    pub(crate) fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// How the control plane would publish it.
    pub(crate) fn route(&self) -> Route {
        Route {
            runner_id: self.id.clone(),
            socket: self.path.clone(),
            api_key: format!("key-of-{}", self.id),
            slots: self.slots,
            context_size: 4096,
            context_limit: 8192,
            has_stops: false,
            capabilities: Capabilities::ALL,
            backend: "llama.cpp".to_owned(),
            model: MODEL.to_owned(),
            model_id: MODEL_ID.to_owned(),
            mode: self.mode,
            names: vec![MODEL.to_owned(), "smollm2".to_owned()],
        }
    }

    /// The next connection with something to read, if there is one already.
    pub(crate) fn try_accept(&self) -> Option<Wire> {
        let mut silent = self.silent.borrow_mut();
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => silent.push(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("cannot accept: {error}"),
            }
        }
        let speaks = |stream: &UnixStream| {
            stream.set_nonblocking(true).expect("a connection need not block");
            let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
            stream.set_nonblocking(false).expect("a connection may block");
            matches!(peeked, Ok(1))
        };
        let position = silent.iter().position(speaks)?;
        Some(Wire::new(silent.remove(position)))
    }

    /// Close the connections on which nothing has come.
    pub(crate) fn close_silent(&self) {
        assert!(self.try_accept().is_none(), "something has come");
        self.silent.borrow_mut().clear();
    }

    /// The next connection with something to read.
    pub(crate) fn accept(&self) -> Wire {
        wait_for("a connection to the engine", || self.try_accept())
    }

    /// The next connection, and the request that comes on it.
    pub(crate) fn receive(&self) -> (Wire, Message) {
        let mut wire = self.accept();
        let request = wire.message();
        (wire, request)
    }

    /// From now on only one connection may wait to be accepted.
    pub(crate) fn shrink_backlog(&self) {
        SockRef::from(&self.listener).listen(0).expect("it listens already");
    }

    /// Connect to it as somebody else.
    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).expect("there is room")
    }

    /// Accept a connection and begin a stream with one event on it.
    pub(crate) fn begin_stream(&self) -> Wire {
        let (mut wire, _) = self.receive();
        wire.send(STREAM_HEAD);
        wire.send_chunk(EVENT);
        wire
    }
}

impl Wire {
    /// Answer with a JSON document, as llama-server does.
    pub(crate) fn answer(&mut self, status: &str, fields: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 {status}\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n\
             Content-Type: application/json; charset=utf-8\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ));
    }

    pub(crate) fn answer_ok(&mut self, body: &str) {
        self.answer("200 OK", "Keep-Alive: timeout=5, max=100\r\n", body);
    }

    /// End a stream, and the connection with it, as llama-server does.
    pub(crate) fn end_stream(mut self) {
        self.send_chunk(DONE);
        self.end_chunks_if_read();
    }
}
