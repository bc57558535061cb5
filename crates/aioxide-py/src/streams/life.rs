//! The life of a native stream object: memory, the collector, instance dict, finalizer.
//!
//! May touch: the memory of these objects. The types come in pairs: a base of ours with fields and
//! methods, and under it and asyncio's class the type that Python sees. The base comes first and
//! decides the memory, because asyncio's classes keep instance dicts in ways that differ from
//! version to version. Invariants: the fields are written before anybody sees the object and
//! dropped once, in `tp_dealloc`; a Python subclass has the same fields at the same place.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;

use pyo3_ffi as c;

use crate::ffi::class::{Class, Visitor};
use crate::ffi::error::{SavedError, guard, guard_status};
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

const OFFSET: usize = size_of::<PyObject>();

fn memory<T: Fields>(object: Obj<'_>) -> &Memory<T> {
    // SAFETY: methods get instances from their own descriptors, everyone else has looked at the
    // type; the fields were written by `new`.
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

unsafe extern "C" fn new<T: Fields>(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: the interpreter passes a type that derives from the one built for `T`.
        let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
        let place = std::ptr::from_ref(memory::<T>(object.obj())).cast_mut();
        let initial = Memory {
            dict: Cell::new(std::ptr::null_mut()),
            weakrefs: Cell::new(std::ptr::null_mut()),
            own: T::default(),
        };
        // SAFETY: fresh memory of the type's size, zeroed; nobody has seen the object, and nothing
        // that could start a collection happened since it was allocated.
        unsafe { place.write(initial) };
        Ok(object)
    })
}

/// A new instance of exactly `class`, a type built for `T`, without its `__init__`.
pub fn allocate<T: Fields>(class: Obj<'_>) -> R<Ref> {
    // SAFETY: `class` is a type built for `T`; the result is owned or null with an error.
    unsafe {
        Ref::steal(new::<T>(
            class.ptr().cast(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        ))
    }
}

unsafe extern "C" fn traverse<T: Fields>(
    object: *mut PyObject,
    visit: c::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let object = unsafe { Obj::from_ptr(object) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(object.type_ptr().cast());
    let this = memory::<T>(object);
    for slot in this.own.slots() {
        visitor.slot(slot);
    }
    visitor.visit(this.dict.get());
    visitor.status()
}

unsafe extern "C" fn clear<T: Fields>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = memory::<T>(unsafe { Obj::from_ptr(object) });
    for slot in this.own.slots() {
        slot.clear();
    }
    // SAFETY: the instance dict is an owned reference or null, and taken out before it is dropped.
    drop(unsafe { Ref::steal_opt(this.dict.replace(std::ptr::null_mut())) });
    0
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
        clear::<T>(object);
        let place = std::ptr::from_ref(memory::<T>(Obj::from_ptr(object))).cast_mut();
        place.drop_in_place();
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
        .slot(c::Py_tp_new, new::<T> as *mut _)
        .slot(c::Py_tp_traverse, traverse::<T> as *mut _)
        .slot(c::Py_tp_clear, clear::<T> as *mut _)
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
        .slot(c::Py_tp_traverse, traverse::<T> as *mut _)
        .slot(c::Py_tp_clear, clear::<T> as *mut _)
        .build_under(&[base, stock])
}
