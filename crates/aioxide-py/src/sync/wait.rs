//! `wait`. *Source*: `asyncio.wait`, `asyncio.tasks._wait`.
//!
//! May touch: the futures given, to listen to them while it waits. Invariant: they are listened to,
//! and let go, in the order in which a set of them gives them.

use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::function::{Call, Function};
use super::{Listener, cell, child, timeout};
use crate::event_loop;
use crate::ffi::builtin::{assertion, collect, is_plain_collection, set_from, set_new, type_name};
use crate::ffi::call::{list_of, text, tuple};
use crate::ffi::class::{Definition, onearg};
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, current};
use crate::future;
use crate::state::state;

/// `wait(fs, *, timeout=None, return_when=ALL_COMPLETED)`.
pub static WAIT: Function = Function {
    name: "wait",
    qualname: "wait",
    signature: "(fs, *, timeout=None, return_when='ALL_COMPLETED')",
    doc: "Wait for the Futures or Tasks given by fs to complete.\n\n\
          Returns two sets of Future: (done, pending). Does not raise TimeoutError: futures that \
          aren't done when the timeout occurs are returned in the second set.",
    call: Call::Function(wait),
};

static KIND: Kind = Kind {
    name: "wait",
    qualname: "wait",
    body,
    quick: None,
};

const SIGNATURE: Signature = Signature {
    name: "wait",
    params: &["fs", "timeout", "return_when"],
    positional: 1,
    required: 1,
};

/// The futures as they were given; then a list of them.
const FUTURES: usize = 0;
const TIMEOUT: usize = 1;
const RETURN_WHEN: usize = 2;
const CELL: usize = 3;

/// Slots of the cell.
const WAITER: usize = 0;
const HANDLE: usize = 1;
const CALLER: usize = 2;

/// When the wait is over, as a cell's mode.
#[derive(Copy, Clone, PartialEq, Eq)]
#[repr(u8)]
enum When {
    All = 0,
    First,
    FirstException,
}

fn wait(args: Args<'_>) -> R<Ref> {
    let bound = args.bind_python::<3>(&SIGNATURE)?;
    coroutine::create(&KIND, bound.map(|given| given.map(Obj::to_ref)))
}

fn body(frame: &Frame, resumed: Resumed) -> R<Next> {
    if frame.stage.get() == 0 {
        frame.stage.set(1);
        return start(frame).map(Next::Await);
    }
    let cell = frame.slots[CELL].get_or_none();
    let futures = collect(Some(frame.slots[FUTURES].get_or_none().obj()))?;
    let resumed = resumed.value().map_err(Raised::take);
    let_go(cell.obj(), &futures)?;
    drop(resumed.map_err(Raised::throw)?);
    sort_out(&futures).map(Next::Return)
}

fn start(frame: &Frame) -> R<Ref> {
    let given = frame.slots[FUTURES].get_or_none();
    refuse_single(given.obj())?;
    if !given.obj().is_true()? {
        return Err(Raised::value_error("Set of Tasks/Futures is empty."));
    }
    let when = when_of(frame.slots[RETURN_WHEN].get())?;
    let futures = collect(Some(set_from(given.obj())?.obj()))?;
    for future in &futures {
        refuse_coroutine(future.obj())?;
    }
    let event_loop = current::loop_required()?;
    let event_loop = event_loop.obj();
    if futures.is_empty() {
        return Err(assertion("Set of Futures is empty."));
    }
    let names = &state().names;
    let waiter = event_loop::create_future_on(event_loop)?;
    let handle = match frame.slots[TIMEOUT]
        .get()
        .filter(|given| !given.obj().is_none())
    {
        None => None,
        Some(delay) => {
            let release = state().waiting.release_waiter.obj();
            let args = [event_loop, delay.obj(), release, waiter.obj()];
            Some(event_loop.call_method(names.call_later.obj(), &args)?)
        }
    };
    let caller = if cfg!(Py_3_14) {
        current::task_of(event_loop)?
    } else {
        None
    };
    let cell = cell::create([Some(waiter.clone()), handle, caller.clone()])?;
    cell::fields(cell.obj()).left.set(futures.len());
    cell::fields(cell.obj()).mode.set(when as u8);
    frame.slots[CELL].set(Some(cell.clone()));
    for future in &futures {
        child::listen(future.obj(), cell.obj(), Listener::Wait)?;
        child::add_edge(future.obj(), caller.as_ref())?;
    }
    frame.slots[FUTURES].set(Some(list_of(futures)?));
    Ok(waiter)
}

