//! `as_completed`: an iterator over awaitables in the order in which they end.
//!
//! Plain iteration gives coroutines for the next result; from 3.13 on asynchronous iteration gives
//! the futures themselves. Before 3.13 asyncio's is a generator: it looks at its arguments when it
//! is first asked. May touch: the futures given, its own queue. Invariant: every future in `todo`
//! is listened to. *Source*: `asyncio.as_completed`, `asyncio.tasks._AsCompletedIterator`.

use std::cell::Cell;

use pyo3_ffi as c;

use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::function::{self, Call, Function};
use super::{Listener, child, timeout};
use crate::ffi::builtin::{
    collect, len, set_add, set_from, set_new, set_remove, timeout_error, type_name,
};
use crate::ffi::call::import;
use crate::ffi::class::{noargs, onearg};
use crate::ffi::object::none_ref;
use crate::ffi::raising::stop_async_iteration;
use crate::ffi::references::{self, OFFSET, References};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, Slot, layout};
use crate::state::state;

#[repr(C)]
struct Fields {
    /// The queue of futures that are done; `None` in it stands for the timeout.
    done: Slot,
    /// The set of those that are not.
    todo: Slot,
    /// The handle of the timeout.
    handle: Slot,
    /// The task that called, for the tools of 3.14.
    caller: Slot,
    /// The arguments, until it begins: before 3.13.
    given: [Slot; 2],
    /// How many are still to be asked for.
    left: Cell<usize>,
}

fn fields(this: Obj<'_>) -> &Fields {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(this.ptr(), OFFSET) }
}

impl References for Fields {
    fn each(&self, look: impl FnMut(&Slot)) {
        let [fs, limit] = &self.given;
        [
            &self.done,
            &self.todo,
            &self.handle,
            &self.caller,
            fs,
            limit,
        ]
        .into_iter()
        .for_each(look);
    }
}

const SIGNATURE: Signature = Signature {
    name: "as_completed",
    params: &["fs", "timeout"],
    positional: 1,
    required: 1,
};

/// `as_completed(fs, *, timeout=None)`.
pub fn as_completed(_module: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let bound = args.bind_python::<2>(&SIGNATURE)?;
    let class = state().types.as_completed.ptr().cast();
    // SAFETY: a ready type of ours; zeroed memory is a valid iterator at its end.
    let made = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    for (slot, value) in fields(made.obj()).given.iter().zip(bound) {
        slot.set(value.map(Obj::to_ref));
    }
    if cfg!(Py_3_13) {
        begin(made.obj())?;
    }
    Ok(made)
}

/// Takes the arguments: from here on the iterator listens.
fn begin(this: Obj<'_>) -> R<()> {
    let fields = fields(this);
    let Some(given) = fields.given[0].take() else {
        return Ok(());
    };
    let limit = fields.given[1]
        .take()
        .filter(|limit| !limit.obj().is_none());
    refuse_single(given.obj())?;
    let event_loop = state().waiting.get_event_loop.obj().call0()?;
    let event_loop = event_loop.obj();
    fields
        .done
        .set(Some(state().sync.queue.leaf.obj().call0()?));
    if cfg!(Py_3_14) {
        let caller = state().asyncio.current_task.obj().call0()?;
        fields
            .caller
            .set(Some(caller).filter(|caller| !caller.obj().is_none()));
    }
    let todo = set_new()?;
    for awaitable in collect(Some(set_from(given.obj())?.obj()))? {
        let future = child::ensure_future(awaitable.obj(), Some(event_loop))?;
        set_add(todo.obj(), future.obj())?;
    }
    let futures = collect(Some(todo.obj()))?;
    fields.left.set(futures.len());
    fields.todo.set(Some(todo));
    let caller = fields.caller.get();
    for future in &futures {
        child::listen(future.obj(), this, Listener::AsCompleted)?;
        child::add_edge(future.obj(), caller.as_ref())?;
    }
    if let Some(limit) = limit.filter(|_| !futures.is_empty()) {
        let callback = TIMEOUT.bind(this)?;
        let args = [event_loop, limit.obj(), callback.obj()];
        let handle = event_loop.call_method(state().names.call_later.obj(), &args)?;
        fields.handle.set(Some(handle));
    }
    Ok(())
}

