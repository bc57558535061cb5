//! `Handle` and `TimerHandle`: cancellable callbacks, subclasses of asyncio's.
//!
//! Up to three arguments live inside the handle; more go to a tuple. The callback runs by
//! vectorcall in the handle's context. May touch: its own fields, and through `run` whatever the
//! callback does. Invariant: `callback` is empty exactly when the handle is cancelled.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3_ffi as c;

use crate::event_loop;
use crate::ffi::call::{dict, dict_set, string, text, tuple, tuple_item, tuple_len};
use crate::ffi::class::Visitor;
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Obj, R, Ref, Slot, context, layout};
use crate::state::state;

mod class;
mod guard;

pub use class::{build_thread_safe_type, build_timer_type, build_type};
use guard::Guard;

/// How many arguments a handle holds without a tuple: measured, almost no callback has more.
const INLINE_ARGS: usize = 3;

/// The fields of both handle types; a plain handle leaves `when` unused.
#[repr(C)]
pub struct HandleFields {
    event_loop: Slot,
    callback: Slot,
    context: Slot,
    args: [Slot; INLINE_ARGS],
    /// All arguments, where there are more than fit inline.
    args_tuple: Slot,
    source_traceback: Slot,
    repr: Slot,
    nargs: Cell<u32>,
    cancelled: Cell<bool>,
    /// A timer handle that sits in the loop's heap.
    scheduled: Cell<bool>,
    /// Loop time in seconds.
    when: Cell<f64>,
    /// What `call_at` was given, where that was not a float: `when()` returns it.
    when_given: Slot,
    /// Of handles that other threads may cancel.
    guard: Guard,
}

/// Both native types keep their fields at the same place: behind the larger base.
static FIELDS_OFFSET: AtomicUsize = AtomicUsize::new(0);

/// The fields of a handle.
#[inline]
pub fn fields(handle: Obj<'_>) -> &HandleFields {
    debug_assert!(is_native(handle));
    let offset = FIELDS_OFFSET.load(Ordering::Relaxed);
    // SAFETY: only instances of the two native types come here: methods get them from their own
    // descriptors, the loop from `new`. The offset is theirs.
    unsafe { layout::fields(handle.ptr(), offset) }
}

fn is_native(handle: Obj<'_>) -> bool {
    let types = &state().types;
    handle.is_instance_of_type(types.handle.ptr().cast())
        || handle.is_instance_of_type(types.timer_handle.ptr().cast())
        || types
            .thread_safe_handle
            .as_ref()
            .is_some_and(|class| handle.is_instance_of_type(class.ptr().cast()))
}

/// What to call, as `call_soon` and its sisters received it.
pub struct Callback<'a> {
    /// The callable.
    pub function: Obj<'a>,
    /// Its positional arguments.
    pub args: &'a [Obj<'a>],
    /// The context to run in; a copy of the current one if absent.
    pub context: Option<Obj<'a>>,
}

/// Creates a handle; `when` in loop seconds makes it a timer handle.
pub fn new(event_loop: Obj<'_>, callback: &Callback<'_>, when: Option<f64>) -> R<Ref> {
    let types = &state().types;
    let class = if when.is_some() {
        &types.timer_handle
    } else {
        &types.handle
    };
    let handle = allocate(class, event_loop, callback)?;
    fields(handle.obj()).when.set(when.unwrap_or(0.0));
    Ok(handle)
}

/// Creates a handle that other threads may cancel: from 3.14 on it is guarded.
pub fn new_thread_safe(event_loop: Obj<'_>, callback: &Callback<'_>) -> R<Ref> {
    let Some(class) = &state().types.thread_safe_handle else {
        return new(event_loop, callback, None);
    };
    let handle = allocate(class, event_loop, callback)?;
    fields(handle.obj()).guard.put_up();
    Ok(handle)
}

fn allocate(class: &Ref, event_loop: Obj<'_>, callback: &Callback<'_>) -> R<Ref> {
    let class = class.ptr().cast::<c::PyTypeObject>();
    let run_context = match callback.context {
        Some(context) if !context.is_none() => context.to_ref(),
        _ => context::copy_current()?,
    };
    // SAFETY: a ready type of ours; its memory comes zeroed, which is a valid empty handle.
    let handle = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    let this = fields(handle.obj());
    this.event_loop.set(Some(event_loop.to_ref()));
    this.callback.set(Some(callback.function.to_ref()));
    this.context.set(Some(run_context));
    this.set_args(callback.args)?;
    Ok(handle)
}

