//! Contexts that nobody looks at: only their variables are kept, and one object serves all.
//!
//! A `contextvars.Context` is a shell around an immutable map of variables. Copying one for each
//! callback and each task is a third of what scheduling a callback costs, and 64 bytes of a waiting
//! task. Where the parts of a context lie is found at import, by looking at contexts with known
//! content; where that does not succeed, contexts are copied as ever.
//!
//! May touch: the map inside contexts of its own, and the word of the thread state that names the
//! current context. Invariants: a context that is lent out holds the variables of whoever runs in
//! it; one that comes back is referred to by nobody and not entered; the spare one is empty.

use pyo3_ffi as c;

use super::call::import;
use super::error::R;
use super::layout::{HEAD_BYTES, basic_size, find_word, weak_at, word_at};
use super::object::{Obj, PyObject, Ref, Slot};
use crate::state::state;

/// A thread state has the word for the current context among its first.
const THREAD_STATE_BYTES: usize = 1024;

const WORD: usize = std::mem::size_of::<usize>();

/// What is needed to take contexts apart.
pub struct Light {
    /// The type of a map of variables.
    map_type: *mut c::PyTypeObject,
    /// The map without variables.
    empty: Ref,
    /// Where a context has its map.
    map_at: usize,
    /// Where a context has its weak references.
    weak_at: usize,
    /// Where a thread state has the current context.
    current_at: usize,
    /// A context without variables that nobody refers to, or nothing.
    spare: Slot,
}

/// What there is to take contexts apart with, if this Python's are understood.
#[inline]
pub fn light() -> Option<&'static Light> {
    state().light_context.as_ref()
}

impl Light {
    /// Whether this is a map of variables rather than a context.
    #[inline]
    pub fn is_variables(&self, held: Obj<'_>) -> bool {
        held.type_ptr() == self.map_type
    }

    /// The variables of the thread's current context: what a copy of it would have. Nothing if the
    /// thread has not had a context yet.
    #[inline(always)]
    pub fn current_variables(&self) -> Option<Ref> {
        // SAFETY: a context, as long as nothing is entered or left.
        let current = unsafe { Obj::from_nullable(self.current()) }?;
        self.map_of(current).get()
    }

    /// The thread's current context, borrowed, or null.
    #[inline(always)]
    fn current(&self) -> *mut PyObject {
        // SAFETY: the thread is attached; the word was found inside the thread state.
        unsafe {
            let thread = c::PyThreadState_Get().cast::<u8>();
            *thread.add(self.current_at).cast::<*mut PyObject>()
        }
    }

    /// Whether this is the thread's current context.
    #[inline(always)]
    pub fn is_current(&self, context: Obj<'_>) -> bool {
        self.current() == context.ptr()
    }

    /// Whether a context, referred to by its caller and entered, is as one with these variables
    /// that nobody has run in.
    #[inline(always)]
    pub fn is_unchanged(&self, context: Obj<'_>, variables: Obj<'_>) -> bool {
        self.map_of(context).ptr() == variables.ptr() && self.is_private(context, 2)
    }

    /// The variables of a context that so many references are known to.
    #[inline(always)]
    pub fn variables_of_private(&self, context: Obj<'_>, references: c::Py_ssize_t) -> Option<Ref> {
        if !self.is_private(context, references) {
            return None;
        }
        self.map_of(context).get()
    }

    /// Takes a context that was left, if nobody but its caller refers to it.
    pub fn spare(&self, context: Ref) {
        if self.is_private(context.obj(), 1) {
            let variables = self.map_of(context.obj()).replace(Some(self.empty.clone()));
            self.spare.set(Some(context));
            drop(variables);
        }
    }

    /// Whether nobody else refers to a context than those who have so many references.
    #[inline(always)]
    fn is_private(&self, context: Obj<'_>, references: c::Py_ssize_t) -> bool {
        // SAFETY: alive; a context has its list of weak references there.
        unsafe {
            let weak = context.ptr().cast::<u8>().add(self.weak_at);
            c::Py_REFCNT(context.ptr()) == references && (*weak.cast::<*mut PyObject>()).is_null()
        }
    }

    /// A context with these variables, which nobody else refers to.
    #[inline(always)]
    pub fn context_of(&self, variables: Ref) -> R<Ref> {
        let context = match self.spare.take() {
            // The collector may have shown it to somebody.
            // SAFETY: alive.
            Some(context) if unsafe { c::Py_REFCNT(context.ptr()) } == 1 => context,
            _ => new_context()?,
        };
        self.map_of(context.obj()).set(Some(variables));
        Ok(context)
    }

