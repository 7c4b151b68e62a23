//! The bytes of a request to the synthetic engine, in which only the seed differs from one to the next.

use anyhow::Context;

use super::options::Target;
use crate::transcript::{SEEDS, write_digits};

#[derive(Clone)]
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
             \"temperature\":0.7{wishes},\"seed\":{}}}",
            SEEDS.start()
        );
        Self::with_body(target, &body)
    }

    /// With a body of any dialect, which has the first of all seeds once.
    pub(super) fn with_body(target: &Target, body: &str) -> anyhow::Result<Self> {
        let seed = SEEDS.start().to_string();
        let seed_in_body = body.rfind(&seed).context("a body without a seed")?;
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
        let seed_at = bytes.len() - body.len() + seed_in_body;
        Ok(Self { bytes, seed_at })
    }

    pub(super) fn with_seed(&mut self, seed: u32) -> &[u8] {
        write_digits(&mut self.bytes[self.seed_at..self.seed_at + 8], seed);
        &self.bytes
    }
}
