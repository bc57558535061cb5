//! Hands the running Python's version to the crate as `cfg(Py_3_12)` and so on, and refuses the
//! Pythons that aioxide does not support.

use pyo3_build_config::{PythonImplementation, PythonVersion};

/// The oldest Python whose asyncio aioxide follows; also in `pyproject.toml` and `_support.py`.
const OLDEST: PythonVersion = PythonVersion {
    major: 3,
    minor: 11,
};

fn main() {
    let python = pyo3_build_config::get();
    let (kind, version) = (python.implementation(), python.version());
    if kind != PythonImplementation::CPython || version < OLDEST {
        println!("cargo::error=aioxide needs CPython {OLDEST} or later; this is {kind} {version}");
        return;
    }
    pyo3_build_config::use_pyo3_cfgs();
}
