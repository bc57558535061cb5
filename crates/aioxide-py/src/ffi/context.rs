//! Context variables: copying, entering and leaving a context (PEP 567).
//!
//! May touch: the thread's current context. Invariant: every `enter` is followed by one `leave`
//! of the same context on the same thread.

use pyo3_ffi as c;

use super::class::Visitor;
use super::error::{R, check};
use super::light_context::{Light, light};
use super::object::{Obj, Ref, Slot, none_ref};

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

/// A field for what a callback or a task runs in: a context or, as long as nobody asks for that,
/// only its variables. Those get a context when they are run; if nobody has kept it by then, the
/// next ones get the same. What programs see is a context of its own for each.
#[derive(Default)]
#[repr(transparent)]
pub struct ContextSlot(Slot);

impl ContextSlot {
    /// A field of references, used as this.
    #[inline]
    pub fn over(slot: &Slot) -> &ContextSlot {
        // SAFETY: that is all this is.
        unsafe { &*std::ptr::from_ref(slot).cast() }
    }

    /// Holds a copy of the current context.
    #[inline]
    pub fn set_copy(&self) -> R<()> {
        let held = match light().and_then(Light::current_variables) {
            Some(variables) => variables,
            None => copy_current()?,
        };
        self.0.set(Some(held));
        Ok(())
    }

    /// Holds what a program gave: mostly a context.
    #[inline]
    pub fn set(&self, context: Ref) {
        self.0.set(Some(context));
    }

    /// The context, from now on a single one; `None` if there is none.
    pub fn context(&self) -> R<Ref> {
        match (self.0.get(), light()) {
            (Some(held), Some(light)) if light.is_variables(held.obj()) => {
                let context = light.context_of(held)?;
                self.0.set(Some(context.clone()));
                Ok(context)
            }
            (held, _) => Ok(held.unwrap_or_else(none_ref)),
        }
    }

    /// Runs `body` in the context; `None` if this is not a context but only acts like one.
    #[inline]
    pub fn run<T>(&self, body: impl FnOnce() -> R<T>) -> Option<R<T>> {
        let held = self.0.get()?;
        if let Some(light) = light()
            && light.is_variables(held.obj())
        {
            return Some(self.run_light(light, held, body));
        }
        if !is_native(held.obj()) {
            return None;
        }
        Some(enter(held.obj()).and_then(|()| {
            let result = body();
            leave(held.obj()).and(result)
        }))
    }

    #[inline]
    fn run_light<T>(&self, light: &Light, held: Ref, body: impl FnOnce() -> R<T>) -> R<T> {
        let context = light.context_of(held)?;
        self.0.set(Some(context.clone()));
        enter(context.obj())?;
        let result = body();
        leave(context.obj())?;
        if self.0.ptr() == context.ptr()
            && let Some(variables) = light.take_back(context)
        {
            self.0.set(Some(variables));
        }
        result
    }

    /// Empties the field.
    #[inline]
    pub fn clear(&self) {
        self.0.clear();
    }

    /// Shows the collector what the field holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.0);
    }
}
