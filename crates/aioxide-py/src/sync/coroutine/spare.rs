//! Memory of coroutines that have ended, kept for the next ones.
//!
//! A coroutine lives as long as one `await`; asking the allocator and the collector for each is
//! most of what a short one costs. May touch: the memory of dead coroutines. Invariants: what is
//! kept holds nothing but its type and the link to the next, has one reference, is not tracked and
//! was never finalized.

use std::cell::Cell;

use pyo3_ffi as c;

use super::{Fields, OFFSET};
use crate::ffi::{Obj, PyObject, R, Ref, Slot};

/// As many as a loop's turn may end at once before the next begin; 12 KiB of memory.
const KEPT_MAX: u32 = 64;

unsafe extern "C" {
    /// Makes memory an object with one reference, as the interpreter does with its own spare ones.
    fn _Py_NewReference(object: *mut PyObject);
}

/// Tells who traces memory that this coroutine is a new object, wherever its memory comes from.
#[cold]
pub(super) fn retrace(made: &Ref) {
    // SAFETY: just made: its one reference stays.
    unsafe { _Py_NewReference(made.ptr()) }
}

/// Makes a coroutine known to the collector.
#[cold]
pub(super) fn show(coroutine: Obj<'_>) {
    // SAFETY: alive, and what it holds can be visited at any time.
    unsafe {
        if c::PyObject_GC_IsTracked(coroutine.ptr()) == 0 {
            c::PyObject_GC_Track(coroutine.ptr().cast());
        }
    }
}

/// A list of dead coroutines, linked through their first field.
pub struct Spare {
    first: Cell<*mut PyObject>,
    count: Cell<u32>,
}

impl Spare {
    /// Nothing yet.
    pub const fn new() -> Spare {
        Spare {
            first: Cell::new(std::ptr::null_mut()),
            count: Cell::new(0),
        }
    }

    /// Memory for a coroutine, zero behind the object's head; whether the collector knows it.
    #[inline(always)]
    pub(super) fn take(&self, class: *mut c::PyTypeObject, is_known: bool) -> R<Ref> {
        let first = self.first.get();
        if first.is_null() {
            // SAFETY: a ready type of ours, whose instances are known from the start.
            unsafe {
                let made = Ref::steal(c::PyType_GenericAlloc(class, 0))?;
                if !is_known {
                    c::PyObject_GC_UnTrack(made.ptr().cast());
                }
                return Ok(made);
            }
        }
        // SAFETY: dead memory of a coroutine, whose first field is the link.
        unsafe {
            let link = first.byte_add(OFFSET).cast::<*mut PyObject>();
            self.first.set(link.replace(std::ptr::null_mut()));
        }
        self.count.set(self.count.get() - 1);
        // SAFETY: untracked memory of that type, whose one reference becomes the caller's.
        unsafe {
            if is_known {
                c::PyObject_GC_Track(first.cast());
            }
            Ref::steal(first)
        }
    }

    /// Keeps the memory of a dead coroutine, unless there is enough: then false.
    ///
    /// # Safety
    /// An untracked coroutine without references, finished, and its fields; nobody touches it
    /// afterwards.
    #[inline]
    pub(super) unsafe fn keep(&self, coroutine: *mut PyObject, fields: &Fields) -> bool {
        // The collector would not finalize the same memory a second time.
        if fields.frame.finalized.get() || self.count.get() == KEPT_MAX || cfg!(Py_GIL_DISABLED) {
            return false;
        }
        debug_assert!(fields.awaited.is_empty() && fields.details.is_empty());
        debug_assert!(fields.weakrefs.get().is_null());
        debug_assert!(fields.frame.slots.iter().all(Slot::is_empty));
        fields.frame.number.set(0);
        fields.frame.stage.set(0);
        fields.frame.waiting.set(0);
        // SAFETY: the first field, a slot that holds nothing; the one reference is this list's.
        unsafe {
            let link = coroutine.byte_add(OFFSET).cast::<*mut PyObject>();
            link.write(self.first.get());
            c::Py_INCREF(coroutine);
        }
        self.first.set(coroutine);
        self.count.set(self.count.get() + 1);
        true
    }
}
