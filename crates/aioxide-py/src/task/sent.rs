//! What a coroutine answers when it is sent into, or thrown into.
//!
//! May touch: the coroutine. Invariant: no borrow is held meanwhile; it runs anything.

use pyo3_ffi as c;

use crate::ffi::park::{calling, unwinding};
use crate::ffi::{Obj, Raised, Ref};
use crate::state::state;

/// What one `send` or `throw` gave.
pub enum Sent {
    /// Something to wait for, or `None`.
    Yielded(Ref),
    /// The coroutine's result.
    Returned(Ref),
    /// The coroutine's exception, or that of a coroutine that cannot go on.
    Raised(Raised),
}

/// `coro.send(None)`.
#[inline]
pub fn send_none(coro: Obj<'_>) -> Sent {
    let mut result = std::ptr::null_mut();
    // SAFETY: alive; the result is owned unless the status says that an error is set.
    let status =
        calling(|| unsafe { unwinding::PyIter_Send(coro.ptr(), c::Py_None(), &mut result) });
    // SAFETY: as above.
    match unsafe { Ref::steal(result) } {
        Ok(value) if status == c::PySendResult::PYGEN_NEXT => Sent::Yielded(value),
        Ok(value) => Sent::Returned(value),
        Err(raised) => Sent::Raised(raised),
    }
}

/// `coro.throw(exception)`.
#[cold]
pub fn throw(coro: Obj<'_>, exception: Ref) -> Sent {
    match coro.call_method1(state().names.throw.obj(), exception.obj()) {
        Ok(value) => Sent::Yielded(value),
        // SAFETY: a static of the interpreter.
        Err(raised) if raised.matches(unsafe { c::PyExc_StopIteration }) => {
            let stop = raised.take();
            match stop.obj().getattr(state().names.value.obj()) {
                Ok(value) => Sent::Returned(value),
                Err(raised) => Sent::Raised(raised),
            }
        }
        Err(raised) => Sent::Raised(raised),
    }
}
