//! Who may ask at all: pages of other sites may not, neither by their origin nor by a name that they let point at us.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use std::net::IpAddr;

use crate::error::Error;

/// Pages on this machine, on any port, as Docker Model Runner means its built-in list; and the windows of programs that
/// are installed on it, as Ollama lets them in: no site can have a page whose origin has one of these schemes. Browsers
/// say `null` of a page that is a file, which stays out; `file://` is what Electron says.
const LOCAL_ORIGINS: [&str; 15] = [
    "http://localhost:*",
    "https://localhost:*",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://0.0.0.0:*",
    "https://0.0.0.0:*",
    "http://[::1]:*",
    "https://[::1]:*",
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
    // Tauri's on Windows; `.localhost` is never anywhere else (RFC 6761).
    "http://tauri.localhost",
    "https://tauri.localhost",
];

/// Names that no public DNS server answers for (RFC 6761, RFC 6762, ICANN's reservation of `.internal`), so that none of
/// them can be made to point at this machine by a stranger.
const PRIVATE_SUFFIXES: [&str; 3] = [".localhost", ".local", ".internal"];

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");

/// What of a head a page may see besides what browsers show anyway.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");

/// Browsers ask again after this many seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// The rules, made once.
#[derive(Debug)]
pub(crate) struct Admission {
    origins: Vec<String>,
    any_origin: bool,
}

/// What a request that was let in is owed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Nothing more: it does not come from a page.
    Plain,
    /// A page of this origin may read the answer.
    Page(HeaderValue),
    /// A page of this origin asks whether it may ask.
    Preflight(HeaderValue),
}

impl Admission {
    /// `origins`: more origins that may ask, such as `https://app.example.com`, `http://intranet:*`,
    /// `chrome-extension://*`, or `*` for all.
    pub(crate) fn new(origins: &[String]) -> Self {
        Self {
            any_origin: origins.iter().any(|origin| origin == "*"),
            origins: LOCAL_ORIGINS
                .iter()
                .map(|&origin| origin.to_owned())
                .chain(origins.iter().cloned())
                .collect(),
        }
    }

    /// Let a request in, or say why not. `loopback`: it came over a TCP listener that only this machine can reach.
    pub(crate) fn admit<B>(&self, request: &Request<B>, loopback: bool) -> Result<Admitted, Error> {
        // What stands in front may have looked at the other one (RFC 9112 §3.2).
        if request.headers().get_all(HOST).iter().nth(1).is_some() {
            return Err(Error::MalformedHead("it has more than one `Host`".to_owned()));
        }
        if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
            return Err(Error::MalformedHead("it has no `Host`".to_owned()));
        }
        if loopback
            && let Some(host) = host_of(request)
            && !is_ours(host)
        {
            return Err(Error::HostNotAllowed(host.to_owned()));
        }
        let Some(origin) = request.headers().get(ORIGIN) else { return Ok(Admitted::Plain) };
        if !self.allows(origin) {
            return Err(Error::OriginNotAllowed(
                String::from_utf8_lossy(origin.as_bytes()).into_owned(),
            ));
        }
        let preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let origin = origin.clone();
        Ok(if preflight { Admitted::Preflight(origin) } else { Admitted::Page(origin) })
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any_origin
            || origin
                .to_str()
                .is_ok_and(|origin| self.origins.iter().any(|pattern| matches(pattern, origin)))
    }
}

/// Whether an origin is the one of the pattern; a pattern that ends with `:*` stands for all ports, and for none, one
/// that ends with `://*` for all that has its scheme.
fn matches(pattern: &str, origin: &str) -> bool {
    if let Some(scheme) = pattern.strip_suffix('*').filter(|scheme| scheme.ends_with("://")) {
        return origin.starts_with(scheme);
    }
    let Some(site) = pattern.strip_suffix(":*") else { return pattern == origin };
    match origin.strip_prefix(site) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix(':')
            .is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())),
        None => false,
    }
}

/// The name that the client knows us by, without its port.
fn host_of<B>(request: &Request<B>) -> Option<&str> {
    // In the absolute form the target says it, and `Host` is to be ignored (RFC 9112 §3.2.2).
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST)?.to_str().ok()?,
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    Some(host.trim_start_matches('[').trim_end_matches(']')).filter(|host| !host.is_empty())
}

/// Whether a name can only mean this machine or its network. Addresses are: rebinding needs a name.
fn is_ours(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.parse::<IpAddr>().is_ok()
        || PRIVATE_SUFFIXES.iter().any(|suffix| host.ends_with(suffix))
}

/// Tell the browser that a page of this origin may read the answer.
pub(crate) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// The answer to a page that asks whether it may ask.
pub(crate) fn preflight<B, T: Default>(request: &Request<B>, origin: HeaderValue) -> Response<T> {
    let mut response = Response::new(T::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    allow(headers, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    if let Some(wanted) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

#[cfg(test)]
mod tests;
