//! Context variables: copying, entering and leaving a context (PEP 567).
//!
//! May touch: the thread's current context. Invariant: every `enter` is followed by one `leave`
//! of the same context on the same thread.

use pyo3_ffi as c;

use super::error::{R, check};
use super::object::{Obj, Ref};

/// `contextvars.copy_context()`: O(1), shares structure.
#[inline]
pub fn copy_current() -> R<Ref> {
    // SAFETY: the thread is attached.
    unsafe { Ref::steal(c::PyContext_CopyCurrent()) }
}

/// `context.copy()`. TypeError for anything that is not a context.
pub fn copy(context: Obj<'_>) -> R<Ref> {
    // SAFETY: alive; anything else than a context is refused with an error.
    unsafe { Ref::steal(c::PyContext_Copy(context.ptr())) }
}

/// Whether this is exactly a `contextvars.Context`.
#[inline]
pub fn is_native(context: Obj<'_>) -> bool {
    context.type_ptr() == &raw mut c::PyContext_Type
}

/// Makes `context` current. RuntimeError if it is entered already.
#[inline]
pub fn enter(context: Obj<'_>) -> R<()> {
    // SAFETY: alive; anything that is not a Context is refused with an error.
    check(unsafe { c::PyContext_Enter(context.ptr()) })
}

/// Leaves `context`. Keeps a pending exception pending.
#[inline]
pub fn leave(context: Obj<'_>) -> R<()> {
    // SAFETY: alive, entered by this thread.
    check(unsafe { c::PyContext_Exit(context.ptr()) })
}
