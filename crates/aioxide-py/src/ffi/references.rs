//! The life of objects whose fields are references and plain values: shown to the collector,
//! cleared, freed.
//!
//! May touch: the memory of such objects. Invariants: the fields lie right behind the object's
//! head; all-zero memory is a valid instance; nothing but its references has to be dropped.

use pyo3_ffi as c;

use super::class::{Class, Visitor};
use super::object::{PyObject, Slot};
use super::trash;
use super::values::{Values, clear, traverse};
use crate::future::free_instance;

pub use super::values::OFFSET;

/// The fields of such an object.
pub trait References: 'static {
    /// Calls `look` for each reference.
    fn each(&self, look: impl FnMut(&Slot));
}

/// A type whose instances hold `T`; what is its own is still to be added.
pub fn class<T: References>(name: &'static std::ffi::CStr) -> Class {
    Class::new(name, OFFSET + size_of::<T>())
        .slot(c::Py_tp_traverse, traverse::<T> as *mut _)
        .slot(c::Py_tp_clear, clear::<T> as *mut _)
        .slot(c::Py_tp_dealloc, dealloc::<T> as *mut _)
}

impl<T: References> Values for T {
    fn visit(&self, visitor: &mut Visitor) {
        self.each(|slot| visitor.slot(slot));
    }

    fn clear(&self) {
        self.each(Slot::clear);
    }
}

unsafe extern "C" fn dealloc<T: References>(object: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(object, free::<T>) }
}

/// Takes an instance apart.
///
/// # Safety
/// `object` is an instance of a type that was built for `T`, without references.
unsafe fn free<T: References>(object: *mut PyObject) {
    // SAFETY: no references are left: ours to take apart, once.
    unsafe {
        let class = c::Py_TYPE(object);
        c::PyObject_GC_UnTrack(object.cast());
        clear::<T>(object);
        free_instance(object, class);
    }
}
