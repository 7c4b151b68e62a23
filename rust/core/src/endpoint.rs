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

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// An engine answers, in this mode, at this path of its own.
    Inference {
        /// The mode of the runner that is needed.
        mode: Mode,
        /// The engine's path for it.
        upstream_path: &'static str,
    },
    /// `/engines/requests/{id}/cancel`: the request with this ID is to end.
    Cancel(&'a str),
    /// An inference path, but not with `POST`.
    MethodNotAllowed,
    /// `/engines/{backend}/…` with a backend that does not exist.
    UnknownBackend(&'a str),
    /// `/_control/…`: private, does not exist from outside.
    Private,
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
    let Some(inside) = inside_engine(path) else {
        return Endpoint::Management;
    };
    let Some((mode, upstream_path)) = inference(inside.path) else {
        return Endpoint::Management;
    };
    if let Some(backend) = inside.backend
        && !backends.iter().any(|known| known == backend)
    {
        return Endpoint::UnknownBackend(backend);
    }
    if method != Method::POST {
        return Endpoint::MethodNotAllowed;
    }
    Endpoint::Inference { mode, upstream_path }
}

/// Whether the control plane could take the path for one of its own. It decodes percent escapes before it looks.
fn is_private(path: &str) -> bool {
    let decoded = decode(path);
    let relative = decoded.trim_start_matches('/');
    relative.strip_prefix("_control").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Percent escapes undone; what is not UTF-8 then can be no path of ours.
fn decode(path: &str) -> Cow<'_, str> {
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

/// A path below the engines, with what stood before it taken apart.
struct Inside<'a> {
    backend: Option<&'a str>,
    path: &'a str,
}

/// `/engines/{backend}/v1/x`, `/engines/v1/x`, `/v1/x` and `/rerank` to `v1/x` and `rerank`.
fn inside_engine(path: &str) -> Option<Inside<'_>> {
    let relative = path.strip_prefix('/')?;
    let Some(rest) = relative.strip_prefix("engines/") else {
        return Some(Inside { backend: None, path: relative });
    };
    if rest.starts_with("v1/") || rest == "rerank" {
        return Some(Inside { backend: None, path: rest });
    }
    let (backend, rest) = rest.split_once('/')?;
    Some(Inside { backend: Some(backend), path: rest })
}

fn inference(path: &str) -> Option<(Mode, &'static str)> {
    Some(match path {
        "v1/chat/completions" => (Mode::Completion, "/v1/chat/completions"),
        "v1/completions" => (Mode::Completion, "/v1/completions"),
        "v1/embeddings" => (Mode::Embedding, "/v1/embeddings"),
        "rerank" | "v1/rerank" => (Mode::Reranking, "/v1/rerank"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