impl HandleFields {
    fn set_args(&self, args: &[Obj<'_>]) -> R<()> {
        if args.len() <= INLINE_ARGS {
            for (slot, arg) in self.args.iter().zip(args) {
                slot.set(Some(arg.to_ref()));
            }
        } else {
            self.args_tuple.set(Some(tuple(args)?));
        }
        self.nargs.set(args.len() as u32);
        Ok(())
    }

    /// Whether `cancel()` was called.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Keeps the time as it was given, unless a float says the same.
    pub fn keep_when(&self, when: Obj<'_>) {
        if !when.is_exact_float() {
            self.when_given.set(Some(when.to_ref()));
        }
    }

    /// Notes whether the loop's heap holds this timer handle.
    pub fn set_scheduled(&self, scheduled: bool) {
        self.scheduled.set(scheduled);
    }

    /// Stores where the handle was created: debug mode.
    pub fn set_source_traceback(&self, traceback: Ref) {
        self.source_traceback.set(Some(traceback));
    }

    fn drop_target(&self) {
        self.callback.clear();
        for slot in &self.args {
            slot.clear();
        }
        self.args_tuple.clear();
    }

    fn args(&self) -> R<Ref> {
        if let Some(tuple) = self.args_tuple.get() {
            return Ok(tuple);
        }
        let args: Vec<Ref> = self.args.iter().filter_map(Slot::get).collect();
        tuple(&args.iter().map(Ref::obj).collect::<Vec<_>>())
    }

    fn visit(&self, visitor: &mut Visitor) {
        for slot in [
            &self.event_loop,
            &self.callback,
            &self.context,
            &self.args_tuple,
        ] {
            visitor.slot(slot);
        }
        for slot in &self.args {
            visitor.slot(slot);
        }
        visitor.slot(&self.source_traceback);
        visitor.slot(&self.repr);
        visitor.slot(&self.when_given);
        self.guard.visit(visitor);
    }

    fn clear(&self) {
        self.drop_target();
        for slot in [
            &self.event_loop,
            &self.context,
            &self.source_traceback,
            &self.repr,
        ] {
            slot.clear();
        }
        self.when_given.clear();
    }
}

/// Runs the callback in its context. An exception goes to the loop's exception handler, except
/// `SystemExit` and `KeyboardInterrupt`, which come back. *Source*: `asyncio.Handle._run`.
pub fn run(handle: Obj<'_>) -> R<()> {
    let this = fields(handle);
    this.guard.within(|| run_now(handle, this))
}

fn run_now(handle: Obj<'_>, this: &HandleFields) -> R<()> {
    let (Some(callback), Some(run_context)) = (this.callback.get(), this.context.get()) else {
        return Ok(());
    };
    let result = if context::is_native(run_context.obj()) {
        context::enter(run_context.obj()).and_then(|()| {
            let result = call(this, callback.obj());
            context::leave(run_context.obj()).and(result)
        })
    } else {
        call_in(this, callback.obj(), run_context.obj())
    };
    match result {
        Ok(()) => Ok(()),
        Err(raised) if raised.is_exit() => Err(raised),
        Err(raised) => report(handle, raised.take()),
    }
}

/// Calls with references of its own: the callback may cancel this very handle.
#[inline]
fn call(this: &HandleFields, callback: Obj<'_>) -> R<()> {
    if let Some(args) = this.args_tuple.get() {
        return callback.call_dict(args.obj(), None).map(drop);
    }
    let held = [this.args[0].get(), this.args[1].get(), this.args[2].get()];
    let args: [Obj<'_>; INLINE_ARGS] =
        std::array::from_fn(|index| held[index].as_ref().map_or(none(), Ref::obj));
    callback.call(&args[..this.nargs.get() as usize]).map(drop)
}

/// `context.run(callback, *args)` of something that only acts like a context.
#[cold]
fn call_in(this: &HandleFields, callback: Obj<'_>, run_context: Obj<'_>) -> R<()> {
    let run = run_context.getattr(state().names.run.obj())?;
    let args = this.args()?;
    let items: Vec<Obj<'_>> = std::iter::once(callback)
        .chain((0..tuple_len(args.obj())).map(|index| tuple_item(args.obj(), index)))
        .collect();
    run.obj().call(&items).map(drop)
}

/// Tells the loop's exception handler that the callback failed.
#[cold]
pub fn report(handle: Obj<'_>, exception: Ref) -> R<()> {
    let (state, this) = (state(), fields(handle));
    let Some(event_loop) = this.event_loop.get() else {
        return Ok(());
    };
    let described = describe(this)?;
    let message = string(&format!("Exception in callback {described}"))?;
    let context = dict()?;
    dict_set(context.obj(), state.names.message.obj(), message.obj())?;
    dict_set(context.obj(), state.names.exception.obj(), exception.obj())?;
    dict_set(context.obj(), state.names.handle.obj(), handle)?;
    if let Some(traceback) = this.source_traceback.get() {
        dict_set(
            context.obj(),
            state.names.source_traceback.obj(),
            traceback.obj(),
        )?;
    }
    let name = state.names.call_exception_handler.obj();
    event_loop.obj().call_method1(name, context.obj()).map(drop)
}

/// The callback as asyncio prints it. 3.13 and later pass `debug` on.
fn describe(this: &HandleFields) -> R<String> {
    let callback = this.callback.get_or_none();
    let args = this.args()?;
    let format = state().asyncio.format_callback_source.obj();
    let described = if cfg!(Py_3_13) {
        let debug = boolean(event_loop::debug_of(this.event_loop.get_or_none().obj())?);
        format.call_kw(
            &[callback.obj(), args.obj(), debug.obj()],
            state().kw_debug.obj(),
        )?
    } else {
        format.call(&[callback.obj(), args.obj()])?
    };
    text(described.obj())
}

/// `handle.cancel()`.
pub fn cancel(handle: Obj<'_>) -> R<Ref> {
    let this = fields(handle);
    this.guard.within(|| cancel_now(handle, this))
}

/// `handle.cancelled()`.
pub fn cancelled(handle: Obj<'_>) -> R<Ref> {
    let this = fields(handle);
    this.guard.within(|| Ok(boolean(this.is_cancelled())))
}

fn cancel_now(handle: Obj<'_>, this: &HandleFields) -> R<Ref> {
    if this.cancelled.get() {
        return Ok(none_ref());
    }
    let Some(event_loop) = this.event_loop.get() else {
        return Ok(none_ref());
    };
    this.cancelled.set(true);
    if event_loop::debug_of(event_loop.obj())? {
        // Kept so that the repr still says what was cancelled.
        this.repr.set(Some(string(&handle.repr()?)?));
    }
    if this.scheduled.get() {
        event_loop::timer_cancelled(event_loop.obj());
    }
    this.drop_target();
    Ok(none_ref())
}
