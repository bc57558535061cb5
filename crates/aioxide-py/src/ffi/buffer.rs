//! The buffer protocol: contiguous bytes of an object, readable or writable, for a moment.
//!
//! May touch: the memory that the exporting object lends. Invariant: a view is released once, on
//! drop, and no Python code of ours runs while one is used.

use std::mem::MaybeUninit;
use std::os::raw::c_int;

use pyo3_ffi as c;

use super::error::{R, check};
use super::object::{Obj, Ref};

/// A contiguous view of an object's memory, held until dropped; the object is kept alive by it.
pub struct Buffer(c::Py_buffer);

impl Buffer {
    /// A view to read from. Raises TypeError or BufferError where there is none.
    pub fn readable(object: Obj<'_>) -> R<Buffer> {
        Buffer::get(object, c::PyBUF_SIMPLE)
    }

    /// A view to write to. Raises TypeError or BufferError where there is none.
    pub fn writable(object: Obj<'_>) -> R<Buffer> {
        Buffer::get(object, c::PyBUF_WRITABLE)
    }

    fn get(object: Obj<'_>, flags: c_int) -> R<Buffer> {
        let mut view = c::Py_buffer::new();
        // SAFETY: `object` is alive and `view` is ours to fill; a simple view has no pointer into
        // itself, so it may move.
        check(unsafe { c::PyObject_GetBuffer(object.ptr(), &raw mut view, flags) })?;
        Ok(Buffer(view))
    }

    /// The bytes as they are now.
    pub fn as_slice(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the exporter lends `len` contiguous bytes until the release, and the GIL is held
        // throughout, so nobody writes them while this borrow lives.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast::<u8>(), self.0.len as usize) }
    }

    /// The bytes to write to; empty for a read-only view.
    pub fn as_room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.0.len == 0 || self.0.readonly != 0 {
            return &mut [];
        }
        // SAFETY: as above, and the exporter agreed to being written.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), self.0.len as usize) }
    }
}

/// Runs `body` with a read-only `memoryview` of `content`, which `body` must not keep.
///
/// For C functions that look at their argument and forget it.
pub fn with_view<T>(content: &[u8], body: impl FnOnce(Obj<'_>) -> R<T>) -> R<T> {
    // SAFETY: pointer and length describe readable memory that outlives the view: see `lend`.
    lend(body, unsafe {
        Ref::steal(c::PyMemoryView_FromMemory(
            content.as_ptr().cast_mut().cast(),
            content.len() as isize,
            c::PyBUF_READ,
        ))
    }?)
}

/// The same for writing.
pub fn with_room<T>(room: &mut [MaybeUninit<u8>], body: impl FnOnce(Obj<'_>) -> R<T>) -> R<T> {
    // SAFETY: as above; nobody else sees the memory meanwhile, and it is only ever written to.
    lend(body, unsafe {
        Ref::steal(c::PyMemoryView_FromMemory(
            room.as_mut_ptr().cast(),
            room.len() as isize,
            c::PyBUF_WRITE,
        ))
    }?)
}

/// Runs `body` with a view, which is released should somebody have kept it in spite of all.
fn lend<T>(body: impl FnOnce(Obj<'_>) -> R<T>, view: Ref) -> R<T> {
    let result = body(view.obj());
    // SAFETY: alive.
    if unsafe { c::Py_REFCNT(view.ptr()) } > 1 {
        let saved = super::error::SavedError::save();
        let released = view
            .obj()
            .getattr_str(c"release")
            .and_then(|f| f.obj().call0());
        if let Err(raised) = released {
            raised.write_unraisable(view.obj());
        }
        saved.restore();
    }
    result
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the view was filled by GetBuffer and is released once.
        unsafe { c::PyBuffer_Release(&raw mut self.0) }
    }
}
