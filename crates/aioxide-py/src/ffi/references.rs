//! The life of objects whose fields are references and plain values: shown to the collector,
//! cleared, freed.
//!
//! May touch: the memory of such objects. Invariants: the fields lie right behind the object's
//! head; all-zero memory is a valid instance; nothing but its references has to be dropped.

use std::ffi::{c_int, c_void};

use pyo3_ffi as c;

use super::class::{Class, Visitor};
use super::object::{Obj, PyObject, Slot};
use super::{layout, trash};
use crate::future::free_instance;

/// Where the fields begin.
pub const OFFSET: usize = size_of::<PyObject>();

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

unsafe extern "C" fn traverse<T: References>(
    object: *mut PyObject,
    visit: c::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let object = unsafe { Obj::from_ptr(object) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(object.type_ptr().cast());
    // SAFETY: an instance of a type that was built for `T`.
    let fields: &T = unsafe { layout::fields(object.ptr(), OFFSET) };
    fields.each(|slot| visitor.slot(slot));
    visitor.status()
}

unsafe extern "C" fn clear<T: References>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance of a type that was built for `T`.
    let fields: &T = unsafe { layout::fields(object, OFFSET) };
    fields.each(Slot::clear);
    0
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
