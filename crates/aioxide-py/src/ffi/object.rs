//! Owned and borrowed references to Python objects, and the field type that holds one.
//!
//! May touch: reference counts. Never runs Python code itself, except that dropping a `Ref` may
//! run a finalizer: whoever drops one must hold no borrow of loop state.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use pyo3_ffi as c;
pub use pyo3_ffi::PyObject;

use super::error::{R, Raised};

/// An owned reference: one reference count, given back on drop.
#[repr(transparent)]
pub struct Ref(NonNull<PyObject>);

/// A borrowed reference, kept alive by something that outlives `'a`.
#[derive(Copy, Clone)]
#[repr(transparent)]
pub struct Obj<'a>(NonNull<PyObject>, PhantomData<&'a PyObject>);

impl Ref {
    /// Takes over the reference that a C function returned; null means that it raised.
    ///
    /// # Safety
    /// `ptr` is null with the error indicator set, or a reference that the caller owns.
    #[inline]
    pub unsafe fn steal(ptr: *mut PyObject) -> R<Ref> {
        NonNull::new(ptr).map(Ref).ok_or(Raised::from_indicator())
    }

    /// Takes over a reference that may be absent without an error.
    ///
    /// # Safety
    /// `ptr` is null or a reference that the caller owns.
    #[inline]
    pub unsafe fn steal_opt(ptr: *mut PyObject) -> Option<Ref> {
        NonNull::new(ptr).map(Ref)
    }

    /// The object, borrowed.
    #[inline]
    pub fn obj(&self) -> Obj<'_> {
        Obj(self.0, PhantomData)
    }

    /// The raw pointer, still owned by `self`.
    #[inline]
    pub fn ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }

    /// Gives the reference away to C.
    #[inline]
    pub fn into_ptr(self) -> *mut PyObject {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Clone for Ref {
    #[inline]
    fn clone(&self) -> Ref {
        self.obj().to_ref()
    }
}

impl Drop for Ref {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `self` owns one reference, and the thread is attached (module rule).
        unsafe { c::Py_DECREF(self.0.as_ptr()) }
    }
}

impl<'a> Obj<'a> {
    /// Borrows a pointer that C handed in.
    ///
    /// # Safety
    /// `ptr` is not null and stays alive for `'a`.
    #[inline]
    pub unsafe fn from_ptr(ptr: *mut PyObject) -> Obj<'a> {
        debug_assert!(!ptr.is_null());
        // SAFETY: not null, by the contract.
        Obj(unsafe { NonNull::new_unchecked(ptr) }, PhantomData)
    }

    /// Borrows a pointer that may be null.
    ///
    /// # Safety
    /// `ptr` is null or stays alive for `'a`.
    #[inline]
    pub unsafe fn from_nullable(ptr: *mut PyObject) -> Option<Obj<'a>> {
        NonNull::new(ptr).map(|ptr| Obj(ptr, PhantomData))
    }

    /// The raw pointer.
    #[inline]
    pub fn ptr(self) -> *mut PyObject {
        self.0.as_ptr()
    }

    /// One more owned reference to the same object.
    #[inline]
    pub fn to_ref(self) -> Ref {
        // SAFETY: alive for `'a`, thread attached.
        unsafe { c::Py_INCREF(self.ptr()) };
        Ref(self.0)
    }

    /// The object's exact type.
    #[inline]
    pub fn type_ptr(self) -> *mut c::PyTypeObject {
        // SAFETY: alive for `'a`.
        unsafe { c::Py_TYPE(self.ptr()) }
    }

    /// The object's exact type as an object.
    #[inline]
    pub fn type_obj(self) -> Obj<'a> {
        // SAFETY: an object keeps its type alive.
        unsafe { Obj::from_ptr(self.type_ptr().cast()) }
    }

    /// Identity, Python's `is`.
    #[inline]
    pub fn is(self, other: Obj<'_>) -> bool {
        self.0 == other.0
    }

    /// Whether this is `None`.
    #[inline]
    pub fn is_none(self) -> bool {
        // SAFETY: a static address.
        self.ptr() == unsafe { c::Py_None() }
    }

    /// Whether the object's type is `class` or a subclass of it. Runs no Python code.
    #[inline]
    pub fn is_instance_of_type(self, class: *mut c::PyTypeObject) -> bool {
        // SAFETY: both are alive.
        unsafe { c::PyObject_TypeCheck(self.ptr(), class) != 0 }
    }
}

