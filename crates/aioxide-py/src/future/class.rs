//! The Python face of `Future`: methods and attributes, most of them shared with `Task`.
//!
//! May touch: one future's fields. Invariant: every method but the constructor refuses an object
//! whose `__init__` did not run, as asyncio's do.

use pyo3_ffi as c;

use super::life::{clear, dealloc, finalize, repr, traverse};
use super::outcome::notify;
use super::{
    FutureFields, How, Phase, Waiter, cancel_future, ensure_initialised, fields, invalid_state,
    loop_of, make_cancelled_error, result, set_exception, set_result,
};
use crate::event_loop;
use crate::ffi::call::{int, list, string, tuple};
use crate::ffi::class::{
    Class, add_methods_of, attribute, bind_tuple, generic_alias, initializer, noargs, onearg,
    varargs,
};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, context};
use crate::future_iter;
use crate::state::{Asyncio, state};
use crate::task;

fn exception(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    if this.event_loop.is_empty() {
        return Err(invalid_state("Future object is not initialized."));
    }
    match this.phase() {
        Phase::Cancelled => Err(Raised::throw(make_cancelled_error(this)?)),
        Phase::Pending => Err(invalid_state("Exception is not set.")),
        Phase::Finished => {
            if !this.exception().is_empty() {
                this.log_traceback.set(false);
            }
            Ok(this.exception().get_or_none())
        }
    }
}

/// Readies the receiver of `Future.set_result` and `Future.set_exception`; false for a stock future
/// or task, which the base's own method serves. Tasks are taken too: `Future.set_result(task, x)`
/// ends a task behind its back.
fn is_native_receiver(future: Obj<'_>) -> R<bool> {
    if future.is_instance_of_type(state().task_type) {
        return task::retire(future).map(|()| true);
    }
    if !future.is_instance_of_type(state().future_type) {
        return Ok(false);
    }
    ensure_initialised(fields(future)).map(|()| true)
}

/// `_asyncio.Future.name(future, value)`.
#[cold]
fn call_stock(future: Obj<'_>, name: &Ref, value: Obj<'_>) -> R<Ref> {
    let method = state().asyncio.future_class.obj().getattr(name.obj())?;
    method.obj().call(&[future, value])
}

fn set_result_method(future: Obj<'_>, value: Obj<'_>) -> R<Ref> {
    if !is_native_receiver(future)? {
        return call_stock(future, &state().names.set_result, value);
    }
    set_result(future, value.to_ref()).map(|()| none_ref())
}

fn set_exception_method(future: Obj<'_>, exception: Obj<'_>) -> R<Ref> {
    if !is_native_receiver(future)? {
        return call_stock(future, &state().names.set_exception, exception);
    }
    set_exception(future, exception).map(|()| none_ref())
}

const CANCEL: Signature = Signature {
    name: "cancel",
    params: &["msg"],
    positional: 1,
    required: 0,
};

/// The message argument of `cancel()`.
pub fn cancel_argument(args: &Args<'_>) -> R<Option<Ref>> {
    let [message] = args.bind::<1>(&CANCEL)?;
    Ok(Some(message.map_or_else(none_ref, Obj::to_ref)))
}

fn cancel_method(future: Obj<'_>, args: Args<'_>) -> R<Ref> {
    ensure_initialised(fields(future))?;
    cancel_future(future, cancel_argument(&args)?).map(boolean)
}

fn cancelled(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    Ok(boolean(
        !this.event_loop.is_empty() && this.phase() == Phase::Cancelled,
    ))
}

fn done(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    Ok(boolean(!this.event_loop.is_empty() && !this.is_pending()))
}

fn get_loop(future: Obj<'_>) -> R<Ref> {
    loop_of(future)
}

const ADD_DONE_CALLBACK: Signature = Signature {
    name: "add_done_callback",
    params: &["fn", "context"],
    positional: 1,
    required: 1,
};

