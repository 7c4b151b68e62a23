//! A running data plane with a control plane, in a directory of its own.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use model_runner_core::config::{Recording, Redaction};
use model_runner_core::runtime::Threads;
use model_runner_core::snapshot::{ModelTotals, RunnerSnapshot};
use model_runner_core::{Config, DataPlane};
use tempfile::TempDir;

use super::{Control, DEADLINE, Engine, Wire, wait_until};

/// The limit on bodies in these tests, small enough to be passed.
pub(crate) const BODY_LIMIT: usize = 256 * 1024;

/// How many requests may wait in these tests.
pub(crate) const QUEUE_LIMIT: usize = 2;

/// What is recorded in these tests.
pub(crate) const RECORDING: Recording =
    Recording { count: 10, bytes: 1 << 20, redaction: Redaction::Off };

/// The parts. Whatever still runs at the end of a test is cut.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) plane: DataPlane,
    pub(crate) control: Control,
    threads: Option<Threads>,
    directory: TempDir,
    socket: PathBuf,
}

impl Rig {
    /// One relaying thread, so that the order of things is known.
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Self::config(directory.path());
        let control = Control::new(&config.control_socket);
        let socket = directory.path().join("public.sock");
        change(&mut config);
        let (plane, threads) = DataPlane::start(config).expect("the data plane starts");
        Self { plane, control, threads: Some(threads), directory, socket }
    }

    /// What a rig is made with, its sockets in a directory.
    pub(crate) fn config(directory: &Path) -> Config {
        Config {
            control_socket: directory.join("control.sock"),
            host: "127.0.0.1".to_owned(),
            port: Some(0),
            socket: Some(directory.join("public.sock")),
            threads: 1,
            backends: vec!["llama.cpp".to_owned()],
            body_limit: BODY_LIMIT,
            queue_limit: QUEUE_LIMIT,
            head_limit: 64 * 1024,
            max_connections: 1000,
            idle_timeout: DEADLINE,
            head_timeout: DEADLINE,
            body_timeout: DEADLINE,
            write_timeout: DEADLINE,
            heartbeat: None,
            recording: Some(RECORDING),
            tls: None,
            origins: Vec::new(),
        }
    }

    /// A rig with one published engine.
    pub(crate) fn with_engine() -> (Self, Engine) {
        let rig = Self::new();
        let engine = rig.engine("first");
        rig.publish(&[&engine]);
        (rig, engine)
    }

    /// The same with one slot only.
    pub(crate) fn with_one_slot() -> (Self, Engine) {
        let rig = Self::new();
        let engine = rig.engine("first").with_slots(1);
        rig.publish(&[&engine]);
        (rig, engine)
    }

    pub(crate) fn engine(&self, id: &str) -> Engine {
        Engine::new(self.directory.path(), id)
    }

    pub(crate) fn publish(&self, engines: &[&Engine]) {
        let routes: Vec<_> = engines.iter().map(|engine| engine.route()).collect();
        self.plane.publish(&routes);
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        let url = self.plane.addresses().first().expect("a TCP listener");
        url.strip_prefix("http://").expect("an HTTP address").to_owned()
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::new(TcpStream::connect(self.address()).expect("the data plane accepts"))
    }

    pub(crate) fn unix_client(&self) -> Wire {
        Wire::new(UnixStream::connect(&self.socket).expect("the data plane accepts"))
    }

    /// A client that has asked for a chat.
    pub(crate) fn asking(&self, stream: bool) -> Wire {
        let mut client = self.client();
        client.ask_chat(stream);
        client
    }

    /// A client that has asked for a chat and waits for a slot behind `others`.
    pub(crate) fn waiting(&self, others: usize) -> Wire {
        let client = self.asking(false);
        wait_until("the request is in the queue", || self.runner().queued == others + 1);
        client
    }

    /// The only runner.
    pub(crate) fn runner(&self) -> RunnerSnapshot {
        self.plane.snapshot().runners.pop().expect("a runner")
    }

    /// Totals of the only model.
    pub(crate) fn totals(&self) -> ModelTotals {
        self.plane.snapshot().models.pop().expect("a model")
    }

    /// Wait until that many requests were booked, and check that they ended (well, refused, failed, cancelled) so.
    pub(crate) fn assert_outcomes(&self, expected: [u64; 4]) {
        let outcomes = || {
            let totals = self.totals();
            [
                totals.requests_ok,
                totals.requests_client_error,
                totals.requests_engine_error,
                totals.requests_cancelled,
            ]
        };
        let count: u64 = expected.iter().sum();
        wait_until("all requests are booked", || outcomes().iter().sum::<u64>() >= count);
        assert_eq!(outcomes(), expected);
    }

    /// How often the data plane answered with this code itself.
    pub(crate) fn refused(&self, code: &str) -> u64 {
        let refused = self.plane.snapshot().requests_refused;
        refused.into_iter().find(|(known, _)| *known == code).map_or(0, |(_, count)| count)
    }

    /// Nothing is in flight, leased or queued any more.
    pub(crate) fn assert_at_rest(&self) {
        wait_until("nothing is in flight", || self.plane.snapshot().requests_in_flight == 0);
        for runner in self.plane.snapshot().runners {
            assert_eq!((runner.leases, runner.queued), (0, 0), "of {}", runner.runner_id);
        }
    }

    /// Begin to stop; whether all requests ended by themselves comes later.
    pub(crate) fn stop(&mut self, grace: Duration) -> Receiver<bool> {
        let threads = self.threads.take().expect("stopped once only");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(threads.stop(grace)));
        receiver
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.stop(Duration::ZERO);
        }
    }
}
