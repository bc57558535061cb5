//! Context variables: copying, entering and leaving a context (PEP 567).
//!
//! May touch: the thread's current context. Invariant: every `enter` is followed by one `leave`
//! of the same context on the same thread.

use pyo3_ffi as c;

use super::class::Visitor;
use super::error::{R, check};
use super::light_context::{Light, light};
use super::object::{Obj, Ref, Slot};

/// `contextvars.copy_context()`: O(1), shares structure.
#[inline]
pub fn copy_current() -> R<Ref> {
    // SAFETY: the thread is attached.
    unsafe { Ref::steal(c::PyContext_CopyCurrent()) }
}

/// The variables of the current context, where a field for contexts can hold those alone.
#[inline(always)]
pub fn current_variables() -> Option<Ref> {
    light()?.current_variables()
}

/// What a field for contexts can hold in the place of `copy_current()`: perhaps only variables.
#[inline(always)]
pub fn copy_current_lightly() -> R<Ref> {
    match current_variables() {
        Some(variables) => Ok(variables),
        None => copy_current(),
    }
}

/// The context with the variables, if only those are held; otherwise what is held.
pub fn made_real(held: Ref) -> R<Ref> {
    match light() {
        Some(light) if light.is_variables(held.obj()) => light.context_of(held),
        _ => Ok(held),
    }
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

    /// Holds what a program gave, mostly a context, or else a copy of the current one.
    #[inline(always)]
    pub fn new(given: Option<Obj<'_>>) -> R<ContextSlot> {
        let held = match given {
            Some(given) if !given.is_none() => given.to_ref(),
            _ => copy_current_lightly()?,
        };
        Ok(ContextSlot(Slot::holding(held)))
    }

    /// Fills a field that is empty with what `current_variables` gave.
    #[inline(always)]
    pub fn fill_with_variables(&self, variables: Ref) {
        self.0.fill(Some(variables));
    }

    /// Fills a field that is empty.
    #[inline(always)]
    pub fn fill(&self, other: ContextSlot) {
        self.0.fill(other.0.take());
    }

    /// Gives this and another field each other's contents.
    pub fn swap(&self, other: &ContextSlot) {
        let mine = self.0.take();
        self.0.set(other.0.take());
        other.0.set(mine);
    }

    /// The context, from now on a single one; `None` if there is none.
    pub fn context(&self) -> R<Ref> {
        match light().and_then(|light| self.lend(light)) {
            Some(context) => context,
            None => Ok(self.0.get_or_none()),
        }
    }

    /// Runs `body` in the context; `None` if this is not a context but only acts like one.
    #[inline(always)]
    pub fn run<T>(&self, body: impl FnOnce() -> R<T>) -> Option<R<T>> {
        if let Some(light) = light()
            && let Some(context) = self.lend(light)
        {
            return Some(context.and_then(|context| {
                enter(context.obj())?;
                let result = body();
                leave(context.obj())?;
                self.take_back(light, context);
                result
            }));
        }
        let context = self.0.get()?;
        if !is_native(context.obj()) {
            return None;
        }
        Some(enter(context.obj()).and_then(|()| {
            let result = body();
            leave(context.obj()).and(result)
        }))
    }

    /// A context with the variables, if the field has only those; it has the context now.
    #[inline(always)]
    fn lend(&self, light: &Light) -> Option<R<Ref>> {
        // SAFETY: only looked at.
        if !light.is_variables(unsafe { self.0.borrowed() }?) {
            return None;
        }
        let variables = self.0.take()?;
        Some(light.context_of(variables).inspect(|context| {
            self.0.set(Some(context.clone()));
        }))
    }

    /// The variables again, if nobody has kept the context meanwhile.
    #[inline(always)]
    fn take_back(&self, light: &Light, context: Ref) {
        if self.0.ptr() == context.ptr()
            && let Some(variables) = light.take_back(context)
        {
            self.0.set(Some(variables));
        }
    }

    /// The variables, if the field has only those.
    ///
    /// # Safety
    /// Nothing changes the field as long as the result is used.
    #[inline(always)]
    pub(super) unsafe fn variables(&self, light: &Light) -> Option<Obj<'_>> {
        // SAFETY: by the contract.
        let held = unsafe { self.0.borrowed() }?;
        light.is_variables(held).then_some(held)
    }

    /// Holds this: a context instead of its variables, or those instead of it.
    #[inline(always)]
    pub(super) fn hold(&self, held: Ref) {
        self.0.set(Some(held));
    }

    /// Whether it holds this.
    #[inline(always)]
    pub(super) fn holds(&self, context: Obj<'_>) -> bool {
        self.0.ptr() == context.ptr()
    }

    /// After a context of the field was left: the variables again, if nobody has kept it.
    #[cold]
    #[inline(never)]
    pub(super) fn unlend(&self, context: Ref) {
        if let Some(light) = light() {
            self.take_back(light, context);
        }
    }

    /// Holds this context instead of its variables.
    #[cold]
    pub(super) fn keep(&self, context: Ref) {
        self.0.set(Some(context));
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
