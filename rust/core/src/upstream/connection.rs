//! One connection to an engine: a request out, its answer in.
//!
//! Nothing is spawned. Whoever waits for the answer polls the socket, in its own task: no event costs a wake-up between
//! tasks or threads.

use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use http::HeaderName;
use http_body::SizeHint;

use super::body::{BodyError, Decoder, Framing};
use super::head::{self, Head, HeadError, MAX_HEAD};
use super::scratch;
use super::socket::{self, Socket};
use crate::config::{UPSTREAM_IDLE, UPSTREAM_USES};

/// A request could not be sent, or its answer's head did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("{}", lost(.0))]
    Lost(#[source] io::Error),
    #[error("the head of its answer is wrong: {0}")]
    Answer(#[from] HeadError),
}

fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection without an answer".to_owned(),
        _ => format!("the connection was lost: {error}"),
    }
}

impl SendError {
    /// Whether the engine certainly did not get the whole request: nobody listens, or it ended with bytes unread.
    ///
    /// A Unix socket says so exactly: a peer that closes with bytes unread, or before it accepted, causes `ECONNRESET`, and
    /// writing to one that has closed causes `EPIPE`. One that had read all it was sent causes an end of file.
    pub(crate) fn is_unread(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Lost(error) => {
                let kind = error.kind();
                matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            Self::Answer(_) => false,
        }
    }

    /// Whether not a byte of an answer came.
    pub(crate) fn is_silent(&self) -> bool {
        !matches!(self, Self::Answer(_))
    }
}

/// A connection, and how far its request and the answer are.
#[derive(Debug)]
pub(crate) struct EngineConnection {
    socket: Socket,
    /// What of the request is not written yet: head, body.
    unsent: [Bytes; 2],
    /// Why the rest of the request was given up. An answer may be there all the same.
    unsendable: Option<io::Error>,
    /// A head that has not come to its end.
    partial: Vec<u8>,
    /// The data that came with the head.
    first: Bytes,
    decoder: Decoder,
    served: u32,
    idle_since: Instant,
}

impl EngineConnection {
    pub(crate) async fn open(path: &Path) -> Result<Self, SendError> {
        socket::connect(path).await.map(Self::new).map_err(SendError::Connect)
    }

    /// The same, if the engine takes it at once.
    pub(crate) fn open_now(path: &Path) -> Result<Self, SendError> {
        socket::connect_now(path).map(Self::new).map_err(SendError::Connect)
    }

    fn new(stream: UnixStream) -> Self {
        Self {
            socket: Socket::new(stream),
            unsent: [Bytes::new(), Bytes::new()],
            unsendable: None,
            partial: Vec::new(),
            first: Bytes::new(),
            decoder: Decoder::new(Framing::Length(0)),
            served: 0,
            idle_since: Instant::now(),
        }
    }

