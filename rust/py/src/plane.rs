//! The running data plane.

use std::time::Duration;

use model_runner_core::runtime::{StartError, Threads};
use model_runner_core::{DataPlane as CorePlane, Route as CoreRoute};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::config::{Config, Route};
use crate::snapshot::Snapshot;

/// The running data plane.
#[pyclass(module = "model_runner._core")]
pub(crate) struct DataPlane {
    plane: CorePlane,
    /// `None` once it was stopped.
    threads: Option<Threads>,
}

#[pymethods]
impl DataPlane {
    #[staticmethod]
    fn start(py: Python<'_>, config: &Config) -> PyResult<Self> {
        let config = config.0.clone();
        let (plane, threads) =
            py.detach(|| CorePlane::start(config)).map_err(|error| match error {
                StartError::Config(error) => PyValueError::new_err(error.to_string()),
                StartError::Tls(error) => PyValueError::new_err(error.to_string()),
                // With its number, Python raises the subclass that fits, PermissionError for one.
                StartError::Io(error) => match error.raw_os_error() {
                    Some(number) => PyOSError::new_err((number, error.to_string())),
                    None => PyOSError::new_err(error.to_string()),
                },
            })?;
        Ok(Self { plane, threads: Some(threads) })
    }

    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.plane.addresses().to_vec()
    }

    #[getter]
    fn certificate_problem(&self) -> Option<String> {
        self.plane.certificate_problem()
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 extracts a sequence by value")]
    fn publish(&self, routes: Vec<PyRef<'_, Route>>) {
        let routes: Vec<CoreRoute> = routes.iter().map(|route| route.0.clone()).collect();
        self.plane.publish(&routes);
    }

    fn retire(&self, runner_id: &str) -> usize {
        self.plane.retire(runner_id)
    }

    fn snapshot(&self) -> Snapshot {
        self.plane.snapshot().into()
    }

    fn stop(slf: &Bound<'_, Self>, grace: f64) -> PyResult<bool> {
        let grace = Duration::try_from_secs_f64(grace)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        // The borrow ends before the wait begins: `snapshot` and `retire` go on working meanwhile.
        let threads = slf.borrow_mut().threads.take();
        Ok(slf.py().detach(|| threads.is_none_or(|threads| threads.stop(grace))))
    }
}
