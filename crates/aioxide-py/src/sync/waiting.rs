//! What the functions that wait take from asyncio, and how the running version's behave.
//!
//! May touch: asyncio's modules, at import.

#![forbid(unsafe_code)]

use super::as_completed;
use crate::ffi::builtin::contains;
use crate::ffi::call::{import, interned, string};
use crate::ffi::{Obj, R, Ref};

/// Found once.
pub struct Waiting {
    /// `asyncio.tasks._release_waiter`.
    pub release_waiter: Ref,
    /// `functools.partial`.
    pub partial: Ref,
    /// `asyncio.tasks._log_on_exception`, where a version has it.
    pub log_on_exception: Option<Ref>,
    /// `inspect.isawaitable`.
    pub isawaitable: Ref,
    /// What `as_completed` asks for its loop: a private function in 3.11.
    pub get_event_loop: Ref,
    /// A wait for the next one of `as_completed` that ends by an error may be asked for again.
    pub unanswered_counts: bool,
    /// Who waits for the end of what it cancelled is shown as awaiting that.
    pub cancelling_is_awaiting: bool,
}

impl Waiting {
    /// Looks at asyncio's own functions.
    pub fn probe() -> R<Waiting> {
        let tasks = import(c"asyncio.tasks")?;
        let cancel_and_wait = tasks.obj().getattr_str(c"_cancel_and_wait")?;
        Ok(Waiting {
            release_waiter: tasks.obj().getattr_str(c"_release_waiter")?,
            partial: import(c"functools")?.obj().getattr_str(c"partial")?,
            log_on_exception: tasks
                .obj()
                .getattr_opt(interned(c"_log_on_exception")?.obj())?,
            isawaitable: import(c"inspect")?.obj().getattr_str(c"isawaitable")?,
            get_event_loop: import(c"asyncio.events")?
                .obj()
                .getattr_str(if cfg!(Py_3_12) {
                    c"get_event_loop"
                } else {
                    c"_get_event_loop"
                })?,
            unanswered_counts: as_completed::unanswered_counts()?,
            cancelling_is_awaiting: names(cancel_and_wait.obj(), "future_add_to_awaited_by")?,
        })
    }
}

/// Whether the code of a Python function names `wanted`.
pub fn names(function: Obj<'_>, wanted: &str) -> R<bool> {
    let code = function.getattr_str(c"__code__")?;
    let found = code.obj().getattr_str(c"co_names")?;
    contains(found.obj(), string(wanted)?.obj())
}
