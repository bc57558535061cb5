//! The end of a future: reports nobody retrieved, the collector, freeing.
//!
//! May touch: the memory of one future. Invariants: an exception that nobody retrieved is reported
//! once; the base's part is traversed and cleared by the base's own functions.

use std::ffi::c_int;

use pyo3_ffi as c;

use super::{FutureFields, ensure_initialised, fields};
use crate::ffi::call::{dict, dict_set, string};
use crate::ffi::class::Visitor;
use crate::ffi::error::SavedError;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, trash};
use crate::state::state;

fn repr_of(future: Obj<'_>) -> R<Ref> {
    ensure_initialised(fields(future))?;
    state().asyncio.future_repr.obj().call1(future)
}

/// `tp_repr`.
///
/// # Safety
/// Called by the interpreter, with a live instance.
pub(super) unsafe extern "C" fn repr(future: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    crate::ffi::error::guard(|| repr_of(future))
}

/// Reports an exception that nobody retrieved. *Source*: `asyncio.Future.__del__`.
pub fn report_unretrieved(future: Obj<'_>) {
    let this = fields(future);
    if !this.log_traceback.replace(false) {
        return;
    }
    let saved = SavedError::save();
    // SAFETY: an object keeps its type alive.
    let name = unsafe { std::ffi::CStr::from_ptr((*future.type_ptr()).tp_name) };
    let name = name.to_string_lossy();
    let short = name.rsplit('.').next().unwrap_or("Future");
    let message = format!("{short} exception was never retrieved");
    let names = &state().names;
    let exception = this.exception().get_or_none();
    tell_handler(
        this,
        &message,
        &[
            (names.exception.obj(), exception.obj()),
            (names.future.obj(), future),
        ],
    );
    saved.restore();
}

/// Calls the loop's exception handler from a finalizer: errors go to `sys.unraisablehook`.
pub fn tell_handler(this: &FutureFields, message: &str, items: &[(Obj<'_>, Obj<'_>)]) {
    let Some(event_loop) = this.event_loop.get() else {
        return;
    };
    let names = &state().names;
    let call = || -> R<()> {
        let context = dict()?;
        dict_set(context.obj(), names.message.obj(), string(message)?.obj())?;
        for (key, value) in items {
            dict_set(context.obj(), *key, *value)?;
        }
        if let Some(traceback) = this.source_traceback().get() {
            dict_set(context.obj(), names.source_traceback.obj(), traceback.obj())?;
        }
        let name = names.call_exception_handler.obj();
        event_loop.obj().call_method1(name, context.obj()).map(drop)
    };
    if let Err(raised) = call() {
        let about = event_loop.obj().getattr(names.call_exception_handler.obj());
        match about {
            Ok(about) => raised.write_unraisable(about.obj()),
            Err(second) => {
                drop(second.take());
                Raised::runtime("the loop has no call_exception_handler")
                    .write_unraisable(event_loop.obj());
            }
        }
    }
}

/// `tp_finalize`.
///
/// # Safety
/// Called by the interpreter, with a live instance.
pub(super) unsafe extern "C" fn finalize(future: *mut PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    let done = crate::ffi::error::guard_status(|| {
        report_unretrieved(future);
        Ok(())
    });
    debug_assert_eq!(done, 0);
}

/// Visits what the base type holds; a base that lives on the heap visits the type itself. Also
/// what belongs into the base, and did not find a place there.
pub fn traverse_base(object: Obj<'_>, base: Obj<'_>, visitor: &mut Visitor) {
    // SAFETY: a type object.
    let base = unsafe { &*base.ptr().cast::<c::PyTypeObject>() };
    visitor.base(base.tp_traverse, object.ptr());
    if base.tp_flags & c::Py_TPFLAGS_HEAPTYPE == 0 {
        visitor.visit(object.type_ptr().cast());
    }
    for slot in state().layout.displaced_slots(object) {
        visitor.slot(slot);
    }
}

/// Clears what the base type holds: instance dict and the fields of ours in it.
pub fn clear_base(object: Obj<'_>, base: Obj<'_>) {
    // SAFETY: a type object.
    let clear = unsafe { (*base.ptr().cast::<c::PyTypeObject>()).tp_clear };
    if let Some(clear) = clear {
        // SAFETY: the base's own function on an instance of a subtype.
        let status = unsafe { clear(object.ptr()) };
        debug_assert_eq!(status, 0);
    }
    for slot in state().layout.displaced_slots(object) {
        slot.clear();
    }
}

/// `tp_traverse`.
///
/// # Safety
/// Called by the interpreter, with a live instance.
pub(super) unsafe extern "C" fn traverse(
    future: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    let mut visitor = Visitor::new(visit, arg);
    traverse_base(future, state().asyncio.future_class.obj(), &mut visitor);
    fields(future).visit(&mut visitor);
    visitor.status()
}

/// `tp_clear`.
///
/// # Safety
/// Called by the interpreter, with a live instance.
pub(super) unsafe extern "C" fn clear(future: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    fields(future).clear();
    clear_base(future, state().asyncio.future_class.obj());
    0
}

/// `tp_dealloc`.
///
/// # Safety
/// Called by the interpreter, with a live instance.
pub(super) unsafe extern "C" fn dealloc(future: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(future, free) }
}

/// Takes an instance apart.
///
/// # Safety
/// `future` is an instance of ours without references.
unsafe fn free(future: *mut PyObject) {
    // SAFETY: an instance of ours without references; a finalizer may bring it back to life.
    unsafe {
        let class = c::Py_TYPE(future);
        // All that the finalizer of this very type does is to report; subclasses may do more.
        let silent =
            class == state().future_type && !fields(Obj::from_ptr(future)).log_traceback.get();
        if !silent && c::PyObject_CallFinalizerFromDealloc(future) < 0 {
            return;
        }
        c::PyObject_GC_UnTrack(future.cast());
        c::PyObject_ClearWeakRefs(future);
        clear(future);
        free_instance(future, class);
    }
}

/// Gives the memory back and the type its reference.
///
/// # Safety
/// `object` is dead and cleared, `class` is its type.
pub unsafe fn free_instance(object: *mut PyObject, class: *mut c::PyTypeObject) {
    // SAFETY: `tp_free` of a live type frees what its `tp_alloc` made; then the reference that
    // every instance of a heap type holds on its type goes.
    unsafe {
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        c::Py_DECREF(class.cast());
    }
}
