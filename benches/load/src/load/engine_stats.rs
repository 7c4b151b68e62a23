//! What the synthetic engine behind a target counted while a load ran.

use anyhow::{Context, ensure};
use bytes::BytesMut;
use serde::Deserialize;

use super::report::EngineReport;
use crate::address::{Address, Stream};
use crate::http::{Body, Framing, Head};

/// The engine's counters at one moment.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Stats {
    connections_accepted: u64,
    requests: u64,
}

impl Stats {
    pub(super) async fn of(engine: &Address) -> anyhow::Result<Self> {
        Self::ask(engine).await.context("cannot ask the synthetic engine for /x_stats")
    }

    async fn ask(engine: &Address) -> anyhow::Result<Self> {
        let mut stream = Stream::connect(engine).await?;
        stream.write(b"GET /x_stats HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n").await?;
        let (mut inbox, mut content) = (BytesMut::new(), BytesMut::new());
        let mut body = None;
        loop {
            if body.is_none()
                && let Some(head) = Head::take(&mut inbox)?
            {
                ensure!(head.status() == Some(200), "`{}`", head.start);
                body = Some(Body::new(head.framing.unwrap_or(Framing::Length(0))));
            }
            if let Some(body) = &mut body
                && body.decode(&mut inbox, &mut content)?
            {
                return Ok(serde_json::from_slice(&content)?);
            }
            ensure!(stream.read(&mut inbox).await? > 0, "the answer ended early");
        }
    }

    /// What came between `earlier` and this, without these two questions.
    pub(super) fn since(self, earlier: Self) -> EngineReport {
        // The question of `self` is counted in it, that of `earlier` was counted before.
        let requests = (self.requests - earlier.requests).saturating_sub(1);
        let connections =
            (self.connections_accepted - earlier.connections_accepted).saturating_sub(1);
        let reuse = 1.0 - connections as f64 / requests.max(1) as f64;
        EngineReport { requests, connections, reuse: reuse.max(0.0) }
    }
}
