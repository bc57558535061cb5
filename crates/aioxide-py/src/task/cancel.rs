//! Cancellation of tasks.
//!
//! May touch: the task, the chain of tasks and futures that it waits for. Invariant: a pending task
//! that is told to cancel either passes it on or raises CancelledError at its next step.
//! *Source*: `asyncio.Task.cancel`.

#![forbid(unsafe_code)]

use super::{TaskFields, fields, wait};
use crate::ffi::{Obj, R, Raised, Ref};
use crate::future;
use crate::state::state;

/// Requests cancellation: of what the task waits for, or at its next step. False if it is done.
///
/// Along a chain of native tasks that await each other this is a loop, not a recursion: chains may
/// be longer than the stack is deep.
pub fn cancel(task: Obj<'_>, message: Option<Ref>) -> R<bool> {
    if !fields(task).request_cancel() {
        return Ok(false);
    }
    let mut innermost = task.to_ref();
    // Tasks that wait for each other in a circle: Brent's way of noticing.
    let (mut mark, mut steps, mut lap) = (task.ptr(), 0_u64, 1_u64);
    loop {
        let this = fields(innermost.obj());
        let Some(awaited) = this.waits_for.get() else {
            break;
        };
        if awaited.obj().type_ptr() == state().task_type {
            if !fields(awaited.obj()).request_cancel() {
                break;
            }
            if awaited.ptr() == mark {
                return Err(Raised::recursion());
            }
            steps += 1;
            if steps == lap {
                (mark, steps, lap) = (awaited.ptr(), 0, lap * 2);
            }
            innermost = awaited;
            continue;
        }
        if wait::cancel_awaited(awaited.obj(), message.as_ref())? {
            return Ok(true);
        }
        break;
    }
    let this = fields(innermost.obj());
    this.future.must_cancel.set(true);
    this.future.cancel_message().set(message);
    Ok(true)
}

/// `task.cancel()`, for a task or future of any make.
pub fn cancel_any(task: Obj<'_>) -> R<bool> {
    if task.type_ptr() == state().task_type {
        return cancel(task, None);
    }
    if task.type_ptr() == state().future_type {
        return future::cancel_future(task, None);
    }
    let cancelled = task.call_method0(state().names.cancel.obj())?;
    cancelled.obj().is_true()
}

/// `task.cancelling()`, for a task of any make.
#[inline]
pub fn cancelling_of(task: Obj<'_>) -> R<i64> {
    if task.type_ptr() == state().task_type {
        return Ok(i64::from(fields(task).cancels_requested.get()));
    }
    let requested = task.call_method0(state().names.cancelling.obj())?;
    requested.obj().to_i64()
}

/// `task.uncancel()`, for a task of any make.
pub fn uncancel_of(task: Obj<'_>) -> R<i64> {
    if task.type_ptr() == state().task_type {
        fields(task).withdraw_cancel();
        return Ok(i64::from(fields(task).cancels_requested.get()));
    }
    let requested = task.call_method0(state().names.uncancel.obj())?;
    requested.obj().to_i64()
}

impl TaskFields {
    /// Takes one request back.
    pub fn withdraw_cancel(&self) {
        let requested = self.cancels_requested.get();
        if requested > 0 {
            self.cancels_requested.set(requested - 1);
            if requested == 1 && state().quirks.uncancel_clears_must_cancel {
                self.future.must_cancel.set(false);
            }
        }
    }

    /// Counts a request; false if the task is done.
    fn request_cancel(&self) -> bool {
        self.future.log_traceback.set(false);
        let pending = self.future.is_pending();
        if pending {
            let requested = self.cancels_requested.get();
            self.cancels_requested.set(requested.saturating_add(1));
        }
        pending
    }
}
