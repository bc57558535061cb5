//! Hands the running Python's version to the crate as `cfg(Py_3_12)` and so on, and refuses the
//! Pythons that aioxide does not support. Tells the crate how it is compiled.

use std::env;

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
    println!("cargo::rustc-env=AIOXIDE_BUILD={}", build());
    let order = env::var("CARGO_MANIFEST_DIR").unwrap_or_default() + "/text.ld";
    for arg in ["-Xlinker", "-T", "-Xlinker", &order] {
        println!("cargo::rustc-cdylib-link-arg={arg}");
    }
}

/// Says how the crate is compiled, for who measures it.
fn build() -> String {
    let profile = env::var("PROFILE").unwrap_or_default();
    // Cargo separates the flags by this byte, and runs the script again when they change.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let has = |start: &str| flags.split('\x1f').any(|flag| flag.starts_with(start));
    if has("-Cprofile-use=") {
        format!("{profile}, with a profile")
    } else if has("-Cprofile-generate") {
        format!("{profile}, counting for a profile")
    } else {
        profile
    }
}
