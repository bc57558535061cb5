//! Weak references.
//!
//! May touch: nothing but its arguments.

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, PyObject, Ref};

/// `weakref.ref(object)`.
pub fn weak_reference(object: Obj<'_>) -> R<Ref> {
    // SAFETY: alive; null means no callback.
    unsafe { Ref::steal(c::PyWeakref_NewRef(object.ptr(), std::ptr::null_mut())) }
}

/// What a weak reference refers to; `None` if that is gone, or `reference` is something else.
#[inline]
pub fn dereference(reference: Obj<'_>) -> Option<Ref> {
    // SAFETY: alive.
    if unsafe { c::PyWeakref_Check(reference.ptr()) } == 0 {
        return None;
    }
    #[cfg(Py_3_13)]
    let found = {
        let mut found = std::ptr::null_mut();
        // SAFETY: a weak reference, and an out-parameter that gets an owned reference or null.
        unsafe { c::PyWeakref_GetRef(reference.ptr(), &raw mut found) };
        // SAFETY: see above.
        unsafe { Ref::steal_opt(found) }
    };
    #[cfg(not(Py_3_13))]
    // SAFETY: a weak reference; what comes back is borrowed, and None where the object is gone.
    let found = unsafe { Obj::from_nullable(c::PyWeakref_GetObject(reference.ptr())) }
        .filter(|found| !found.is_none())
        .map(Obj::to_ref);
    found
}

/// Whether anybody has a weak reference to an object whose type has room for them.
#[inline]
pub fn has_weak_references(object: Obj<'_>) -> bool {
    // SAFETY: where the type says, before or within the object, is the list of them.
    unsafe {
        let list_at = (*object.type_ptr()).tp_weaklistoffset;
        debug_assert!(list_at != 0);
        let list = object.ptr().cast::<u8>().offset(list_at);
        !list.cast::<*mut PyObject>().read().is_null()
    }
}

/// Tells the weak references of a dying object that it dies; quick where it has none.
///
/// # Safety
/// `object` has no references left, and its type has room for weak references.
#[inline]
pub unsafe fn clear_weak_references(object: *mut PyObject) {
    // SAFETY: by the contract.
    unsafe {
        if has_weak_references(Obj::from_ptr(object)) {
            c::PyObject_ClearWeakRefs(object);
        }
    }
}
