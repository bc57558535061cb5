//! `Future`: the native future, a subclass of `_asyncio.Future`, and the part of a task that is one.
//!
//! ```text
//! Pending ── set_result / set_exception ──> Finished
//!    └────────── cancel ──────────────────> Cancelled
//! ```
//! May touch: its own fields; on completion the ready queue of its loop. Invariants:
//! - `event_loop` is empty exactly while the object is not initialised;
//! - a waiter is either a callback with its context, or a native task with no context: such a task
//!   sits here itself while it waits, without a wake-up object;
//! - after the state leaves Pending there are no waiters.

use std::cell::Cell;
use std::ffi::c_int;

use pyo3_ffi as c;

use crate::event_loop::{self, LoopFields};
use crate::ffi::call::{dict, dict_set, int, list, string, tuple};
use crate::ffi::class::{
    Class, Visitor, add_methods_of, attribute, bind_tuple, generic_alias, initializer, noargs,
    onearg, varargs,
};
use crate::ffi::error::{SavedError, given_matches};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, Slot, context, layout, trash};
use crate::state::{Asyncio, state};
use crate::task;

/// Where a future stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// No outcome yet.
    Pending = 0,
    /// `cancel()` took effect.
    Cancelled = 1,
    /// A result or an exception is set.
    Finished = 2,
}

/// Somebody to tell when the future is done.
pub struct Waiter {
    /// A callable, or a native task.
    pub target: Ref,
    /// The context to call in; `None` marks a native task.
    pub context: Option<Ref>,
}

/// The fields that futures and tasks share. All-zero memory is an uninitialised future.
#[repr(C)]
pub struct FutureFields {
    pub event_loop: Slot,
    /// The native loop behind `event_loop`, where calls may go to its queue directly.
    native: Cell<*const LoopFields>,
    first_target: Slot,
    first_context: Slot,
    /// The second and later waiters. Boxed so that the field is one word and zero means none.
    #[allow(clippy::box_collection)]
    more: Cell<Option<Box<Vec<Waiter>>>>,
    result: Slot,
    exception: Slot,
    exception_traceback: Slot,
    pub cancel_message: Slot,
    pub cancelled_error: Slot,
    pub source_traceback: Slot,
    phase: Cell<u8>,
    pub log_traceback: Cell<bool>,
    pub blocking: Cell<bool>,
}

/// The future part of a native future or task.
#[inline]
pub fn fields(future: Obj<'_>) -> &FutureFields {
    // SAFETY: methods get instances from their own descriptors, everyone else checks `is_native`
    // or made the object; futures and tasks share the offset and this prefix.
    unsafe { layout::fields(future.ptr(), state().layout.fields) }
}

/// Whether the object is exactly a native future or task (not a subclass).
#[inline]
pub fn is_native(object: Obj<'_>) -> bool {
    let class = object.type_ptr();
    let state = state();
    class == state.future_type || class == state.task_type
}

/// Allocates a future on a native loop: the body of `loop.create_future()`.
pub fn create(event_loop: Obj<'_>, native: &LoopFields) -> R<Ref> {
    // SAFETY: a ready type of ours; zeroed memory is a valid uninitialised future.
    let future = unsafe { Ref::steal(c::PyType_GenericAlloc(state().future_type, 0)) }?;
    let this = fields(future.obj());
    this.attach(event_loop, native);
    this.trace_source(native)?;
    Ok(future)
}

impl FutureFields {
    /// Binds to a native loop.
    #[inline]
    pub fn attach(&self, event_loop: Obj<'_>, native: &LoopFields) {
        self.event_loop.set(Some(event_loop.to_ref()));
        self.native.set(native);
    }

    /// Remembers where the future was created, if the loop debugs.
    #[inline]
    pub fn trace_source(&self, native: &LoopFields) -> R<()> {
        if native.debug() {
            self.set_source()
        } else {
            Ok(())
        }
    }

    #[cold]
    fn set_source(&self) -> R<()> {
        let stack = state().asyncio.traceback_extract_stack.obj().call0()?;
        self.source_traceback.set(Some(stack));
        Ok(())
    }

    /// The native loop, if calls may go to its queue directly.
    #[inline]
    pub fn native(&self) -> Option<&LoopFields> {
        // SAFETY: points into the loop object, which `event_loop` keeps alive; both are set and
        // cleared together.
        let native = unsafe { self.native.get().as_ref() };
        native.filter(|native| native.is_direct())
    }

    /// The state.
    #[inline]
    pub fn phase(&self) -> Phase {
        match self.phase.get() {
            0 => Phase::Pending,
            1 => Phase::Cancelled,
            _ => Phase::Finished,
        }
    }