/// TypeError for one awaitable where several were expected.
fn refuse_single(given: Obj<'_>) -> R<()> {
    let asyncio = &state().asyncio;
    let asked: &[&Ref] = if cfg!(Py_3_13) {
        &[&state().waiting.isawaitable]
    } else {
        &[&asyncio.isfuture, &asyncio.iscoroutine]
    };
    for question in asked {
        if question.obj().call1(given)?.obj().is_true()? {
            let name = type_name(given)?;
            return Err(Raised::type_error(&if cfg!(Py_3_13) {
                format!("expects an iterable of awaitables, not {name}")
            } else {
                format!("expect an iterable of futures, not {name}")
            }));
        }
    }
    Ok(())
}

/// `self._done.put_nowait(item)`.
fn put(this: &Fields, item: Obj<'_>) -> R<()> {
    let queue = this.done.get_or_none();
    let name = state().names.put_nowait.obj();
    queue.obj().call_method1(name, item).map(drop)
}

/// One of the futures is done.
pub fn completed(this: Obj<'_>, future: Obj<'_>) -> R<()> {
    let fields = fields(this);
    let todo = fields.todo.get_or_none();
    if todo.obj().is_none() || len(todo.obj())? == 0 {
        // The timeout was here first.
        return Ok(());
    }
    set_remove(todo.obj(), future)?;
    child::discard_edge(future, fields.caller.get().as_ref())?;
    put(fields, future)?;
    match fields.handle.get() {
        Some(handle) if len(todo.obj())? == 0 => timeout::cancel_handle(handle.obj()),
        _ => Ok(()),
    }
}

fn completed_method(this: Obj<'_>, future: Obj<'_>) -> R<Ref> {
    completed(this, future).map(|()| none_ref())
}

static COMPLETED: crate::ffi::class::Definition = crate::ffi::class::Definition::new(onearg!(
    c"_handle_completion",
    completed_method,
    c"One of the futures is done."
));

/// The callable that tells the iterator.
pub fn callback(this: Obj<'_>) -> R<Ref> {
    COMPLETED.bind(this)
}

fn timed_out(this: Obj<'_>) -> R<Ref> {
    let fields = fields(this);
    let todo = fields.todo.get_or_none();
    let caller = fields.caller.get();
    for future in collect(Some(todo.obj()))? {
        child::unlisten(future.obj(), this, Listener::AsCompleted)?;
        child::discard_edge(future.obj(), caller.as_ref())?;
        put(fields, none_ref().obj())?;
    }
    fields.todo.set(Some(set_new()?));
    Ok(none_ref())
}

static TIMEOUT: crate::ffi::class::Definition = crate::ffi::class::Definition::new(noargs!(
    c"_handle_timeout",
    timed_out,
    c"The time is over."
));

// ---- iterating ----------------------------------------------------------------------------------

/// What plain iteration gives.
static ONE: Kind = Kind {
    name: "_wait_for_one",
    qualname: if cfg!(Py_3_13) {
        "_AsCompletedIterator._wait_for_one"
    } else {
        "as_completed.<locals>._wait_for_one"
    },
    body: one,
    quick: None,
};

static ANEXT_KIND: Kind = Kind {
    name: "__anext__",
    qualname: "_AsCompletedIterator.__anext__",
    body: next_one,
    quick: None,
};

/// `__anext__`, from 3.13 on.
static ANEXT: Function = Function {
    name: "__anext__",
    qualname: "_AsCompletedIterator.__anext__",
    signature: "(self)",
    doc: "The next future that is done.",
    call: Call::Method(anext),
};

