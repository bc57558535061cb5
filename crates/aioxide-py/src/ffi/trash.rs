//! Deep structures are freed without deep recursion, before Python 3.14.
//!
//! A future may hold a future that holds a future, 100,000 times. 3.14 bounds the depth in
//! `_Py_Dealloc` itself; before, each type must. Past a depth the objects wait in a list, which the
//! outermost call empties. Invariant: an object in the list has no references and is not tracked by
//! the collector. *Source*: CPython's `Py_TRASHCAN_BEGIN`.

use std::cell::{Cell, RefCell};

use pyo3_ffi as c;

use super::object::PyObject;

/// A type's destructor.
pub type Dealloc = unsafe fn(*mut PyObject);

/// Nested destructors allowed: CPython's own limit.
const DEPTH_MAX: usize = 50;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static LATER: RefCell<Vec<(*mut PyObject, Dealloc)>> = const { RefCell::new(Vec::new()) };
}

/// Runs `dealloc(object)` now or, deep inside other destructors, soon.
///
/// # Safety
/// `object` has no references left and `dealloc` is its type's destructor.
#[inline]
pub unsafe fn bounded(object: *mut PyObject, dealloc: Dealloc) {
    if cfg!(Py_3_14) {
        // SAFETY: by the contract.
        return unsafe { dealloc(object) };
    }
    let depth = DEPTH.get();
    if depth >= DEPTH_MAX {
        // SAFETY: a collectable object; untracking twice is allowed.
        unsafe { c::PyObject_GC_UnTrack(object.cast()) };
        LATER.with_borrow_mut(|later| later.push((object, dealloc)));
        return;
    }
    DEPTH.set(depth + 1);
    // SAFETY: by the contract.
    unsafe { dealloc(object) };
    DEPTH.set(depth);
    if depth == 0 {
        while let Some((object, dealloc)) = LATER.with_borrow_mut(Vec::pop) {
            DEPTH.set(1);
            // SAFETY: put there under the same contract.
            unsafe { dealloc(object) };
            DEPTH.set(0);
        }
    }
}