fn add_done_callback(future: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [callback, given] = args.bind::<2>(&ADD_DONE_CALLBACK)?;
    let Some(callback) = callback else {
        return Ok(none_ref());
    };
    let this = fields(future);
    if this.event_loop.is_empty() {
        return Err(Raised::runtime("uninitialized Future object"));
    }
    let run_context = match given {
        Some(given) => given.to_ref(),
        None => context::copy_current_lightly()?,
    };
    let waiter = Waiter {
        target: callback.to_ref(),
        how: How::Call(run_context),
    };
    if this.is_pending() {
        this.add_waiter(waiter);
    } else {
        notify(future, this, waiter)?;
    }
    Ok(none_ref())
}

fn remove_done_callback(future: Obj<'_>, callback: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    // Comparing runs Python code, which may change the list: what compared equal is removed from
    // whatever is there then.
    let mut unwanted = Vec::new();
    let mut index = 0;
    while let Some(waiter) = this.waiter_at(index) {
        let (target, _context) = waiter.callable()?;
        if target.obj().equals(callback)? {
            unwanted.push(waiter);
        }
        index += 1;
    }
    let removed = unwanted.len() as i64;
    if removed > 0 {
        this.remove_waiters(unwanted);
    }
    int(removed)
}

fn make_cancelled_error_method(future: Obj<'_>) -> R<Ref> {
    make_cancelled_error(fields(future))
}

fn get_state(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    string(match this.phase() {
        Phase::Pending => "PENDING",
        Phase::Cancelled => "CANCELLED",
        Phase::Finished => "FINISHED",
    })
}

fn get_blocking(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    Ok(boolean(!this.event_loop.is_empty() && this.blocking.get()))
}

fn set_blocking(future: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let this = fields(future);
    ensure_initialised(this)?;
    this.blocking.set(required(value)?.is_true()?);
    Ok(())
}

/// The value given to a setter, or the error of a deletion.
pub fn required<'a>(value: Option<Obj<'a>>) -> R<Obj<'a>> {
    // SAFETY: a static of the interpreter.
    let class = unsafe { c::PyExc_AttributeError };
    value.ok_or_else(|| Raised::builtin(class, "cannot delete attribute"))
}

fn get_loop_attribute(future: Obj<'_>) -> R<Ref> {
    Ok(fields(future).event_loop.get_or_none())
}

fn get_callbacks(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    let mut items = Vec::new();
    while let Some(waiter) = this.shown_waiter_at(items.len())? {
        let (target, ctx) = waiter.callable()?;
        items.push(tuple(&[target.obj(), ctx.obj()])?);
    }
    if items.is_empty() {
        Ok(none_ref())
    } else {
        list(&items)
    }
}

fn get_result(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    Ok(this.result().get_or_none())
}

fn get_exception(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    match this.phase() {
        Phase::Finished => Ok(this.exception().get_or_none()),
        Phase::Pending | Phase::Cancelled => Ok(none_ref()),
    }
}

fn get_log_traceback(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    Ok(boolean(this.log_traceback.get()))
}

fn set_log_traceback(future: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    if required(value)?.is_true()? {
        return Err(Raised::value_error(
            "_log_traceback can only be set to False",
        ));
    }
    fields(future).log_traceback.set(false);
    Ok(())
}

fn get_source_traceback(future: Obj<'_>) -> R<Ref> {
    Ok(fields(future).source_traceback().get_or_none())
}

fn get_cancel_message(future: Obj<'_>) -> R<Ref> {
    Ok(fields(future).cancel_message().get_or_none())
}

fn set_cancel_message(future: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = required(value)?;
    fields(future).cancel_message().set(Some(value.to_ref()));
    Ok(())
}

const INIT: Signature = Signature {
    name: "Future",
    params: &["loop"],
    positional: 0,
    required: 0,
};

fn init(future: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [event_loop] = bind_tuple::<1>(args, kwargs, &INIT)?;
    initialise(future, event_loop)
}

