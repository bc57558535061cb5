//! The Python face of native coroutines: slots, methods, the end.
//!
//! May touch: the memory of one coroutine. Invariants: one that was never awaited is reported once;
//! one that is suspended at its end is closed first, as CPython's are.

use std::ffi::{CString, c_int};

use pyo3_ffi as c;

use super::detail::{self, Detail};
use super::spare::show;
use super::{Fields, OFFSET, Phase, Sent, close, fields, send, throw};
use crate::ffi::call::{import, interned, string, text};
use crate::ffi::class::{Class, Visitor, attribute, noargs, onearg, varargs};
use crate::ffi::error::{SavedError, check};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, frames, trash};
use crate::future;
use crate::future_iter::{Receiver, exception_of, hide, stop_iteration};
use crate::state::state;

unsafe extern "C" fn am_send(
    coroutine: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> c::PySendResult {
    // SAFETY: the interpreter passes live objects.
    let (coroutine, value) = unsafe { (Obj::from_ptr(coroutine), Obj::from_ptr(value)) };
    let mut returned = false;
    let value = crate::ffi::error::guard(|| {
        Ok(match send(coroutine, value)? {
            Sent::Yielded(value) => value,
            Sent::Returned(value) => {
                returned = true;
                value
            }
        })
    });
    // SAFETY: the interpreter's out-parameter.
    unsafe { *result = value };
    match (value.is_null(), returned) {
        (true, _) => c::PySendResult::PYGEN_ERROR,
        (false, true) => c::PySendResult::PYGEN_RETURN,
        (false, false) => c::PySendResult::PYGEN_NEXT,
    }
}

/// A null return without an exception means "returned None", which saves the exception.
///
/// # Safety
/// Called with a live coroutine.
pub(super) unsafe extern "C" fn iternext(coroutine: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let coroutine = unsafe { Obj::from_ptr(coroutine) };
    let mut returned_none = false;
    let value = crate::ffi::error::guard(|| match send(coroutine, none())? {
        Sent::Yielded(value) => Ok(value),
        Sent::Returned(value) if value.obj().is_none() => {
            returned_none = true;
            Ok(value)
        }
        Sent::Returned(value) => Err(stop_iteration(value.obj())),
    });
    if returned_none {
        // SAFETY: the None that the guard just returned owned.
        drop(unsafe { Ref::steal_opt(value) });
        return std::ptr::null_mut();
    }
    value
}

/// `am_await`: a coroutine is its own iterator, for one awaiter at a time.
///
/// # Safety
/// Called with a live coroutine.
pub(super) unsafe extern "C" fn am_await(coroutine: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let coroutine = unsafe { Obj::from_ptr(coroutine) };
    crate::ffi::error::guard(|| match fields(coroutine).phase() {
        Phase::Running | Phase::Suspended => {
            Err(Raised::runtime("coroutine is being awaited already"))
        }
        Phase::Created | Phase::Finished => Ok(coroutine.to_ref()),
    })
}

fn value_or_stop(sent: Sent) -> R<Ref> {
    match sent {
        Sent::Yielded(value) => Ok(value),
        Sent::Returned(value) => Err(stop_iteration(value.obj())),
    }
}

pub(super) fn method_send(coroutine: Obj<'_>, value: Obj<'_>) -> R<Ref> {
    send(coroutine, value).and_then(value_or_stop)
}

pub(super) fn method_throw(coroutine: Obj<'_>, args: Args<'_>) -> R<Ref> {
    throw(coroutine, exception_of(&args, Receiver::Coroutine)?).and_then(value_or_stop)
}

fn name_or(
    coroutine: Obj<'_>,
    given: Detail,
    otherwise: fn(&super::Kind) -> &'static str,
) -> R<Ref> {
    let this = fields(coroutine);
    match detail::get(this, given) {
        Some(name) => Ok(name),
        None => string(this.kind.get().map_or("coroutine", otherwise)),
    }
}

fn get_name(coroutine: Obj<'_>) -> R<Ref> {
    name_or(coroutine, Detail::Name, |kind| kind.name)
}

fn get_qualname(coroutine: Obj<'_>) -> R<Ref> {
    name_or(coroutine, Detail::Qualname, |kind| kind.qualname)
}

fn checked_name<'a>(name: Option<Obj<'a>>, attribute: &str) -> R<Obj<'a>> {
    let is_str = |name: &Obj<'_>| name.is_instance_of_type(&raw mut c::PyUnicode_Type);
    name.filter(is_str)
        .ok_or_else(|| Raised::type_error(&format!("{attribute} must be set to a string object")))
}