/// `None`, borrowed: it is never freed.
#[inline]
pub fn none<'a>() -> Obj<'a> {
    // SAFETY: a static object.
    unsafe { Obj::from_ptr(c::Py_None()) }
}

/// `True` or `False`, owned.
#[inline]
pub fn boolean(value: bool) -> Ref {
    // SAFETY: static objects.
    unsafe { Obj::from_ptr(if value { c::Py_True() } else { c::Py_False() }) }.to_ref()
}

/// `None`, owned: what a method without a result returns.
#[inline]
pub fn none_ref() -> Ref {
    none().to_ref()
}

/// A field of a native object that holds a reference or nothing. All-zero memory is "nothing",
/// so a field is valid in memory fresh from `tp_alloc`.
#[repr(transparent)]
pub struct Slot(Cell<Option<Ref>>);

impl Slot {
    /// A field that holds nothing.
    pub const fn empty() -> Slot {
        Slot(Cell::new(None))
    }

    /// A field that holds this.
    #[inline]
    pub const fn holding(value: Ref) -> Slot {
        Slot(Cell::new(Some(value)))
    }

    /// The pointer, borrowed, or null. Only for comparing and for `tp_traverse`.
    #[inline]
    pub fn ptr(&self) -> *mut PyObject {
        // SAFETY: reading the pointer of the cell's content moves nothing; no other reference into
        // the cell exists because none is ever handed out.
        unsafe {
            (*self.0.as_ptr())
                .as_ref()
                .map_or(ptr::null_mut(), Ref::ptr)
        }
    }

    /// The content, borrowed.
    ///
    /// # Safety
    /// Nothing changes the field as long as the result is used.
    #[inline]
    pub unsafe fn borrowed(&self) -> Option<Obj<'_>> {
        // SAFETY: the field keeps it alive.
        unsafe { Obj::from_nullable(self.ptr()) }
    }

    /// Fills a field that holds nothing.
    #[inline]
    pub fn fill(&self, value: Option<Ref>) {
        let nothing = self.0.replace(value);
        debug_assert!(nothing.is_none());
        std::mem::forget(nothing);
    }

    /// Whether the field holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ptr().is_null()
    }

    /// An owned reference to the content.
    #[inline]
    pub fn get(&self) -> Option<Ref> {
        // SAFETY: the field keeps the object alive while the count is raised.
        unsafe { Obj::from_nullable(self.ptr()) }.map(Obj::to_ref)
    }

    /// An owned reference to the content, or to `None`.
    #[inline]
    pub fn get_or_none(&self) -> Ref {
        self.get().unwrap_or_else(none_ref)
    }

    /// Empties the field and hands its content over.
    #[inline]
    pub fn take(&self) -> Option<Ref> {
        self.0.take()
    }

    /// Stores `value`. The old content is dropped after the field holds the new one, because
    /// dropping may run Python code that looks at this very field.
    #[inline]
    pub fn set(&self, value: Option<Ref>) {
        drop(self.0.replace(value));
    }

    /// Stores `value` and hands the old content over.
    #[inline]
    pub fn replace(&self, value: Option<Ref>) -> Option<Ref> {
        self.0.replace(value)
    }

    /// Empties the field.
    #[inline]
    pub fn clear(&self) {
        drop(self.take());
    }
}

impl Default for Slot {
    fn default() -> Slot {
        Slot::empty()
    }
}
