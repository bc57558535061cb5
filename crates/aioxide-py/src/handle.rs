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
use crate::ffi::context::ContextSlot;
use crate::ffi::exception::while_handling;
use crate::ffi::layout::HEAD_BYTES;
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Obj, PyObject, R, Ref, Slot, layout};
use crate::state::state;

mod class;
mod guard;
mod queued;

pub use class::{build_thread_safe_type, build_timer_type, build_type};
use guard::Guard;
pub use guard::this_thread;
pub use queued::{
    PerLoop, discard, new_queued, new_queued_thread_safe, new_timed, run_queued, show,
};

/// How many arguments a handle holds without a tuple: measured, almost no callback has more.
const INLINE_ARGS: usize = 3;

/// `nargs` of a handle whose first argument is a tuple of all.
const IN_TUPLE: u8 = u8::MAX;

/// What the loop made a handle for.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Kind {
    /// To run soon; or a program made it.
    #[default]
    Plain,
    /// Other threads may cancel it: it has a guard behind its fields.
    Guarded,
    /// To run at a time.
    Timer,
}

/// The fields of all handle types; a plain handle leaves `when` unused.
///
/// asyncio's classes, which ours derive from, have nine words of `__slots__` that our attributes
/// hide. These fields lie over them, so that a handle is not longer than it has to be: up to
/// `when_given` each word is a reference or null, as the slots' own descriptors expect it,
/// whichever slot it is.
#[derive(Default)]
#[repr(C)]
pub struct HandleFields {
    callback: Slot,
    context: ContextSlot,
    event_loop: Slot,
    first_arg: Slot,
    second_arg: Slot,
    third_arg: Slot,
    source_traceback: Slot,
    /// The interpreter's list of weak references; later versions have it before the object.
    #[cfg(not(Py_3_12))]
    weak_references: Cell<usize>,
    repr: Slot,
    /// What `call_at` was given, where that was not a float: `when()` returns it.
    when_given: Slot,
    /// Loop time in seconds.
    when: Cell<f64>,
    /// How many arguments there are, or `IN_TUPLE`.
    nargs: Cell<u8>,
    cancelled: Cell<bool>,
    /// A timer handle that sits in the loop's heap.
    scheduled: Cell<bool>,
    kind: Cell<Kind>,
    /// The collector does not know it: see `queued`.
    hidden: Cell<bool>,
}

/// The fields of a handle that other threads may cancel.
#[repr(C)]
struct GuardedFields {
    handle: HandleFields,
    guard: Guard,
}

impl GuardedFields {
    fn holding(handle: HandleFields) -> GuardedFields {
        handle.kind.set(Kind::Guarded);
        let guard = Guard::up();
        GuardedFields { handle, guard }
    }
}

/// All native types keep their fields at the same place: over the slots of asyncio's classes or, if
/// those are not as expected, behind them.
static FIELDS_OFFSET: AtomicUsize = AtomicUsize::new(0);

/// The fields of a handle.
#[inline]
pub fn fields(handle: Obj<'_>) -> &HandleFields {
    debug_assert!(is_native(handle));
    let offset = FIELDS_OFFSET.load(Ordering::Relaxed);
    // SAFETY: only instances of the native types come here: methods get them from their own
    // descriptors, the loop from `new`. The offset is theirs.
    unsafe { layout::fields(handle.ptr(), offset) }
}

/// The guard of a handle that has one.
#[inline]
fn guard(handle: Obj<'_>) -> Option<&Guard> {
    if fields(handle).kind.get() != Kind::Guarded {
        return None;
    }
    let offset = FIELDS_OFFSET.load(Ordering::Relaxed);
    // SAFETY: only instances of the one type that has a guard are marked.
    Some(unsafe { &layout::fields::<GuardedFields>(handle.ptr(), offset).guard })
}

