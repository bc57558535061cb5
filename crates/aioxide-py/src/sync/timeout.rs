//! `Timeout`, `timeout` and `timeout_at`.
//!
//! ```text
//! Created ── enter ──> Entered ── exit ──> Exited
//!                        │
//!                        └── expire ──> Expiring ── exit ──> Expired
//! ```
//! May touch: the timer that it set, the task it was entered in. Invariants: `handler` is filled
//! only while entered; methods that a subclass replaces are called wherever asyncio's code would.
//! *Source*: `asyncio.timeouts`.

#![forbid(unsafe_code)]

use std::cell::Cell;

use super::timeout_class::{fields, new};
use crate::event_loop;
use crate::ffi::builtin::{add, timeout_error};
use crate::ffi::call::{float, import, string, text};
use crate::ffi::class::type_version_of;
use crate::ffi::error::given_matches;
use crate::ffi::exception::{assertion_failed, context_of, is_subclass, of_group};
use crate::ffi::exception::{raise_while_handling, set_cause, set_context};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, current};
use crate::handle::{self, Callback};
use crate::state::state;
use crate::task;

/// Where a timeout stands. The numbers index `Timeouts::states`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Not entered yet.
    Created = 0,
    /// Inside of `async with`.
    Entered = 1,
    /// Due: the task was told to cancel.
    Expiring = 2,
    /// Left after it was due.
    Expired = 3,
    /// Left in time.
    Exited = 4,
}

/// The types, and what they take from asyncio.
pub struct Timeouts {
    /// What users see: the core and asyncio's class are its bases.
    pub leaf: Ref,
    /// Version of the leaf as it was made: another one means that somebody patched it.
    pub version: Cell<u32>,
    /// `Timeout._on_timeout`, unbound.
    pub on_timeout: Ref,
    /// `asyncio.timeouts._State`, by number.
    pub states: [Ref; 5],
    /// An exception that came from the cancellation is shown the TimeoutError as its context.
    pub inserts_error: bool,
}

/// Notes the native type as it is now: as it was made.
pub fn note_made() {
    let timeouts = &state().timeouts;
    // Looked up once, so that the type has a version.
    drop(timeouts.leaf.obj().getattr_str(c"reschedule"));
    timeouts.version.set(type_version_of(timeouts.leaf.obj()));
}

/// Whether `this` is of our own class, with nothing replaced: methods may be called directly.
#[inline]
fn is_plain(this: Obj<'_>) -> bool {
    let timeouts = &state().timeouts;
    this.type_ptr() == timeouts.leaf.ptr().cast()
        && type_version_of(timeouts.leaf.obj()) == timeouts.version.get()
        && fields(this).dict.is_empty()
}

/// `RuntimeError` unless entered. *Source*: `Timeout.reschedule`.
fn check_entered(this: Obj<'_>) -> R<()> {
    match fields(this).state() {
        State::Entered => Ok(()),
        State::Created => Err(Raised::runtime("Timeout has not been entered")),
        other => {
            let value = state_value(other)?;
            Err(Raised::runtime(&format!(
                "Cannot change state of {value} Timeout"
            )))
        }
    }
}

/// What asyncio calls a state.
fn state_value(number: State) -> R<String> {
    let member = &state().timeouts.states[number as usize];
    text(
        member
            .obj()
            .getattr(state().names.value.obj())?
            .obj()
            .str()?
            .obj(),
    )
}

/// `reschedule(when)`.
pub fn reschedule(this: Obj<'_>, when: Obj<'_>) -> R<()> {
    check_entered(this)?;
    let fields = fields(this);
    fields.when.set(Some(when.to_ref()));
    if let Some(handler) = fields.handler.get() {
        cancel_handle(handler.obj())?;
    }
    if when.is_none() {
        fields.handler.clear();
        return Ok(());
    }
    let handler = arm(this, when)?;
    fields.handler.set(Some(handler));
    Ok(())
}

/// Has the loop call `_on_timeout` when it is time.
#[inline]
fn arm(this: Obj<'_>, when: Obj<'_>) -> R<Ref> {
    let event_loop = current::loop_required()?;
    let event_loop = event_loop.obj();
    if let Some(native) = event_loop::native(event_loop)
        && native.has_plain_timers()
        && when.is_exact_float()
        && is_plain(this)
    {
        let args = [this];
        let callback = Callback {
            function: state().timeouts.on_timeout.obj(),
            args: &args,
            context: None,
        };
        let when = when.to_f64()?;
        return if when <= native.time()? {
            native.call_soon(&callback)
        } else {
            native.call_at(when, &callback)
        };
    }
    let names = &state().names;
    let callback = this.getattr(names._on_timeout.obj())?;
    let now = event_loop.call_method0(names.time.obj())?;
    if when.is_at_most(now.obj())? {
        event_loop.call_method1(names.call_soon.obj(), callback.obj())
    } else {
        let args = [event_loop, when, callback.obj()];
        event_loop.call_method(names.call_at.obj(), &args)
    }
}

/// `handle.cancel()`.
#[inline]
pub fn cancel_handle(handler: Obj<'_>) -> R<()> {
    let types = &state().types;
    let class = handler.type_ptr();
    if class == types.timer_handle.ptr().cast() || class == types.handle.ptr().cast() {
        return handle::cancel(handler).map(drop);
    }
    let name = state().names.cancel.obj();
    handler.call_method0(name).map(drop)
}

