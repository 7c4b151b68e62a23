//! Idle engine connections of one thread, newest first.
//!
//! Last in, first out keeps few connections warm, so the rest ages out before the engine's own limit of 5 s.
//!
//! A stream costs its connection, so that the next one would begin with a new one: connecting, and the engine's accepting, are a
//! good part of the time to the first token. So one is opened in advance, with the first event of a stream.

use std::cell::RefCell;
use std::collections::HashMap;

use super::connection::EngineConnection;
use crate::routes::Runner;

/// Idle connections by runner.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<String, Vec<EngineConnection>>>,
}

impl Pool {
    /// A connection that is open already and still works, or `None`.
    pub(crate) fn take(&self, runner: &Runner) -> Option<EngineConnection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&runner.id)?;
        while let Some(mut connection) = connections.pop() {
            if connection.is_reusable() {
                return Some(connection);
            }
        }
        None
    }

    /// Keep a connection, if its answer was read to its end.
    pub(crate) fn put(&self, runner: &Runner, mut connection: EngineConnection) {
        if !connection.is_finished() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if !idle.contains_key(&runner.id) {
            idle.insert(runner.id.clone(), Vec::new());
        }
        let Some(connections) = idle.get_mut(&runner.id) else { return };
        // The engine has a thread for each live connection: no more idle ones than can be of use.
        if connections.len() < runner.slots + 2 {
            connection.rest();
            connections.push(connection);
        }
    }

    /// Whether the runner has no connection that the next request could use at once.
    pub(crate) fn lacks(&self, runner: &Runner) -> bool {
        self.idle.borrow().get(&runner.id).is_none_or(Vec::is_empty)
    }

    /// Close what has been idle too long. Called twice a second.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|connection| !connection.expired());
            !connections.is_empty()
        });
    }
}
