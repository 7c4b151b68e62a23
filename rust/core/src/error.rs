//! What failed, whose fault it is, and how the caller is told: status, code and an OpenAI-shaped body.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::endpoint::Absence;

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request cannot work as it is.
    Client,
    /// The engine failed.
    Engine,
    /// We failed, or are not able to take the request now.
    Runner,
}

/// Every way in which the data plane itself answers an inference request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not one JSON object.
    #[error("the request body cannot be read: {0}")]
    MalformedBody(String),
    /// There is no `model`.
    #[error("the request names no model: `model` is missing or empty")]
    MissingModel,
    /// `model` is there, but is not a string.
    #[error("`model` must be a string")]
    ModelNotAString,
    /// Something else in the body cannot work as it is.
    #[error("{reason}")]
    InvalidParameter {
        /// The member of the body.
        param: &'static str,
        /// What is wrong with it, and what to do about it.
        reason: String,
    },
    /// The same of a member that is named by its path, `messages.0.role`.
    #[error("{param}: {reason}")]
    InvalidField {
        /// Its path.
        param: String,
        /// What is wrong with it, and what to do about it.
        reason: String,
    },
    /// The model cannot do what is asked of it.
    #[error("\"{model}\" does not support {what}")]
    Incapable {
        /// As the client spelt it.
        model: String,
        /// What it is to do.
        what: &'static str,
    },
    /// The body is in a `Content-Encoding` that is not taken.
    #[error("the request body's encoding is not supported: `{0}`")]
    UnsupportedEncoding(String),
    /// The body is longer than allowed.
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The client stopped sending the body.
    #[error("the rest of the request body did not come in time")]
    BodyTimeout,
    /// The client broke off while it sent the body.
    #[error("the request body ended early")]
    BodyIncomplete,
    /// `/engines/{backend}/…` names a backend that does not exist.
    #[error("backend `{0}` not found")]
    UnknownBackend(String),
    /// An inference path with a method other than `POST`.
    #[error("this path takes POST only")]
    MethodNotAllowed,
    /// A path of OpenAI's that no engine here has an answer for.
    #[error("{} is not offered: no engine here does it", .0.what)]
    NotOffered(&'static Absence),
    /// Nothing is recorded, so there is nothing to be read.
    #[error("requests are not recorded")]
    RecorderOff,
    /// No such path.
    #[error("404 page not found")]
    PathNotFound,
    /// Nothing is in flight under this ID.
    #[error("no request in flight has the ID `{0}`")]
    RequestNotFound(String),
    /// `Host` is a name that is not ours, so that a page of another site may have sent this (DNS rebinding).
    #[error("`{0}` is not a name of this server")]
    HostNotAllowed(String),
    /// A page of another site sent this.
    #[error("Origin not allowed: `{0}`")]
    OriginNotAllowed(String),
    /// Too many requests wait for this runner already.
    #[error("the model has {limit} requests waiting, and takes no more for now")]
    QueueFull {
        /// The limit on waiting requests.
        limit: usize,
    },
    /// The control plane refused the lease.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The control plane did not answer as it should.
    #[error("the control plane did not answer: {0}")]
    ControlUnreachable(String),
    /// The engine could not be reached, or died before it answered.
    #[error("the engine did not answer: {0}")]
    EngineUnreachable(String),
    /// The engine refused the request, or failed at it, and said why.
    #[error("{}", .0.message)]
    EngineRefused(Box<Complaint>),
    /// The engine died in the middle of its answer.
    #[error("the engine stopped in the middle of its answer")]
    EngineDied,
    /// Somebody cancelled the request by its ID.
    #[error("the request was cancelled")]
    Cancelled,
    /// The server stops, and the time that it gives its requests is over.
    #[error("the server is stopping")]
    Stopping,
    /// The head of a request came too slowly.
    #[error("the rest of the request's head did not come in time")]
    HeadTimeout,
    /// What came is not a request.
    #[error("the request cannot be read: {0}")]
    MalformedHead(String),
    /// The head is longer than allowed, or has too many fields.
    #[error("the request's head is larger than {limit} bytes, or has more than 100 fields")]
    HeadTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// There are as many connections as there may be.
    #[error("there are {limit} connections, and no more are taken for now")]
    TooManyConnections {
        /// The limit on connections.
        limit: u64,
    },
    /// The client left before there was an answer. Counted, never sent.
    #[error("the client left before it was answered")]
    ClientLeft,
}

/// An engine's error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// As an HTTP status, from 400 to 599.
    pub status: u16,
    /// In the engine's words.
    pub message: String,
    /// The engine's own type of it; empty if it names none.
    pub kind: String,
    /// How many tokens the prompt has, if it has too many.
    pub prompt_tokens: Option<u64>,
    /// How many there may be, those of the answer included.
    pub context_size: Option<u64>,
}

impl Complaint {
    /// Whether the prompt has more tokens than there is room for.
    pub fn is_about_length(&self) -> bool {
        self.kind == "exceed_context_size_error"
    }
}

