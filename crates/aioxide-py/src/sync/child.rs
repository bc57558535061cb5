//! Futures and tasks of any make, as asyncio's primitives use them.
//!
//! Native ones are read directly, all others through asyncio's documented methods. May touch: the
//! future given. Invariant: a subclass that a user derived is always asked by its methods.

#![forbid(unsafe_code)]

use super::Listener;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Obj, R, Ref};
use crate::future::{self, How, Phase, Waiter};
use crate::state::state;
use crate::task;

/// `future.done()`.
#[inline]
pub fn is_done(child: Obj<'_>) -> R<bool> {
    if future::is_native(child) {
        return Ok(!future::fields(child).is_pending());
    }
    let name = state().names.done.obj();
    child.call_method0(name)?.obj().is_true()
}

/// `future.cancelled()`.
#[inline]
pub fn is_cancelled(child: Obj<'_>) -> R<bool> {
    if future::is_native(child) {
        return Ok(future::fields(child).phase() == Phase::Cancelled);
    }
    let name = state().names.cancelled.obj();
    child.call_method0(name)?.obj().is_true()
}

/// `future.exception()` of one that is done and not cancelled; marks it as retrieved.
#[inline]
pub fn exception(child: Obj<'_>) -> R<Option<Ref>> {
    if future::is_native(child) {
        let this = future::fields(child);
        if this.phase() == Phase::Finished {
            return Ok(this.finished_exception());
        }
    }
    let exception = child.call_method0(state().names.exception.obj())?;
    Ok(Some(exception).filter(|exception| !exception.obj().is_none()))
}

/// `future.result()` of one that is done and has no exception.
#[inline]
pub fn result(child: Obj<'_>) -> R<Ref> {
    if future::is_native(child) {
        let this = future::fields(child);
        if this.phase() == Phase::Finished {
            return Ok(this.finished_result());
        }
    }
    child.call_method0(state().names.result.obj())
}

/// `future.result()`, whatever the outcome; InvalidStateError while it is pending.
#[inline]
pub fn outcome(child: Obj<'_>) -> R<Ref> {
    if future::is_native(child) {
        return future::result(child);
    }
    child.call_method0(state().names.result.obj())
}

/// `future.set_exception(exception)`.
pub fn set_exception(child: Obj<'_>, exception: Obj<'_>) -> R<()> {
    if child.type_ptr() == state().future_type {
        return future::set_exception(child, exception);
    }
    let name = state().names.set_exception.obj();
    child.call_method1(name, exception).map(drop)
}

/// `asyncio.ensure_future(given)`, or `ensure_future(given, loop=event_loop)`.
pub fn ensure_future(given: Obj<'_>, event_loop: Option<Obj<'_>>) -> R<Ref> {
    let function = state().asyncio.ensure_future.obj();
    let Some(event_loop) = event_loop else {
        return if future::is_native(given) {
            Ok(given.to_ref())
        } else {
            function.call1(given)
        };
    };
    if future::is_native(given) && future::fields(given).event_loop.ptr() == event_loop.ptr() {
        return Ok(given.to_ref());
    }
    function.call_kw(&[given, event_loop], state().kw_loop.obj())
}

/// `future._make_cancelled_error()`.
pub fn make_cancelled_error(child: Obj<'_>) -> R<Ref> {
    if future::is_native(child) {
        return future::make_cancelled_error(future::fields(child));
    }
    child.call_method0(state().names._make_cancelled_error.obj())
}

/// `future._cancel_message`, or `None`.
pub fn cancel_message(child: Obj<'_>) -> R<Ref> {
    child.getattr(state().names._cancel_message.obj())
}

/// `future.cancel(msg=message)`.
pub fn cancel(child: Obj<'_>, message: Obj<'_>) -> R<bool> {
    if future::is_native(child) {
        return task::cancel_awaited(child, Some(&message.to_ref()));
    }
    let name = state().names.cancel.obj();
    let done = child.call_method_kw(name, &[child, message], state().kw_msg.obj())?;
    done.obj().is_true()
}

/// Has `target` told when `child` is done: without a callable where nobody could see one.
#[inline]
pub fn listen(child: Obj<'_>, target: Obj<'_>, listener: Listener) -> R<()> {
    if future::is_native(child) {
        let this = future::fields(child);
        if let Some(native) = this.native()
            && !native.debug()
        {
            if this.is_pending() {
                let (target, how) = (target.to_ref(), How::Tell(listener));
                this.add_waiter(Waiter { target, how });
                return Ok(());
            }
            return native.push_done(target.to_ref(), child.to_ref(), listener);
        }
    }
    let callback = listener.callback(target)?;
    let name = state().names.add_done_callback.obj();
    child.call_method1(name, callback.obj()).map(drop)
}

/// Undoes `listen`.
pub fn unlisten(child: Obj<'_>, target: Obj<'_>, listener: Listener) -> R<()> {
    if future::is_native(child) {
        let this = future::fields(child);
        if !this.is_pending() || this.remove_listener(target, listener) {
            return Ok(());
        }
    }
    let callback = listener.callback(target)?;
    let name = state().names.remove_done_callback.obj();
    child.call_method1(name, callback.obj()).map(drop)
}

/// Whether tools are to be shown who awaits this future: native and stock ones.
#[inline]
fn has_edges(child: Obj<'_>) -> bool {
    future::is_native(child) || child.is_instance_of_type(state().asyncio.future_class.ptr().cast())
}

/// `futures.future_add_to_awaited_by(child, waiter)`; nothing before 3.14.
#[inline]
pub fn add_edge(child: Obj<'_>, waiter: Option<&Ref>) -> R<()> {
    match waiter {
        Some(waiter) if cfg!(Py_3_14) && has_edges(child) && has_edges(waiter.obj()) => {
            task::add_edge(child, waiter.obj())
        }
        _ => Ok(()),
    }
}

/// `futures.future_discard_from_awaited_by(child, waiter)`; nothing before 3.14.
#[inline]
pub fn discard_edge(child: Obj<'_>, waiter: Option<&Ref>) -> R<()> {
    match waiter {
        Some(waiter) if cfg!(Py_3_14) && has_edges(child) && has_edges(waiter.obj()) => {
            task::discard_edge(child, waiter.obj())
        }
        _ => Ok(()),
    }
}

/// `asyncio.current_task(loop)`, or nothing where no loop runs.
pub fn current_task(event_loop: Obj<'_>) -> R<Option<Ref>> {
    if event_loop.is_none() {
        return Ok(None);
    }
    let current = state().asyncio.current_task.obj().call1(event_loop)?;
    Ok((!current.obj().is(none())).then_some(current))
}

/// `future.cancel()`.
pub fn cancel_plainly(child: Obj<'_>) -> R<()> {
    if future::is_native(child) {
        return task::cancel_awaited(child, Some(&none_ref())).map(drop);
    }
    child.call_method0(state().names.cancel.obj()).map(drop)
}

/// `future.set_result(value)`.
pub fn set_result(child: Obj<'_>, value: Ref) -> R<()> {
    if child.type_ptr() == state().future_type {
        return future::set_result(child, value);
    }
    let name = state().names.set_result.obj();
    child.call_method1(name, value.obj()).map(drop)
}