fn set_name(coroutine: Obj<'_>, name: Option<Obj<'_>>) -> R<()> {
    let name = checked_name(name, "__name__")?;
    detail::set(coroutine, Detail::Name, name)
}

fn set_qualname(coroutine: Obj<'_>, name: Option<Obj<'_>>) -> R<()> {
    let name = checked_name(name, "__qualname__")?;
    detail::set(coroutine, Detail::Qualname, name)
}

fn get_suspended(coroutine: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(coroutine).phase() == Phase::Suspended))
}

fn get_origin(coroutine: Obj<'_>) -> R<Ref> {
    Ok(detail::get(fields(coroutine), Detail::Origin).unwrap_or_else(none_ref))
}

/// asyncio asks Cython's coroutines so, to write "running" into a task's repr.
fn get_running(coroutine: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(coroutine).phase() == Phase::Running))
}

/// `tp_iter`: a generator under `types.coroutine` may `yield from` a coroutine; nobody else can
/// iterate over one.
unsafe extern "C" fn iterate(coroutine: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let coroutine = unsafe { Obj::from_ptr(coroutine) };
    crate::ffi::error::guard(|| {
        if is_in_generator_coroutine()? {
            return super::wrapper::create(coroutine);
        }
        Err(Raised::type_error("'coroutine' object is not iterable"))
    })
}

/// Whether the Python code that runs is that of a generator under `types.coroutine`.
fn is_in_generator_coroutine() -> R<bool> {
    let Some(frame) = frames::current() else {
        return Ok(false);
    };
    let code = frames::code_of(frame.obj())?;
    super::awaiting::is_iterable_coroutine(code.obj())
}

unsafe extern "C" fn repr(coroutine: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let coroutine = unsafe { Obj::from_ptr(coroutine) };
    crate::ffi::error::guard(|| {
        let name = text(get_qualname(coroutine)?.obj())?;
        string(&format!(
            "<coroutine object {name} at {:p}>",
            coroutine.ptr()
        ))
    })
}

/// `tp_finalize`: warns of one that was never awaited, closes one that is suspended.
unsafe extern "C" fn finalize(coroutine: *mut PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let coroutine = unsafe { Obj::from_ptr(coroutine) };
    let this = fields(coroutine);
    this.frame.finalized.set(true);
    if this.phase() == Phase::Finished {
        return;
    }
    // It may come back to life, in a circle with what brought it back.
    show(coroutine);
    let saved = SavedError::save();
    let done = crate::ffi::error::guard_status(|| {
        if this.phase() == Phase::Created {
            warn_unawaited(coroutine);
        } else if let Err(raised) = close(coroutine) {
            raised.write_unraisable(coroutine);
        }
        Ok(())
    });
    debug_assert_eq!(done, 0);
    saved.restore();
}

/// As the interpreter: `warnings` has a function that also tells the origin, and that lets the
/// warning keep the coroutine, for its traceback.
#[cold]
fn warn_unawaited(coroutine: Obj<'_>) {
    let function = import(c"warnings")
        .and_then(|module| module.obj().getattr_str(c"_warn_unawaited_coroutine"));
    let warned = match function {
        Ok(function) => function.obj().call1(coroutine).map(drop),
        Err(raised) => {
            drop(raised.take());
            warn_plainly(coroutine)
        }
    };
    if let Err(raised) = warned {
        raised.write_unraisable(coroutine);
    }
}

fn warn_plainly(coroutine: Obj<'_>) -> R<()> {
    let name = text(get_qualname(coroutine)?.obj())?;
    let message = CString::new(format!("coroutine '{name}' was never awaited"));
    let message = message.map_err(|_| Raised::value_error("embedded null character"))?;
    // SAFETY: a static class and a NUL-terminated text.
    check(unsafe { c::PyErr_WarnEx(c::PyExc_RuntimeWarning, message.as_ptr(), 1) })
}