/// The control plane's reason for not giving a lease.
#[derive(Clone, Debug, Deserialize)]
pub struct Refusal {
    /// HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// Machine-readable reason, for example `model_not_found`.
    pub code: String,
    /// OpenAI's error type.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub hint: Option<String>,
    /// The member of the request that is to blame.
    #[serde(default)]
    pub param: Option<String>,
    /// Seconds after which trying again makes sense.
    #[serde(default)]
    pub retry_after: Option<u32>,
    /// The model's name that is to blame, as the client spelt it.
    #[serde(default)]
    pub reference: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl Error {
    /// The codes that [`Error::code`] may give, `refused` standing for those of the control plane; bounds the labels of
    /// a metric.
    pub const CODES: &'static [&'static str] = &[
        "malformed_body",
        "missing_model",
        "invalid_model",
        "invalid_parameter",
        "incapable_model",
        "unsupported_encoding",
        "body_too_large",
        "body_incomplete",
        "body_timeout",
        "backend_not_found",
        "method_not_allowed",
        "not_offered",
        "path_not_found",
        "recorder_off",
        "request_not_found",
        "host_not_allowed",
        "origin_not_allowed",
        "queue_full",
        "refused",
        "control_unreachable",
        "engine_unreachable",
        "engine_refused",
        "engine_died",
        "client_left",
        "head_timeout",
        "malformed_head",
        "head_too_large",
        "too_many_connections",
        "cancelled",
        "stopping",
    ];