    /// Whether there is no outcome yet.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.phase.get() == Phase::Pending as u8
    }

    /// Adds someone to tell. The caller has seen that the future is pending.
    #[inline]
    pub fn add_waiter(&self, waiter: Waiter) {
        debug_assert!(self.is_pending());
        let mut more = self.more.take();
        if self.first_target.is_empty() && more.is_none() {
            self.first_target.set(Some(waiter.target));
            self.first_context.set(waiter.context);
        } else {
            more.get_or_insert_default().push(waiter);
            self.more.set(more);
        }
    }

    #[allow(clippy::box_collection)]
    /// Takes all waiters, in the order in which they came.
    fn take_waiters(&self) -> (Option<Waiter>, Option<Box<Vec<Waiter>>>) {
        let first = self.first_target.take();
        let context = self.first_context.take();
        (
            first.map(|target| Waiter { target, context }),
            self.more.take(),
        )
    }

    /// References to all waiters, in order.
    fn waiters(&self) -> Vec<Waiter> {
        let mut waiters = Vec::new();
        if let Some(target) = self.first_target.get() {
            waiters.push(Waiter {
                target,
                context: self.first_context.get(),
            });
        }
        let more = self.more.take();
        for waiter in more.iter().flat_map(|more| more.iter()) {
            let context = waiter.context.clone();
            waiters.push(Waiter {
                target: waiter.target.clone(),
                context,
            });
        }
        self.more.set(more);
        waiters
    }

    fn put_waiters(&self, waiters: Vec<Waiter>) {
        let mut waiters = waiters.into_iter();
        if let Some(first) = waiters.next() {
            self.first_target.set(Some(first.target));
            self.first_context.set(first.context);
        }
        let rest: Vec<Waiter> = waiters.collect();
        self.more.set((!rest.is_empty()).then(|| Box::new(rest)));
    }

    /// Visits every reference of the future part.
    pub fn visit(&self, visitor: &mut Visitor) {
        for slot in self.slots() {
            visitor.slot(slot);
        }
        let more = self.more.take();
        for waiter in more.iter().flat_map(|more| more.iter()) {
            visitor.visit(waiter.target.ptr());
            visitor.visit(
                waiter
                    .context
                    .as_ref()
                    .map_or(std::ptr::null_mut(), Ref::ptr),
            );
        }
        self.more.set(more);
    }

    /// Drops every reference of the future part.
    pub fn clear(&self) {
        self.native.set(std::ptr::null());
        for slot in self.slots() {
            slot.clear();
        }
        drop(self.more.take());
    }

    fn slots(&self) -> [&Slot; 9] {
        [
            &self.event_loop,
            &self.first_target,
            &self.first_context,
            &self.result,
            &self.exception,
            &self.exception_traceback,
            &self.cancel_message,
            &self.cancelled_error,
            &self.source_traceback,
        ]
    }
}

#[cold]
fn not_initialised() -> Raised {
    Raised::runtime("Future object is not initialized.")
}

/// The loop, or the error of an object whose `__init__` was not called.
pub fn loop_of(future: Obj<'_>) -> R<Ref> {
    fields(future).event_loop.get().ok_or_else(not_initialised)
}

fn ensure_initialised(this: &FutureFields) -> R<()> {
    if this.event_loop.is_empty() {
        Err(not_initialised())
    } else {
        Ok(())
    }
}

#[cold]
fn invalid_state(message: &str) -> Raised {
    Raised::new(state().asyncio.invalid_state_error.obj(), message)
}

