//! Results, exceptions, cancellations: setting them, telling who waits, getting them.
//!
//! May touch: one future's fields, its loop's ready queue. Invariant: whoever is told is told after
//! the state has changed, in the order in which they came.

use pyo3_ffi as c;

use super::{FutureFields, How, Phase, Waiter, fields, invalid_state, not_initialised};
use crate::event_loop;
use crate::ffi::call::string;
use crate::ffi::error::given_matches;
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Raised, Ref};
use crate::state::state;

/// Tells everyone who waits. An error (of a foreign or closed loop's `call_soon`) drops the rest,
/// as asyncio does.
#[inline]
pub fn schedule_waiters(future: Obj<'_>) -> R<()> {
    let this = fields(future);
    if let Some(native) = this.native()
        && let Some(task) = this.take_only_task()
    {
        return native.push_step(task);
    }
    schedule_others(future, this)
}

#[inline(never)]
fn schedule_others(future: Obj<'_>, this: &FutureFields) -> R<()> {
    let (first, more) = this.take_waiters();
    if let Some(waiter) = first {
        notify(future, this, waiter)?;
    }
    if let Some(more) = more {
        for waiter in *more {
            notify(future, this, waiter)?;
        }
    }
    Ok(())
}

#[inline]
pub(super) fn notify(future: Obj<'_>, this: &FutureFields, waiter: Waiter) -> R<()> {
    let Some(native) = this.native() else {
        let (callback, context) = waiter.callable()?;
        return call_foreign(this, callback.obj(), future, context.obj());
    };
    match waiter.how {
        How::Step => native.push_step(waiter.target),
        How::Call(context) => native.call_done(waiter.target.obj(), future, context.obj()),
        How::Tell(listener) => native.push_done(waiter.target, future.to_ref(), listener),
    }
}

/// `loop.call_soon(callback, future, context=context)` through the loop's own method.
fn call_foreign(this: &FutureFields, callback: Obj<'_>, arg: Obj<'_>, ctx: Obj<'_>) -> R<()> {
    let event_loop = this.event_loop.get().ok_or_else(not_initialised)?;
    event_loop::foreign_call_soon(event_loop.obj(), callback, Some(arg), ctx)
}

/// Stores a result and tells everyone. InvalidStateError unless pending.
#[inline]
pub fn set_result(future: Obj<'_>, result: Ref) -> R<()> {
    let this = fields(future);
    if !this.is_pending() {
        return Err(invalid_state("invalid state"));
    }
    this.result().set(Some(result));
    this.phase.set(Phase::Finished as u8);
    schedule_waiters(future)
}

/// Stores an exception (an instance or a class) and tells everyone.
pub fn set_exception(future: Obj<'_>, exception: Obj<'_>) -> R<()> {
    let this = fields(future);
    if !this.is_pending() {
        return Err(invalid_state("invalid state"));
    }
    let exception = exception_instance(exception)?;
    if !this.is_pending() {
        return Err(invalid_state("invalid state"));
    }
    // SAFETY: an exception instance; the traceback comes owned or null.
    let traceback = unsafe { Ref::steal_opt(c::PyException_GetTraceback(exception.ptr())) };
    this.exception_traceback().set(traceback);
    this.exception().set(Some(exception));
    this.phase.set(Phase::Finished as u8);
    schedule_waiters(future)?;
    this.log_traceback.set(true);
    Ok(())
}

