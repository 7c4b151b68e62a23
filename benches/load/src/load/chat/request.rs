//! A chat's request, as any OpenAI-compatible server takes it.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::address::Address;

#[derive(Args, Clone)]
#[command(next_help_heading = "What is asked")]
pub(super) struct Question {
    /// The server: `http://127.0.0.1:12434`, a base URL such as `http://127.0.0.1:12434/engines/v1`, or `unix:/path`.
    #[arg(long, value_name = "URL")]
    target: Server,
    /// The path of every request, instead of the one that the target's URL implies.
    #[arg(long)]
    path: Option<String>,
    /// The model that every request names.
    #[arg(long)]
    model: String,
    /// What the user says.
    #[arg(
        long,
        default_value = "Write a haiku about the cost of a proxy.",
        conflicts_with = "prompt_file"
    )]
    prompt: String,
    /// A file with a prompt on each line, used in turn.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Put the request's number before each prompt, so that no cache of an engine knows it.
    #[arg(long)]
    unique: bool,
    /// Tokens that an answer may have.
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_tokens: u32,
    /// Ask for streams: only they tell the time to the first token and between tokens.
    #[arg(long)]
    pub(super) stream: bool,
    /// Sent as a bearer token.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Another header of every request, such as `X-Api-Key: secret`. May be given several times.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Further fields of every request, such as `{"temperature": 0, "ignore_eos": true}`.
    #[arg(long, value_name = "JSON")]
    extra: Option<String>,
}

/// An address, and the path before `/chat/completions`.
#[derive(Clone)]
struct Server {
    address: Address,
    base: Option<String>,
}

impl FromStr for Server {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let (authority, base) = match authority.split_once('/') {
            Some((authority, base)) if !text.starts_with("unix:") && !authority.ends_with(':') => {
                (authority, base.trim_end_matches('/'))
            }
            _ => (authority, ""),
        };
        let base = (!base.is_empty()).then(|| format!("/{base}"));
        Ok(Self { address: authority.parse()?, base })
    }
}

/// A request, but for what differs from one to the next.
pub(super) struct ChatRequest {
    pub(super) address: Address,
    pub(super) stream: bool,
    path: String,
    /// Ends before the length's value.
    head: String,
    body: Map<String, Value>,
    prompts: Vec<String>,
    unique: bool,
}

impl ChatRequest {
    pub(super) fn new(question: &Question) -> anyhow::Result<Self> {
        let Question { target, stream, unique, .. } = question;
        let path = question.path.clone().unwrap_or_else(|| target.chat_path());
        ensure!(path.starts_with('/') && !path.contains(char::is_whitespace), "--path `{path}`");
        Ok(Self {
            address: target.address.clone(),
            stream: *stream,
            head: question.head(&path)?,
            path,
            body: question.body()?,
            prompts: question.prompts()?,
            unique: *unique,
        })
    }

    /// The bytes of the request of this number.
    pub(super) fn bytes(&self, number: u32) -> anyhow::Result<Vec<u8>> {
        let index = number as usize % self.prompts.len().max(1);
        let prompt = self.prompts.get(index).context("no prompt")?;
        let prompt = if self.unique { format!("{number}. {prompt}") } else { prompt.clone() };
        let mut body = self.body.clone();
        body.insert("messages".to_owned(), json!([{"role": "user", "content": prompt}]));
        let body = serde_json::to_vec(&body)?;
        let mut bytes = format!("{}{}\r\n\r\n", self.head, body.len()).into_bytes();
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Where requests go, for people.
    pub(super) fn described(&self) -> String {
        format!("`{}` at {}", self.path, self.address.host())
    }
}

impl Server {
    fn chat_path(&self) -> String {
        const PATH: &str = "/chat/completions";
        match &self.base {
            None => format!("/v1{PATH}"),
            Some(base) if base.ends_with(PATH) => base.clone(),
            Some(base) => format!("{base}{PATH}"),
        }
    }
}

impl Question {
    fn head(&self, path: &str) -> anyhow::Result<String> {
        let accept = if self.stream { "text/event-stream" } else { "application/json" };
        let host = self.target.address.host();
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
        );
        let key = self.api_key.as_ref().map(|key| format!("Authorization: Bearer {key}"));
        for header in key.iter().chain(&self.headers) {
            let named = header.split_once(':').is_some_and(|(name, _)| !name.trim().is_empty());
            ensure!(named, "--header `{header}` must be `Name: value`");
            ensure!(!header.contains(['\r', '\n']), "a header must be one line");
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("Content-Length: ");
        Ok(head)
    }

    fn body(&self) -> anyhow::Result<Map<String, Value>> {
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(self.model));
        body.insert("max_tokens".to_owned(), json!(self.max_tokens));
        body.insert("stream".to_owned(), json!(self.stream));
        if self.stream {
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        if let Some(extra) = &self.extra {
            let extra: Map<String, Value> =
                serde_json::from_str(extra).context("--extra must be a JSON object")?;
            ensure!(!extra.contains_key("stream"), "--extra cannot have `stream`: give --stream");
            ensure!(
                !extra.contains_key("messages"),
                "--extra cannot have `messages`: give --prompt"
            );
            body.extend(extra);
        }
        Ok(body)
    }

    fn prompts(&self) -> anyhow::Result<Vec<String>> {
        let Some(file) = &self.prompt_file else { return Ok(vec![self.prompt.clone()]) };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read `{}`", file.display()))?;
        let prompts: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        ensure!(!prompts.is_empty(), "`{}` has no prompt", file.display());
        Ok(prompts)
    }
}
