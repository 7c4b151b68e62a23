//! The engine's side of a request: one HTTP/1.1 connection over a Unix socket, and the idle ones of this thread.

mod connection;
mod pool;

pub(crate) use connection::{Connection, SendError};
pub(crate) use pool::{EngineConnection, Pool};
