//! What `coroutine.__await__()` gives Python code: an iterator over the coroutine.
//!
//! `await` itself drives the coroutine and never sees one; code that iterates by hand does. May
//! touch: the coroutine behind it. *Source*: CPython's `coroutine_wrapper`.

use pyo3_ffi as c;

use super::class::{am_await, iternext, method_send, method_throw};
use super::close;
use crate::ffi::class::{noargs, onearg, varargs};
use crate::ffi::object::none_ref;
use crate::ffi::references::{self, OFFSET, References};
use crate::ffi::{Args, Obj, PyObject, R, Ref, Slot, layout};
use crate::state::state;

#[repr(C)]
struct WrapperFields {
    coroutine: Slot,
}

impl References for WrapperFields {
    fn each(&self, mut look: impl FnMut(&Slot)) {
        look(&self.coroutine);
    }
}

fn coroutine_of(wrapper: Obj<'_>) -> Option<Ref> {
    // SAFETY: only instances of this module's final type come here.
    let fields: &WrapperFields = unsafe { layout::fields(wrapper.ptr(), OFFSET) };
    fields.coroutine.get()
}

/// `coroutine.__await__()`. RuntimeError while it is being awaited.
pub(super) fn create(coroutine: Obj<'_>) -> R<Ref> {
    // SAFETY: a live coroutine; it comes back owned, or null with an error.
    let coroutine = unsafe { Ref::steal(am_await(coroutine.ptr())) }?;
    let class = state().types.coroutine_wrapper.ptr().cast();
    // SAFETY: a ready type of ours; zeroed memory is a valid wrapper of nothing.
    let wrapper = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    // SAFETY: as in `coroutine_of`.
    let fields: &WrapperFields = unsafe { layout::fields(wrapper.ptr(), OFFSET) };
    fields.coroutine.set(Some(coroutine));
    Ok(wrapper)
}

fn send(wrapper: Obj<'_>, value: Obj<'_>) -> R<Ref> {
    match coroutine_of(wrapper) {
        Some(coroutine) => method_send(coroutine.obj(), value),
        None => Ok(none_ref()),
    }
}

fn throw(wrapper: Obj<'_>, args: Args<'_>) -> R<Ref> {
    match coroutine_of(wrapper) {
        Some(coroutine) => method_throw(coroutine.obj(), args),
        None => Ok(none_ref()),
    }
}

fn close_method(wrapper: Obj<'_>) -> R<Ref> {
    match coroutine_of(wrapper) {
        Some(coroutine) => close(coroutine.obj()),
        None => Ok(none_ref()),
    }
}

unsafe extern "C" fn next(wrapper: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    match coroutine_of(unsafe { Obj::from_ptr(wrapper) }) {
        // SAFETY: a live coroutine.
        Some(coroutine) => unsafe { iternext(coroutine.ptr()) },
        None => std::ptr::null_mut(),
    }
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    references::class::<WrapperFields>(c"aioxide.coroutine_wrapper")
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .doc(c"What iterates a native coroutine.")
        .slot(c::Py_tp_iter, c::PyObject_SelfIter as *mut _)
        .slot(c::Py_tp_iternext, next as *mut _)
        .methods([
            onearg!(c"send", send, c"Continues the coroutine."),
            varargs!(c"throw", throw, c"Raises where the coroutine waits."),
            noargs!(c"close", close_method, c"Closes the coroutine."),
        ])
        .build(None)
}
