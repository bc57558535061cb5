//! `heapq` on Python's lists, without its calls.
//!
//! The same comparisons in the same order, and the same list for whoever looks during one: a heap
//! that somebody else changes, or that sorts with a stateful `__lt__`, behaves as CPython's. What
//! is saved is the way to a comparison where both items are exactly of one of the interpreter's own
//! types. May touch: the list given. Invariant: nothing borrowed from the list is kept across a
//! comparison that may run code. *Source*: `_heapqmodule.c`.

use pyo3_ffi as c;

use super::builtin::index_error;
use super::compact_int::compact;
use super::error::{R, Raised, check};
use super::object::{Obj, Ref};
use super::sequence;

/// Whether this list can be used: exactly a list.
#[inline]
pub fn is_list(object: Obj<'_>) -> bool {
    object.type_ptr() == &raw mut c::PyList_Type
}

/// `heapq.heappush(heap, item)`; `heap` is exactly a list.
pub fn push(heap: Obj<'_>, item: Obj<'_>) -> R<()> {
    sequence::append(heap, item)?;
    sift_down(heap, 0, len(heap) - 1)
}

/// `heapq.heappop(heap)`; `heap` is exactly a list.
pub fn pop(heap: Obj<'_>) -> R<Ref> {
    let size = len(heap);
    if size == 0 {
        return Err(Raised::new(index_error(), "index out of range"));
    }
    let last = item(heap, size - 1).to_ref();
    shorten(heap)?;
    if len(heap) == 0 {
        return Ok(last);
    }
    let first = replace(heap, 0, last)?;
    sift_up(heap, 0)?;
    Ok(first)
}

/// Takes off the last item, of which the caller holds another reference.
#[inline]
fn shorten(heap: Obj<'_>) -> R<()> {
    let size = len(heap);
    // SAFETY: exactly a list.
    let room = unsafe { (*heap.ptr().cast::<c::PyListObject>()).allocated };
    if size <= room / 2 || cfg!(Py_GIL_DISABLED) {
        // Gives memory back.
        // SAFETY: exactly a list; the range lies inside.
        return check(unsafe {
            c::PyList_SetSlice(heap.ptr(), size - 1, size, std::ptr::null_mut())
        });
    }
    // SAFETY: exactly a list with at least one item, whose reference is not the last one; who
    // counts by the size does not see its place any more.
    unsafe {
        let last = c::PyList_GET_ITEM(heap.ptr(), size - 1);
        (*heap.ptr().cast::<c::PyVarObject>()).ob_size = size - 1;
        c::Py_DECREF(last);
    }
    Ok(())
}

/// The length of exactly a list.
#[inline]
pub fn len(heap: Obj<'_>) -> c::Py_ssize_t {
    debug_assert!(is_list(heap));
    // SAFETY: exactly a list.
    unsafe { c::PyList_GET_SIZE(heap.ptr()) }
}

/// The item at `index`, which is inside, until the list changes.
#[inline]
fn item(heap: Obj<'_>, index: c::Py_ssize_t) -> Obj<'_> {
    debug_assert!(index < len(heap));
    // SAFETY: exactly a list, which owns its items.
    unsafe { Obj::from_ptr(c::PyList_GET_ITEM(heap.ptr(), index)) }
}

/// Puts an item at `index`, which is inside, and gives the one that was there.
#[inline]
fn replace(heap: Obj<'_>, index: c::Py_ssize_t, item: Ref) -> R<Ref> {
    debug_assert!(index < len(heap));
    // SAFETY: exactly a list with an item there; its reference becomes ours, ours becomes its own.
    unsafe {
        let place = (*heap.ptr().cast::<c::PyListObject>())
            .ob_item
            .offset(index);
        Ref::steal(std::mem::replace(&mut *place, item.into_ptr()))
    }
}

/// Exchanges two items.
#[inline]
fn swap(heap: Obj<'_>, one: c::Py_ssize_t, other: c::Py_ssize_t) {
    debug_assert!(one < len(heap) && other < len(heap));
    // SAFETY: exactly a list; both are inside, and no reference changes its owner.
    unsafe {
        let items = (*heap.ptr().cast::<c::PyListObject>()).ob_item;
        std::ptr::swap(items.offset(one), items.offset(other));
    }
}

/// `heap[one] < heap[other]`; RuntimeError if the comparison changes the heap's size.
#[inline(always)]
fn is_less(heap: Obj<'_>, one: c::Py_ssize_t, other: c::Py_ssize_t) -> R<bool> {
    let (left, right) = (item(heap, one), item(heap, other));
    match (compact(left), compact(right)) {
        (Some(left), Some(right)) => Ok(left < right),
        _ => is_less_by_type(heap, left, right),
    }
}

#[inline(never)]
fn is_less_by_type(heap: Obj<'_>, left: Obj<'_>, right: Obj<'_>) -> R<bool> {
    match sequence::is_less_of_plain(left, right) {
        Some(less) => less,
        None => ask(heap, left.to_ref(), right.to_ref()),
    }
}

/// `left < right` of two items that may run code.
fn ask(heap: Obj<'_>, left: Ref, right: Ref) -> R<bool> {
    let size = len(heap);
    let less = sequence::is_less(left.obj(), right.obj())?;
    drop((left, right));
    if len(heap) != size {
        return Err(Raised::runtime("list changed size during iteration"));
    }
    Ok(less)
}

/// Lets the item at `place` rise until its parent, not above `start`, is no greater.
fn sift_down(heap: Obj<'_>, start: c::Py_ssize_t, mut place: c::Py_ssize_t) -> R<()> {
    if place >= len(heap) {
        return Err(Raised::new(index_error(), "index out of range"));
    }
    while place > start {
        let parent = (place - 1) >> 1;
        if !is_less(heap, place, parent)? {
            break;
        }
        swap(heap, place, parent);
        place = parent;
    }
    Ok(())
}

/// Lets the item at `start` sink to a leaf along the lesser children, and rise from there.
fn sift_up(heap: Obj<'_>, start: c::Py_ssize_t) -> R<()> {
    let end = len(heap);
    if start >= end {
        return Err(Raised::new(index_error(), "index out of range"));
    }
    let mut place = start;
    while place < end >> 1 {
        let mut child = 2 * place + 1;
        if child + 1 < end && !is_less(heap, child, child + 1)? {
            child += 1;
        }
        swap(heap, child, place);
        place = child;
    }
    sift_down(heap, start, place)
}
