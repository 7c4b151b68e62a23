//! One client: a keep-alive connection, the bytes of its request, and the head of the answer.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;

use super::Target;
use super::figures::Connections;
use crate::address::{Address, Stream};
use crate::http::{Body, Head};
use crate::transcript::{SEEDS, write_digits};

/// The bytes of a request, in which only the seed differs from one to the next.
pub(super) struct Request {
    bytes: Vec<u8>,
    seed_at: usize,
}

impl Request {
    /// `wishes` are further fields of the body, each with a comma before it.
    pub(super) fn new(target: &Target, wishes: &str) -> anyhow::Result<Self> {
        let model = serde_json::to_string(&target.model)?;
        let body = format!(
            "{{\"model\":{model},\"messages\":[\
             {{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"}},\
             {{\"role\":\"user\",\"content\":\"Write a haiku about the cost of a proxy.\"}}],\
             \"temperature\":0.7{wishes},\"x_seed\":{}}}",
            SEEDS.start()
        );
        let key = target.api_key.as_ref();
        let authorization =
            key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let mut bytes = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\nContent-Type: application/json\r\n\
             {authorization}Content-Length: {}\r\n\r\n",
            target.path,
            target.address.host(),
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body.as_bytes());
        // Eight digits and the closing brace.
        let seed_at = bytes.len() - 9;
        Ok(Self { bytes, seed_at })
    }

    fn with_seed(&mut self, seed: u32) -> &[u8] {
        write_digits(&mut self.bytes[self.seed_at..self.seed_at + 8], seed);
        &self.bytes
    }
}

/// The head of an answer has arrived; its body follows.
pub(super) struct Opened {
    pub(super) sent: Instant,
    /// The connection had carried a request before this one.
    pub(super) reused: bool,
    pub(super) body: Body,
}

/// A client with at most one connection and at most one request on it.
pub(super) struct Client {
    address: Address,
    stream: Option<Stream>,
    inbox: BytesMut,
    close: bool,
    pub(super) connections: Connections,
}

impl Client {
    pub(super) fn new(address: Address) -> Self {
        let inbox = BytesMut::with_capacity(16 * 1024);
        Self { address, stream: None, inbox, close: false, connections: Connections::default() }
    }

    /// Sends `request` and waits for the head of a 200.
    pub(super) async fn open(
        &mut self,
        request: &mut Request,
        seed: u32,
    ) -> anyhow::Result<Opened> {
        let reused = self.stream.is_some();
        let bytes = request.with_seed(seed);
        let (head, sent, reused) = match self.exchange(bytes).await {
            Ok((head, sent)) => (head, sent, reused),
            // The server may close a kept connection at any time. Whoever reuses one tries once more.
            Err(_) if reused && self.inbox.is_empty() => {
                self.connections.stale += 1;
                self.drop_connection();
                let (head, sent) = self.exchange(bytes).await?;
                (head, sent, false)
            }
            Err(error) => return Err(error),
        };
        self.close = head.close;
        let status = head.status().context("an answer without a status")?;
        ensure!(status == 200, "status {status}");
        Ok(Opened { sent, reused, body: Body::new(head.framing) })
    }

    async fn exchange(&mut self, bytes: &[u8]) -> anyhow::Result<(Head, Instant)> {
        let stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            self.connections.opened += 1;
            Stream::connect(&self.address).await.context("cannot connect")?
        };
        let stream = self.stream.insert(stream);
        let sent = Instant::now();
        stream.write(bytes).await.context("cannot send")?;
        loop {
            if let Some(head) = Head::take(&mut self.inbox)? {
                return Ok((head, sent));
            }
            if stream.read(&mut self.inbox).await.context("no answer")? == 0 {
                bail!("the connection was closed before the answer");
            }
        }
    }

    /// Moves what has arrived of the body to `content`, and says whether that was all of it.
    pub(super) fn decode(
        &mut self,
        body: &mut Body,
        content: &mut BytesMut,
    ) -> anyhow::Result<bool> {
        body.decode(&mut self.inbox, content)
    }

    /// Waits for more of the body.
    pub(super) async fn wait(&mut self) -> anyhow::Result<()> {
        let stream = self.stream.as_mut().context("no connection")?;
        let count = stream.read(&mut self.inbox).await.context("the answer was cut")?;
        ensure!(count > 0, "the answer ended early");
        Ok(())
    }

    /// The answer was read to its end: keep the connection if the server does.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        ensure!(self.inbox.is_empty(), "bytes after the end of the answer");
        if self.close {
            self.drop_connection();
        }
        Ok(())
    }

    pub(super) fn drop_connection(&mut self) {
        self.stream = None;
        self.inbox.clear();
    }
}
