//! One context for callbacks in a row, as long as none of them leaves a trace in it.
//!
//! Entering and leaving a context costs as much as all else that a loop does for a callback. So
//! the context stays entered after a callback, and the next one with the same variables finds what
//! a context of its own would show it. May touch: contexts as `light_context` does. Invariants:
//! while it is empty, this has entered nothing; the context that it holds is the thread's current
//! one, and it is emptied before anything runs that belongs outside; while a callback runs it is
//! empty, so that turns inside turns have a stage of their own.

use pyo3_ffi as c;

use super::context::{self, ContextSlot};
use super::error::R;
use super::light_context::{Light, light};
use super::object::{Obj, PyObject, Ref, Slot};
use super::weak::has_weak_references;

/// The context that the last callback has left entered, or nothing.
#[derive(Default)]
pub struct Stage(Slot);

impl Stage {
    /// Runs `body` in a context with the variables that the field holds, and that nobody changes
    /// meanwhile. If that fails, the field has the context. `None`, and nothing was done, if it
    /// holds something else.
    #[inline(always)]
    pub fn run<T>(&self, field: &ContextSlot, body: impl FnOnce() -> R<T>) -> Option<R<T>> {
        let light = light()?;
        // SAFETY: by the contract nobody changes the field.
        let variables = unsafe { field.variables(light) }?;
        let context = match self.0.take() {
            Some(context) if light.is_unchanged(context.obj(), variables) => context,
            left => match set_up(light, left, variables) {
                Ok(context) => context,
                Err(raised) => return Some(Err(raised)),
            },
        };
        let result = body();
        if result.is_ok() && light.is_current(context.obj()) {
            self.0.set(Some(context));
            return Some(result);
        }
        let left = context::leave(context.obj());
        field.keep(context);
        Some(left.and(result))
    }

    /// Leaves what is entered.
    #[inline(always)]
    pub fn leave(&self) -> R<()> {
        match self.0.take() {
            None => Ok(()),
            Some(context) => give_back(light(), context),
        }
    }
}

/// Enters a context with these variables, instead of the one that is entered.
fn set_up(light: &Light, left: Option<Ref>, variables: Obj<'_>) -> R<Ref> {
    if let Some(left) = left {
        give_back(Some(light), left)?;
    }
    let context = light.context_of(variables.to_ref())?;
    context::enter(context.obj())?;
    Ok(context)
}

#[cold]
fn give_back(light: Option<&Light>, context: Ref) -> R<()> {
    context::leave(context.obj())?;
    if let Some(light) = light {
        light.spare(context);
    }
    Ok(())
}

unsafe extern "C" {
    static mut PyMethod_Type: c::PyTypeObject;
    fn PyMethod_Self(method: *mut PyObject) -> *mut PyObject;
    fn PyMethod_Function(method: *mut PyObject) -> *mut PyObject;
}

/// Whether surely nothing of Python's runs when a reference to this goes.
#[inline(always)]
pub fn goes_quietly(object: Obj<'_>) -> bool {
    is_shared(object) || dies_quietly(object)
}

#[inline(always)]
fn is_shared(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::Py_REFCNT(object.ptr()) > 1 }
}

fn dies_quietly(object: Obj<'_>) -> bool {
    let class = object.type_ptr();
    if class == &raw mut PyMethod_Type {
        // SAFETY: a bound method, which has both.
        let parts = unsafe {
            [
                Obj::from_ptr(PyMethod_Self(object.ptr())),
                Obj::from_ptr(PyMethod_Function(object.ptr())),
            ]
        };
        return parts.into_iter().all(is_shared) && !has_weak_references(object);
    }
    if class == &raw mut c::PyCFunction_Type {
        // SAFETY: a built-in function or method, which may have an owner.
        let owner = unsafe { Obj::from_nullable(c::PyCFunction_GetSelf(object.ptr())) };
        return owner.is_none_or(is_shared) && !has_weak_references(object);
    }
    // SAFETY: alive.
    let flags = unsafe { c::PyType_GetFlags(class) };
    flags & (c::Py_TPFLAGS_HAVE_GC | c::Py_TPFLAGS_HEAPTYPE) == 0
}
