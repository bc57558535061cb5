//! What few native coroutines have: names that somebody gave them, and where they were made.
//!
//! Origins are kept while a loop debugs, as many frames as `sys` says then; to ask `sys` for each
//! coroutine would cost more than most of them. May touch: the `details` of a coroutine. *Source*:
//! `coroutine.__name__`, `coroutine.cr_origin`, `sys.set_coroutine_origin_tracking_depth`.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::spare::{retrace, show};
use super::{Fields, fields};
use crate::ffi::call::{import, tuple, tuple_item};
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Obj, R, Ref, frames};
use crate::state::state;

/// One of the details; its number is its place.
#[derive(Copy, Clone)]
pub(super) enum Detail {
    Name = 0,
    Qualname,
    Origin,
}

/// Places in `details`, a tuple with None for what is not there.
const COUNT: usize = 3;

/// Whether coroutines remember where they were made.
pub struct Origins {
    /// Loops of ours that run and debug; in any thread, for who has none asks `sys` in vain.
    debugging: AtomicUsize,
}

impl Origins {
    /// Not yet.
    pub const fn new() -> Origins {
        Origins {
            debugging: AtomicUsize::new(0),
        }
    }

    /// Whether `sys` has to be asked.
    #[inline]
    pub(super) fn are_wanted(&self) -> bool {
        self.debugging.load(Ordering::Relaxed) > 0
    }
}

/// `_want_origins(wanted)`: a loop that debugs begins to run, or ends.
pub fn want_origins(_module: Obj<'_>, wanted: Obj<'_>) -> R<Ref> {
    let count = &state().origins.debugging;
    if wanted.is_true()? {
        count.fetch_add(1, Ordering::Relaxed);
    } else {
        count.fetch_sub(1, Ordering::Relaxed);
    }
    Ok(none_ref())
}

/// A detail, if the coroutine has it.
pub(super) fn get(this: &Fields, which: Detail) -> Option<Ref> {
    let details = this.details.get()?;
    let found = tuple_item(details.obj(), which as usize);
    (!found.is_none()).then(|| found.to_ref())
}

/// Gives a coroutine a detail.
pub(super) fn set(coroutine: Obj<'_>, which: Detail, value: Obj<'_>) -> R<()> {
    let this = fields(coroutine);
    // A string of a class of somebody's own refers to whatever it likes.
    show(coroutine);
    let before = this.details.get();
    let mut items = [none(); COUNT];
    if let Some(before) = &before {
        items = std::array::from_fn(|index| tuple_item(before.obj(), index));
    }
    items[which as usize] = value;
    this.details.set(Some(tuple(&items)?));
    Ok(())
}

/// Notes where a coroutine was made just now, if this thread is to.
#[cold]
pub(super) fn remember_origin(made: &Ref) -> R<()> {
    retrace(made);
    let depth = import(c"sys")?
        .obj()
        .getattr_str(c"get_coroutine_origin_tracking_depth")?
        .obj()
        .call0()?
        .obj()
        .to_i64()?;
    if depth == 0 {
        return Ok(());
    }
    set(made.obj(), Detail::Origin, frames::callers(depth)?.obj())
}
