//! The life of objects whose fields are Rust values of any kind: made, shown to the collector,
//! cleared, freed. For fields that are references and plain numbers only, see `references`.
//!
//! May touch: the memory of such objects. Invariants: the fields lie right behind the object's
//! head; they are written before anybody sees the object and dropped once, in `tp_dealloc`.

use std::ffi::{CStr, c_int, c_void};

use pyo3_ffi as c;

use super::class::{Class, Visitor};
use super::error::{R, guard};
use super::layout;
use super::object::{Obj, PyObject, Ref};
use crate::future::free_instance;

/// Where the fields begin.
pub const OFFSET: usize = size_of::<PyObject>();

/// The fields of such an object.
pub trait Values: 'static {
    /// Shows the collector every reference.
    fn visit(&self, visitor: &mut Visitor);
    /// Drops the references that can be part of a cycle.
    fn clear(&self);
}

/// A type whose instances hold `T`, made by `allocate`; what is its own is still to be added.
pub fn class<T: Values>(name: &'static CStr) -> Class {
    Class::new(name, OFFSET + size_of::<T>())
        .slot(c::Py_tp_traverse, traverse::<T> as *mut _)
        .slot(c::Py_tp_clear, clear::<T> as *mut _)
        .slot(c::Py_tp_dealloc, dealloc::<T> as *mut _)
}

/// The same; Python makes instances by calling it.
pub fn public_class<T: Values + Default>(name: &'static CStr) -> Class {
    class::<T>(name).slot(c::Py_tp_new, new::<T> as *mut _)
}

/// A new instance of `class`, a type that was built for `T`.
pub fn allocate<T: Values>(class: Obj<'_>, values: T) -> R<Ref> {
    // SAFETY: a ready type of ours.
    let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class.ptr().cast(), 0)) }?;
    // SAFETY: fresh memory of the type's size, fields at this offset; nobody has seen the object,
    // and nothing that could start a collection happened since it was allocated.
    unsafe { object.ptr().byte_add(OFFSET).cast::<T>().write(values) };
    Ok(object)
}

/// `tp_new` of a type that was built for `T`, or of one that derives from it.
///
/// # Safety
/// As the interpreter calls it.
pub unsafe extern "C" fn new<T: Values + Default>(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes a type that has the fields of one that was built for `T`.
    let class = unsafe { Obj::from_ptr(class.cast()) };
    guard(|| allocate(class, T::default()))
}

/// `tp_traverse` of a type that was built for `T`.
///
/// # Safety
/// As the interpreter calls it.
pub unsafe extern "C" fn traverse<T: Values>(
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
    fields.visit(&mut visitor);
    visitor.status()
}

/// `tp_clear` of a type that was built for `T`.
///
/// # Safety
/// As the interpreter calls it.
pub unsafe extern "C" fn clear<T: Values>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance of a type that was built for `T`.
    let fields: &T = unsafe { layout::fields(object, OFFSET) };
    fields.clear();
    0
}

/// Drops the fields. The object's memory stays.
///
/// # Safety
/// An instance of a type that was built for `T`, untracked and without references, for the first
/// time.
pub unsafe fn take_apart<T: Values>(object: *mut PyObject) {
    // SAFETY: by the contract; the fields were written when it was made.
    unsafe {
        clear::<T>(object);
        object.byte_add(OFFSET).cast::<T>().drop_in_place();
    }
}

unsafe extern "C" fn dealloc<T: Values>(object: *mut PyObject) {
    // SAFETY: no references are left: ours to take apart, once.
    unsafe {
        let class = c::Py_TYPE(object);
        c::PyObject_GC_UnTrack(object.cast());
        take_apart::<T>(object);
        free_instance(object, class);
    }
}
