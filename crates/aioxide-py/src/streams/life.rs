//! The life of a native stream object: memory, the collector, instance dict, finalizer.
//!
//! May touch: the memory of these objects. The types come in pairs: a base of ours with fields and
//! methods, and under it and asyncio's class the type that Python sees. The base comes first and
//! decides the memory, because asyncio's classes keep instance dicts in ways that differ from
//! version to version. Invariants: the fields are written before anybody sees the object and
//! dropped once, in `tp_dealloc`; a Python subclass has the same fields at the same place.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::mem::offset_of;

use pyo3_ffi as c;

use crate::ffi::class::{Class, Visitor};
use crate::ffi::error::{SavedError, guard_status};
use crate::ffi::values::{self, OFFSET, Values};
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Slot, layout};

/// The fields of one of the native stream types.
pub trait Fields: Default + 'static {
    /// Every reference.
    fn slots(&self) -> Vec<&Slot>;

    /// The object is about to die: asyncio's `__del__`.
    fn finalize(_object: Obj<'_>) -> R<()> {
        Ok(())
    }
}

#[repr(C)]
struct Memory<T> {
    dict: Cell<*mut PyObject>,
    weakrefs: Cell<*mut PyObject>,
    own: T,
}

impl<T: Fields> Default for Memory<T> {
    fn default() -> Memory<T> {
        Memory {
            dict: Cell::new(std::ptr::null_mut()),
            weakrefs: Cell::new(std::ptr::null_mut()),
            own: T::default(),
        }
    }
}

impl<T: Fields> Values for Memory<T> {
    fn visit(&self, visitor: &mut Visitor) {
        for slot in self.own.slots() {
            visitor.slot(slot);
        }
        visitor.visit(self.dict.get());
    }

    fn clear(&self) {
        for slot in self.own.slots() {
            slot.clear();
        }
        // SAFETY: the dict is an owned reference or null, and taken out before it is dropped.
        drop(unsafe { Ref::steal_opt(self.dict.replace(std::ptr::null_mut())) });
    }
}

fn memory<T: Fields>(object: Obj<'_>) -> &Memory<T> {
    // SAFETY: methods get instances from their own descriptors, everyone else has looked at the
    // type; the fields were written by `allocate`.
    unsafe { layout::fields(object.ptr(), OFFSET) }
}

/// The fields of an instance of the type that was built for `T`.
#[inline]
pub fn own<T: Fields>(object: Obj<'_>) -> &T {
    &memory::<T>(object).own
}

/// Whether the instance has attributes that are not fields: one could hide a method.
#[inline]
pub fn has_attributes<T: Fields>(object: Obj<'_>) -> bool {
    let dict = memory::<T>(object).dict.get();
    // SAFETY: the instance's own dict, alive as long as the instance holds it.
    !dict.is_null() && unsafe { c::PyDict_Size(dict) } > 0
}

/// A new instance of exactly `class`, a type built for `T`, without its `__init__`.
pub fn allocate<T: Fields>(class: Obj<'_>) -> R<Ref> {
    values::allocate(class, Memory::<T>::default())
}

unsafe extern "C" fn finalize<T: Fields>(object: *mut PyObject) {
    let saved = SavedError::save();
    // SAFETY: the interpreter passes a live instance.
    let object = unsafe { Obj::from_ptr(object) };
    if guard_status(|| T::finalize(object)) < 0 {
        Raised::from_indicator().write_unraisable(object);
    }
    saved.restore();
}

unsafe extern "C" fn dealloc<T: Fields>(object: *mut PyObject) {
    // SAFETY: an instance whose last reference just went. Untracked and tracked as the protocol of
    // finalizers wants it; resurrection ends the deallocation. A Python subclass's own function has
    // called the finalizer already, and it is called once.
    unsafe {
        if c::PyObject_CallFinalizerFromDealloc(object) < 0 {
            return;
        }
        let class = c::Py_TYPE(object);
        c::PyObject_GC_UnTrack(object.cast());
        c::PyObject_ClearWeakRefs(object);
        values::take_apart::<Memory<T>>(object);
        crate::future::free_instance(object, class);
    }
}

unsafe extern "C" fn get_dict(object: *mut PyObject, closure: *mut c_void) -> *mut PyObject {
    // SAFETY: the interpreter's own getter for a type with a dict offset.
    unsafe { c::PyObject_GenericGetDict(object, closure) }
}

/// A type whose instances hold `T`: the base of the one that Python sees.
pub fn base_class<T: Fields>(name: &'static CStr) -> Class {
    Class::new(name, OFFSET + size_of::<Memory<T>>())
        .flags(c::Py_TPFLAGS_BASETYPE)
        .slot(c::Py_tp_new, values::new::<Memory<T>> as *mut _)
        .slot(c::Py_tp_traverse, values::traverse::<Memory<T>> as *mut _)
        .slot(c::Py_tp_clear, values::clear::<Memory<T>> as *mut _)
        .slot(c::Py_tp_dealloc, dealloc::<T> as *mut _)
        .dict_and_weakrefs(
            OFFSET + offset_of!(Memory<T>, dict),
            OFFSET + offset_of!(Memory<T>, weakrefs),
        )
        .attributes([c::PyGetSetDef {
            name: c"__dict__".as_ptr(),
            get: Some(get_dict),
            set: None,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        }])
}

/// Gives the type a `__del__`, which is `Fields::finalize`.
pub fn with_finalizer<T: Fields>(class: Class) -> Class {
    class.slot(c::Py_tp_finalize, finalize::<T> as *mut _)
}

/// The type that Python sees: `base` first, then asyncio's class.
pub fn public_class<T: Fields>(
    name: &'static CStr,
    doc: &'static CStr,
    base: Obj<'_>,
    stock: Obj<'_>,
) -> R<Ref> {
    Class::new(name, OFFSET + size_of::<Memory<T>>())
        .flags(c::Py_TPFLAGS_BASETYPE)
        .doc(doc)
        .slot(c::Py_tp_traverse, values::traverse::<Memory<T>> as *mut _)
        .slot(c::Py_tp_clear, values::clear::<Memory<T>> as *mut _)
        .build_under(&[base, stock])
}
