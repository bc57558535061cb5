//! What `await future` runs: yields the future once, then returns its result.
//!
//! `await` drives the future itself: an iterator between the two would be one more object to make,
//! to track and to free for each wait. Whoever iterates by hand (`iter(future)`, `yield from`,
//! `future.__await__()`) gets an iterator with `send`, `throw` and `close`. Both protocols are
//! native: `am_send` (the `SEND` instruction of 3.11) and `tp_iternext` (3.12 and later). May
//! touch: the future's `blocking` mark. Invariant: after `throw` or `close` the iterator holds no
//! future and is finished.

use pyo3_ffi as c;

use crate::ffi::builtin::type_name;
use crate::ffi::class::{Class, noargs, onearg, varargs};
use crate::ffi::object::none_ref;
use crate::ffi::references::{self, OFFSET, References};
use crate::ffi::sequence::is_tuple;
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Slot, layout, stop};
use crate::future;
use crate::state::state;

#[repr(C)]
struct IterFields {
    future: Slot,
}

impl References for IterFields {
    fn each(&self, mut look: impl FnMut(&Slot)) {
        look(&self.future);
    }
}

fn fields(iter: Obj<'_>) -> &IterFields {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(iter.ptr(), OFFSET) }
}

/// The slots of futures and tasks that serve `await`.
pub fn slots(class: Class) -> Class {
    class
        .slot(c::Py_tp_iter, create as *mut _)
        .slot(c::Py_am_await, await_self as *mut _)
        .slot(c::Py_tp_iternext, self_iternext as *mut _)
        .slot(c::Py_am_send, self_am_send as *mut _)
}

/// `__await__()`; `await` uses the slot of that name, so the method must not come from there.
pub fn await_method() -> c::PyMethodDef {
    let mut method = noargs!(
        c"__await__",
        create_for,
        c"An iterator over the future; `await` does without."
    );
    method.ml_flags |= c::METH_COEXIST;
    method
}

/// Takes the name of a slot out of the type again: a future is no iterator to whoever asks.
pub fn hide(class: Ref, name: &std::ffi::CStr) -> R<Ref> {
    let class_ptr = class.ptr().cast::<c::PyTypeObject>();
    // SAFETY: a ready heap type that nobody else has seen; its dict lives as long.
    let dict = unsafe { Obj::from_nullable((*class_ptr).tp_dict) };
    if let Some(dict) = dict {
        let name = crate::ffi::call::interned(name)?;
        crate::ffi::builtin::dict_remove(dict, name.obj())?;
        // SAFETY: a type object.
        unsafe { c::PyType_Modified(class_ptr) };
    }
    Ok(class)
}

/// `am_await` of futures and tasks.
unsafe extern "C" fn await_self(future: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    if future::fields(future).event_loop.is_empty() {
        return crate::ffi::error::guard(|| future::loop_of(future));
    }
    future.to_ref().into_ptr()
}

/// `tp_iternext` of futures and tasks.
unsafe extern "C" fn self_iternext(future: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    next_of(|| step_of(future))
}

