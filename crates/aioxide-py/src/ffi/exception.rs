//! Exception objects: cause, context, groups, and raising while another one is handled.
//!
//! May touch: the exceptions given, and what the thread handles. A native body has no `except`
//! block of its own, so what it handles is not on the interpreter's stack of handled exceptions:
//! it is given here by hand.

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

/// Runs `body` as within an `except` block that handles `handled`: `sys.exc_info()` tells of it,
/// and it is the context of what is raised there.
pub fn while_handling<T>(handled: Obj<'_>, body: impl FnOnce() -> T) -> T {
    let before = handled_now();
    set_handled(None);
    // What still is handled then is the business of whoever called the frame that runs.
    let is_outer = match (&before, &handled_now()) {
        (Some(before), Some(outer)) => before.obj().is(outer.obj()),
        _ => false,
    };
    let _until = Handling(before.filter(|_| !is_outer));
    set_handled(Some(handled));
    body()
}

/// What the running frame handled before, and handles again when this goes.
struct Handling(Option<Ref>);

impl Drop for Handling {
    fn drop(&mut self) {
        set_handled(self.0.as_ref().map(Ref::obj));
    }
}

/// The exception that is being handled, by the running frame or one that called it.
fn handled_now() -> Option<Ref> {
    // SAFETY: the thread is attached; an owned exception or null.
    unsafe { Ref::steal_opt(c::PyErr_GetHandledException()) }
}

/// Makes `exception` what the running frame handles. Its caller keeps what was there alive.
fn set_handled(exception: Option<Obj<'_>>) {
    let exception = exception.map_or(std::ptr::null_mut(), Obj::ptr);
    // SAFETY: the thread is attached; takes a reference of its own. Null stands for nothing.
    unsafe { c::PyErr_SetHandledException(exception) }
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
