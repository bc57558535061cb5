//! `Handle` and `TimerHandle`: cancellable callbacks, subclasses of asyncio's.
//!
//! Up to three arguments live inside the handle; more go to a tuple. The callback runs by
//! vectorcall in the handle's context. May touch: its own fields, and through `run` whatever the
//! callback does. Invariant: `callback` is empty exactly when the handle is cancelled.

use std::cell::Cell;
use std::ffi::c_int;

use pyo3_ffi as c;

use crate::event_loop;
use crate::ffi::call::{dict, dict_set, float, string, text, tuple, tuple_item, tuple_len};
use crate::ffi::class::{Class, Visitor, attribute, bind_tuple, initializer, noargs};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Signature, Slot, context, layout, trash};
use crate::state::{Asyncio, state};

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
}

/// Both native types keep their fields at the same place: behind the larger base.
static FIELDS_OFFSET: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// The fields of a handle.
#[inline]
pub fn fields(handle: Obj<'_>) -> &HandleFields {
    debug_assert!(is_native(handle));
    let offset = FIELDS_OFFSET.load(std::sync::atomic::Ordering::Relaxed);
    // SAFETY: only instances of the two native types come here: methods get them from their own
    // descriptors, the loop from `new`. The offset is theirs.
    unsafe { layout::fields(handle.ptr(), offset) }
}

fn is_native(handle: Obj<'_>) -> bool {
    let types = &state().types;
    let class = handle.type_obj();
    class.is(types.handle.obj()) || class.is(types.timer_handle.obj())
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
    this.when.set(when.unwrap_or(0.0));
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

fn cancelled(handle: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(handle).is_cancelled()))
}

fn run_method(handle: Obj<'_>) -> R<Ref> {
    run(handle).map(|()| none_ref())
}

fn get_context(handle: Obj<'_>) -> R<Ref> {
    Ok(fields(handle).context.get_or_none())
}

fn get_callback(handle: Obj<'_>) -> R<Ref> {
    Ok(fields(handle).callback.get_or_none())
}

fn get_args(handle: Obj<'_>) -> R<Ref> {
    let this = fields(handle);
    if this.callback.is_empty() {
        Ok(none_ref())
    } else {
        this.args()
    }
}

fn get_loop(handle: Obj<'_>) -> R<Ref> {
    Ok(fields(handle).event_loop.get_or_none())
}

fn get_source_traceback(handle: Obj<'_>) -> R<Ref> {
    Ok(fields(handle).source_traceback.get_or_none())
}

fn set_source_traceback(handle: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = value.filter(|value| !value.is_none()).map(Obj::to_ref);
    fields(handle).source_traceback.set(value);
    Ok(())
}

fn get_repr(handle: Obj<'_>) -> R<Ref> {
    Ok(fields(handle).repr.get_or_none())
}

fn get_scheduled(handle: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(handle).scheduled.get()))
}

fn set_scheduled(handle: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let Some(value) = value else {
        return Err(Raised::type_error("cannot delete attribute"));
    };
    fields(handle).scheduled.set(value.is_true()?);
    Ok(())
}

fn when(handle: Obj<'_>) -> R<Ref> {
    let this = fields(handle);
    this.when_given
        .get()
        .map_or_else(|| float(this.when.get()), Ok)
}

const INIT: Signature = Signature {
    name: "Handle",
    params: &["callback", "args", "loop", "context"],
    positional: 4,
    required: 3,
};

const TIMER_INIT: Signature = Signature {
    name: "TimerHandle",
    params: &["when", "callback", "args", "loop", "context"],
    positional: 5,
    required: 4,
};

fn init_from(handle: Obj<'_>, bound: &[Option<Ref>]) -> R<()> {
    let [Some(callback), Some(args), Some(event_loop), run_context] = bound else {
        return Err(Raised::type_error("a handle needs callback, args and loop"));
    };
    // SAFETY: alive; a new tuple or an error.
    let args = unsafe { Ref::steal(c::PySequence_Tuple(args.ptr())) }?;
    let run_context = match run_context {
        Some(context) if !context.obj().is_none() => context.clone(),
        _ => context::copy_current()?,
    };
    let this = fields(handle);
    this.clear();
    this.cancelled.set(false);
    this.event_loop.set(Some(event_loop.clone()));
    this.callback.set(Some(callback.clone()));
    this.context.set(Some(run_context));
    let items: Vec<Obj<'_>> = (0..tuple_len(args.obj()))
        .map(|index| tuple_item(args.obj(), index))
        .collect();
    this.set_args(&items)?;
    if event_loop::debug_of(event_loop.obj())? {
        this.set_source_traceback(state().asyncio.extract_stack.obj().call0()?);
    }
    Ok(())
}