fn anext(this: Obj<'_>, _args: Args<'_>) -> R<Ref> {
    coroutine::create(&ANEXT_KIND, [Some(this.to_ref())])
}

fn one(frame: &Frame, resumed: Resumed) -> R<Next> {
    if frame.stage.get() == 0 {
        return ask(frame);
    }
    let future = take(frame, resumed)?;
    child::outcome(future.obj()).map(Next::Return)
}

fn next_one(frame: &Frame, resumed: Resumed) -> R<Next> {
    if frame.stage.get() == 0 {
        let this = frame.slots[0].get_or_none();
        let left = &fields(this.obj()).left;
        if left.get() == 0 {
            return Err(stop_async_iteration());
        }
        left.set(left.get() - 1);
        return ask(frame);
    }
    take(frame, resumed).map(Next::Return)
}

/// `await self._done.get()`.
fn ask(frame: &Frame) -> R<Next> {
    frame.stage.set(1);
    let this = frame.slots[0].get_or_none();
    let queue = fields(this.obj()).done.get_or_none();
    let name = state().names.get.obj();
    queue.obj().call_method0(name).map(Next::Await)
}

/// The future that came out of the queue; TimeoutError where the time was over first.
fn take(frame: &Frame, resumed: Resumed) -> R<Ref> {
    let this = frame.slots[0].get_or_none();
    match resumed {
        Resumed::Value(future) if !future.obj().is_none() => Ok(future),
        Resumed::Value(_) => Err(Raised::raise(timeout_error().call0()?)),
        Resumed::Raised(error) => {
            if state().waiting.unanswered_counts {
                let left = &fields(this.obj()).left;
                left.set(left.get() + 1);
            }
            Err(Raised::throw(error))
        }
    }
}

/// Null without an error is the end.
unsafe extern "C" fn iternext(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let this = unsafe { Obj::from_ptr(this) };
    let mut ended = false;
    let next = crate::ffi::error::guard(|| {
        begin(this)?;
        let left = &fields(this).left;
        if left.get() == 0 {
            ended = true;
            return Ok(none_ref());
        }
        left.set(left.get() - 1);
        coroutine::create(&ONE, [Some(this.to_ref())])
    });
    if ended {
        // SAFETY: the None that the guard just returned owned.
        drop(unsafe { Ref::steal_opt(next) });
        return std::ptr::null_mut();
    }
    next
}

/// `close()`, as generators have it.
fn close(this: Obj<'_>) -> R<Ref> {
    let fields = fields(this);
    fields.given[0].clear();
    fields.left.set(0);
    Ok(none_ref())
}

/// Creates the type; `maker` is the type of coroutine functions.
pub fn build_type(maker: Obj<'_>) -> R<Ref> {
    let class = references::class::<Fields>(c"aioxide._AsCompletedIterator")
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .doc(c"Iterator of awaitables representing tasks of as_completed.")
        .slot(c::Py_tp_iter, c::PyObject_SelfIter as *mut _)
        .slot(c::Py_tp_iternext, iternext as *mut _);
    if !cfg!(Py_3_13) {
        return class
            .methods([noargs!(c"close", close, c"Ends the iteration.")])
            .build(None);
    }
    let class = class
        .slot(c::Py_am_aiter, c::PyObject_SelfIter as *mut _)
        .build(None)?;
    function::add_methods(class.obj(), maker, &[&ANEXT])?;
    Ok(class)
}

/// Whether a wait for the next one that is cancelled may be asked for again.
pub fn unanswered_counts() -> R<bool> {
    let tasks = import(c"asyncio.tasks")?;
    if !cfg!(Py_3_13) {
        return Ok(false);
    }
    let iterator = tasks.obj().getattr_str(c"_AsCompletedIterator")?;
    let wait = iterator.obj().getattr_str(c"_wait_for_one")?;
    super::waiting::names(wait.obj(), "_todo_left")
}
