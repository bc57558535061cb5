//! `wait_for` as 3.11 has it: what it waits for becomes a task of its own.
//!
//! May touch: that task, the timer. Invariant: the timer is cancelled on every way out.

#![forbid(unsafe_code)]

use super::super::coroutine::{Frame, Next, Resumed};
use super::super::{Listener, child, release, timeout};
use super::{CANCELLING, FUTURE, LIMIT, OVERDUE, STARTED, give_up, is_over, late_outcome, overdue};
use crate::event_loop;
use crate::ffi::error::given_matches;
use crate::ffi::exception::raise_while_handling;
use crate::ffi::{R, Raised, Ref, current};
use crate::state::state;

/// What the caller awaits while the time lasts.
const WAITER: usize = CANCELLING.waiter;
const HANDLE: usize = 4;
/// The CancelledError that goes on when the inner one has ended.
const CANCELLED_BY: usize = 5;

/// No limit: an await like any other.
const PLAIN: u8 = 10;
const WAITING: u8 = 11;
/// The caller was cancelled: waits for the inner one's end.
const CANCELLED: u8 = 12;
/// The time is over: waits for the inner one's end.
const LATE: u8 = 13;

pub(super) fn body(frame: &Frame, resumed: Resumed) -> R<Next> {
    match frame.stage.get() {
        STARTED => start(frame),
        PLAIN => resumed.value().map(Next::Return),
        OVERDUE => overdue(frame, resumed),
        stage => {
            let next = go_on(frame, stage, resumed);
            if matches!(next, Ok(Next::Await(_))) {
                return next;
            }
            let pending = next.map_err(Raised::take);
            if let Some(handle) = frame.slots[HANDLE].take() {
                timeout::cancel_handle(handle.obj())?;
            }
            pending.map_err(Raised::throw)
        }
    }
}

fn start(frame: &Frame) -> R<Next> {
    let event_loop = current::loop_required()?;
    let event_loop = event_loop.obj();
    let given = frame.slots[FUTURE].get_or_none();
    let Some(limit) = frame.slots[LIMIT].get() else {
        frame.stage.set(PLAIN);
        return Ok(Next::Await(given));
    };
    if is_over(limit.obj())? {
        return give_up(frame, Some(event_loop));
    }
    let names = &state().names;
    let waiter = event_loop::create_future_on(event_loop)?;
    let release = state().waiting.release_waiter.obj();
    let args = [event_loop, limit.obj(), release, waiter.obj()];
    let handle = event_loop.call_method(names.call_later.obj(), &args)?;
    let future = child::ensure_future(given.obj(), Some(event_loop))?;
    child::listen(future.obj(), waiter.obj(), Listener::Release)?;
    frame.slots[FUTURE].set(Some(future));
    frame.slots[WAITER].set(Some(waiter.clone()));
    frame.slots[HANDLE].set(Some(handle));
    frame.stage.set(WAITING);
    Ok(Next::Await(waiter))
}

fn go_on(frame: &Frame, stage: u8, resumed: Resumed) -> R<Next> {
    let cancelled_error = state().asyncio.cancelled_error.ptr();
    match (stage, resumed) {
        (WAITING, Resumed::Raised(error)) if given_matches(error.obj(), cancelled_error) => {
            cancelled(frame, error)
        }
        (WAITING, resumed) => {
            drop(resumed.value()?);
            let future = frame.slots[FUTURE].get_or_none();
            if child::is_done(future.obj())? {
                return child::outcome(future.obj()).map(Next::Return);
            }
            wait_for_end(frame, LATE)
        }
        (CANCELLED, resumed) => {
            release::end(frame, CANCELLING)?;
            let Some(cancelled_by) = frame.slots[CANCELLED_BY].take() else {
                return resumed.value().map(Next::Return);
            };
            Err(match resumed {
                Resumed::Value(_) => Raised::throw(cancelled_by),
                Resumed::Raised(error) => raise_while_handling(error, cancelled_by.obj()),
            })
        }
        (_, resumed) => {
            release::end(frame, CANCELLING)?;
            drop(resumed.value()?);
            late_outcome(frame).map(Next::Return)
        }
    }
}

/// The caller was told to cancel while it waited.
fn cancelled(frame: &Frame, error: Ref) -> R<Next> {
    let future = frame.slots[FUTURE].get_or_none();
    if child::is_done(future.obj())? {
        return match child::outcome(future.obj()) {
            Ok(value) => Ok(Next::Return(value)),
            Err(raised) => Err(raise_while_handling(raised.take(), error.obj())),
        };
    }
    frame.slots[CANCELLED_BY].set(Some(error));
    wait_for_end(frame, CANCELLED)
}

/// Cancels the inner one and waits for its end.
fn wait_for_end(frame: &Frame, stage: u8) -> R<Next> {
    let future = frame.slots[FUTURE].get_or_none();
    if let Some(waiter) = frame.slots[WAITER].take() {
        child::unlisten(future.obj(), waiter.obj(), Listener::Release)?;
    }
    frame.stage.set(stage);
    let event_loop = current::loop_required()?;
    release::begin(frame, CANCELLING, event_loop.obj()).map(Next::Await)
}