fn init(handle: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    init_from(handle, &bind_tuple::<4>(args, kwargs, &INIT)?)
}

fn init_timer(handle: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let bound = bind_tuple::<5>(args, kwargs, &TIMER_INIT)?;
    let [Some(when), rest @ ..] = &bound else {
        return Err(Raised::type_error("a timer handle needs a time"));
    };
    let seconds = when.obj().to_f64()?;
    init_from(handle, rest)?;
    fields(handle).when.set(seconds);
    fields(handle).keep_when(when.obj());
    Ok(())
}

unsafe extern "C" fn traverse(
    handle: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let handle = unsafe { Obj::from_ptr(handle) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(handle.type_ptr().cast());
    fields(handle).visit(&mut visitor);
    visitor.status()
}

unsafe extern "C" fn clear(handle: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    fields(unsafe { Obj::from_ptr(handle) }).clear();
    0
}

unsafe extern "C" fn dealloc(handle: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(handle, free) }
}

/// Takes an instance apart.
///
/// # Safety
/// `handle` is an instance of ours without references.
unsafe fn free(handle: *mut PyObject) {
    // SAFETY: an instance of ours with no references left: ours to take apart.
    unsafe {
        let class = c::Py_TYPE(handle);
        c::PyObject_GC_UnTrack(handle.cast());
        c::PyObject_ClearWeakRefs(handle);
        fields(Obj::from_ptr(handle)).clear();
        c::PyObject_GC_Del(handle.cast());
        c::Py_DECREF(class.cast());
    }
}

fn class(name: &'static std::ffi::CStr, size: usize) -> Class {
    Class::new(name, size)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .methods([
            noargs!(
                c"cancel",
                cancel,
                c"Cancels the callback; a second call does nothing."
            ),
            noargs!(c"cancelled", cancelled, c"Whether cancel() was called."),
            noargs!(
                c"get_context",
                get_context,
                c"The context that the callback runs in."
            ),
            noargs!(
                c"_run",
                run_method,
                c"Runs the callback now, as the loop does."
            ),
        ])
        .attributes([
            attribute!(
                c"_callback",
                get_callback,
                c"The callable, None once cancelled."
            ),
            attribute!(
                c"_args",
                get_args,
                c"The arguments as a tuple, None once cancelled."
            ),
            attribute!(c"_cancelled", cancelled, c"Whether cancel() was called."),
            attribute!(c"_loop", get_loop, c"The loop that runs the callback."),
            attribute!(
                c"_context",
                get_context,
                c"The context that the callback runs in."
            ),
            attribute!(
                c"_repr",
                get_repr,
                c"The text kept by cancel() in debug mode."
            ),
            attribute!(
                c"_source_traceback",
                get_source_traceback,
                set_source_traceback,
                c"Where the handle was created, in debug mode."
            ),
        ])
}

fn total_size(base: Obj<'_>) -> (usize, usize) {
    let offset = layout::basic_size(base).next_multiple_of(8);
    (offset, offset + size_of::<HandleFields>())
}

/// Creates `Handle`, a subclass of `asyncio.Handle`.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    // Behind the larger base, so that both types share one offset.
    let (offset, size) = total_size(asyncio.timer_handle_class.obj());
    FIELDS_OFFSET.store(offset, std::sync::atomic::Ordering::Relaxed);
    class(c"aioxide.Handle", size)
        .doc(c"A callback scheduled on a loop. Source: asyncio.Handle.")
        .slot(c::Py_tp_init, initializer!(init))
        .build(Some(asyncio.handle_class.obj()))
}

/// Creates `TimerHandle`, a subclass of `asyncio.TimerHandle`.
pub fn build_timer_type(asyncio: &Asyncio) -> R<Ref> {
    let (_, size) = total_size(asyncio.timer_handle_class.obj());
    class(c"aioxide.TimerHandle", size)
        .doc(c"A callback scheduled for a time. Source: asyncio.TimerHandle.")
        .slot(c::Py_tp_init, initializer!(init_timer))
        .methods([noargs!(
            c"when",
            when,
            c"The loop time, in seconds, at which it is due."
        )])
        .attributes([
            attribute!(
                c"_when",
                when,
                c"The loop time, in seconds, at which it is due."
            ),
            attribute!(
                c"_scheduled",
                get_scheduled,
                set_scheduled,
                c"Whether the loop's timers hold it."
            ),
        ])
        .build(Some(asyncio.timer_handle_class.obj()))
}