/// The common part of `__init__`: binds to the loop given, or to the thread's.
pub fn initialise(future: Obj<'_>, event_loop: Option<Ref>) -> R<()> {
    let this = fields(future);
    if !this.event_loop.is_empty() {
        if state().quirks.init_once {
            // SAFETY: an object keeps its type alive, and the type its name.
            let name = unsafe { std::ffi::CStr::from_ptr((*future.type_ptr()).tp_name) };
            let name = name.to_string_lossy();
            return Err(Raised::runtime(&format!(
                "{name} object is already initialized"
            )));
        }
        this.clear_all();
    }
    this.phase.set(Phase::Pending as u8);
    this.log_traceback.set(false);
    this.blocking.set(false);
    let event_loop = match event_loop {
        Some(event_loop) if !event_loop.obj().is_none() => event_loop,
        _ => state().asyncio.get_event_loop.obj().call0()?,
    };
    if let Some(native) = event_loop::native(event_loop.obj()) {
        this.attach(event_loop.obj(), native);
        return this.trace_source(native);
    }
    this.event_loop.set(Some(event_loop.clone()));
    if event_loop::debug_of(event_loop.obj())? {
        this.set_source()?;
    }
    Ok(())
}

/// The methods that futures and tasks share.
pub fn common_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"result",
            result,
            c"The result; raises the exception that was set."
        ),
        noargs!(
            c"exception",
            exception,
            c"The exception that was set, or None."
        ),
        noargs!(
            c"cancelled",
            cancelled,
            c"Whether the future was cancelled."
        ),
        noargs!(c"done", done, c"Whether the future has an outcome."),
        noargs!(
            c"get_loop",
            get_loop,
            c"The loop that the future is bound to."
        ),
        varargs!(
            c"add_done_callback",
            add_done_callback,
            c"($self, fn, /, *, context=None)\n\
              Calls fn(future) soon after the future is done, in context or a copy of the current."
        ),
        onearg!(
            c"remove_done_callback",
            remove_done_callback,
            c"($self, fn, /)\nRemoves every callback equal to fn and returns how many there were."
        ),
        noargs!(
            c"_make_cancelled_error",
            make_cancelled_error_method,
            c"The CancelledError to raise; call it once per cancellation."
        ),
        future_iter::await_method(),
        generic_alias(),
    ]
}

/// The attributes that futures and tasks share.
pub fn common_attributes() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(c"_state", get_state, c"PENDING, CANCELLED or FINISHED."),
        attribute!(
            c"_asyncio_future_blocking",
            get_blocking,
            set_blocking,
            c"Set by await, cleared by the task that waits: tells yield from yield from."
        ),
        attribute!(
            c"_loop",
            get_loop_attribute,
            c"The loop, or None before __init__."
        ),
        attribute!(
            c"_callbacks",
            get_callbacks,
            c"[(callback, context), ...] or None."
        ),
        attribute!(c"_result", get_result, c"The result, or None."),
        attribute!(c"_exception", get_exception, c"The exception, or None."),
        attribute!(
            c"_log_traceback",
            get_log_traceback,
            set_log_traceback,
            c"Whether an exception still waits to be retrieved; can be set to False."
        ),
        attribute!(
            c"_source_traceback",
            get_source_traceback,
            c"Where the future was created, in debug mode."
        ),
        attribute!(
            c"_cancel_message",
            get_cancel_message,
            set_cancel_message,
            c"The message of the last cancel()."
        ),
    ]
}

/// Creates `Future`, a subclass of `_asyncio.Future` whose fields begin at `offset`.
pub fn build_type(asyncio: &Asyncio, offset: usize) -> R<Ref> {
    let class = Class::new(c"aioxide.Future", offset + size_of::<FutureFields>());
    let class = future_iter::slots(class)
        .doc(c"Future(*, loop=None)\n--\n\nA native future. Source: asyncio.Future.")
        .flags(c::Py_TPFLAGS_BASETYPE)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .slot(c::Py_tp_finalize, finalize as *mut _)
        .methods(common_methods())
        .methods([varargs!(
            c"cancel",
            cancel_method,
            c"($self, /, msg=None)\n\
              Cancels the future with an optional message; False if it was done."
        )])
        .attributes(common_attributes())
        .build(Some(asyncio.future_class.obj()))?;
    let shared = [
        onearg!(
            c"set_result",
            set_result_method,
            c"($self, result, /)\n\
              Marks the future done with a result. InvalidStateError if it was done."
        ),
        onearg!(
            c"set_exception",
            set_exception_method,
            c"($self, exception, /)\n\
              Marks the future done with an exception. InvalidStateError if it was done."
        ),
    ];
    add_methods_of(class.obj(), asyncio.future_class.obj(), shared)?;
    future_iter::hide(class, c"__next__")
}
