//! Native transports and servers.
use crate::ffi::{R, Ref};
use crate::state::Asyncio;
pub fn build_type(asyncio: &Asyncio) -> R<Ref> { Ok(asyncio.transport_class.clone()) }
pub fn loop_methods() -> Vec<pyo3_ffi::PyMethodDef> { Vec::new() }