/// Runs `body` inside the handle's guard, if it has one.
#[inline(always)]
fn guarded<T>(handle: Obj<'_>, body: impl FnOnce() -> R<T>) -> R<T> {
    match guard(handle) {
        None => body(),
        Some(guard) => guard.within(body),
    }
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
#[inline]
pub fn new(event_loop: Obj<'_>, callback: &Callback<'_>, when: Option<f64>) -> R<Ref> {
    let types = &state().types;
    let class = if when.is_some() {
        &types.timer_handle
    } else {
        &types.handle
    };
    let parts = Parts::of(callback)?;
    // SAFETY: one of our types, of the size that its fields need.
    unsafe { allocate(class, || parts.fields(event_loop, when)) }.map(track)
}

/// Creates a handle that other threads may cancel: from 3.14 on it is guarded.
pub fn new_thread_safe(event_loop: Obj<'_>, callback: &Callback<'_>) -> R<Ref> {
    let Some(class) = &state().types.thread_safe_handle else {
        return new(event_loop, callback, None);
    };
    let parts = Parts::of(callback)?;
    let fields = || GuardedFields::holding(parts.fields(event_loop, None));
    // SAFETY: our type, of the size that its fields need.
    unsafe { allocate(class, fields) }.map(track)
}

/// Makes an instance of one of the handle types, which the collector does not know yet.
///
/// # Safety
/// `class` is that type, ready, and `T` its fields.
#[inline(always)]
unsafe fn allocate<T>(class: &Ref, fields: impl FnOnce() -> T) -> R<Ref> {
    let offset = FIELDS_OFFSET.load(Ordering::Relaxed);
    // SAFETY: the new instance has uninitialised memory from its head on to the end of its fields.
    unsafe {
        let new = c::PyObject_GC_New::<PyObject>(class.ptr().cast());
        let handle = Ref::steal(new)?;
        if offset != HEAD_BYTES {
            let between = offset - HEAD_BYTES;
            new.cast::<u8>().add(HEAD_BYTES).write_bytes(0, between);
        }
        new.cast::<u8>().add(offset).cast::<T>().write(fields());
        Ok(handle)
    }
}

/// Makes a new instance known to the collector.
#[inline(always)]
fn track(handle: Ref) -> Ref {
    // SAFETY: all of it is valid.
    unsafe { c::PyObject_GC_Track(handle.ptr().cast()) };
    handle
}

/// What a new handle needs and may fail to get.
struct Parts<'a> {
    function: Obj<'a>,
    context: ContextSlot,
    args: [Slot; INLINE_ARGS],
    nargs: u8,
}

