//! `bytes` objects: views of them, and copies into new ones.
//!
//! May touch: `bytes` objects, which are only read once they exist.

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, Ref};

/// The content of a `bytes` object (or of a subclass's instance); `None` for anything else.
#[inline]
pub fn slice(object: Obj<'_>) -> Option<&[u8]> {
    // SAFETY: alive.
    if unsafe { c::PyBytes_Check(object.ptr()) } == 0 {
        return None;
    }
    // SAFETY: a bytes object: its buffer never moves or changes and lives as long as the object,
    // which the borrow keeps alive.
    Some(unsafe {
        std::slice::from_raw_parts(
            c::PyBytes_AsString(object.ptr()).cast::<u8>(),
            c::PyBytes_Size(object.ptr()) as usize,
        )
    })
}

/// A new `bytes` object with a copy of `content`.
#[inline]
pub fn new(content: &[u8]) -> R<Ref> {
    // SAFETY: pointer and length describe readable memory.
    unsafe {
        Ref::steal(c::PyBytes_FromStringAndSize(
            content.as_ptr().cast(),
            content.len() as isize,
        ))
    }
}

/// The text of a file name as `os.fsdecode` gives it.
pub fn path_text(path: &[u8]) -> R<Ref> {
    // SAFETY: pointer and length describe readable memory.
    unsafe {
        Ref::steal(c::PyUnicode_DecodeFSDefaultAndSize(
            path.as_ptr().cast(),
            path.len() as isize,
        ))
    }
}

/// A file name as the kernel takes it: `os.fsencode` of a `str`.
pub fn of_path(path: Obj<'_>) -> R<Ref> {
    // SAFETY: alive; a bytes object or an error comes back.
    unsafe { Ref::steal(c::PyUnicode_EncodeFSDefault(path.ptr())) }
}

/// `bytes(object)` of an object with a buffer, contiguous or not.
pub fn of_buffer(object: Obj<'_>) -> R<Ref> {
    // SAFETY: alive; a bytes object or an error comes back.
    unsafe { Ref::steal(c::PyBytes_FromObject(object.ptr())) }
}
