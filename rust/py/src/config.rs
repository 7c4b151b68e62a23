//! What Python gives: the configuration and the routes. Checked where they are made.

use std::path::PathBuf;
use std::time::Duration;

use model_runner_core::config::{Recording, Redaction};
use model_runner_core::endpoint::Mode;
use model_runner_core::{Config as CoreConfig, Route as CoreRoute};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// As nginx has it: clients that keep idle connections expect them to last about a minute.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// A client that takes nothing of its answer for longer is dropped, for it holds a slot of the engine.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the data plane is started with.
#[pyclass(frozen, module = "model_runner._core")]
pub(crate) struct Config(pub(crate) CoreConfig);

#[pymethods]
impl Config {
    #[new]
    #[pyo3(signature = (*, control_socket, host, port, socket, threads, backends, body_limit, queue_limit, heartbeat, origins, record_count, record_bytes, record_redaction))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of one Python constructor")]
    fn new(
        control_socket: PathBuf,
        host: String,
        port: Option<u16>,
        socket: Option<PathBuf>,
        threads: usize,
        backends: Vec<String>,
        body_limit: usize,
        queue_limit: usize,
        heartbeat: f64,
        origins: Vec<String>,
        record_count: usize,
        record_bytes: usize,
        record_redaction: &str,
    ) -> PyResult<Self> {
        let redaction = Redaction::from_name(record_redaction).ok_or_else(|| {
            PyValueError::new_err(format!("`{record_redaction}` is not a redaction"))
        })?;
        let recording = Recording { count: record_count, bytes: record_bytes, redaction };
        let heartbeat = Duration::try_from_secs_f64(heartbeat)
            .map_err(|error| PyValueError::new_err(format!("`heartbeat`: {error}")))?;
        let config = CoreConfig {
            control_socket,
            host,
            port,
            socket,
            threads,
            backends,
            body_limit,
            queue_limit,
            header_timeout: HEADER_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            heartbeat: Some(heartbeat).filter(|beat| !beat.is_zero()),
            origins,
            recording: Some(recording).filter(|recording| recording.count > 0),
        };
        config.validate().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(config))
    }
}

/// A ready runner, and the names under which requests reach it.
#[pyclass(frozen, module = "model_runner._core")]
pub(crate) struct Route(pub(crate) CoreRoute);

#[pymethods]
impl Route {
    #[new]
    #[pyo3(signature = (*, runner_id, socket_path, api_key, slots, backend, model, model_id, mode, names))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of one Python constructor")]
    fn new(
        runner_id: String,
        socket_path: PathBuf,
        api_key: String,
        slots: usize,
        backend: String,
        model: String,
        model_id: String,
        mode: &str,
        names: Vec<String>,
    ) -> PyResult<Self> {
        let mode = Mode::from_name(mode)
            .ok_or_else(|| PyValueError::new_err(format!("`{mode}` is not a mode")))?;
        Ok(Self(CoreRoute {
            runner_id,
            socket: socket_path,
            api_key,
            slots,
            backend,
            model,
            model_id,
            mode,
            names,
        }))
    }

    #[getter]
    fn runner_id(&self) -> &str {
        &self.0.runner_id
    }
}
