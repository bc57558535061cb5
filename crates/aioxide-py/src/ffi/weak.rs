//! Weak references.
//!
//! May touch: nothing but its arguments. Invariant: a reference's own fields are used only if they
//! were seen to lie where they should at import.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, PyObject, Ref, none};

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

/// A weak reference. *Source*: `cpython/weakrefobject.h`, which is a public header.
#[repr(C)]
struct Weak {
    head: c::PyObject,
    /// None once the object is gone.
    object: *mut PyObject,
    callback: *mut PyObject,
    /// -1 where nobody has asked for it.
    hash: c::Py_hash_t,
    previous: *mut Weak,
    next: *mut Weak,
}

/// Whether the fields are where they should be.
static KNOWN: AtomicBool = AtomicBool::new(false);

/// Whether what a weak reference without a callback refers to is gone.
#[inline]
pub fn is_dead(reference: &Ref) -> bool {
    if KNOWN.load(Ordering::Relaxed) {
        // SAFETY: a weak reference, whose fields lie there.
        let object = unsafe { (*reference.ptr().cast::<Weak>()).object };
        return object == none().ptr();
    }
    dereference(reference.obj()).is_none()
}

/// Has a dead weak reference that nobody else knows refer to an async generator that has none yet,
/// and leaves everything as a new one would. False where that cannot be done.
#[inline]
pub fn revive(reference: &Ref, object: Obj<'_>) -> bool {
    let class = &raw mut c::PyAsyncGen_Type;
    object.type_ptr() == class
        && KNOWN.load(Ordering::Relaxed)
        && !has_weak_references(object)
        && is_dead(reference)
        && point(reference, object)
}

/// The end of [`revive`].
#[inline]
fn point(reference: &Ref, object: Obj<'_>) -> bool {
    let weak = reference.ptr().cast::<Weak>();
    // SAFETY: both alive, and the type says where its instances keep the list, which is empty. A
    // dead reference is in nobody's list, and has no callback any more; nobody but the caller has
    // this one.
    unsafe {
        let list_at = (*object.type_ptr()).tp_weaklistoffset;
        debug_assert!(list_at > 0);
        if c::Py_REFCNT(reference.ptr()) != 1 {
            return false;
        }
        debug_assert!((*weak).callback.is_null());
        (*weak).object = object.ptr();
        (*weak).hash = -1;
        (*weak).previous = std::ptr::null_mut();
        (*weak).next = std::ptr::null_mut();
        let list = object.ptr().cast::<u8>().offset(list_at);
        list.cast::<*mut Weak>().write(weak);
    }
    true
}

/// Looks whether the fields are where they should be.
pub fn probe() -> R<()> {
    let [first, second] = [super::set::new()?, super::set::new()?];
    let reference = weak_reference(first.obj())?;
    let weak = reference.ptr().cast::<Weak>();
    // SAFETY: an exact weak reference is not shorter on any version.
    let is_there = |object: *mut PyObject| unsafe {
        (*weak).object == object
            && (*weak).callback.is_null()
            && (*weak).hash == -1
            && (*weak).previous.is_null()
            && (*weak).next.is_null()
    };
    if cfg!(Py_GIL_DISABLED) || !is_there(first.ptr()) {
        return Ok(());
    }
    drop(first);
    if !is_there(none().ptr()) {
        return Ok(());
    }
    KNOWN.store(true, Ordering::Relaxed);
    let again = point(&reference, second.obj()) && is_there(second.ptr());
    let found = weak_reference(second.obj())?;
    let is_found = found.obj().is(reference.obj());
    drop((found, second));
    KNOWN.store(
        again && is_found && is_there(none().ptr()),
        Ordering::Relaxed,
    );
    Ok(())
}
