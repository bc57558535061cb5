//! What a task does with what its coroutine yields, and with the outcome of what it waited for.
//!
//! May touch: the task, the future it waits for, the awaited-by edge that 3.14's tools read.
//! Invariant: a yielded future becomes `waits_for` only after its `blocking` mark was taken back.

use pyo3_ffi as c;

use super::{TaskFields, cancel, class, fields, schedule_error, schedule_step};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, layout};
use crate::future::{self, FutureFields, Outcome};
use crate::state::state;
use crate::sync::gathering;

/// Takes what the coroutine yielded: a future to wait for, `None` for "next turn", or a mistake.
#[inline]
pub fn wait_for(task: Obj<'_>, this: &TaskFields, yielded: Ref) -> R<()> {
    if future::is_native(yielded.obj()) {
        return wait_for_native(task, this, yielded);
    }
    if yielded.obj().is_none() {
        return schedule_step(task, this);
    }
    wait_for_foreign(task, this, yielded)
}

#[inline(always)]
fn wait_for_native(task: Obj<'_>, this: &TaskFields, awaited: Ref) -> R<()> {
    if awaited.obj().is(task) {
        return self_await(task, this);
    }
    let other = future::fields(awaited.obj());
    if other.event_loop.ptr() != this.future.event_loop.ptr() {
        return different_loop(task, this, awaited.obj());
    }
    if !other.blocking.replace(false) {
        return not_yield_from(task, this, awaited.obj());
    }
    add_edge(awaited.obj(), task)?;
    if other.is_pending() {
        other.add_task(task.to_ref());
        this.waits_for.set(Some(awaited));
    } else {
        this.waits_for.set(Some(awaited));
        schedule_step(task, this)?;
    }
    pass_cancellation_on(this)
}

/// A cancellation that arrived while the step ran goes to the future it now waits for.
#[inline(always)]
fn pass_cancellation_on(this: &TaskFields) -> R<()> {
    if !this.future.must_cancel.get() {
        return Ok(());
    }
    deliver_cancellation(this)
}

#[cold]
fn deliver_cancellation(this: &TaskFields) -> R<()> {
    if let Some(awaited) = this.waits_for.get() {
        let message = this.future.cancel_message().get().unwrap_or_else(none_ref);
        if cancel_awaited(awaited.obj(), Some(&message))? {
            this.future.must_cancel.set(false);
        }
    }
    Ok(())
}

/// `awaited.cancel(message)`.
pub fn cancel_awaited(awaited: Obj<'_>, message: Option<&Ref>) -> R<bool> {
    let state = state();
    if awaited.type_ptr() == state.future_type {
        return future::cancel_future(awaited, message.cloned());
    }
    if awaited.type_ptr() == state.task_type {
        return cancel(awaited, message.cloned());
    }
    let message = message.cloned().unwrap_or_else(none_ref);
    if awaited.type_ptr() == state.gathering_type {
        return gathering::cancel(awaited, message.obj());
    }
    awaited
        .call_method1(state.names.cancel.obj(), message.obj())?
        .obj()
        .is_true()
}

/// Waits for anything that follows asyncio's future protocol: stock futures, subclasses, others.
#[inline(never)]
fn wait_for_foreign(task: Obj<'_>, this: &TaskFields, yielded: Ref) -> R<()> {
    let names = &state().names;
    let awaited = yielded.obj();
    let blocking = match awaited.getattr_opt(names._asyncio_future_blocking.obj())? {
        Some(blocking) if !blocking.obj().is_none() => blocking.obj().is_true()?,
        _ => return bad_yield(task, this, awaited),
    };
    if awaited.is(task) {
        return self_await(task, this);
    }
    let event_loop = loop_of_foreign(awaited)?;
    if event_loop.ptr() != this.future.event_loop.ptr() {
        return different_loop(task, this, awaited);
    }
    if !blocking {
        return not_yield_from(task, this, awaited);
    }
    if awaited.is_instance_of_type(state().asyncio.future_class.ptr().cast()) {
        add_edge(awaited, task)?;
    }
    awaited.setattr(names._asyncio_future_blocking.obj(), boolean(false).obj())?;
    let wakeup = class::wakeup_callback(task)?;
    let run_context = this.context().context()?;
    let name = names.add_done_callback.obj();
    let args = [awaited, wakeup.obj(), run_context.obj()];
    awaited.call_method_kw(name, &args, state().kw_context.obj())?;
    this.waits_for.set(Some(yielded));
    pass_cancellation_on(this)
}

/// `asyncio.futures._get_loop`.
fn loop_of_foreign(awaited: Obj<'_>) -> R<Ref> {
    match awaited.getattr_opt(state().names.get_loop.obj())? {
        Some(get_loop) => get_loop.obj().call0(),
        None => awaited.getattr(state().names._loop.obj()),
    }
}

