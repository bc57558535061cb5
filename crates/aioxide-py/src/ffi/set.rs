//! Python's `set`.
//!
//! May touch: the sets given; anything else is refused with SystemError. Adding, discarding and
//! looking hash what they are given, which may run Python code.

use pyo3_ffi as c;

use super::builtin::{iter, next};
use super::error::{R, check};
use super::object::{Obj, Ref};

/// `set()`.
pub fn new() -> R<Ref> {
    // SAFETY: a null iterable makes an empty set.
    unsafe { Ref::steal(c::PySet_New(std::ptr::null_mut())) }
}

/// `isinstance(object, set)`.
pub fn is_set(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PySet_Check(object.ptr()) != 0 }
}

/// `set.add(item)`.
#[inline]
pub fn add(set: Obj<'_>, item: Obj<'_>) -> R<()> {
    // SAFETY: both alive.
    check(unsafe { c::PySet_Add(set.ptr(), item.ptr()) })
}

/// `set.discard(item)`.
#[inline]
pub fn discard(set: Obj<'_>, item: Obj<'_>) -> R<()> {
    // SAFETY: both alive.
    check(unsafe { c::PySet_Discard(set.ptr(), item.ptr()) })
}

/// `len(set)`.
#[inline]
pub fn len(set: Obj<'_>) -> usize {
    // SAFETY: a set, alive.
    let len = unsafe { c::PySet_Size(set.ptr()) };
    debug_assert!(len >= 0);
    len as usize
}

/// Everything in the set, in no particular order.
pub fn items(set: Obj<'_>) -> R<Vec<Ref>> {
    let mut items = Vec::with_capacity(len(set));
    let iterator = iter(set)?;
    while let Some(item) = next(iterator.obj())? {
        items.push(item);
    }
    Ok(items)
}