    /// What kind of error it is: one of [`Error::CODES`].
    const fn kind_code(&self) -> &'static str {
        match self {
            Self::MalformedBody(_) => "malformed_body",
            Self::MissingModel => "missing_model",
            Self::ModelNotAString => "invalid_model",
            Self::InvalidParameter { .. } | Self::InvalidField { .. } => "invalid_parameter",
            Self::Incapable { .. } => "incapable_model",
            Self::UnsupportedEncoding(_) => "unsupported_encoding",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyIncomplete => "body_incomplete",
            Self::BodyTimeout => "body_timeout",
            Self::UnknownBackend(_) => "backend_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotOffered(_) => "not_offered",
            Self::PathNotFound => "path_not_found",
            Self::RecorderOff => "recorder_off",
            Self::RequestNotFound(_) => "request_not_found",
            Self::HostNotAllowed(_) => "host_not_allowed",
            Self::OriginNotAllowed(_) => "origin_not_allowed",
            Self::QueueFull { .. } => "queue_full",
            Self::Refused(_) => "refused",
            Self::ControlUnreachable(_) => "control_unreachable",
            Self::EngineUnreachable(_) => "engine_unreachable",
            Self::EngineRefused(_) => "engine_refused",
            Self::EngineDied => "engine_died",
            Self::ClientLeft => "client_left",
            Self::HeadTimeout => "head_timeout",
            Self::MalformedHead(_) => "malformed_head",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::TooManyConnections { .. } => "too_many_connections",
            Self::Cancelled => "cancelled",
            Self::Stopping => "stopping",
        }
    }

    /// Index of this kind of error in [`Error::CODES`].
    pub fn index(&self) -> usize {
        let code = self.kind_code();
        Self::CODES.iter().position(|known| *known == code).unwrap_or_default()
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::QueueFull { .. }
            | Self::TooManyConnections { .. }
            | Self::Stopping
            | Self::ControlUnreachable(_) => Fault::Runner,
            Self::EngineUnreachable(_) | Self::EngineDied => Fault::Engine,
            Self::EngineRefused(complaint) if complaint.status >= 500 => Fault::Engine,
            Self::Refused(refusal) if refusal.status >= 500 => Fault::Runner,
            _ => Fault::Client,
        }
    }

    /// The HTTP status for it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MalformedBody(_)
            | Self::MissingModel
            | Self::ModelNotAString
            | Self::InvalidParameter { .. }
            | Self::InvalidField { .. }
            | Self::Incapable { .. }
            | Self::BodyIncomplete
            | Self::MalformedHead(_)
            | Self::ClientLeft => StatusCode::BAD_REQUEST,
            Self::UnsupportedEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTimeout | Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownBackend(_)
            | Self::PathNotFound
            | Self::RecorderOff
            | Self::RequestNotFound(_) => StatusCode::NOT_FOUND,
            // Not in the register, but what nginx logs for it, and what gRPC's CANCELLED maps to. No SDK tries it again.
            Self::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotOffered(_) => StatusCode::NOT_IMPLEMENTED,
            Self::HostNotAllowed(_) | Self::OriginNotAllowed(_) => StatusCode::FORBIDDEN,
            Self::QueueFull { .. }
            | Self::TooManyConnections { .. }
            | Self::Stopping
            | Self::ControlUnreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(refusal) => {
                StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::EngineRefused(complaint) => {
                StatusCode::from_u16(complaint.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::EngineUnreachable(_) | Self::EngineDied => StatusCode::BAD_GATEWAY,
        }
    }

    /// The machine-readable reason.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            // What OpenAI calls it, and clients make a conversation shorter for.
            Self::EngineRefused(complaint) if complaint.is_about_length() => {
                "context_length_exceeded"
            }
            other => other.kind_code(),
        }
    }

    /// Seconds after which the client may try again with success.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::QueueFull { .. }
            | Self::TooManyConnections { .. }
            | Self::ControlUnreachable(_) => Some(1),
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the rest of the request is still on its way when this is answered.
    pub fn leaves_body_unread(&self) -> bool {
        matches!(
            self,
            Self::BodyTooLarge { .. }
                | Self::BodyTimeout
                | Self::BodyIncomplete
                | Self::NotOffered(_)
        )
    }

    /// What happened, and what to do next.
    pub fn advice(&self) -> Cow<'static, str> {
        let hint = match self {
            Self::Refused(refusal) => refusal.hint.as_deref(),
            other => other.hint(),
        };
        Cow::Owned(match hint {
            Some(hint) => format!("{self} ({hint})"),
            None => self.to_string(),
        })
    }

    /// The body of the answer, in OpenAI's shape.
    pub fn to_json(&self) -> Bytes {
        let kind = match self {
            Self::Refused(refusal) => refusal.kind.as_str(),
            Self::EngineRefused(complaint) if !complaint.kind.is_empty() => &complaint.kind,
            other => other.kind(),
        };
        let detail =
            Detail { message: self.advice(), kind, param: self.param(), code: self.code() };
        // A struct of strings always serialises; the fallback keeps the type honest without a panic.
        serde_json::to_vec(&Envelope { error: detail })
            .map_or_else(|_| Bytes::from_static(b"{\"error\":{}}"), Bytes::from)
    }

    /// The same as one server-sent event, for a stream that has begun.
    pub fn to_event(&self) -> Bytes {
        let json = self.to_json();
        Bytes::from([b"data: ", json.as_ref(), b"\n\n"].concat())
    }

    /// The member of the body that is to blame.
    fn param(&self) -> Option<&str> {
        match self {
            Self::MissingModel | Self::ModelNotAString => Some("model"),
            Self::InvalidParameter { param, .. } => Some(param),
            Self::InvalidField { param, .. } => Some(param),
            Self::Refused(refusal) => refusal.param.as_deref(),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self.fault() {
            Fault::Client => "invalid_request_error",
            Fault::Engine | Fault::Runner => "server_error",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::MissingModel => "`model-runner list` shows what is here",
            Self::Incapable { .. } => "`model-runner show` says what a model can do",
            Self::UnsupportedEncoding(_) => "send it as it is, or as gzip or zstd",
            Self::RecorderOff => "start the server with `MODEL_RUNNER_RECORDER=on`",
            Self::BodyTooLarge { .. } => "the limit is set by `MODEL_RUNNER_BODY_LIMIT`",
            Self::RequestNotFound(_) => {
                "it has ended, or never was; `X-Request-Id` of an answer is its ID"
            }
            Self::BodyTimeout => "the limit is set by `MODEL_RUNNER_BODY_TIMEOUT`",
            Self::HeadTimeout => "the limit is set by `MODEL_RUNNER_HEAD_TIMEOUT`",
            Self::HeadTooLarge { .. } => "the limit is set by `MODEL_RUNNER_HEAD_LIMIT`",
            Self::TooManyConnections { .. } => {
                "try again; the limit is set by `MODEL_RUNNER_MAX_CONNECTIONS`"
            }
            Self::UnknownBackend(_) => "leave the backend out of the path, or use `llama.cpp`",
            Self::NotOffered(absence) => absence.instead,
            Self::HostNotAllowed(_) => {
                "use `localhost` or an address, or listen on another address"
            }
            Self::OriginNotAllowed(_) => "allow it with `DMR_ORIGINS`",
            Self::Stopping => {
                "try again when it is back; `MODEL_RUNNER_STOP_GRACE` is the time it gives"
            }
            Self::QueueFull { .. } => "try again; the limit is set by `MODEL_RUNNER_QUEUE_LIMIT`",
            Self::EngineUnreachable(_) | Self::EngineDied => {
                "the next request starts it anew; its log says why it stopped"
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Refusal};

    #[test]
    fn a_refusal_keeps_the_status_and_the_words_of_the_control_plane() {
        let error = Error::Refused(Box::new(Refusal {
            status: 404,
            code: "model_not_found".into(),
            kind: "invalid_request_error".into(),
            message: "model `x` is not here".into(),
            hint: Some("pull it".into()),
            param: None,
            retry_after: None,
            reference: Some("x".into()),
        }));
        assert_eq!(error.status(), 404);
        let body: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["message"], "model `x` is not here (pull it)");
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }

    #[test]
    fn an_error_event_is_a_whole_event() {
        let event = Error::EngineDied.to_event();
        assert!(event.starts_with(b"data: {\"error\":"));
        assert!(event.ends_with(b"\n\n"));
    }

    #[test]
    fn every_code_is_where_its_index_says() {
        let malformed = Error::MalformedBody(String::new());
        assert_eq!(Error::CODES[malformed.index()], "malformed_body");
        assert_eq!(Error::CODES[Error::EngineDied.index()], "engine_died");
        assert_eq!(Error::CODES[Error::Cancelled.index()], "cancelled");
    }
}
