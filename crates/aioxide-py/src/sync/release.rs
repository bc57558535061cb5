//! Waiting for the end of a future by a future of one's own, and cancelling it meanwhile.
//!
//! May touch: the future given, the waiter. Invariant: whoever begins to cancel and wait also ends
//! it, with or without an error. *Source*: `asyncio.tasks._release_waiter`, `_cancel_and_wait`.

use super::coroutine::Frame;
use super::{Listener, child};
use crate::event_loop;
use crate::ffi::class::{Definition, onearg};
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Ref, current};
use crate::state::state;
use crate::task;

/// Wakes whoever awaits `waiter`, unless somebody did already.
pub fn release(waiter: Obj<'_>) -> R<()> {
    if child::is_done(waiter)? {
        return Ok(());
    }
    child::set_result(waiter, none_ref())
}

fn release_method(waiter: Obj<'_>, _done: Obj<'_>) -> R<Ref> {
    release(waiter).map(|()| none_ref())
}

static RELEASE: Definition = Definition::new(onearg!(
    c"_release_waiter",
    release_method,
    c"Wakes whoever awaits the waiter."
));

/// The callable that releases `waiter`.
pub fn callback(waiter: Obj<'_>) -> R<Ref> {
    RELEASE.bind(waiter)
}

/// The slots that `begin` fills and `end` empties.
#[derive(Copy, Clone)]
pub struct Slots {
    /// The future that is told to cancel; the caller fills it.
    pub future: usize,
    /// What is awaited meanwhile.
    pub waiter: usize,
    /// The task that waits, for the tools of 3.14.
    pub caller: usize,
}

/// Tells the future to cancel; what comes back is to be awaited, then `end` is to be called.
pub fn begin(frame: &Frame, slots: Slots, event_loop: Obj<'_>) -> R<Ref> {
    let future = frame.slots[slots.future].get_or_none();
    let waiter = event_loop::create_future_on(event_loop)?;
    child::listen(future.obj(), waiter.obj(), Listener::Release)?;
    frame.slots[slots.waiter].set(Some(waiter.clone()));
    if state().waiting.cancelling_is_awaiting {
        let caller = current::task_of(event_loop)?;
        child::add_edge(future.obj(), caller.as_ref())?;
        frame.slots[slots.caller].set(caller);
    }
    match task::cancel_any(future.obj()) {
        Ok(_) => Ok(waiter),
        Err(raised) => {
            let error = raised.take();
            end(frame, slots)?;
            Err(crate::ffi::Raised::throw(error))
        }
    }
}

/// Stops listening.
pub fn end(frame: &Frame, slots: Slots) -> R<()> {
    let future = frame.slots[slots.future].get_or_none();
    if let Some(waiter) = frame.slots[slots.waiter].take() {
        child::unlisten(future.obj(), waiter.obj(), Listener::Release)?;
    }
    let caller = frame.slots[slots.caller].take();
    child::discard_edge(future.obj(), caller.as_ref())
}
