//! What a listener remembers: asyncio has a closure and its variables instead.
//!
//! May touch: its own memory. Invariants: programs get hold of one only through the callable that
//! stands for a listener on a foreign loop; all-zero memory is an empty one.

use std::cell::Cell as Field;
use std::ffi::{c_int, c_void};

use pyo3_ffi as c;

use crate::ffi::class::{Class, Visitor};
use crate::ffi::{Obj, PyObject, R, Ref, Slot, layout, trash};
use crate::future::free_instance;
use crate::state::state;

/// How many objects it can keep.
const SLOTS: usize = 3;

/// The fields; what they mean is their listener's business.
#[repr(C)]
pub struct Fields {
    /// Objects, traversed by the collector.
    pub slots: [Slot; SLOTS],
    /// A count.
    pub left: Field<usize>,
    /// A choice.
    pub mode: Field<u8>,
}

const OFFSET: usize = size_of::<PyObject>();

/// The fields of a cell.
#[inline]
pub fn fields(cell: Obj<'_>) -> &Fields {
    debug_assert!(cell.type_ptr() == state().types.cell.ptr().cast());
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(cell.ptr(), OFFSET) }
}

/// A cell with these objects in its slots.
pub fn create<const N: usize>(objects: [Option<Ref>; N]) -> R<Ref> {
    const { assert!(N <= SLOTS) };
    let class = state().types.cell.ptr().cast();
    // SAFETY: a ready type of ours; zeroed memory is a valid, empty cell.
    let cell = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    for (slot, object) in fields(cell.obj()).slots.iter().zip(objects) {
        slot.set(object);
    }
    Ok(cell)
}

unsafe extern "C" fn traverse(cell: *mut PyObject, visit: c::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector passes a live instance.
    let cell = unsafe { Obj::from_ptr(cell) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(cell.type_ptr().cast());
    for slot in &fields(cell).slots {
        visitor.slot(slot);
    }
    visitor.status()
}

unsafe extern "C" fn clear(cell: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let cell = unsafe { Obj::from_ptr(cell) };
    for slot in &fields(cell).slots {
        slot.clear();
    }
    0
}

unsafe extern "C" fn dealloc(cell: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(cell, free) }
}

unsafe fn free(cell: *mut PyObject) {
    // SAFETY: an instance of ours with no references left: ours to take apart, once.
    unsafe {
        let class = c::Py_TYPE(cell);
        c::PyObject_GC_UnTrack(cell.cast());
        clear(cell);
        free_instance(cell, class);
    }
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    Class::new(c"aioxide._Cell", OFFSET + size_of::<Fields>())
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .build(None)
}
