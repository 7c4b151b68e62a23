//! What the data plane asks: engines, in our own few lines of HTTP/1.1 and with idle connections kept by each thread, and
//! the control plane.

mod body;
mod connection;
mod control;
mod head;
mod pool;
mod scratch;
mod socket;

pub(crate) use body::{BodyError, Framing};
pub(crate) use connection::{EngineConnection, SendError};
pub(crate) use control::{ControlConnection, ControlError};
pub(crate) use head::Head;
pub(crate) use pool::Pool;