impl<'a> Parts<'a> {
    #[inline(always)]
    fn of(callback: &Callback<'a>) -> R<Parts<'a>> {
        let hold = |arg: &Obj<'_>| Slot::holding(arg.to_ref());
        let (nargs, args) = match callback.args {
            [] => (0, Default::default()),
            [first] => (1, [hold(first), Slot::empty(), Slot::empty()]),
            [first, second] => (2, [hold(first), hold(second), Slot::empty()]),
            [first, second, third] => (3, [hold(first), hold(second), hold(third)]),
            all => {
                let all = Slot::holding(tuple(all)?);
                (IN_TUPLE, [all, Slot::empty(), Slot::empty()])
            }
        };
        Ok(Parts {
            function: callback.function,
            context: ContextSlot::new(callback.context)?,
            args,
            nargs,
        })
    }

    #[inline(always)]
    fn fields(self, event_loop: Obj<'_>, when: Option<f64>) -> HandleFields {
        let [first_arg, second_arg, third_arg] = self.args;
        HandleFields {
            callback: Slot::holding(self.function.to_ref()),
            context: self.context,
            event_loop: Slot::holding(event_loop.to_ref()),
            first_arg,
            second_arg,
            third_arg,
            nargs: Cell::new(self.nargs),
            when: Cell::new(when.unwrap_or(0.0)),
            kind: Cell::new(when.map_or(Kind::Plain, |_| Kind::Timer)),
            ..HandleFields::default()
        }
    }
}

impl HandleFields {
    #[inline(always)]
    fn arg_slots(&self) -> [&Slot; INLINE_ARGS] {
        [&self.first_arg, &self.second_arg, &self.third_arg]
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

    #[inline(always)]
    fn drop_target(&self) {
        self.callback.clear();
        if self.nargs.get() != 0 {
            for slot in self.arg_slots() {
                slot.clear();
            }
        }
    }

    fn args(&self) -> R<Ref> {
        if self.nargs.get() == IN_TUPLE {
            return Ok(self.first_arg.get_or_none());
        }
        let args: Vec<Ref> = self.arg_slots().into_iter().filter_map(Slot::get).collect();
        tuple(&args.iter().map(Ref::obj).collect::<Vec<_>>())
    }

    fn slots(&self) -> [&Slot; 8] {
        [
            &self.callback,
            &self.event_loop,
            &self.first_arg,
            &self.second_arg,
            &self.third_arg,
            &self.source_traceback,
            &self.repr,
            &self.when_given,
        ]
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.context.visit(visitor);
        for slot in self.slots() {
            visitor.slot(slot);
        }
    }

    #[inline(always)]
    fn clear(&self) {
        self.context.clear();
        self.event_loop.clear();
        self.drop_target();
        for slot in [&self.source_traceback, &self.repr, &self.when_given] {
            slot.clear();
        }
    }

    /// Gives an empty handle new contents.
    #[inline(always)]
    fn refill(&self, event_loop: Obj<'_>, parts: Parts<'_>) {
        let nargs = parts.nargs;
        self.nargs.set(nargs);
        if nargs != 0 {
            for (slot, arg) in self.arg_slots().into_iter().zip(parts.args) {
                slot.fill(arg.take());
            }
        }
        self.context.fill(parts.context);
        self.event_loop.fill(Some(event_loop.to_ref()));
        self.callback.fill(Some(parts.function.to_ref()));
    }

    /// As `init`: takes what a handle is made of.
    fn fill(&self, event_loop: Obj<'_>, callback: &Callback<'_>) -> R<()> {
        let parts = Parts::of(callback)?;
        self.clear();
        self.cancelled.set(false);
        self.nargs.set(parts.nargs);
        for (slot, arg) in self.arg_slots().into_iter().zip(&parts.args) {
            slot.set(arg.take());
        }
        self.context.swap(&parts.context);
        self.event_loop.set(Some(event_loop.to_ref()));
        self.callback.set(Some(callback.function.to_ref()));
        Ok(())
    }
}

/// Runs the callback in its context. An exception goes to the loop's exception handler, except
/// `SystemExit` and `KeyboardInterrupt`, which come back. *Source*: `asyncio.Handle._run`.
#[inline(always)]
pub fn run(handle: Obj<'_>) -> R<()> {
    guarded(handle, || run_now(handle, fields(handle)))
}

#[inline(always)]
fn run_now(handle: Obj<'_>, this: &HandleFields) -> R<()> {
    let Some(callback) = this.callback.get() else {
        return Ok(());
    };
    let result = match this.context.run(|| call(this, callback.obj())) {
        Some(result) => result,
        None => call_in(this, callback.obj()),
    };
    match result {
        Ok(()) => Ok(()),
        Err(raised) if raised.is_exit() => Err(raised),
        Err(raised) => report(handle, raised.take()),
    }
}

/// Calls with references of its own: the callback may cancel this very handle.
#[inline(always)]
fn call(this: &HandleFields, callback: Obj<'_>) -> R<()> {
    match this.nargs.get() {
        0 => callback.call0().map(drop),
        IN_TUPLE => {
            let args = this.first_arg.get_or_none();
            callback.call_dict(args.obj(), None).map(drop)
        }
        nargs => {
            let held = this.arg_slots().map(Slot::get_or_none);
            let args: [Obj<'_>; INLINE_ARGS] = std::array::from_fn(|index| held[index].obj());
            callback.call(&args[..nargs.into()]).map(drop)
        }
    }
}

/// `context.run(callback, *args)` of something that only acts like a context.
#[cold]
fn call_in(this: &HandleFields, callback: Obj<'_>) -> R<()> {
    let run_context = this.context.context()?;
    let run = run_context.obj().getattr(state().names.run.obj())?;
    let args = this.args()?;
    let items: Vec<Obj<'_>> = std::iter::once(callback)
        .chain((0..tuple_len(args.obj())).map(|index| tuple_item(args.obj(), index)))
        .collect();
    run.obj().call(&items).map(drop)
}

/// Tells the loop's exception handler that the callback failed.
#[cold]
pub fn report(handle: Obj<'_>, exception: Ref) -> R<()> {
    while_handling(exception.obj(), || tell_handler(handle, exception.obj()))
}

fn tell_handler(handle: Obj<'_>, exception: Obj<'_>) -> R<()> {
    let (state, this) = (state(), fields(handle));
    let Some(event_loop) = this.event_loop.get() else {
        return Ok(());
    };
    let described = describe(this)?;
    let message = string(&format!("Exception in callback {described}"))?;
    let context = dict()?;
    dict_set(context.obj(), state.names.message.obj(), message.obj())?;
    dict_set(context.obj(), state.names.exception.obj(), exception)?;
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
    guarded(handle, || cancel_now(handle, fields(handle)))
}

/// `handle.cancelled()`.
pub fn cancelled(handle: Obj<'_>) -> R<Ref> {
    guarded(handle, || Ok(boolean(fields(handle).is_cancelled())))
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
