//! Exception objects: cause, context, groups, and raising while another one is handled.
//!
//! May touch: the exceptions given. A native body has no `except` block of its own, so what it
//! handles is not on the interpreter's stack of handled exceptions: it is given here by hand.

use pyo3_ffi as c;

use super::builtin::iter;
use super::call::import;
use super::error::{R, Raised, check};
use super::object::{Obj, Ref};

/// `exception.__context__`.
pub fn context_of(exception: Obj<'_>) -> Option<Ref> {
    // SAFETY: an exception instance; its context comes owned or null.
    unsafe { Ref::steal_opt(c::PyException_GetContext(exception.ptr())) }
}

/// `exception.__context__ = context`.
pub fn set_context(exception: Obj<'_>, context: Option<Obj<'_>>) {
    let context = context.map_or(std::ptr::null_mut(), |context| context.to_ref().into_ptr());
    // SAFETY: an exception instance; takes over the reference.
    unsafe { c::PyException_SetContext(exception.ptr(), context) }
}

/// `raise exception from cause`, but for the raising.
pub fn set_cause(exception: Obj<'_>, cause: Obj<'_>) {
    let cause = (!cause.is_none()).then(|| cause.to_ref());
    let cause = cause.map_or(std::ptr::null_mut(), Ref::into_ptr);
    // SAFETY: an exception instance; takes over the reference. Suppresses the context, too.
    unsafe { c::PyException_SetCause(exception.ptr(), cause) }
}

/// Raises `exception` as within an `except` block that handles `handled`.
///
/// *Source*: CPython's `_PyErr_SetObject`, which also keeps the chain free of circles.
pub fn raise_while_handling(exception: Ref, handled: Obj<'_>) -> Raised {
    if exception.obj().is(handled) {
        return Raised::throw(exception);
    }
    let mut link = handled.to_ref();
    // A chain that is a circle already must not hold us: Brent's way of noticing.
    let (mut mark, mut steps, mut lap) = (link.ptr(), 0_u64, 1_u64);
    while let Some(context) = context_of(link.obj()) {
        if context.obj().is(exception.obj()) {
            set_context(link.obj(), None);
            break;
        }
        if context.ptr() == mark {
            break;
        }
        steps += 1;
        if steps == lap {
            (mark, steps, lap) = (context.ptr(), 0, lap * 2);
        }
        link = context;
    }
    set_context(exception.obj(), Some(handled));
    Raised::throw(exception)
}

/// The exceptions of an `ExceptionGroup`; nothing for any other exception.
pub fn of_group(exception: Obj<'_>) -> R<Vec<Ref>> {
    let class = import(c"builtins")?.obj().getattr_str(c"ExceptionGroup")?;
    let mut found = Vec::new();
    if exception.isinstance(class.obj())? {
        let items = iter(exception.getattr_str(c"exceptions")?.obj())?;
        while let Some(item) = super::builtin::next(items.obj())? {
            found.push(item);
        }
    }
    Ok(found)
}

/// `issubclass(class, other)`.
pub fn is_subclass(class: Obj<'_>, other: Obj<'_>) -> R<bool> {
    // SAFETY: both alive.
    let status = unsafe { c::PyObject_IsSubclass(class.ptr(), other.ptr()) };
    check(status).map(|()| status != 0)
}

/// What a failing `assert` without a message raises.
pub fn assertion_failed() -> Raised {
    // SAFETY: a static of the interpreter.
    unsafe { c::PyErr_SetNone(c::PyExc_AssertionError) };
    Raised::from_indicator()
}
