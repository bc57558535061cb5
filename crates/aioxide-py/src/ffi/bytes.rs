//! `bytes` objects: views of them, copies into them, and receiving straight into a new one.
//!
//! May touch: memory of `bytes` objects that nobody else has seen yet; older ones are only read.
//! Invariant: a `bytes` object that leaves this file is complete and never written again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use aioxide_core::backend::sys;
use pyo3_ffi as c;

use super::error::{R, Raised};
use super::object::{Obj, PyObject, Ref};

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
        Ref::steal(c::PyBytes_FromStringAndSize(content.as_ptr().cast(), content.len() as isize))
    }
}

/// The text of a file name as `os.fsdecode` gives it.
pub fn path_text(path: &[u8]) -> R<Ref> {
    // SAFETY: pointer and length describe readable memory.
    unsafe {
        Ref::steal(c::PyUnicode_DecodeFSDefaultAndSize(path.as_ptr().cast(), path.len() as isize))
    }
}

/// Receives once from `fd` straight into a new `bytes` object of up to `len_max` bytes, shortened
/// to what came. The outer error is Python's (out of memory), the inner one the kernel's.
pub fn receive(fd: BorrowedFd<'_>, len_max: usize) -> R<io::Result<Ref>> {
    // SAFETY: a null source asks for uninitialised content.
    let fresh = unsafe {
        Ref::steal(c::PyBytes_FromStringAndSize(std::ptr::null(), len_max as isize))
    }?;
    // SAFETY: nobody else has seen the object, so its `len_max` bytes are ours to write.
    let room = unsafe {
        std::slice::from_raw_parts_mut(
            c::PyBytes_AsString(fresh.ptr()).cast::<MaybeUninit<u8>>(),
            len_max,
        )
    };
    match sys::recv(fd, room) {
        Ok(len) => shorten(fresh, len).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

unsafe extern "C" {
    /// Changes the size of a bytes object with one reference; `pyo3-ffi` keeps it to itself.
    fn _PyBytes_Resize(object: *mut *mut PyObject, len: c::Py_ssize_t) -> std::ffi::c_int;
}

/// Gives back the memory behind the first `len` bytes of an object that nobody else has seen.
fn shorten(fresh: Ref, len: usize) -> R<Ref> {
    let mut object: *mut PyObject = fresh.into_ptr();
    // SAFETY: the only reference; on failure the object is freed and the pointer becomes null.
    if unsafe { _PyBytes_Resize(&raw mut object, len as isize) } < 0 {
        return Err(Raised::from_indicator());
    }
    // SAFETY: the reference given away above comes back, moved or not.
    unsafe { Ref::steal(object) }
}
