//! The data plane of model-runner: owns every client connection, relays requests to inference engines over Unix
//! sockets, and counts every token. It knows nothing of Python, so a warm request cannot wait for the GIL.
//!
//! A request is drawn end to end in `ARCHITECTURE.md`; [`handler`] tells the same story in code.

mod account;
mod admit;
mod assemble;
mod certificate;
pub mod config;
mod connection;
mod control;
mod decode;
mod dialect;
pub mod endpoint;
mod engine;
pub mod error;
mod handler;
mod histogram;
mod infer;
mod intake;
mod listen;
mod media;
mod multipart;
mod observe;
mod pace;
pub mod peek;
mod recorder;
mod relay;
mod repair;
pub mod routes;
pub mod runtime;
mod score;
mod server;
pub mod snapshot;
mod splice;
pub mod sse;
mod stall;
mod ticket;
mod tls;
mod upstream;
pub mod usage;
mod waiting;
mod worker;

pub use config::Config;
pub use error::Error;
pub use routes::{Capabilities, Route};
pub use runtime::DataPlane;
pub use snapshot::Snapshot;
