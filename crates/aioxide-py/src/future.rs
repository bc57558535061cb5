//! `Future`: the native future, a subclass of `_asyncio.Future`; also the part of a task that is
//! one. Rooms: `waiter` (who is told), `outcome` (results), `class` (the Python face), `life` (the
//! end).
//!
//! ```text
//! Pending ── set_result / set_exception ──> Finished
//!    └────────── cancel ──────────────────> Cancelled
//! ```
//! May touch: its own fields; on completion the ready queue of its loop. Invariants:
//! - `event_loop` is empty exactly while the object is not initialised;
//! - a waiter that is a native task sits here itself while it waits, without a wake-up object, and
//!   so does a native object that listens;
//! - after the state leaves Pending there are no waiters.

use std::cell::Cell;

use pyo3_ffi as c;

use crate::event_loop::{self, LoopFields};
use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Raised, Ref, Slot, layout};
use crate::state::state;

mod class;
mod life;
mod outcome;
mod waiter;

pub use class::{
    build_type, cancel_argument, common_attributes, common_methods, initialise, required,
};
pub use life::{clear_base, free_instance, report_unretrieved, tell_handler, traverse_base};
pub use outcome::{
    Outcome, cancel_future, make_cancelled_error, outcome, result, set_exception, set_result,
};
pub use waiter::{How, Waiter};

/// Where a future stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// No outcome yet.
    Pending = 0,
    /// `cancel()` took effect.
    Cancelled = 1,
    /// A result or an exception is set.
    Finished = 2,
}

/// The fields that futures and tasks share and asyncio's base does not have; the methods of the
/// base's names give the others, which lie in the base. All-zero memory is an uninitialised future.
#[repr(C)]
pub struct FutureFields {
    pub event_loop: Slot,
    /// The second and later waiters. Boxed so that the field is one word and zero means none.
    #[allow(clippy::box_collection)]
    more: Cell<Option<Box<Vec<Waiter>>>>,
    phase: Cell<u8>,
    pub log_traceback: Cell<bool>,
    pub blocking: Cell<bool>,
    /// Which kind of waiter `waiter` holds.
    first_kind: Cell<u8>,
    /// `event_loop` is a native loop, where calls may go to its queue directly.
    on_native: Cell<bool>,
    /// Of tasks, here because there is room: the next step is cancelled.
    pub must_cancel: Cell<bool>,
    /// Of tasks: dying while pending is reported.
    pub log_destroy_pending: Cell<bool>,
}

/// The future part of a native future or task.
#[inline]
pub fn fields(future: Obj<'_>) -> &FutureFields {
    // SAFETY: methods get instances from their own descriptors, everyone else checks `is_native`
    // or made the object; futures and tasks share the offset and this prefix.
    unsafe { layout::fields(future.ptr(), state().layout.fields) }
}

/// Whether the object is exactly a native future, task or gathering future (not a subclass).
#[inline]
pub fn is_native(object: Obj<'_>) -> bool {
    let class = object.type_ptr();
    let state = state();
    class == state.future_type || class == state.task_type || class == state.gathering_type
}

/// Allocates a future on a native loop: the body of `loop.create_future()`.
pub fn create(event_loop: Obj<'_>, native: &LoopFields) -> R<Ref> {
    // SAFETY: a ready type of ours; zeroed memory is a valid uninitialised future.
    let future = unsafe { Ref::steal(c::PyType_GenericAlloc(state().future_type, 0)) }?;
    let this = fields(future.obj());
    this.attach(event_loop, native);
    this.trace_source(native)?;
    Ok(future)
}

impl FutureFields {
    /// Binds to a native loop.
    #[inline]
    pub fn attach(&self, event_loop: Obj<'_>, native: &LoopFields) {
        debug_assert!(native.object().is(event_loop));
        self.event_loop.set(Some(event_loop.to_ref()));
        self.on_native.set(true);
    }

    /// Remembers where the future was created, if the loop debugs.
    #[inline]
    pub fn trace_source(&self, native: &LoopFields) -> R<()> {
        if native.debug() {
            self.set_source()
        } else {
            Ok(())
        }
    }

    #[cold]
    fn set_source(&self) -> R<()> {
        let stack = state().asyncio.traceback_extract_stack.obj().call0()?;
        self.source_traceback().set(Some(stack));
        Ok(())
    }

    /// The native loop, if calls may go to its queue directly.
    #[inline]
    pub fn native(&self) -> Option<&LoopFields> {
        if !self.on_native.get() {
            return None;
        }
        // SAFETY: a native loop, which the field keeps alive; both are set and cleared together.
        let native = event_loop::fields(unsafe { Obj::from_ptr(self.event_loop.ptr()) });
        native.is_direct().then_some(native)
    }

    /// The state.
    #[inline]
    pub fn phase(&self) -> Phase {
        match self.phase.get() {
            0 => Phase::Pending,
            1 => Phase::Cancelled,
            _ => Phase::Finished,
        }
    }

    /// Whether there is no outcome yet.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.phase.get() == Phase::Pending as u8
    }

    /// Visits the references that the base does not know.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.event_loop);
        let more = self.more.take();
        for waiter in more.iter().flat_map(|more| more.iter()) {
            waiter.visit(visitor);
        }
        self.more.set(more);
    }

    /// Drops the references that the base does not know.
    #[inline]
    pub fn clear(&self) {
        self.on_native.set(false);
        self.event_loop.clear();
        self.first_kind.set(waiter::PLAIN);
        drop(self.more.take());
    }

    /// Drops every reference of the future part.
    fn clear_all(&self) {
        self.clear();
        for slot in [
            self.waiter(),
            self.waiter_context(),
            self.result(),
            self.exception(),
            self.exception_traceback(),
            self.cancel_message(),
            self.source_traceback(),
        ] {
            slot.clear();
        }
    }
}

/// A field that lies where the base has the same.
macro_rules! in_base {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        impl FutureFields {
            $(
                $(#[$doc])*
                #[inline]
                pub fn $name(&self) -> &Slot {
                    let layout = &state().layout;
                    // SAFETY: `fields` takes these from the right place, of a native future.
                    unsafe { layout.slot_before(self, layout.places.$name) }
                }
            )*
        }
    };
}

in_base! {
    /// The first waiter.
    waiter,
    /// Its context, if it is a callable.
    waiter_context,
    /// What `set_result` was given.
    result,
    /// What `set_exception` was given; of a cancelled one the CancelledError of its coroutine; of a
    /// pending task what its next step throws.
    exception,
    /// The traceback that the exception had.
    exception_traceback,
    /// What `cancel` was given.
    cancel_message,
    /// Where it was created, in debug mode.
    source_traceback,
}

#[cold]
fn not_initialised() -> Raised {
    Raised::runtime("Future object is not initialized.")
}

/// The loop, or the error of an object whose `__init__` was not called.
pub fn loop_of(future: Obj<'_>) -> R<Ref> {
    fields(future).event_loop.get().ok_or_else(not_initialised)
}

fn ensure_initialised(this: &FutureFields) -> R<()> {
    if this.event_loop.is_empty() {
        Err(not_initialised())
    } else {
        Ok(())
    }
}

#[cold]
fn invalid_state(message: &str) -> Raised {
    Raised::new(state().asyncio.invalid_state_error.obj(), message)
}