fn exception_instance(exception: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    let is_class = unsafe { c::PyExceptionClass_Check(exception.ptr()) != 0 };
    let instance = if is_class {
        exception.call0()?
    } else {
        exception.to_ref()
    };
    // SAFETY: alive.
    if unsafe { c::PyExceptionInstance_Check(instance.ptr()) } == 0 {
        return Err(Raised::type_error("invalid exception object"));
    }
    // SAFETY: a static of the interpreter.
    let stop_iteration = unsafe { c::PyExc_StopIteration };
    if !state().quirks.stop_iteration_becomes_runtime_error {
        // These versions look at the exact class only.
        let exact = instance.obj().type_ptr().cast() == stop_iteration;
        return if exact {
            Err(Raised::type_error(STOP_ITERATION))
        } else {
            Ok(instance)
        };
    }
    if !given_matches(instance.obj(), stop_iteration) {
        return Ok(instance);
    }
    let message = string(STOP_ITERATION)?;
    // SAFETY: a static of the interpreter.
    let error = unsafe { Obj::from_ptr(c::PyExc_RuntimeError) }.call1(message.obj())?;
    // SAFETY: both take over the reference they are given.
    unsafe { c::PyException_SetCause(error.ptr(), instance.clone().into_ptr()) };
    // SAFETY: as above.
    unsafe { c::PyException_SetContext(error.ptr(), instance.into_ptr()) };
    Ok(error)
}

const STOP_ITERATION: &str =
    "StopIteration interacts badly with generators and cannot be raised into a Future";

/// Cancels a future (not a task) and tells everyone. False if it was done.
pub fn cancel_future(future: Obj<'_>, message: Option<Ref>) -> R<bool> {
    let this = fields(future);
    this.log_traceback.set(false);
    if !this.is_pending() {
        return Ok(false);
    }
    this.phase.set(Phase::Cancelled as u8);
    this.cancel_message().set(message);
    schedule_waiters(future).map(|()| true)
}

/// The CancelledError to raise: the one that came out of the coroutine, or a new one.
pub fn make_cancelled_error(this: &FutureFields) -> R<Ref> {
    if this.phase() == Phase::Cancelled
        && let Some(error) = this.exception().take()
    {
        return Ok(error);
    }
    let class = state().asyncio.cancelled_error.obj();
    match this.cancel_message().get() {
        Some(message) if !message.obj().is_none() => class.call1(message.obj()),
        _ => class.call0(),
    }
}

/// How a future ended.
pub enum Outcome {
    /// Its result.
    Value(Ref),
    /// The exception set on it, or a CancelledError.
    Error(Ref),
}

/// The outcome of a native future or task; InvalidStateError while it is pending. Marks an
/// exception as retrieved.
#[inline]
pub fn outcome(this: &FutureFields) -> R<Outcome> {
    match this.phase() {
        Phase::Finished => {}
        Phase::Cancelled => return make_cancelled_error(this).map(Outcome::Error),
        Phase::Pending => return Err(invalid_state("Result is not set.")),
    }
    this.log_traceback.set(false);
    match this.exception().get() {
        None => Ok(Outcome::Value(this.result().get_or_none())),
        Some(exception) => {
            let traceback = this.exception_traceback().take().unwrap_or_else(none_ref);
            // SAFETY: an exception instance and a traceback or None.
            crate::ffi::error::check(unsafe {
                c::PyException_SetTraceback(exception.ptr(), traceback.ptr())
            })?;
            Ok(Outcome::Error(exception))
        }
    }
}

/// `future.result()`.
#[inline]
pub fn result(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    if this.event_loop.is_empty() {
        return Err(invalid_state("Future object is not initialized."));
    }
    match outcome(this)? {
        Outcome::Value(value) => Ok(value),
        Outcome::Error(error) => Err(Raised::raise(error)),
    }
}

impl FutureFields {
    /// What `exception()` of a finished future gives; marks an exception as retrieved.
    #[inline]
    pub fn finished_exception(&self) -> Option<Ref> {
        debug_assert!(self.phase() == Phase::Finished);
        if self.exception().is_empty() {
            return None;
        }
        self.log_traceback.set(false);
        self.exception().get()
    }

    /// Whether `result()` would return.
    #[inline]
    pub fn has_value(&self) -> bool {
        self.phase() == Phase::Finished && self.exception().is_empty()
    }

    /// What `result()` of a future that finished without an exception gives.
    #[inline]
    pub fn finished_result(&self) -> Ref {
        debug_assert!(self.phase() == Phase::Finished && self.exception().is_empty());
        self.result().get_or_none()
    }
}
