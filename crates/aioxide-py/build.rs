//! Hands the running Python's version to the crate as `cfg(Py_3_12)` and so on.
fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
