//! The Python face of `Handle` and `TimerHandle`.
//!
//! May touch: one handle's fields and memory. Invariant: all types keep their fields at one offset.

use std::ffi::c_int;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use pyo3_ffi as c;

use super::{
    Callback, FIELDS_OFFSET, GuardedFields, HandleFields, Kind, cancel, cancelled, fields, guard,
    run,
};
use crate::event_loop;
use crate::ffi::call::{float, tuple_item, tuple_len};
use crate::ffi::class::{Class, Visitor, attribute, bind_tuple, initializer, noargs};
use crate::ffi::layout::HEAD_BYTES;
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::weak::clear_weak_references;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Signature, layout, trash};
use crate::future::free_instance;
use crate::state::{Asyncio, state};

fn run_method(handle: Obj<'_>) -> R<Ref> {
    run(handle).map(|()| none_ref())
}

fn get_context(handle: Obj<'_>) -> R<Ref> {
    fields(handle).context.context()
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

fn is_cancelled(handle: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(handle).is_cancelled()))
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
    let items: Vec<Obj<'_>> = (0..tuple_len(args.obj()))
        .map(|index| tuple_item(args.obj(), index))
        .collect();
    let this = fields(handle);
    let callback = Callback {
        function: callback.obj(),
        args: &items,
        context: run_context.as_ref().map(Ref::obj),
    };
    this.fill(event_loop.obj(), &callback)?;
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
    if let Some(guard) = guard(handle) {
        guard.visit(&mut visitor);
    }
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
        clear_weak_references(handle);
        if let Some(guard) = guard(Obj::from_ptr(handle)) {
            guard.clear();
        }
        fields(Obj::from_ptr(handle)).clear();
        free_instance(handle, class);
    }
}

fn class(name: &'static std::ffi::CStr, size: usize) -> Class {
    Class::new(name, size)
        .flags(c::Py_TPFLAGS_BASETYPE)
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
            attribute!(c"_cancelled", is_cancelled, c"Whether cancel() was called."),
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

/// Finds where our fields can lie: over the slots of asyncio's classes, if those have nothing but
/// slots there (and, before 3.12, the list of weak references where we leave a word for it).
fn place_fields(asyncio: &Asyncio) -> usize {
    let safe = &asyncio.thread_safe_handle_class;
    let bases: Vec<_> = [&asyncio.handle_class, &asyncio.timer_handle_class]
        .into_iter()
        .chain(safe)
        .map(|class| {
            (
                layout::basic_size(class.obj()),
                layout::weak_at(class.obj()),
            )
        })
        .collect();
    let behind = bases.iter().map(|(size, _)| *size).max().unwrap_or(0);
    let covered = HEAD_BYTES + offset_of!(HandleFields, when);
    let weak_as_known = |weak_at: isize| {
        #[cfg(not(Py_3_12))]
        let known = weak_at == (HEAD_BYTES + offset_of!(HandleFields, weak_references)) as isize;
        #[cfg(Py_3_12)]
        let known = weak_at < 0;
        known
    };
    let fits = behind <= covered && bases.iter().all(|(_, weak_at)| weak_as_known(*weak_at));
    if fits {
        HEAD_BYTES
    } else {
        behind.next_multiple_of(8)
    }
}

/// The size of an instance with fields `T`.
fn size<T>() -> usize {
    FIELDS_OFFSET.load(Ordering::Relaxed) + size_of::<T>()
}

/// Creates `ThreadSafeHandle`, a subclass of `asyncio.events._ThreadSafeHandle`, where that exists.
pub fn build_thread_safe_type(asyncio: &Asyncio) -> R<Option<Ref>> {
    let Some(base) = &asyncio.thread_safe_handle_class else {
        return Ok(None);
    };
    class(c"aioxide._ThreadSafeHandle", size::<GuardedFields>())
        .doc(c"A callback that any thread may cancel. Source: asyncio.events._ThreadSafeHandle.")
        .slot(c::Py_tp_init, initializer!(init_thread_safe))
        .build(Some(base.obj()))
        .map(Some)
}

fn init_thread_safe(handle: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    init(handle, args, kwargs)?;
    fields(handle).kind.set(Kind::Guarded);
    if let Some(guard) = guard(handle) {
        guard.put_up();
    }
    Ok(())
}

/// Creates `Handle`, a subclass of `asyncio.Handle`.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    FIELDS_OFFSET.store(place_fields(asyncio), Ordering::Relaxed);
    class(c"aioxide.Handle", size::<HandleFields>())
        .doc(c"A callback scheduled on a loop. Source: asyncio.Handle.")
        .slot(c::Py_tp_init, initializer!(init))
        .build(Some(asyncio.handle_class.obj()))
}

/// Creates `TimerHandle`, a subclass of `asyncio.TimerHandle`.
pub fn build_timer_type(asyncio: &Asyncio) -> R<Ref> {
    class(c"aioxide.TimerHandle", size::<HandleFields>())
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
