//! What Python gives: the configuration and the routes. Checked where they are made.

use std::path::PathBuf;
use std::time::Duration;

use model_runner_core::config::{Identity, Recording, Redaction, TlsConfig};
use model_runner_core::endpoint::Mode;
use model_runner_core::{Capabilities, Config as CoreConfig, Route as CoreRoute};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What the data plane is started with.
#[pyclass(frozen, module = "model_runner._core")]
pub(crate) struct Config(pub(crate) CoreConfig);

#[pymethods]
impl Config {
    #[new]
    #[pyo3(signature = (*, control_socket, host, port, socket, threads, backends, body_limit, queue_limit, heartbeat, origins,
        record_count, record_bytes, record_redaction,
        head_limit, max_connections, idle_timeout, head_timeout, body_timeout, write_timeout,
        tls_port, tls_certificate, tls_key, tls_directory, tls_names))]
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
        head_limit: usize,
        max_connections: u64,
        idle_timeout: f64,
        head_timeout: f64,
        body_timeout: f64,
        write_timeout: f64,
        tls_port: Option<u16>,
        tls_certificate: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        tls_directory: Option<PathBuf>,
        tls_names: Vec<String>,
    ) -> PyResult<Self> {
        let redaction = Redaction::from_name(record_redaction).ok_or_else(|| {
            PyValueError::new_err(format!("`{record_redaction}` is not a redaction"))
        })?;
        let recording = Recording { count: record_count, bytes: record_bytes, redaction };
        let identity = match (tls_certificate, tls_key, tls_directory) {
            (Some(certificate), Some(key), _) => Some(Identity::Given { certificate, key }),
            (_, _, Some(directory)) => Some(Identity::SelfMade { directory, names: tls_names }),
            _ => None,
        };
        let tls = match (tls_port, identity) {
            (Some(port), Some(identity)) => Some(TlsConfig { port, identity }),
            (Some(_), None) => return Err(PyValueError::new_err("TLS needs a certificate")),
            (None, _) => None,
        };
        let config = CoreConfig {
            control_socket,
            host,
            port,
            socket,
            threads,
            backends,
            body_limit,
            queue_limit,
            heartbeat: Some(seconds(heartbeat)?).filter(|beat| !beat.is_zero()),
            head_limit,
            max_connections,
            idle_timeout: seconds(idle_timeout)?,
            head_timeout: seconds(head_timeout)?,
            body_timeout: seconds(body_timeout)?,
            write_timeout: seconds(write_timeout)?,
            tls,
            origins,
            recording: Some(recording).filter(|recording| recording.count > 0),
        };
        config.validate().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(config))
    }
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// A ready runner, and the names under which requests reach it.
#[pyclass(frozen, module = "model_runner._core")]
pub(crate) struct Route(pub(crate) CoreRoute);

#[pymethods]
impl Route {
    #[new]
    #[pyo3(signature = (*, runner_id, socket_path, api_key, slots, context_size, context_limit, capabilities, has_stops, backend, model, model_id, mode, names))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of one Python constructor")]
    fn new(
        runner_id: String,
        socket_path: PathBuf,
        api_key: String,
        slots: usize,
        context_size: u32,
        context_limit: u32,
        capabilities: Vec<String>,
        has_stops: bool,
        backend: String,
        model: String,
        model_id: String,
        mode: &str,
        names: Vec<String>,
    ) -> PyResult<Self> {
        let mode = Mode::from_name(mode)
            .ok_or_else(|| PyValueError::new_err(format!("`{mode}` is not a mode")))?;
        let capabilities = Capabilities::from_names(capabilities)
            .map_err(|name| PyValueError::new_err(format!("`{name}` is not a capability")))?;
        Ok(Self(CoreRoute {
            runner_id,
            socket: socket_path,
            api_key,
            slots,
            context_size,
            context_limit,
            capabilities,
            has_stops,
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
