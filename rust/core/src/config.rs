//! What the data plane is started with: plain values, checked once.

use std::path::PathBuf;
use std::time::Duration;

/// The engine closes a connection after 5 s without a request (llama-server's fixed keep-alive), so we let go first.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(4);

/// The engine closes a connection with its 100th response; using it only 99 times leaves no race.
pub const UPSTREAM_USES: u32 = 99;

/// All settings of the data plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unix socket of the control plane.
    pub control_socket: PathBuf,
    /// Host name or address of the TCP listener.
    pub host: String,
    /// TCP port; 0 lets the system choose; `None` means no TCP listener.
    pub port: Option<u16>,
    /// Path of a Unix socket to listen on.
    pub socket: Option<PathBuf>,
    /// Relaying threads, at least one.
    pub threads: usize,
    /// Names accepted in `/engines/{backend}/…`.
    pub backends: Vec<String>,
    /// Largest inference request in bytes.
    pub body_limit: usize,
    /// Requests that may wait for a slot of one runner.
    pub queue_limit: usize,
    /// How long a client may take to send a request head, counted from the end of the answer before; so also how long it may
    /// keep a connection idle. And how long it may send nothing of a body that has begun.
    pub header_timeout: Duration,
    /// How long a client may take nothing of an answer that waits for it.
    pub write_timeout: Duration,
    /// A client that asked for a stream and waits for a load or a slot gets a comment this often; `None`: never.
    pub heartbeat: Option<Duration>,
    /// Origins besides those of this machine whose pages may ask: `https://app.example.com`, `http://host:*`, or `*`.
    pub origins: Vec<String>,
    /// What is kept of requests, to be read at `/engines/requests`; `None`: nothing.
    pub recording: Option<Recording>,
}

/// How much of the requests is kept.
#[derive(Clone, Copy, Debug)]
pub struct Recording {
    /// Requests of each model.
    pub count: usize,
    /// Bytes of all requests and answers together.
    pub bytes: usize,
    /// What of them is replaced by its length.
    pub redaction: Redaction,
}

/// What of a recorded request is replaced by its length, before it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redaction {
    /// Nothing.
    Off,
    /// What the user wrote.
    Prompts,
    /// That, and what the model answered.
    All,
}

impl Redaction {
    /// The redaction that a setting names.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "prompts" => Some(Self::Prompts),
            "all" => Some(Self::All),
            _ => None,
        }
    }
}

/// A configuration that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `threads` is zero.
    #[error("`threads` must be at least 1")]
    NoThreads,
    /// Neither a TCP port nor a Unix socket was given.
    #[error("there is nothing to listen on: give a port or a socket")]
    NoListener,
}

impl Config {
    /// Check what the types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.threads == 0 {
            return Err(ConfigError::NoThreads);
        }
        if self.port.is_none() && self.socket.is_none() {
            return Err(ConfigError::NoListener);
        }
        Ok(())
    }
}
