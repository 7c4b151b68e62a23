//! Idle engine connections of one thread, newest first.
//!
//! Last in, first out keeps few connections warm, so the rest ages out before the engine's own limit of 5 s.

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
    /// A connection that was used before and still works, or `None`.
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

    /// Close what has been idle too long. Called twice a second.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|connection| !connection.expired());
            !connections.is_empty()
        });
    }
}
