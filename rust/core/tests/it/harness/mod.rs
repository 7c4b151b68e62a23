//! Everything that stands around the data plane in these tests: clients, engines and a control plane, all of which
//! speak raw bytes, so that a test can do what no HTTP library would.

pub(crate) mod client;
pub(crate) mod control;
pub(crate) mod engine;
pub(crate) mod rig;
pub(crate) mod wire;

use std::time::{Duration, Instant};

pub(crate) use client::chat;
pub(crate) use control::Control;
pub(crate) use engine::Engine;
pub(crate) use rig::Rig;
pub(crate) use wire::{Message, Piece, Wire};

/// The longest that any test waits for anything. Never reached by one that passes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The model that the tests ask for.
pub(crate) const MODEL: &str = "ai/smollm2";

/// Its ID.
pub(crate) const MODEL_ID: &str =
    "sha256:354bf30d0aa3af413d2aa5ae4f23c66d354bf30d0aa3af413d2aa5ae4f23c66d";

/// Ask until there is an answer. For what has no event to wait for: counters, and sockets that come and go.
///
/// # Panics
/// At the deadline, with `what`.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Wait until it is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}
