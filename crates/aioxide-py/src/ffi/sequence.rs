//! Tuples, lists and what else can be asked for its items.
//!
//! May touch: the lists given.

use pyo3_ffi as c;

use super::error::{R, check};
use super::object::{Obj, Ref};

/// `item in container`.
pub fn contains(container: Obj<'_>, item: Obj<'_>) -> R<bool> {
    // SAFETY: both alive.
    let status = unsafe { c::PySequence_Contains(container.ptr(), item.ptr()) };
    check(status).map(|()| status != 0)
}

/// `left < right` by the type's own function alone, which is what CPython asks of two objects of
/// one type unless that function declines.
///
/// # Safety
/// Both are exactly of the static type `class`, whose function never declines.
#[inline]
unsafe fn is_less_among(
    class: *mut c::PyTypeObject,
    left: Obj<'_>,
    right: Obj<'_>,
) -> Option<R<bool>> {
    // SAFETY: a static type.
    let compare = unsafe { (*class).tp_richcompare }?;
    // SAFETY: the type's own function on two instances; the answer comes owned.
    let answer = unsafe { Ref::steal(compare(left.ptr(), right.ptr(), c::Py_LT)) };
    Some(answer.and_then(|answer| answer.obj().is_true()))
}

/// `left < right` of two ints, floats or strings, which runs no code but the interpreter's; nothing
/// for other objects.
#[inline]
pub fn is_less_of_plain(left: Obj<'_>, right: Obj<'_>) -> Option<R<bool>> {
    let class = left.type_ptr();
    let is_plain = class == &raw mut c::PyLong_Type
        || class == &raw mut c::PyFloat_Type
        || class == &raw mut c::PyUnicode_Type;
    if !is_plain || class != right.type_ptr() {
        return None;
    }
    // SAFETY: as asked; these decline other types only.
    unsafe { is_less_among(class, left, right) }
}

/// `left < right`.
pub fn is_less(left: Obj<'_>, right: Obj<'_>) -> R<bool> {
    let class = &raw mut c::PyTuple_Type;
    if left.type_ptr() == class && right.type_ptr() == class {
        // SAFETY: as asked; it declines other types only.
        if let Some(less) = unsafe { is_less_among(class, left, right) } {
            return less;
        }
    }
    // SAFETY: both alive.
    let status = unsafe { c::PyObject_RichCompareBool(left.ptr(), right.ptr(), c::Py_LT) };
    check(status).map(|()| status != 0)
}

/// Whether `object` is a `tuple`, subclasses included.
pub fn is_tuple(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyTuple_Check(object.ptr()) != 0 }
}

/// `list.append(item)`.
pub fn append(list: Obj<'_>, item: Obj<'_>) -> R<()> {
    // SAFETY: both alive; anything that is no list is refused with an error.
    check(unsafe { c::PyList_Append(list.ptr(), item.ptr()) })
}

/// `tuple(sorted(items, key=len))`.
pub fn sorted_by_len(items: Obj<'_>) -> R<Ref> {
    let builtins = super::call::import(c"builtins")?;
    let get = |name| builtins.obj().getattr_str(name);
    let key = super::call::tuple(&[super::call::interned(c"key")?.obj()])?;
    let sorted = get(c"sorted")?
        .obj()
        .call_kw(&[items, get(c"len")?.obj()], key.obj())?;
    get(c"tuple")?.obj().call1(sorted.obj())
}