/// What `async with` does first.
#[inline]
pub fn enter(this: Obj<'_>) -> R<()> {
    let fields = fields(this);
    if fields.state() != State::Created {
        return Err(Raised::runtime("Timeout has already been entered"));
    }
    let event_loop = current::loop_required()?;
    let Some(task) = current::task_of(event_loop.obj())? else {
        return Err(Raised::runtime("Timeout should be used inside a task"));
    };
    fields.set_state(State::Entered);
    fields.task.set(Some(task.clone()));
    fields.cancelling.set(task::cancelling_of(task.obj())?);
    let when = fields.when.get_or_none();
    if is_plain(this) {
        return reschedule(this, when.obj());
    }
    let name = state().names.reschedule.obj();
    this.call_method1(name, when.obj()).map(drop)
}

/// As `exit`, for an exception that is handled in native code.
#[inline]
pub fn exit_handling(this: Obj<'_>, error: Obj<'_>) -> R<()> {
    match exit(this, Some((error.type_obj(), error))) {
        Ok(()) => Ok(()),
        Err(raised) => Err(raise_while_handling(raised.take(), error)),
    }
}

/// What `async with` does last; `exception` is what left the body, as class and instance.
///
/// Raises TimeoutError in its place where the cancellation was ours alone.
#[inline]
pub fn exit(this: Obj<'_>, exception: Option<(Obj<'_>, Obj<'_>)>) -> R<()> {
    let fields = fields(this);
    let entered = fields.state() == State::Entered;
    if !entered && fields.state() != State::Expiring {
        return Err(assertion_failed());
    }
    if let Some(handler) = fields.handler.take() {
        cancel_handle(handler.obj())?;
    }
    if entered {
        fields.set_state(State::Exited);
        return Ok(());
    }
    exit_expired(this, exception)
}

#[cold]
fn exit_expired(this: Obj<'_>, exception: Option<(Obj<'_>, Obj<'_>)>) -> R<()> {
    let fields = fields(this);
    fields.set_state(State::Expired);
    let task = fields.task.get_or_none();
    // Since there are no new cancel requests, we're handling this.
    let is_ours = task::uncancel_of(task.obj())? <= fields.cancelling.get();
    let Some((class, value)) = exception.filter(|_| is_ours) else {
        return Ok(());
    };
    let cancelled = state().asyncio.cancelled_error.obj();
    let inserts = state().timeouts.inserts_error;
    if class.is(cancelled) || (inserts && is_subclass(class, cancelled)?) {
        let error = timeout_error().call0()?;
        set_cause(error.obj(), value);
        return Err(Raised::raise(error));
    }
    if inserts && !value.is_none() {
        insert_error(this, value)?;
        for inner in of_group(value)? {
            insert_error(this, inner.obj())?;
        }
    }
    Ok(())
}

/// `self._insert_timeout_error(exception)`.
fn insert_error(this: Obj<'_>, exception: Obj<'_>) -> R<()> {
    if is_plain(this) {
        return insert_timeout_error(exception);
    }
    let name = state().names._insert_timeout_error.obj();
    this.call_method1(name, exception).map(drop)
}

/// Puts a TimeoutError before the cancellation in the chain of contexts.
pub fn insert_timeout_error(exception: Obj<'_>) -> R<()> {
    let cancelled = state().asyncio.cancelled_error.ptr();
    let mut link = exception.to_ref();
    while let Some(context) = context_of(link.obj()) {
        if given_matches(context.obj(), cancelled) {
            let error = timeout_error().call0()?;
            set_cause(error.obj(), context.obj());
            set_context(error.obj(), Some(context.obj()));
            set_context(link.obj(), Some(error.obj()));
            break;
        }
        link = context;
    }
    Ok(())
}

/// `_on_timeout()`: the deadline has come.
pub fn expire(this: Obj<'_>) -> R<()> {
    let fields = fields(this);
    if fields.state() != State::Entered {
        return Err(assertion_failed());
    }
    let task = fields.task.get_or_none();
    task::cancel_any(task.obj())?;
    fields.set_state(State::Expiring);
    fields.handler.clear();
    Ok(())
}

/// `<Timeout [state] when=...>`.
pub fn repr(this: Obj<'_>) -> R<Ref> {
    let fields = fields(this);
    let mut info = String::new();
    if fields.state() == State::Entered {
        let mut when = fields.when.get_or_none();
        if !when.obj().is_none() {
            let round = import(c"builtins")?.obj().getattr_str(c"round")?;
            let digits = crate::ffi::call::int(3)?;
            when = round.obj().call(&[when.obj(), digits.obj()])?;
        }
        info = format!(" when={}", text(when.obj().str()?.obj())?);
    }
    let value = state_value(fields.state())?;
    string(&format!("<Timeout [{value}]{info}>"))
}

const TIMEOUT: Signature = Signature {
    name: "timeout",
    params: &["delay"],
    positional: 1,
    required: 1,
};

/// `timeout(delay)`.
pub fn timeout(_module: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [delay] = args.bind_python::<1>(&TIMEOUT)?;
    within(delay.filter(|delay| !delay.is_none()))
}

/// A timeout that is due after `delay`, or never.
#[inline]
pub fn within(delay: Option<Obj<'_>>) -> R<Ref> {
    let event_loop = current::loop_required()?;
    let Some(delay) = delay else {
        return new(None);
    };
    let when = match event_loop::native(event_loop.obj()) {
        Some(native) if delay.is_exact_float() || delay.is_exact_int() => {
            float(native.time()? + delay.to_f64()?)?
        }
        _ => {
            let now = event_loop.obj().call_method0(state().names.time.obj())?;
            add(now.obj(), delay)?
        }
    };
    new(Some(when))
}

const TIMEOUT_AT: Signature = Signature {
    name: "timeout_at",
    params: &["when"],
    positional: 1,
    required: 1,
};

/// `timeout_at(when)`.
pub fn timeout_at(_module: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [when] = args.bind_python::<1>(&TIMEOUT_AT)?;
    new(when.map(Obj::to_ref))
}