/// Tells everyone who waits. An error (of a foreign or closed loop's `call_soon`) drops the rest,
/// as asyncio does.
pub fn schedule_waiters(future: Obj<'_>) -> R<()> {
    let this = fields(future);
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
fn notify(future: Obj<'_>, this: &FutureFields, waiter: Waiter) -> R<()> {
    match (waiter.context, this.native()) {
        (None, Some(native)) => native.push_step(waiter.target),
        (Some(context), Some(native)) => {
            native.call_done(waiter.target.obj(), future, context.obj())
        }
        (None, None) => {
            let wakeup = task::wakeup_callback(waiter.target.obj())?;
            let context = task::fields(waiter.target.obj()).context.get_or_none();
            call_foreign(this, wakeup.obj(), future, context.obj())
        }
        (Some(context), None) => call_foreign(this, waiter.target.obj(), future, context.obj()),
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
    this.result.set(Some(result));
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
    this.exception_traceback.set(traceback);
    this.exception.set(Some(exception));
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
    this.cancel_message.set(message);
    schedule_waiters(future).map(|()| true)
}

/// The CancelledError to raise: the one that came out of the coroutine, or a new one.
pub fn make_cancelled_error(this: &FutureFields) -> R<Ref> {
    if let Some(error) = this.cancelled_error.take() {
        return Ok(error);
    }
    let class = state().asyncio.cancelled_error.obj();
    match this.cancel_message.get() {
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
    match this.exception.get() {
        None => Ok(Outcome::Value(this.result.get_or_none())),
        Some(exception) => {
            let traceback = this.exception_traceback.take().unwrap_or_else(none_ref);
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
        Outcome::Error(error) => Err(Raised::throw(error)),
    }
}

fn exception(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    if this.event_loop.is_empty() {
        return Err(invalid_state("Future object is not initialized."));
    }
    match this.phase() {
        Phase::Cancelled => Err(Raised::throw(make_cancelled_error(this)?)),
        Phase::Pending => Err(invalid_state("Exception is not set.")),
        Phase::Finished => {
            if !this.exception.is_empty() {
                this.log_traceback.set(false);
            }
            Ok(this.exception.get_or_none())
        }
    }
}

/// The receiver of `Future.set_result` and `Future.set_exception`, which take tasks as well:
/// `Future.set_result(task, value)` ends a task behind its back.
fn check_receiver(future: Obj<'_>) -> R<()> {
    if future.is_instance_of_type(state().task_type) {
        return task::retire(future);
    }
    if !future.is_instance_of_type(state().future_type) {
        return Err(Raised::type_error("a future of aioxide was expected"));
    }
    ensure_initialised(fields(future))
}

fn set_result_method(future: Obj<'_>, value: Obj<'_>) -> R<Ref> {
    check_receiver(future)?;
    set_result(future, value.to_ref()).map(|()| none_ref())
}

fn set_exception_method(future: Obj<'_>, exception: Obj<'_>) -> R<Ref> {
    check_receiver(future)?;
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
        None => context::copy_current()?,
    };
    let waiter = Waiter {
        target: callback.to_ref(),
        context: Some(run_context),
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
    let mut kept = Vec::new();
    let mut removed = 0;
    // Comparing runs Python code, which may change the list: compare copies, then remove what
    // compared equal from whatever is there then.
    for waiter in this.waiters() {
        let target = match &waiter.context {
            Some(_) => waiter.target.clone(),
            None => task::wakeup_callback(waiter.target.obj())?,
        };
        if target.obj().equals(callback)? {
            removed += 1;
        } else {
            kept.push(waiter);
        }
    }
    if removed > 0 && this.is_pending() {
        drop(this.take_waiters());
        this.put_waiters(kept);
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
    for waiter in this.waiters() {
        let (target, ctx) = match waiter.context {
            Some(ctx) => (waiter.target, ctx),
            None => {
                let task = waiter.target.obj();
                (
                    task::wakeup_callback(task)?,
                    task::fields(task).context.get_or_none(),
                )
            }
        };
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
    Ok(this.result.get_or_none())
}

fn get_exception(future: Obj<'_>) -> R<Ref> {
    let this = fields(future);
    ensure_initialised(this)?;
    Ok(this.exception.get_or_none())
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
    Ok(fields(future).source_traceback.get_or_none())
}

fn get_cancel_message(future: Obj<'_>) -> R<Ref> {
    Ok(fields(future).cancel_message.get_or_none())
}

fn set_cancel_message(future: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = required(value)?;
    fields(future).cancel_message.set(Some(value.to_ref()));
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
        this.clear();
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

fn repr_of(future: Obj<'_>) -> R<Ref> {
    ensure_initialised(fields(future))?;
    state().asyncio.future_repr.obj().call1(future)
}

unsafe extern "C" fn repr(future: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    crate::ffi::error::guard(|| repr_of(future))
}

/// Reports an exception that nobody retrieved. *Source*: `asyncio.Future.__del__`.
pub fn report_unretrieved(future: Obj<'_>) {
    let this = fields(future);
    if !this.log_traceback.replace(false) {
        return;
    }
    let saved = SavedError::save();
    // SAFETY: an object keeps its type alive.
    let name = unsafe { std::ffi::CStr::from_ptr((*future.type_ptr()).tp_name) };
    let name = name.to_string_lossy();
    let short = name.rsplit('.').next().unwrap_or("Future");
    let message = format!("{short} exception was never retrieved");
    let names = &state().names;
    let exception = this.exception.get_or_none();
    tell_handler(
        this,
        &message,
        &[
            (names.exception.obj(), exception.obj()),
            (names.future.obj(), future),
        ],
    );
    saved.restore();
}

/// Calls the loop's exception handler from a finalizer: errors go to `sys.unraisablehook`.
pub fn tell_handler(this: &FutureFields, message: &str, items: &[(Obj<'_>, Obj<'_>)]) {
    let Some(event_loop) = this.event_loop.get() else {
        return;
    };
    let names = &state().names;
    let call = || -> R<()> {
        let context = dict()?;
        dict_set(context.obj(), names.message.obj(), string(message)?.obj())?;
        for (key, value) in items {
            dict_set(context.obj(), *key, *value)?;
        }
        if let Some(traceback) = this.source_traceback.get() {
            dict_set(context.obj(), names.source_traceback.obj(), traceback.obj())?;
        }
        let name = names.call_exception_handler.obj();
        event_loop.obj().call_method1(name, context.obj()).map(drop)
    };
    if let Err(raised) = call() {
        let about = event_loop.obj().getattr(names.call_exception_handler.obj());
        match about {
            Ok(about) => raised.write_unraisable(about.obj()),
            Err(second) => {
                drop(second.take());
                Raised::runtime("the loop has no call_exception_handler")
                    .write_unraisable(event_loop.obj());
            }
        }
    }
}

unsafe extern "C" fn finalize(future: *mut PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    let done = crate::ffi::error::guard_status(|| {
        report_unretrieved(future);
        Ok(())
    });
    debug_assert_eq!(done, 0);
}

/// Visits what the base type holds; a base that lives on the heap visits the type itself.
pub fn traverse_base(object: Obj<'_>, base: Obj<'_>, visitor: &mut Visitor) {
    // SAFETY: a type object.
    let base = unsafe { &*base.ptr().cast::<c::PyTypeObject>() };
    visitor.base(base.tp_traverse, object.ptr());
    if base.tp_flags & c::Py_TPFLAGS_HEAPTYPE == 0 {
        visitor.visit(object.type_ptr().cast());
    }
}

/// Clears what the base type holds: instance dict and mirrored fields.
pub fn clear_base(object: Obj<'_>, base: Obj<'_>) {
    // SAFETY: a type object.
    let clear = unsafe { (*base.ptr().cast::<c::PyTypeObject>()).tp_clear };
    if let Some(clear) = clear {
        // SAFETY: the base's own function on an instance of a subtype.
        let status = unsafe { clear(object.ptr()) };
        debug_assert_eq!(status, 0);
    }
}

unsafe extern "C" fn traverse(
    future: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    let mut visitor = Visitor::new(visit, arg);
    traverse_base(future, state().asyncio.future_class.obj(), &mut visitor);
    fields(future).visit(&mut visitor);
    visitor.status()
}

unsafe extern "C" fn clear(future: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let future = unsafe { Obj::from_ptr(future) };
    fields(future).clear();
    clear_base(future, state().asyncio.future_class.obj());
    0
}

unsafe extern "C" fn dealloc(future: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(future, free) }
}

/// Takes an instance apart.
///
/// # Safety
/// `future` is an instance of ours without references.
unsafe fn free(future: *mut PyObject) {
    // SAFETY: an instance of ours without references; a finalizer may bring it back to life.
    unsafe {
        if c::PyObject_CallFinalizerFromDealloc(future) < 0 {
            return;
        }
        let class = c::Py_TYPE(future);
        c::PyObject_GC_UnTrack(future.cast());
        c::PyObject_ClearWeakRefs(future);
        clear(future);
        free_instance(future, class);
    }
}

/// Gives the memory back and the type its reference.
///
/// # Safety
/// `object` is dead and cleared, `class` is its type.
pub unsafe fn free_instance(object: *mut PyObject, class: *mut c::PyTypeObject) {
    // SAFETY: `tp_free` of a live type frees what its `tp_alloc` made; then the reference that
    // every instance of a heap type holds on its type goes.
    unsafe {
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        c::Py_DECREF(class.cast());
    }
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
            c"($self, fn, /, *, context=None)\nCalls fn(future) soon after the future is done, in context or a copy of the current."
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
    let class = Class::new(c"aioxide.Future", offset + size_of::<FutureFields>())
        .doc(c"Future(*, loop=None)\n--\n\nA native future. Source: asyncio.Future.")
        .flags(c::Py_TPFLAGS_BASETYPE)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .slot(c::Py_tp_finalize, finalize as *mut _)
        .slot(c::Py_tp_iter, crate::future_iter::create as *mut _)
        .slot(c::Py_am_await, crate::future_iter::create as *mut _)
        .methods(common_methods())
        .methods([varargs!(
            c"cancel",
            cancel_method,
            c"($self, /, msg=None)\nCancels the future with an optional message; False if it was done."
        )])
        .attributes(common_attributes())
        .build(Some(asyncio.future_class.obj()))?;
    let shared = [
        onearg!(
            c"set_result",
            set_result_method,
            c"($self, result, /)\nMarks the future done with a result. InvalidStateError if it was done."
        ),
        onearg!(
            c"set_exception",
            set_exception_method,
            c"($self, exception, /)\nMarks the future done with an exception. InvalidStateError if it was done."
        ),
    ];
    add_methods_of(class.obj(), asyncio.future_class.obj(), shared)?;
    Ok(class)
}
