//! Method and path to [`Endpoint`]: one static match, after the path was cleaned as the HTTP contract has it.

use std::borrow::Cow;

use http::Method;

/// What kind of work a runner does; a model may have one runner for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Chat and text generation.
    Completion,
    /// Vectors for texts.
    Embedding,
    /// Relevance of documents to a query.
    Reranking,
}

impl Mode {
    /// Every mode, in the order of their indexes.
    pub const ALL: [Self; 3] = [Self::Completion, Self::Embedding, Self::Reranking];

    /// The word that the API, the logs and the metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Embedding => "embedding",
            Self::Reranking => "reranking",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What a request takes of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One of its slots, for the model has to work.
    Slot,
    /// An answer in which the model has no part; nobody who waits for a slot is before it.
    Aside,
    /// The same, from a runner in any mode: what a text is in tokens is the same in all.
    AsideInAnyMode,
}

/// What the body of an inference request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A JSON object with `model`.
    Json,
    /// The same with messages, whose parts may have addresses of media.
    Messages,
    /// The same with texts to score, for which an engine is asked to rerank.
    Scores,
    /// A form with a field `model`.
    Form,
    /// A JSON object in another dialect than the engine's.
    Foreign(Foreign),
}

/// A request in another dialect than the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Anthropic's messages.
    Messages,
    /// How many tokens such messages are.
    CountTokens,
    /// OpenAI's Responses.
    Responses,
    /// How many tokens the input of one is.
    ResponsesTokens,
    /// Ollama's chat.
    OllamaChat,
    /// Ollama's generation.
    OllamaGenerate,
    /// Ollama's embeddings.
    OllamaEmbed,
    /// The same, of one text, as it was before.
    OllamaEmbeddings,
}

/// What the path says of an inference request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The mode of the runner that is needed.
    pub mode: Mode,
    /// The engine's path for it.
    pub upstream_path: &'static str,
    /// What it takes of that runner.
    pub takes: Takes,
    /// What its body is.
    pub content: Content,
}

impl Target {
    const fn new(mode: Mode, upstream_path: &'static str, content: Content) -> Self {
        Self { mode, upstream_path, takes: Takes::Slot, content }
    }

    const fn aside(upstream_path: &'static str, takes: Takes, content: Content) -> Self {
        Self { mode: Mode::Completion, upstream_path, takes, content }
    }

    /// In another dialect; what the engine is asked is known when the body is.
    const fn foreign(foreign: Foreign) -> Self {
        let mode = match foreign {
            Foreign::OllamaEmbed | Foreign::OllamaEmbeddings => Mode::Embedding,
            _ => Mode::Completion,
        };
        Self::new(mode, "", Content::Foreign(foreign))
    }

    /// A model is to speak, asked at this path of the engine's.
    pub(crate) const fn speech(upstream_path: &'static str) -> Self {
        let content = match upstream_path.as_bytes() {
            b"/v1/chat/completions" => Content::Messages,
            _ => Content::Json,
        };
        Self::new(Mode::Completion, upstream_path, content)
    }

    /// The modes of runners that can answer, the one to be started first.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        let any = self.takes == Takes::AsideInAnyMode;
        let mode = self.mode;
        std::iter::once(mode)
            .chain(Mode::ALL.into_iter().filter(move |other| any && *other != mode))
    }

    /// Whether the answer can be a stream.
    pub fn streams(&self) -> bool {
        self.mode == Mode::Completion && self.takes == Takes::Slot
    }
}

