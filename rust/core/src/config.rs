//! What the data plane is started with: plain values, checked once.

use std::path::PathBuf;
use std::time::Duration;

/// The engine closes a connection after 5 s without a request (llama-server's fixed keep-alive), so we let go first.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(4);

/// The engine closes a connection with its 100th response; using it only 99 times leaves no race.
pub const UPSTREAM_USES: u32 = 99;

/// hyper wants at least this much room for a request head.
pub const HEAD_LIMIT_MIN: usize = 8 * 1024;

/// Bytes a second that a client must send of a body on average, once [`Config::body_timeout`] is used up. Less than the
/// slowest mobile network gives, and enough to end who sends a byte a minute.
pub const BODY_RATE: u32 = 1024;

/// The TLS listener.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// TCP port; 0 lets the system choose.
    pub port: u16,
    /// Whose name it speaks in.
    pub identity: Identity,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub enum Identity {
    /// PEM files of the user's.
    Given {
        /// The certificate, followed by those that lead to its root.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Made here, together with an authority that clients can be told to trust.
    SelfMade {
        /// Where both are kept.
        directory: PathBuf,
        /// Names and addresses that clients use, besides those of the loopback interface.
        names: Vec<String>,
    },
}

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
    /// Largest request head in bytes, at least [`HEAD_LIMIT_MIN`].
    pub head_limit: usize,
    /// Client connections beyond which a new one is told that there are too many.
    pub max_connections: u64,
    /// How long a connection may have no request on it.
    pub idle_timeout: Duration,
    /// How long a request head may take from its first byte to its last; and a TLS handshake.
    pub head_timeout: Duration,
    /// How long a client may send nothing of a body that has begun. Sending a little now and then does not do: see
    /// [`crate::config::BODY_RATE`].
    pub body_timeout: Duration,
    /// How long a client may take nothing of an answer that waits for it.
    pub write_timeout: Duration,
    /// A client that asked for a stream and waits for a load or a slot gets a comment this often; `None`: never.
    pub heartbeat: Option<Duration>,
    /// A second TCP listener, which speaks TLS.
    pub tls: Option<TlsConfig>,
    /// Origins besides those of this machine whose pages may ask: `https://app.example.com`, `http://host:*`, `app://*`, or `*`.
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
    /// `head_limit` is too small.
    #[error("`head_limit` must be at least {HEAD_LIMIT_MIN}")]
    SmallHeads,
}

impl Config {
    /// Check what the types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.threads == 0 {
            return Err(ConfigError::NoThreads);
        }
        if self.port.is_none() && self.socket.is_none() && self.tls.is_none() {
            return Err(ConfigError::NoListener);
        }
        if self.head_limit < HEAD_LIMIT_MIN {
            return Err(ConfigError::SmallHeads);
        }
        Ok(())
    }
}
