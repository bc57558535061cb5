//! `sleep`. *Source*: `asyncio.sleep`.

#![forbid(unsafe_code)]

use super::coroutine::{self, Frame, Kind, Next, Quickly, Resumed};
use super::function::{Call, Function};
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature};
use crate::state::state;

/// `sleep(delay, result=None)`.
pub static SLEEP: Function = Function {
    name: "sleep",
    qualname: "sleep",
    signature: "(delay, result=None)",
    doc: "Coroutine that completes after a given time (in seconds).",
    call: Call::Function(sleep),
};

static KIND: Kind = Kind {
    name: "sleep",
    qualname: "sleep",
    body,
    quick: Some(sleep_quickly),
};

const SIGNATURE: Signature = Signature {
    name: "sleep",
    params: &["delay", "result"],
    positional: 2,
    required: 1,
};

const DELAY: usize = 0;
const RESULT: usize = 1;
const HANDLE: usize = 2;

fn sleep(args: Args<'_>) -> R<Ref> {
    if let Some([delay]) = args.exactly::<1>() {
        if delay.is(state().zero.obj()) {
            return coroutine::create_of_number(&KIND, delay.to_ref());
        }
        return coroutine::create(&KIND, [Some(delay.to_ref())]);
    }
    let [delay, result] = args.bind_python::<2>(&SIGNATURE)?;
    coroutine::create(&KIND, [delay.map(Obj::to_ref), result.map(Obj::to_ref)])
}

const STARTED: u8 = 0;
const YIELDED: u8 = 1;
const TIMED: u8 = 2;

/// `sleep(0)`, which almost always is exactly that.
fn sleep_quickly(delay: Obj<'_>, frame: &Frame) -> R<Quickly> {
    Ok(match frame.stage.get() {
        STARTED if delay.is(state().zero.obj()) => {
            frame.stage.set(YIELDED);
            Quickly::Yield
        }
        YIELDED => Quickly::Return(frame.slots[RESULT].take().unwrap_or_else(none_ref)),
        _ => Quickly::No,
    })
}

fn body(frame: &Frame, resumed: Resumed) -> R<Next> {
    match frame.stage.get() {
        STARTED => {
            let delay = frame.slots[DELAY].get_or_none();
            let zero = state().zero.obj();
            if delay.obj().is(zero) || delay.obj().is_at_most(zero)? {
                frame.stage.set(YIELDED);
                return Ok(Next::Yield);
            }
            start_timer(frame, delay.obj()).map(Next::Await)
        }
        YIELDED => {
            drop(resumed.value()?);
            Ok(Next::Return(frame.slots[RESULT].get_or_none()))
        }
        _ => {
            if let Some(handle) = frame.slots[HANDLE].take() {
                drop(handle.obj().call_method0(state().names.cancel.obj())?);
            }
            resumed.value().map(Next::Return)
        }
    }
}

/// A future that a timer completes.
fn start_timer(frame: &Frame, delay: Obj<'_>) -> R<Ref> {
    let state = state();
    if cfg!(Py_3_13) && delay.to_f64()?.is_nan() {
        return Err(Raised::value_error("Invalid delay: NaN (not a number)"));
    }
    let event_loop = state.asyncio.get_running_loop.obj().call0()?;
    let event_loop = event_loop.obj();
    let future = event_loop.call_method0(state.names.create_future.obj())?;
    let result = frame.slots[RESULT].get_or_none();
    let complete = state.asyncio.set_result_unless_cancelled.obj();
    let args = [event_loop, delay, complete, future.obj(), result.obj()];
    let handle = event_loop.call_method(state.names.call_later.obj(), &args)?;
    frame.slots[HANDLE].set(Some(handle));
    frame.stage.set(TIMED);
    Ok(future)
}