/// TypeError for one future or coroutine where several were expected.
fn refuse_single(given: Obj<'_>) -> R<()> {
    if is_plain_collection(given) {
        return Ok(());
    }
    let asyncio = &state().asyncio;
    let is_future = asyncio.isfuture.obj().call1(given)?;
    let is_single =
        is_future.obj().is_true()? || asyncio.iscoroutine.obj().call1(given)?.obj().is_true()?;
    if !is_single {
        return Ok(());
    }
    let name = type_name(given)?;
    Err(Raised::type_error(&format!(
        "expect a list of futures, not {name}"
    )))
}

fn refuse_coroutine(given: Obj<'_>) -> R<()> {
    if future::is_native(given) {
        return Ok(());
    }
    let is_coroutine = state().asyncio.iscoroutine.obj().call1(given)?;
    if !is_coroutine.obj().is_true()? {
        return Ok(());
    }
    Err(Raised::type_error(
        "Passing coroutines is forbidden, use tasks explicitly.",
    ))
}

fn when_of(given: Option<Ref>) -> R<When> {
    let Some(given) = given else {
        return Ok(When::All);
    };
    let known = [
        ("ALL_COMPLETED", When::All),
        ("FIRST_COMPLETED", When::First),
        ("FIRST_EXCEPTION", When::FirstException),
    ];
    for (name, when) in known {
        if given.obj().equals(crate::ffi::call::string(name)?.obj())? {
            return Ok(when);
        }
    }
    let given = text(given.obj().str()?.obj())?;
    Err(Raised::value_error(&format!(
        "Invalid return_when value: {given}"
    )))
}

/// One of the futures is done.
pub fn completed(cell: Obj<'_>, future: Obj<'_>) -> R<()> {
    let this = cell::fields(cell);
    let left = this.left.get().saturating_sub(1);
    this.left.set(left);
    let mode = this.mode.get();
    let is_over = left == 0
        || mode == When::First as u8
        || (mode == When::FirstException as u8
            && !child::is_cancelled(future)?
            && child::exception(future)?.is_some());
    if is_over {
        if let Some(handle) = this.slots[HANDLE].get() {
            timeout::cancel_handle(handle.obj())?;
        }
        if let Some(waiter) = this.slots[WAITER].get()
            && !child::is_done(waiter.obj())?
        {
            child::set_result(waiter.obj(), none_ref())?;
        }
    }
    child::discard_edge(future, this.slots[CALLER].get().as_ref())
}

fn completed_method(cell: Obj<'_>, future: Obj<'_>) -> R<Ref> {
    completed(cell, future).map(|()| none_ref())
}

static COMPLETED: Definition = Definition::new(onearg!(
    c"_on_completion",
    completed_method,
    c"Tells a wait() that one of its futures is done."
));

/// The callable that tells `cell`.
pub fn callback(cell: Obj<'_>) -> R<Ref> {
    COMPLETED.bind(cell)
}

/// What `wait` does however it ends.
fn let_go(cell: Obj<'_>, futures: &[Ref]) -> R<()> {
    let this = cell::fields(cell);
    if let Some(handle) = this.slots[HANDLE].get() {
        timeout::cancel_handle(handle.obj())?;
    }
    let caller = this.slots[CALLER].get();
    for future in futures {
        child::unlisten(future.obj(), cell, Listener::Wait)?;
        child::discard_edge(future.obj(), caller.as_ref())?;
    }
    Ok(())
}

/// `(done, pending)`.
fn sort_out(futures: &[Ref]) -> R<Ref> {
    let (done, pending) = (set_new()?, set_new()?);
    for future in futures {
        let set = if child::is_done(future.obj())? {
            &done
        } else {
            &pending
        };
        crate::ffi::builtin::set_add(set.obj(), future.obj())?;
    }
    tuple(&[done.obj(), pending.obj()])
}
