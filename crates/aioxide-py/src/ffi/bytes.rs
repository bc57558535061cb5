//! `bytes` objects: views of them, and copies into new ones.
//!
//! May touch: `bytes` objects, which are only read as long as anybody else has them, and
//! `bytearray`s of ours.

use std::mem::MaybeUninit;

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, Ref, Slot};

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

/// A new `bytes` object of `len` bytes that nobody has written yet.
pub fn new_unwritten(len: usize) -> R<Ref> {
    // SAFETY: a null pointer means memory of that size, not initialised.
    unsafe { Ref::steal(c::PyBytes_FromStringAndSize(std::ptr::null(), len as isize)) }
}

/// The last `bytes` object that was lent to somebody and came back: content of the same length goes
/// into it next. To free one and make another is a fifth of a small echo's instructions.
///
/// Invariant: nobody else refers to it.
#[derive(Default)]
pub struct Spare(Slot);

impl Spare {
    /// A `bytes` object with a copy of `content`: the spare one or a new one.
    #[inline]
    pub fn copy(&self, content: &[u8]) -> R<Ref> {
        let Some(spare) = self.0.take() else {
            return new(content);
        };
        let object = spare.ptr();
        // SAFETY: alive, and exactly a bytes object.
        if unsafe { c::PyBytes_Size(object) } as usize != content.len() {
            self.0.fill(Some(spare));
            return new(content);
        }
        debug_assert!(is_unshared(&spare));
        // SAFETY: a bytes object of that length that nobody else refers to, so that nobody sees it
        // change; `content` is a place that reads land in. Its hash is unknown again.
        unsafe {
            let room = c::PyBytes_AsString(object).cast::<u8>();
            std::ptr::copy_nonoverlapping(content.as_ptr(), room, content.len());
            #[allow(deprecated, reason = "deprecated for who has no bytes of his own")]
            let hash = &raw mut (*object.cast::<c::PyBytesObject>()).ob_shash;
            hash.write(-1);
        }
        Ok(spare)
    }

    /// Takes back what `copy` gave, unless somebody has kept it.
    #[inline]
    pub fn keep(&self, data: Ref) {
        if data.obj().is_exact_bytes() && is_unshared(&data) {
            self.0.set(Some(data));
        }
    }
}

/// A new `bytearray` of `len` bytes that nobody has written yet: a place to receive into.
pub fn new_array(len: usize) -> R<Ref> {
    // SAFETY: a null pointer means memory of that size, not initialised.
    unsafe {
        Ref::steal(c::PyByteArray_FromStringAndSize(
            std::ptr::null(),
            len as isize,
        ))
    }
}

/// The length of a `bytearray`.
pub fn array_len(array: &Ref) -> usize {
    // SAFETY: callers pass a bytearray.
    unsafe { c::PyByteArray_Size(array.ptr()) as usize }
}

/// The first `len` bytes of a `bytearray`, which were written before and which nobody resizes or
/// writes during the borrow: the caller's own places are seen by C functions only.
pub fn array_slice(array: &Ref, len: usize) -> &[u8] {
    let len = len.min(array_len(array));
    // SAFETY: a bytearray at least as long, unchanged while borrowed (see above).
    unsafe { std::slice::from_raw_parts(c::PyByteArray_AsString(array.ptr()).cast::<u8>(), len) }
}

/// At most `len` bytes of a `bytearray` from `start` on, to be written to.
#[allow(
    clippy::mut_from_ref,
    reason = "the memory is Python's, lent to one C call at a time"
)]
pub fn array_room(array: &Ref, start: usize, len: usize) -> &mut [MaybeUninit<u8>] {
    let size = array_len(array);
    let start = start.min(size);
    // SAFETY: start and length lie within the bytearray; nobody else looks at this part of it.
    unsafe {
        let begin = c::PyByteArray_AsString(array.ptr()).add(start);
        std::slice::from_raw_parts_mut(begin.cast(), len.min(size - start))
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

/// A new `bytes` object of the first `len` bytes of `pieces`, which hold at least as many.
pub fn concat<'a>(len: usize, pieces: impl Iterator<Item = &'a [u8]>) -> R<Ref> {
    let joined = new_unwritten(len)?;
    // SAFETY: `len` bytes of a new object that nobody else has seen.
    let room: &mut [MaybeUninit<u8>] =
        unsafe { std::slice::from_raw_parts_mut(c::PyBytes_AsString(joined.ptr()).cast(), len) };
    let filled = fill(room, pieces);
    room[filled..].fill(MaybeUninit::new(0));
    Ok(joined)
}

/// Copies `pieces` into `room` as far as it goes, and says how far.
fn fill<'a>(room: &mut [MaybeUninit<u8>], pieces: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut filled = 0;
    for piece in pieces {
        let piece = &piece[..piece.len().min(room.len() - filled)];
        // SAFETY: the piece fits behind what is filled, and cannot overlap memory that is lent for
        // writing.
        unsafe {
            let end = room.as_mut_ptr().add(filled).cast::<u8>();
            std::ptr::copy_nonoverlapping(piece.as_ptr(), end, piece.len());
        }
        filled += piece.len();
    }
    filled
}

/// Whether `object` is exactly a `bytearray`.
pub fn is_exact_array(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyByteArray_CheckExact(object.ptr()) != 0 }
}

/// Whether `object` is a `bytearray`, subclasses included.
pub fn is_array(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyByteArray_Check(object.ptr()) != 0 }
}

/// Whether the caller's is the only reference to `object`.
pub fn is_unshared(object: &Ref) -> bool {
    // SAFETY: alive.
    unsafe { c::Py_REFCNT(object.ptr()) == 1 }
}

/// A new `bytearray` with a copy of `content`.
pub fn array_of(content: &[u8]) -> R<Ref> {
    // SAFETY: pointer and length describe readable memory.
    unsafe {
        Ref::steal(c::PyByteArray_FromStringAndSize(
            content.as_ptr().cast(),
            content.len() as isize,
        ))
    }
}

/// `array[:] = content`. BufferError where somebody has a view of it and the length changes.
pub fn array_assign(array: &Ref, content: &[u8]) -> R<()> {
    // SAFETY: callers pass a bytearray.
    super::error::check(unsafe { c::PyByteArray_Resize(array.ptr(), content.len() as isize) })?;
    let room = array_room(array, 0, content.len());
    fill(room, std::iter::once(content));
    Ok(())
}

/// Where `needle` begins in `content`. An empty needle is found at once.
pub fn find(content: &[u8], needle: &[u8]) -> Option<usize> {
    if content.len() < needle.len() {
        return None;
    }
    // SAFETY: both pointers and lengths describe readable memory; the result is null or lies in it.
    let found = unsafe {
        match *needle {
            [byte] => libc::memchr(content.as_ptr().cast(), byte.into(), content.len()),
            _ => libc::memmem(
                content.as_ptr().cast(),
                content.len(),
                needle.as_ptr().cast(),
                needle.len(),
            ),
        }
    };
    (!found.is_null()).then(|| found as usize - content.as_ptr() as usize)
}
