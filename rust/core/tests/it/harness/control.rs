//! A control plane that does what the test says.

use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};

use super::{Message, Wire, wait_for};

/// The private socket that leases are asked on and management requests arrive at.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
}

impl Control {
    pub(crate) fn new(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket in a fresh directory");
        listener.set_nonblocking(true).expect("a listener need not block");
        Self { listener }
    }

    /// The next connection, if one waits already.
    pub(crate) fn try_accept(&self) -> Option<Wire> {
        match self.listener.accept() {
            Ok((stream, _)) => Some(Wire::new(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot accept: {error}"),
        }
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Wire {
        wait_for("a connection to the control plane", || self.try_accept())
    }

    /// The next connection, and the request that comes on it.
    pub(crate) fn receive(&self) -> (Wire, Message) {
        let mut wire = self.accept();
        let request = wire.message();
        (wire, request)
    }

    /// The next lease call, and what it asks for.
    pub(crate) fn lease_call(&self) -> (Wire, Value) {
        let (wire, request) = self.receive();
        assert_eq!(request.head.start, "POST /_control/leases HTTP/1.1");
        assert_eq!(request.head.get("content-type"), Some("application/json"));
        let wanted = request.json();
        (wire, wanted)
    }
}

impl Wire {
    /// Answer a lease call.
    pub(crate) fn grant(&mut self, runner_id: &str) {
        self.answer_ok(&json!({ "runner_id": runner_id }).to_string());
    }
}
