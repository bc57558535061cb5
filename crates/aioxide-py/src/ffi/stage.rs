//! One context for callbacks and steps in a row, as long as none of them leaves a trace in it.
//!
//! Entering and leaving a context costs as much as all else that a loop does for a callback. So
//! the context stays entered after a callback or a task's step, and the next one with the same
//! variables finds what a context of its own would show it. May touch: contexts as `light_context`
//! does. Invariants: while it is empty, this has entered nothing; the context that it holds is the
//! thread's current one, and it is emptied before anything runs that belongs outside; while a
//! callback or a step runs it is empty, so that turns inside turns have a stage of their own.

use pyo3_ffi as c;

use super::context::{self, ContextSlot};
use super::error::R;
use super::light_context::{Light, light};
use super::object::{Obj, PyObject, Ref, Slot};
use super::weak::has_weak_references;

/// References to a context that is lent: the caller's, the field's and the thread's.
const LENT_REFERENCES: c::Py_ssize_t = 3;

/// The context that the last callback or step has left entered, or nothing.
#[derive(Default)]
pub struct Stage(Slot);

impl Stage {
    /// Enters a context with the variables that the field holds, and that nobody changes before
    /// `stay`. `None`, and nothing was done, if it holds something else.
    #[inline(always)]
    pub fn enter(&self, field: &ContextSlot) -> Option<R<Ref>> {
        let light = light()?;
        // SAFETY: not used any more when this returns.
        let variables = unsafe { field.variables(light) }?;
        match self.0.take() {
            Some(context) if light.is_unchanged(context.obj(), variables) => Some(Ok(context)),
            left => Some(set_up(light, left, variables)),
        }
    }

    /// After what ran in a context that `enter` gave: it stays entered if it can. After a failure
    /// the field has it.
    #[inline(always)]
    pub fn stay(&self, context: Ref, field: &ContextSlot, result: R<()>) -> R<()> {
        if result.is_ok() && is_current(context.obj()) {
            self.put(context);
            return Ok(());
        }
        leave_to(field, context).and(result)
    }

    /// As `enter`, for a field that others may ask for its context meanwhile: the field has it.
    #[inline(always)]
    pub fn lend(&self, field: &ContextSlot) -> Option<R<Ref>> {
        let entered = self.enter(field)?;
        if let Ok(context) = &entered {
            // What the field held is the context's, too: nothing ends with it.
            field.hold(context.clone());
        }
        Some(entered)
    }

    /// After what ran in a context that `lend` gave: it stays entered, and the field has its
    /// variables again, if nobody has kept the context.
    #[inline(always)]
    pub fn take_back(&self, context: Ref, field: &ContextSlot, result: R<()>) -> R<()> {
        if result.is_ok()
            && let Some(variables) = variables_of_lent(&context, field)
        {
            field.hold(variables);
            self.put(context);
            return Ok(());
        }
        let left = context::leave(context.obj());
        field.unlend(context);
        left.and(result)
    }

    /// Holds what is entered.
    #[inline(always)]
    fn put(&self, context: Ref) {
        if let Some(other) = self.0.replace(Some(context)) {
            drop_cold(other);
        }
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

/// Whether this is the thread's current context.
#[inline(always)]
fn is_current(context: Obj<'_>) -> bool {
    light().is_some_and(|light| light.is_current(context))
}

/// The variables of a context that only the field, the thread and the caller have.
#[inline(always)]
fn variables_of_lent(context: &Ref, field: &ContextSlot) -> Option<Ref> {
    let light = light()?;
    let is_lent = light.is_current(context.obj()) && field.holds(context.obj());
    if !is_lent {
        return None;
    }
    light.variables_of_private(context.obj(), LENT_REFERENCES)
}

/// Leaves a context, which the field has from now on.
#[cold]
#[inline(never)]
fn leave_to(field: &ContextSlot, context: Ref) -> R<()> {
    let left = context::leave(context.obj());
    field.keep(context);
    left
}

#[cold]
#[inline(never)]
fn drop_cold(other: Ref) {
    debug_assert!(false, "a stage was used inside itself");
    drop(other);
}

/// Enters a context with these variables, instead of the one that is entered.
#[inline(never)]
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

/// Whether the caller's is not the last reference.
#[inline(always)]
pub fn is_shared(object: Obj<'_>) -> bool {
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