    /// Send a request and wait for the head of its answer, without the fields in `withheld`.
    pub(crate) async fn send(
        &mut self,
        head: Bytes,
        body: Bytes,
        withheld: &[HeaderName],
    ) -> Result<Head, SendError> {
        self.unsent = [head, body];
        std::future::poll_fn(|context| self.poll_head(context, withheld)).await
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        withheld: &[HeaderName],
    ) -> Poll<Result<Head, SendError>> {
        loop {
            self.write(context);
            let read = scratch::with(|buffer| {
                let count = ready!(self.socket.poll_read(context, buffer));
                let came = count.map(|count| buffer.get_mut(..count).unwrap_or_default());
                Poll::Ready(self.take_head(came, withheld))
            });
            if let Some(head) = ready!(read)? {
                self.served += 1;
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Take more bytes of the head, and what of the body comes with its last ones.
    fn take_head(
        &mut self,
        came: io::Result<&mut [u8]>,
        withheld: &[HeaderName],
    ) -> Result<Option<Head>, SendError> {
        let came = match came {
            Ok([]) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(came) => came,
            Err(error) => return Err(self.lost(error)),
        };
        let mut held = std::mem::take(&mut self.partial);
        let bytes = if held.is_empty() {
            came
        } else {
            held.extend_from_slice(came);
            &mut held
        };
        let Some((head, length)) = head::parse(bytes, withheld)? else {
            if bytes.len() >= MAX_HEAD {
                return Err(HeadError::TooLong.into());
            }
            self.partial = bytes.to_vec();
            return Ok(None);
        };
        self.decoder = Decoder::new(head.framing);
        let rest = bytes.get_mut(length..).unwrap_or_default();
        self.first = self.data(rest);
        Ok(Some(head))
    }

    fn lost(&mut self, error: io::Error) -> SendError {
        if self.partial.is_empty() {
            // What broke first says more than what broke then.
            SendError::Lost(self.unsendable.take().unwrap_or(error))
        } else {
            HeadError::Cut.into()
        }
    }

    /// Write as much of the request as there is room for.
    fn write(&mut self, context: &mut Context<'_>) {
        while self.unsent.iter().any(|part| !part.is_empty()) {
            let [head, body] = &self.unsent;
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            match self.socket.poll_write(context, &slices) {
                Poll::Pending => return,
                Poll::Ready(Ok(written)) => self.sent(written),
                Poll::Ready(Err(error)) => {
                    // An engine that refuses a request early answers, and closes with the rest of it unread.
                    self.unsendable = Some(error);
                    self.unsent = [Bytes::new(), Bytes::new()];
                }
            }
        }
    }

    fn sent(&mut self, written: usize) {
        let [head, body] = &mut self.unsent;
        let of_head = written.min(head.len());
        head.advance(of_head);
        body.advance((written - of_head).min(body.len()));
        if body.is_empty() {
            // Else it would be kept for as long as the answer takes.
            self.unsent = [Bytes::new(), Bytes::new()];
        }
    }

    /// The next data of the answer's body, all that has come; `None` at its end.
    pub(crate) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if !self.first.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
            }
            if let Some(outcome) = self.decoder.outcome() {
                return Poll::Ready(outcome.err().map(Err));
            }
            self.write(context);
            self.first = ready!(scratch::with(|buffer| {
                let count = ready!(self.socket.poll_read(context, buffer));
                Poll::Ready(match count {
                    Ok(count) if count > 0 => {
                        self.data(buffer.get_mut(..count).unwrap_or_default())
                    }
                    Ok(_) => {
                        self.decoder.end();
                        Bytes::new()
                    }
                    Err(_) => {
                        self.decoder.fail();
                        Bytes::new()
                    }
                })
            }));
        }
    }

    /// What of these bytes is data, in a buffer of just that size.
    fn data(&mut self, bytes: &mut [u8]) -> Bytes {
        let length = self.decoder.decode(bytes);
        Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default())
    }

    /// All data was handed out, and there was all of it.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.decoder.outcome() == Some(Ok(()))
    }

    /// How much data is to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let held = self.first.len() as u64;
        match self.decoder.left() {
            Some(left) => SizeHint::with_exact(held + left),
            None => SizeHint::new(),
        }
    }

    /// Whether another request may follow: this one and its answer have come to their ends, and it was not the last.
    pub(crate) fn is_finished(&self) -> bool {
        self.served < UPSTREAM_USES
            && self.unsendable.is_none()
            && self.unsent.iter().all(Bytes::is_empty)
            && self.first.is_empty()
            && self.decoder.ended_cleanly()
    }

    /// Whether it has carried a request.
    pub(crate) fn is_used(&self) -> bool {
        self.served > 0
    }

    /// Whether a kept connection may still carry a request: not closed, not about to be.
    pub(crate) fn is_reusable(&mut self) -> bool {
        !self.expired() && self.socket.is_quiet()
    }

    /// Note that it is idle from now on.
    pub(crate) fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    pub(crate) fn expired(&self) -> bool {
        self.idle_since.elapsed() >= UPSTREAM_IDLE
    }
}