/// Something of OpenAI's that is not here.
#[derive(Debug, PartialEq, Eq)]
pub struct Absence {
    /// What there is none of.
    pub what: &'static str,
    /// What to do instead.
    pub instead: &'static str,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// An engine answers.
    Inference(Target),
    /// A path of OpenAI's that no engine here has an answer for.
    NotOffered(&'static Absence),
    /// `/engines/requests/{id}/cancel`: the request with this ID is to end.
    Cancel(&'a str),
    /// `…/responses/{id}/cancel`: the response with this ID is to end, and the control plane answers.
    CancelResponse(&'a str),
    /// An inference path, but not with `POST`.
    MethodNotAllowed,
    /// `/engines/{backend}/…` with a backend that does not exist.
    UnknownBackend(&'a str),
    /// `/_control/…`: private, does not exist from outside.
    Private,
    /// `/engines/requests`: what was recorded.
    Recorder,
    /// Anything else: the control plane answers.
    Management,
}

/// Clean a path that holds `//`: collapse slashes, resolve `.` and `..`, drop a trailing slash. Others pass unchanged.
pub fn clean(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// Say where a request to a cleaned path goes.
pub fn classify<'a>(method: &Method, path: &'a str, backends: &[String]) -> Endpoint<'a> {
    // `CONNECT host:port` has no path: we are no such proxy.
    if is_private(path) || method == Method::CONNECT {
        return Endpoint::Private;
    }
    if let Some(id) =
        path.strip_prefix("/engines/requests/").and_then(|rest| rest.strip_suffix("/cancel"))
    {
        let post = method == Method::POST;
        return if post { Endpoint::Cancel(id) } else { Endpoint::MethodNotAllowed };
    }
    if path == "/engines/requests" && (method == Method::GET || method == Method::HEAD) {
        return Endpoint::Recorder;
    }
    if let Some(foreign) = ollama(path) {
        let post = method == Method::POST;
        return if post {
            Endpoint::Inference(Target::foreign(foreign))
        } else {
            Endpoint::MethodNotAllowed
        };
    }
    let Some(inside) = inside_engine(path) else {
        return Endpoint::Management;
    };
    let name = name(inside.path);
    if let Some(id) = name.strip_prefix("responses/").and_then(|it| it.strip_suffix("/cancel"))
        && method == Method::POST
    {
        return Endpoint::CancelResponse(id);
    }
    let absence = absent(name);
    let target = inference(name, name.len() < inside.path.len());
    if absence.is_none() && target.is_none() {
        return Endpoint::Management;
    }
    if let Some(backend) = inside.backend
        && !backends.iter().any(|known| known == backend)
    {
        return Endpoint::UnknownBackend(backend);
    }
    if method != Method::POST {
        return Endpoint::MethodNotAllowed;
    }
    match (target, absence) {
        (Some(target), _) => Endpoint::Inference(target),
        (None, Some(absence)) => Endpoint::NotOffered(absence),
        (None, None) => Endpoint::Management,
    }
}

/// Whether the control plane could take the path for one of its own. It decodes percent escapes before it looks.
fn is_private(path: &str) -> bool {
    let decoded = decode(path);
    let relative = decoded.trim_start_matches('/');
    relative.strip_prefix("_control").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Percent escapes undone; what is not UTF-8 then can be no path of ours.
pub(crate) fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escape = bytes.clone().take(2).collect::<Vec<u8>>();
        let value =
            std::str::from_utf8(&escape).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(value) if byte == b'%' && escape.len() == 2 => {
                decoded.push(value);
                bytes.nth(1);
            }
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// What of Ollama's own API takes a model.
fn ollama(path: &str) -> Option<Foreign> {
    Some(match path {
        "/api/chat" => Foreign::OllamaChat,
        "/api/generate" => Foreign::OllamaGenerate,
        "/api/embed" => Foreign::OllamaEmbed,
        "/api/embeddings" => Foreign::OllamaEmbeddings,
        _ => return None,
    })
}

/// A path below the engines, with what stood before it taken apart.
struct Inside<'a> {
    backend: Option<&'a str>,
    path: &'a str,
}

/// `/engines/{backend}/v1/x`, `/engines/v1/x`, `/v1/x` and `/x` to `v1/x` and `x`.
fn inside_engine(path: &str) -> Option<Inside<'_>> {
    let relative = path.strip_prefix('/')?;
    // Anthropic's clients are given a base address of their own, too.
    let relative = relative.strip_prefix("anthropic/").unwrap_or(relative);
    let Some(rest) = relative.strip_prefix("engines/") else {
        return Some(Inside { backend: None, path: relative });
    };
    // No backend is called like an endpoint.
    let is_endpoint = inference(rest, false).is_some() || absent(rest).is_some();
    if rest.starts_with("v1/") || rest.starts_with("responses/") || is_endpoint {
        return Some(Inside { backend: None, path: rest });
    }
    let (backend, rest) = rest.split_once('/')?;
    Some(Inside { backend: Some(backend), path: rest })
}

/// The path without `v1/`: clients are given base addresses with it and without.
fn name(path: &str) -> &str {
    path.strip_prefix("v1/").unwrap_or(path)
}

/// What is known of an endpoint; `versioned` if `v1/` stood before its name.
fn inference(name: &str, versioned: bool) -> Option<Target> {
    use Content::{Form, Json, Messages, Scores};
    use Mode::{Completion, Embedding, Reranking};
    Some(match name {
        "chat/completions" => Target::new(Completion, "/v1/chat/completions", Messages),
        // llama-server's own, without `v1`, is another; but clients are given base addresses without it, too.
        "completions" => Target::new(Completion, "/v1/completions", Json),
        "infill" => Target::new(Completion, "/infill", Json),
        "audio/transcriptions" => Target::new(Completion, "/v1/audio/transcriptions", Form),
        "embeddings" => Target::new(Embedding, "/v1/embeddings", Json),
        "rerank" | "reranking" => Target::new(Reranking, "/v1/rerank", Json),
        "score" => Target::new(Reranking, "/v1/rerank", Scores),
        "tokenize" => Target::aside("/tokenize", Takes::AsideInAnyMode, Json),
        "detokenize" => Target::aside("/detokenize", Takes::AsideInAnyMode, Json),
        "apply-template" => Target::aside("/apply-template", Takes::Aside, Messages),
        "chat/completions/input_tokens" => {
            Target::aside("/v1/chat/completions/input_tokens", Takes::Aside, Messages)
        }
        "messages" if versioned => Target::foreign(Foreign::Messages),
        "messages/count_tokens" if versioned => Target::foreign(Foreign::CountTokens),
        "responses" => Target::foreign(Foreign::Responses),
        "responses/input_tokens" => Target::foreign(Foreign::ResponsesTokens),
        _ => return None,
    })
}

/// What OpenAI has and no engine here does, so that its clients are told so in its own words.
fn absent(name: &str) -> Option<&'static Absence> {
    const IMAGES: Absence = Absence {
        what: "making or changing images",
        instead: "models here can read images in a chat; to make them, use a server for diffusion models",
    };
    const SPEECH: Absence =
        Absence { what: "making speech", instead: "use a server for text-to-speech models" };
    const TRANSLATIONS: Absence = Absence {
        what: "translating speech",
        instead: "transcribe it with `/v1/audio/transcriptions`, and have the text translated in a chat",
    };
    const MODERATIONS: Absence =
        Absence { what: "a moderation endpoint", instead: "ask a guard model in a chat" };
    match name {
        "images/generations" | "images/edits" | "images/variations" => Some(&IMAGES),
        "audio/speech" => Some(&SPEECH),
        "audio/translations" => Some(&TRANSLATIONS),
        "moderations" => Some(&MODERATIONS),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