unsafe extern "C" fn traverse(
    coroutine: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let coroutine = unsafe { Obj::from_ptr(coroutine) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(coroutine.type_ptr().cast());
    let this = fields(coroutine);
    visitor.slot(&this.awaited);
    visitor.slot(&this.details);
    for slot in &this.frame.slots {
        visitor.slot(slot);
    }
    visitor.status()
}

unsafe extern "C" fn clear(coroutine: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = fields(unsafe { Obj::from_ptr(coroutine) });
    this.finish();
    this.details.clear();
    0
}

unsafe extern "C" fn dealloc(coroutine: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(coroutine, free) }
}

/// Takes an instance apart.
///
/// # Safety
/// `coroutine` is an instance of ours without references.
unsafe fn free(coroutine: *mut PyObject) {
    // SAFETY: an instance of ours without references; a finalizer may bring it back to life.
    unsafe {
        let this = fields(Obj::from_ptr(coroutine));
        if this.phase() != Phase::Finished && c::PyObject_CallFinalizerFromDealloc(coroutine) < 0 {
            return;
        }
        let class = c::Py_TYPE(coroutine);
        c::PyObject_GC_UnTrack(coroutine.cast());
        if !this.weakrefs.get().is_null() {
            c::PyObject_ClearWeakRefs(coroutine);
        }
        if this.phase() != Phase::Finished {
            this.finish();
        }
        if !this.details.is_empty() {
            this.details.clear();
        }
        if !state().spare_coroutines.keep(coroutine, this) {
            future::free_instance(coroutine, class);
        }
    }
}

/// `__await__()`; `await` uses the slot of that name, so the method must not come from there.
fn await_method() -> c::PyMethodDef {
    let mut method = noargs!(
        c"__await__",
        super::wrapper::create,
        c"An iterator over the coroutine; `await` does without."
    );
    method.ml_flags |= c::METH_COEXIST;
    method
}

/// Creates the type, and tells `collections.abc` that it is a coroutine.
pub fn build_type() -> R<Ref> {
    let weakrefs = OFFSET + std::mem::offset_of!(Fields, weakrefs);
    let class = Class::new(c"aioxide.Coroutine", OFFSET + size_of::<Fields>())
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .slot(c::Py_tp_finalize, finalize as *mut _)
        .slot(c::Py_tp_iter, iterate as *mut _)
        .slot(c::Py_tp_iternext, iternext as *mut _)
        .slot(c::Py_tp_repr, repr as *mut _)
        .slot(c::Py_am_await, am_await as *mut _)
        .slot(c::Py_am_send, am_send as *mut _)
        .weakrefs(weakrefs)
        .methods([
            await_method(),
            onearg!(
                c"send",
                method_send,
                c"Continues; returns what it waits for."
            ),
            varargs!(
                c"throw",
                method_throw,
                c"Raises an exception where the coroutine waits."
            ),
            noargs!(
                c"close",
                close,
                c"Raises GeneratorExit where the coroutine waits."
            ),
        ])
        .attributes([
            attribute!(c"__name__", get_name, set_name, c"The function's name."),
            attribute!(
                c"__qualname__",
                get_qualname,
                set_qualname,
                c"The function's qualified name."
            ),
            attribute!(c"cr_origin", get_origin, c"Where it was made, if known."),
            attribute!(c"cr_running", get_running, c"Whether it runs right now."),
            attribute!(c"cr_suspended", get_suspended, c"Whether it waits."),
        ])
        .build(None)?;
    let coroutine = crate::ffi::call::import(c"collections.abc")?
        .obj()
        .getattr_str(c"Coroutine")?;
    let register = coroutine.obj().getattr_str(c"register")?;
    drop(register.obj().call1(class.obj())?);
    // What messages call it.
    let name = interned(c"__name__")?;
    class
        .obj()
        .setattr(name.obj(), string("coroutine")?.obj())?;
    hide(hide(class, c"__iter__")?, c"__next__")
}
