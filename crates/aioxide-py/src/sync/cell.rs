//! What a listener remembers: asyncio has a closure and its variables instead.
//!
//! May touch: its own memory. Invariants: programs get hold of one only through the callable that
//! stands for a listener on a foreign loop; all-zero memory is an empty one.

use std::cell::Cell as Field;

use pyo3_ffi as c;

use crate::ffi::references::{self, OFFSET, References};
use crate::ffi::{Obj, R, Ref, Slot, layout};
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

impl References for Fields {
    fn each(&self, look: impl FnMut(&Slot)) {
        self.slots.iter().for_each(look);
    }
}

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

/// Creates the type.
pub fn build_type() -> R<Ref> {
    references::class::<Fields>(c"aioxide._Cell")
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .build(None)
}
