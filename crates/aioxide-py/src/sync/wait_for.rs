//! `wait_for`, as 3.12 and later do it: a timeout around an await in the caller's own task.
//!
//! May touch: what it waits for, the caller's task through the timeout. 3.11's is in `before`.
//! *Source*: `asyncio.wait_for`.

#![forbid(unsafe_code)]

use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::function::{Call, Function};
use super::{child, release, timeout};
use crate::ffi::builtin::timeout_error;
use crate::ffi::call::int;
use crate::ffi::exception::{raise_while_handling, set_cause};
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, current};
use crate::state::state;

mod before;

/// `wait_for(fut, timeout)`.
pub static WAIT_FOR: Function = Function {
    name: "wait_for",
    qualname: "wait_for",
    signature: "(fut, timeout)",
    doc: "Wait for the single Future or coroutine to complete, with timeout.\n\n\
          Returns its result. When the time is over, it is cancelled and TimeoutError raised; \
          shield() prevents that. If the wait is cancelled, so is what it waits for.",
    call: Call::Function(wait_for),
};

static KIND: Kind = Kind {
    name: "wait_for",
    qualname: "wait_for",
    body: if cfg!(Py_3_12) { body } else { before::body },
    quick: None,
};

const SIGNATURE: Signature = Signature {
    name: "wait_for",
    params: &["fut", "timeout"],
    positional: 2,
    required: 2,
};

const FUTURE: usize = 0;
/// The time that was given; then the `Timeout` that was made of it.
const LIMIT: usize = 1;
const CANCELLING: release::Slots = release::Slots {
    future: FUTURE,
    waiter: 2,
    caller: 3,
};

fn wait_for(args: Args<'_>) -> R<Ref> {
    let [future, limit] = args.bind_python::<2>(&SIGNATURE)?;
    let limit = limit.filter(|limit| !limit.is_none());
    coroutine::create(&KIND, [future.map(Obj::to_ref), limit.map(Obj::to_ref)])
}

const STARTED: u8 = 0;
const INSIDE: u8 = 1;
const OVERDUE: u8 = 2;

fn body(frame: &Frame, resumed: Resumed) -> R<Next> {
    match frame.stage.get() {
        STARTED => start(frame),
        INSIDE => {
            let limit = frame.slots[LIMIT].get_or_none();
            match resumed {
                Resumed::Value(value) => {
                    timeout::exit(limit.obj(), None)?;
                    Ok(Next::Return(value))
                }
                Resumed::Raised(error) => {
                    timeout::exit_handling(limit.obj(), error.obj())?;
                    Err(Raised::throw(error))
                }
            }
        }
        _ => overdue(frame, resumed),
    }
}

#[inline]
fn start(frame: &Frame) -> R<Next> {
    let limit = frame.slots[LIMIT].get();
    if let Some(limit) = &limit
        && is_over(limit.obj())?
    {
        return give_up(frame, None);
    }
    let limit = timeout::within(limit.as_ref().map(Ref::obj))?;
    timeout::enter(limit.obj())?;
    frame.slots[LIMIT].set(Some(limit));
    frame.stage.set(INSIDE);
    Ok(Next::Await(
        frame.slots[FUTURE].take().unwrap_or_else(none_ref),
    ))
}

/// `limit <= 0`.
#[inline]
fn is_over(limit: Obj<'_>) -> R<bool> {
    if limit.is_exact_float() {
        return Ok(limit.to_f64()? <= 0.0);
    }
    limit.is_at_most(int(0)?.obj())
}

/// There is no time: what is done gives its result, anything else is cancelled.
fn give_up(frame: &Frame, event_loop: Option<Obj<'_>>) -> R<Next> {
    let given = frame.slots[FUTURE].get_or_none();
    let future = child::ensure_future(given.obj(), event_loop)?;
    frame.slots[FUTURE].set(Some(future.clone()));
    if child::is_done(future.obj())? {
        return child::outcome(future.obj()).map(Next::Return);
    }
    frame.stage.set(OVERDUE);
    let event_loop = current::loop_required()?;
    release::begin(frame, CANCELLING, event_loop.obj()).map(Next::Await)
}

/// The cancelled future has ended, or so has the wait for that.
fn overdue(frame: &Frame, resumed: Resumed) -> R<Next> {
    release::end(frame, CANCELLING)?;
    drop(resumed.value()?);
    late_outcome(frame).map(Next::Return)
}

/// The result, if there is one after all; a cancellation becomes TimeoutError.
fn late_outcome(frame: &Frame) -> R<Ref> {
    let future = frame.slots[FUTURE].get_or_none();
    match child::outcome(future.obj()) {
        Ok(value) => Ok(value),
        Err(raised) if raised.matches(state().asyncio.cancelled_error.ptr()) => {
            let cancelled = raised.take();
            let error = timeout_error().call0()?;
            set_cause(error.obj(), cancelled.obj());
            Err(raise_while_handling(error, cancelled.obj()))
        }
        Err(raised) => Err(raised),
    }
}