    /// The variables of a context of ours that was left, if nobody but its caller and its field
    /// refers to it.
    #[inline(always)]
    pub fn take_back(&self, context: Ref) -> Option<Ref> {
        if !self.is_private(context.obj(), 2) {
            return None;
        }
        let variables = self.map_of(context.obj()).replace(Some(self.empty.clone()));
        self.spare.set(Some(context));
        variables
    }

    /// The field of a context that holds its variables.
    #[inline]
    fn map_of<'a>(&self, context: Obj<'a>) -> &'a Slot {
        debug_assert!(super::context::is_native(context));
        // SAFETY: every context has a reference to its map there, as a `Slot` does.
        unsafe { &*context.ptr().cast::<u8>().add(self.map_at).cast::<Slot>() }
    }

    /// Looks at contexts with known content.
    pub fn probe() -> R<Option<Light>> {
        let variable = import(c"contextvars")?.obj().getattr_str(c"ContextVar")?;
        let variable = variable.obj().call1(super::call::string("probe")?.obj())?;
        let (context, other) = (new_context()?, new_context()?);
        super::context::enter(context.obj())?;
        let set = variable
            .obj()
            .call_method1(super::call::interned(c"set")?.obj(), variable.obj());
        super::context::leave(context.obj())?;
        drop(set?);
        let class = context.obj().type_obj();
        let Some(map) = only_referent(context.obj())? else {
            return Ok(None);
        };
        let size = basic_size(class);
        let map_at = find_word(context.obj(), size, map.obj());
        let (Some(map_at), Some(current_at)) = (map_at, find_current(&context)?) else {
            return Ok(None);
        };
        let Some(empty) = only_referent(other.obj())? else {
            return Ok(None);
        };
        let found = Light {
            map_type: map.obj().type_ptr(),
            empty,
            map_at,
            weak_at: weak_at(class).try_into().unwrap_or(0),
            current_at,
            spare: Slot::empty(),
        };
        found
            .is_right(&variable, &map, &other)
            .map(|is| is.then_some(found))
    }

    /// Tries what was found: another context is given the variables.
    fn is_right(&self, variable: &Ref, map: &Ref, other: &Ref) -> R<bool> {
        let fits = self.weak_at >= HEAD_BYTES
            && self.empty.obj().type_ptr() == self.map_type
            && word_at(other.obj(), self.map_at) == self.empty.ptr() as usize
            && find_current(other)? == Some(self.current_at);
        if !fits {
            return Ok(false);
        }
        let len = |context: &Ref| {
            context
                .obj()
                .call_method0(super::call::interned(c"__len__")?.obj())
        };
        self.map_of(other.obj()).set(Some(map.clone()));
        let get = super::call::interned(c"get")?;
        let value = other.obj().call_method1(get.obj(), variable.obj())?;
        let has = value.obj().is(variable.obj()) && len(other)?.obj().is_true()?;
        self.map_of(other.obj()).set(Some(self.empty.clone()));
        Ok(has && !len(other)?.obj().is_true()?)
    }
}

/// `contextvars.Context()`.
pub(super) fn new_context() -> R<Ref> {
    // SAFETY: the thread is attached.
    unsafe { Ref::steal(c::PyContext_New()) }
}

/// The one object that the collector finds in `object`.
fn only_referent(object: Obj<'_>) -> R<Option<Ref>> {
    let find = import(c"gc")?.obj().getattr_str(c"get_referents")?;
    let found = find.obj().call1(object)?;
    if super::call::list_len(found.obj()) != 1 {
        return Ok(None);
    }
    super::builtin::item(found.obj(), 0).map(Some)
}

/// The word of the thread state that changes to `context` and back, when that is entered and left.
fn find_current(context: &Ref) -> R<Option<usize>> {
    super::context::enter(context.obj())?;
    // SAFETY: the thread is attached.
    let thread = unsafe { c::PyThreadState_Get() }.cast::<u8>();
    // SAFETY: looked for in order, so that it does not go on behind the word that is found; where
    // there is none, thread states are longer than this, or followed by other memory.
    let word = |offset: usize| unsafe { thread.add(offset).cast::<usize>().read() };
    let wanted = context.ptr() as usize;
    let found = (0..THREAD_STATE_BYTES)
        .step_by(WORD)
        .find(|&offset| word(offset) == wanted);
    super::context::leave(context.obj())?;
    Ok(found.filter(|&offset| word(offset) != wanted))
}
