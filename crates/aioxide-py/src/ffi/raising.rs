//! Exceptions and warnings that are raised as a Python statement would.
//!
//! May touch: the error indicator.

use pyo3_ffi as c;

use super::error::{R, Raised, check};
use super::object::Obj;

/// `AssertionError()`, without a message.
pub fn bare_assertion() -> Raised {
    // SAFETY: a static of the interpreter.
    unsafe { c::PyErr_SetNone(c::PyExc_AssertionError) };
    Raised::from_indicator()
}

/// `NotImplementedError`, to compare with.
pub fn not_implemented_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_NotImplementedError) }
}

/// `raise StopAsyncIteration`.
pub fn stop_async_iteration() -> Raised {
    // SAFETY: a static of the interpreter.
    unsafe { c::PyErr_SetNone(c::PyExc_StopAsyncIteration) };
    Raised::from_indicator()
}

/// `raise exc`, for an instance or a class.
pub fn raise(exc: Obj<'_>) -> Raised {
    // SAFETY: alive.
    if unsafe { c::PyExceptionClass_Check(exc.ptr()) } != 0 {
        return match exc.call0() {
            Ok(instance) => raise(instance.obj()),
            Err(raised) => raised,
        };
    }
    // SAFETY: alive.
    if unsafe { c::PyExceptionInstance_Check(exc.ptr()) } == 0 {
        return Raised::type_error("exceptions must derive from BaseException");
    }
    Raised::throw(exc.to_ref())
}

/// `warnings.warn(message, ResourceWarning)`, from where Python code runs now.
pub fn warn_resource(message: &std::ffi::CStr) -> R<()> {
    // SAFETY: a static class and a NUL-terminated text.
    check(unsafe { c::PyErr_WarnEx(c::PyExc_ResourceWarning, message.as_ptr(), 1) })
}