/// What to throw into a task that waited for `awaited`, which is done: its exception, or nothing.
#[inline]
pub fn outcome_of(task: Obj<'_>, awaited: Obj<'_>) -> R<Option<Ref>> {
    if future::is_native(awaited) {
        discard_edge(awaited, task)?;
        let future = future::fields(awaited);
        if future.has_value() {
            return Ok(None);
        }
        return Ok(error_of(future));
    }
    outcome_of_foreign(task, awaited)
}

/// What a native future throws into who waited for it; for one without a value.
#[cold]
fn error_of(future: &FutureFields) -> Option<Ref> {
    match future::outcome(future) {
        Ok(Outcome::Value(_)) => None,
        Ok(Outcome::Error(error)) => Some(error),
        Err(raised) => Some(raised.take()),
    }
}

#[inline(never)]
fn outcome_of_foreign(task: Obj<'_>, awaited: Obj<'_>) -> R<Option<Ref>> {
    if awaited.is_instance_of_type(state().asyncio.future_class.ptr().cast()) {
        discard_edge(awaited, task)?;
    }
    match awaited.call_method0(state().names.result.obj()) {
        Ok(_) => Ok(None),
        Err(raised) => Ok(Some(raised.take())),
    }
}

/// Records who awaits `awaited`, where 3.14's tools read it.
#[inline]
pub fn add_edge(awaited: Obj<'_>, task: Obj<'_>) -> R<()> {
    if let Some(offset) = state().layout.awaited_by {
        // SAFETY: found by the probe in the base type of every asyncio future.
        let edge = unsafe { layout::slot(awaited, offset) };
        if edge.is_empty() {
            edge.set(Some(task.to_ref()));
            return Ok(());
        }
    }
    add_further_edge(awaited, task)
}

#[cold]
fn add_further_edge(awaited: Obj<'_>, task: Obj<'_>) -> R<()> {
    match &state().asyncio.future_add_to_awaited_by {
        Some(add) => add.obj().call(&[awaited, task]).map(drop),
        None => Ok(()),
    }
}

/// Undoes `add_edge`.
#[inline]
pub fn discard_edge(awaited: Obj<'_>, task: Obj<'_>) -> R<()> {
    if let Some(offset) = state().layout.awaited_by {
        // SAFETY: found by the probe in the base type of every asyncio future.
        let edge = unsafe { layout::slot(awaited, offset) };
        if edge.ptr() == task.ptr() {
            edge.clear();
            return Ok(());
        }
    }
    discard_further_edge(awaited, task)
}

#[cold]
fn discard_further_edge(awaited: Obj<'_>, task: Obj<'_>) -> R<()> {
    match &state().asyncio.future_discard_from_awaited_by {
        Some(discard) => discard.obj().call(&[awaited, task]).map(drop),
        None => Ok(()),
    }
}

#[cold]
pub fn already_done(task: Obj<'_>, exception: Option<&Ref>) -> Raised {
    let text = task.repr().and_then(|task| {
        let exception = exception.map_or(none(), Ref::obj).repr()?;
        Ok(format!("__step(): already done: {task} {exception}"))
    });
    match text {
        Ok(text) => Raised::new(state().asyncio.invalid_state_error.obj(), &text),
        Err(raised) => raised,
    }
}

#[cold]
fn self_await(task: Obj<'_>, this: &TaskFields) -> R<()> {
    let message = format!("Task cannot await on itself: {}", task.repr()?);
    schedule_error(task, this, &message)
}

#[cold]
fn different_loop(task: Obj<'_>, this: &TaskFields, awaited: Obj<'_>) -> R<()> {
    let (task_repr, awaited) = (task.repr()?, awaited.repr()?);
    let message = format!("Task {task_repr} got Future {awaited} attached to a different loop");
    schedule_error(task, this, &message)
}

#[cold]
fn not_yield_from(task: Obj<'_>, this: &TaskFields, awaited: Obj<'_>) -> R<()> {
    let (task_repr, awaited) = (task.repr()?, awaited.repr()?);
    let message =
        format!("yield was used instead of yield from in task {task_repr} with {awaited}");
    schedule_error(task, this, &message)
}

#[cold]
fn bad_yield(task: Obj<'_>, this: &TaskFields, yielded: Obj<'_>) -> R<()> {
    // SAFETY: alive.
    let is_generator = unsafe { c::PyGen_Check(yielded.ptr()) } != 0;
    let yielded = yielded.repr()?;
    let message = if is_generator {
        let task = task.repr()?;
        format!("yield was used instead of yield from for generator in task {task} with {yielded}")
    } else {
        format!("Task got bad yield: {yielded}")
    };
    schedule_error(task, this, &message)
}

/// `task._fut_waiter`.
pub fn awaited(task: Obj<'_>) -> R<Ref> {
    Ok(fields(task).waits_for.get_or_none())
}
