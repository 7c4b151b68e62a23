//! The Python module `model_runner._core`: the data plane's five calls, and the plain values they take and give.
//!
//! Data crosses whole, and no Python object is kept on the other side. `_core.pyi` is the contract; `stubtest` holds this
//! file to it.

mod config;
mod plane;
mod snapshot;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::config::{Config, Route};
    #[pymodule_export]
    use crate::plane::DataPlane;
    #[pymodule_export]
    use crate::snapshot::{Histogram, ModelTotals, OperationTotals, RunnerSnapshot, Snapshot};
}