/// `am_send` of futures and tasks.
unsafe extern "C" fn self_am_send(
    future: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> c::PySendResult {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    let (value, status) = sent_of(|| step_of(future));
    // SAFETY: the interpreter's out-parameter.
    unsafe { *result = value };
    status
}

fn create_for(future: Obj<'_>) -> R<Ref> {
    // SAFETY: a live future; the iterator comes back owned, or null with an error.
    unsafe { Ref::steal(create(future.ptr())) }
}

/// `tp_iter` of futures and tasks.
unsafe extern "C" fn create(future: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    crate::ffi::error::guard(|| {
        drop(future::loop_of(future)?);
        let class = state().types.future_iter.ptr().cast();
        // SAFETY: a ready type of ours; zeroed memory is a valid, finished iterator.
        let iter = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
        fields(iter.obj()).future.set(Some(future.to_ref()));
        Ok(iter)
    })
}

enum Step {
    Wait(Ref),
    Return(Ref),
}

fn step(iter: Obj<'_>) -> R<Step> {
    let Some(awaited) = fields(iter).future.get() else {
        return Ok(Step::Return(none_ref()));
    };
    step_of(awaited.obj())
}

#[inline]
fn step_of(awaited: Obj<'_>) -> R<Step> {
    let this = future::fields(awaited);
    if !this.is_pending() {
        return future::result(awaited).map(Step::Return);
    }
    if this.blocking.replace(true) {
        return Err(Raised::runtime("await wasn't used with future"));
    }
    Ok(Step::Wait(awaited.to_ref()))
}

unsafe extern "C" fn am_send(
    iter: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> c::PySendResult {
    // SAFETY: the interpreter passes a live instance.
    let iter = unsafe { Obj::from_ptr(iter) };
    let (value, status) = sent_of(|| step(iter));
    // SAFETY: the interpreter's out-parameter.
    unsafe { *result = value };
    status
}

#[inline]
fn sent_of(step: impl FnOnce() -> R<Step>) -> (*mut PyObject, c::PySendResult) {
    let mut returned = false;
    let value = crate::ffi::error::guard(|| {
        Ok(match step()? {
            Step::Wait(value) => value,
            Step::Return(value) => {
                returned = true;
                value
            }
        })
    });
    let status = match (value.is_null(), returned) {
        (true, _) => c::PySendResult::PYGEN_ERROR,
        (false, true) => c::PySendResult::PYGEN_RETURN,
        (false, false) => c::PySendResult::PYGEN_NEXT,
    };
    (value, status)
}

unsafe extern "C" fn iternext(iter: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let iter = unsafe { Obj::from_ptr(iter) };
    next_of(|| step(iter))
}

/// A null return without an exception means "finished with None", which saves the exception.
#[inline]
fn next_of(step: impl FnOnce() -> R<Step>) -> *mut PyObject {
    let mut finished = false;
    let value = crate::ffi::error::guard(|| match step()? {
        Step::Wait(value) => Ok(value),
        Step::Return(value) if value.obj().is_none() => {
            finished = true;
            Ok(value)
        }
        Step::Return(value) => Err(stop_iteration(value.obj())),
    });
    if finished {
        // SAFETY: the None that the guard just returned owned.
        drop(unsafe { Ref::steal_opt(value) });
        return std::ptr::null_mut();
    }
    value
}

/// `raise StopIteration(value)`, also for values that are tuples or exceptions.
pub fn stop_iteration(value: Obj<'_>) -> Raised {
    stop::raise(value, state().quirks.stop_iteration_is_as_known)
}

fn send(iter: Obj<'_>, _value: Obj<'_>) -> R<Ref> {
    match step(iter)? {
        Step::Wait(value) => Ok(value),
        Step::Return(value) => Err(stop_iteration(value.obj())),
    }
}

fn close(iter: Obj<'_>) -> R<Ref> {
    fields(iter).future.clear();
    Ok(none_ref())
}

fn throw(iter: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let exception = exception_of(&args, Receiver::Future)?;
    fields(iter).future.clear();
    Err(Raised::throw(exception))
}

/// Whose `throw` it is: the interpreter has other words for each.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Receiver {
    Future,
    Coroutine,
}

/// The exception that the arguments of `throw(exception)` or `throw(type, value, traceback)` name.
pub fn exception_of(args: &Args<'_>, receiver: Receiver) -> R<Ref> {
    let args = args.positional();
    if args.is_empty() || args.len() > 3 {
        return Err(Raised::type_error(&format!(
            "throw expected at {} argument{}, got {}",
            if args.is_empty() { "least 1" } else { "most 3" },
            if args.is_empty() { "" } else { "s" },
            args.len()
        )));
    }
    if args.len() > 1 && cfg!(Py_3_12) {
        warn_deprecated()?;
    }
    let present = |index: usize| args.get(index).copied().filter(|arg| !arg.is_none());
    let traceback = present(2);
    if let Some(traceback) = traceback
        // SAFETY: alive.
        && unsafe { c::PyTraceBack_Check(traceback.ptr()) } == 0
    {
        return Err(Raised::type_error(match receiver {
            Receiver::Future => "throw() third argument must be a traceback",
            Receiver::Coroutine => "throw() third argument must be a traceback object",
        }));
    }
    let exception = make_exception(args[0], present(1), receiver)?;
    if let Some(traceback) = traceback {
        // SAFETY: an exception instance and a traceback.
        crate::ffi::error::check(unsafe {
            c::PyException_SetTraceback(exception.ptr(), traceback.ptr())
        })?;
    }
    Ok(exception)
}

fn warn_deprecated() -> R<()> {
    // SAFETY: a static class and a NUL-terminated text.
    crate::ffi::error::check(unsafe {
        c::PyErr_WarnEx(
            c::PyExc_DeprecationWarning,
            c"the (type, exc, tb) signature of throw() is deprecated, use the single-arg \
              signature instead."
                .as_ptr(),
            1,
        )
    })
}

fn make_exception(class: Obj<'_>, value: Option<Obj<'_>>, receiver: Receiver) -> R<Ref> {
    // SAFETY: alive.
    if unsafe { c::PyExceptionInstance_Check(class.ptr()) } != 0 {
        return match value {
            Some(_) => Err(Raised::type_error(
                "instance exception may not have a separate value",
            )),
            None => Ok(class.to_ref()),
        };
    }
    // SAFETY: alive.
    if unsafe { c::PyExceptionClass_Check(class.ptr()) } == 0 {
        return Err(not_an_exception(class, receiver));
    }
    match value {
        Some(value) if value.isinstance(class)? => Ok(value.to_ref()),
        Some(value) if is_tuple(value) => class.call_dict(value, None),
        Some(value) => class.call1(value),
        None => class.call0(),
    }
}

fn not_an_exception(thrown: Obj<'_>, receiver: Receiver) -> Raised {
    if receiver == Receiver::Future {
        return Raised::type_error(
            "exceptions must be classes deriving BaseException or instances of such a class",
        );
    }
    match type_name(thrown) {
        Ok(got) => Raised::type_error(&format!(
            "exceptions must be classes or instances deriving from BaseException, not {got}"
        )),
        Err(raised) => raised,
    }
}

/// Creates the iterator type.
pub fn build_type() -> R<Ref> {
    references::class::<IterFields>(c"aioxide.FutureIter")
        .slot(c::Py_tp_iter, c::PyObject_SelfIter as *mut _)
        .slot(c::Py_tp_iternext, iternext as *mut _)
        .slot(c::Py_am_send, am_send as *mut _)
        .methods([
            onearg!(c"send", send, c"Continues; the value sent is not used."),
            varargs!(
                c"throw",
                throw,
                c"Raises an exception where the future is awaited."
            ),
            noargs!(c"close", close, c"Finishes the iterator."),
        ])
        .build(None)
}
