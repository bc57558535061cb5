//! The Python frames of this thread.
//!
//! May touch: nothing; frames are only read.

use pyo3_ffi as c;

use super::call::tuple;
use super::error::R;
use super::object::{Obj, Ref};

/// The frame of the Python code that runs, if any does.
pub fn current() -> Option<Ref> {
    // SAFETY: the thread is attached; borrowed, or null without Python code.
    unsafe { Obj::from_nullable(c::PyEval_GetFrame().cast()) }.map(Obj::to_ref)
}

/// The code of a frame.
pub fn code_of(frame: Obj<'_>) -> R<Ref> {
    // SAFETY: a frame, alive; its code comes back owned.
    unsafe { Ref::steal(c::PyFrame_GetCode(frame.ptr().cast()).cast()) }
}

/// Who calls: file, line and function of the innermost `depth` frames, from the running one on.
/// *Source*: `coroutine.cr_origin`.
pub fn callers(depth: i64) -> R<Ref> {
    let mut found = Vec::new();
    let mut next = current();
    while let Some(frame) = next
        && (found.len() as i64) < depth
    {
        let code = code_of(frame.obj())?;
        let place = [
            code.obj().getattr_str(c"co_filename")?,
            frame.obj().getattr_str(c"f_lineno")?,
            code.obj().getattr_str(c"co_name")?,
        ];
        found.push(tuple(&place.each_ref().map(Ref::obj))?);
        // SAFETY: a frame, alive; the one that called it comes back owned, or null.
        next = unsafe { Ref::steal_opt(c::PyFrame_GetBack(frame.ptr().cast()).cast()) };
    }
    tuple(&found.iter().map(Ref::obj).collect::<Vec<_>>())
}
