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

/// `left < right`.
pub fn is_less(left: Obj<'_>, right: Obj<'_>) -> R<bool> {
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
