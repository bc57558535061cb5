//! The Python type `Loop`: life cycle, attributes, table of methods.
//!
//! May touch: the memory of loop objects. Invariant: the fields are complete before `tp_new`
//! returns and dropped once, in `tp_dealloc`.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;

use aioxide_core::backend::epoll::Epoll;
use aioxide_core::clock::Clock;
use aioxide_core::inbox::Inbox;
use aioxide_core::turn::Turn;
use pyo3_ffi as c;

use super::asyncgens::{self, AsyncGens};
use super::{LoopFields, create, fields, look, lookout, run, schedule, watch};
use crate::ffi::call::{float, uint};
use crate::ffi::class::{
    Class, Visitor, attribute, bind_tuple, initializer, noargs, onearg, varargs,
};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Signature, Slot};
use crate::future;

/// Where the fields begin: right behind the object head.
pub const OFFSET: usize = size_of::<PyObject>();

/// `slow_callback_duration` of a new loop, in seconds. *Source*: `BaseEventLoop.__init__`.
const SLOW_CALLBACK_SECONDS: f64 = 0.1;

/// How often closing waits for threads to let go of the loop's descriptors; after a fork, those of
/// the parent never do.
const CLOSE_YIELDS_MAX: u32 = 1000;

impl LoopFields {
    fn new() -> R<LoopFields> {
        let backend = Epoll::new().map_err(|error| Raised::os_error(&error))?;
        let clock = Clock::monotonic();
        Ok(LoopFields {
            this: Cell::new(std::ptr::null_mut()),
            turn: RefCell::new(Turn::new(clock.clone())),
            inbox: Inbox::new(),
            clock,
            backend: RefCell::new(Some(Arc::new(backend))),
            by_fd: RefCell::default(),
            held: RefCell::default(),
            hides_handles: Cell::new(false),
            handles: crate::handle::PerLoop::default(),
            unflushed: RefCell::default(),
            held_since_ns: Cell::new(0),
            behind: Cell::new(super::flush::NO_ENTRY),
            is_read: Cell::new(false),
            trusted: RefCell::default(),
            trusting_polls: Cell::new(0),
            stale_polls: Cell::new(0),
            turn_number: Cell::new(0),
            transports: crate::transport::PerLoop::default(),
            task_factory: Slot::empty(),
            current_handle: Slot::empty(),
            thread_id: Cell::new(0),
            slow_callback_seconds: Cell::new(SLOW_CALLBACK_SECONDS),
            closed: Cell::new(false),
            stopping: Cell::new(false),
            jobs: Cell::new(0),
            announced: RefCell::default(),
            spin: RefCell::default(),
            was_called: Cell::new(false),
            call_spin: RefCell::default(),
            askers: Rc::default(),
            debug: Cell::new(false),
            hold_tasks: Cell::new(true),
            asyncgens: AsyncGens::default(),
            direct: Cell::default(),
            makes_futures: Cell::new(true),
            makes_tasks: Cell::new(true),
            own_clock: RefCell::new(None),
        })
    }
}

unsafe extern "C" fn new(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    crate::ffi::error::guard(|| {
        let made = LoopFields::new()?;
        // SAFETY: a ready subtype of ours.
        let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
        made.this.set(object.ptr());
        // SAFETY: fresh memory of the type's size; nobody has seen the object yet.
        unsafe {
            object
                .ptr()
                .cast::<u8>()
                .add(OFFSET)
                .cast::<LoopFields>()
                .write(made)
        };
        Ok(object)
    })
}

const INIT: Signature = Signature {
    name: "Loop",
    params: &["hold_tasks"],
    positional: 0,
    required: 0,
};

fn init(event_loop: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [hold_tasks] = bind_tuple::<1>(args, kwargs, &INIT)?;
    let this = fields(event_loop);
    if let Some(hold_tasks) = hold_tasks {
        this.hold_tasks.set(hold_tasks.obj().is_true()?);
    }
    this.notice_overrides()?;
    Ok(())
}

/// `loop._close()`: drops what is scheduled and gives the descriptors back. A second call does
/// nothing.
fn close(event_loop: Obj<'_>) -> R<Ref> {
    let this = fields(event_loop);
    if this.closed.replace(true) {
        return Ok(none_ref());
    }
    let sent = this.inbox.close();
    sent.iter().for_each(|entry| entry.show(&this.handles));
    this.drop_contents();
    drop(sent);
    let backend = this.backend.borrow_mut().take();
    if let Some(backend) = backend {
        // A thread that has just woken the loop lets go of the descriptors without the GIL.
        for _ in 0..CLOSE_YIELDS_MAX {
            if Arc::strong_count(&backend) == 1 {
                break;
            }
            std::thread::yield_now();
        }
    }
    Ok(none_ref())
}

fn is_closed(event_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(event_loop).is_closed()))
}

fn is_running(event_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(event_loop).thread_id.get() != 0))
}

fn check_closed(event_loop: Obj<'_>) -> R<Ref> {
    fields(event_loop).check_open().map(|()| none_ref())
}

fn get_debug(event_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(event_loop).debug.get()))
}

fn set_debug(event_loop: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?.is_true()?;
    fields(event_loop).debug.set(value);
    Ok(())
}

fn get_thread_id(event_loop: Obj<'_>) -> R<Ref> {
    match fields(event_loop).thread_id.get() {
        0 => Ok(none_ref()),
        ident => uint(ident),
    }
}

fn set_thread_id(event_loop: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?;
    let ident = if value.is_none() {
        0
    } else {
        value.to_i64()? as u64
    };
    fields(event_loop).thread_id.set(ident);
    Ok(())
}

fn get_slow_callback(event_loop: Obj<'_>) -> R<Ref> {
    float(fields(event_loop).slow_callback_seconds.get())
}

fn set_slow_callback(event_loop: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let seconds = future::required(value)?.to_f64()?;
    fields(event_loop).slow_callback_seconds.set(seconds);
    Ok(())
}

fn get_stopping(event_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(event_loop).stopping.get()))
}

fn set_stopping(event_loop: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?.is_true()?;
    fields(event_loop).stopping.set(value);
    Ok(())
}

fn get_current_handle(event_loop: Obj<'_>) -> R<Ref> {
    Ok(fields(event_loop).current_handle.get_or_none())
}

fn get_hold_tasks(event_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(event_loop).hold_tasks.get()))
}

/// Setting `loop.time` or `loop.call_soon` on an instance counts as overriding it.
unsafe extern "C" fn setattro(
    event_loop: *mut PyObject,
    name: *mut PyObject,
    value: *mut PyObject,
) -> c_int {
    // SAFETY: the interpreter passes a live instance, a string, and a value or null.
    let status = unsafe { c::PyObject_GenericSetAttr(event_loop, name, value) };
    if status < 0 {
        return status;
    }
    // SAFETY: alive; attribute names are interned as a rule, and others change nothing here.
    let (event_loop, name) = unsafe { (Obj::from_ptr(event_loop), Obj::from_ptr(name)) };
    crate::ffi::error::guard_status(|| fields(event_loop).notice_set(name))
}

unsafe extern "C" fn traverse(
    event_loop: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let event_loop = unsafe { Obj::from_ptr(event_loop) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(event_loop.type_ptr().cast());
    let this = fields(event_loop);
    // Allocated, but `tp_new` has not written the fields yet.
    if !this.this.get().is_null() {
        this.visit(&mut visitor);
    }
    visitor.status()
}

unsafe extern "C" fn clear(event_loop: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = fields(unsafe { Obj::from_ptr(event_loop) });
    this.task_factory.clear();
    this.asyncgens.set().clear();
    this.drop_contents();
    0
}

unsafe extern "C" fn dealloc(event_loop: *mut PyObject) {
    // SAFETY: an instance of ours with no references left; its fields were written by `new`.
    unsafe {
        let class = c::Py_TYPE(event_loop);
        c::PyObject_GC_UnTrack(event_loop.cast());
        clear(event_loop);
        event_loop
            .cast::<u8>()
            .add(OFFSET)
            .cast::<LoopFields>()
            .drop_in_place();
        future::free_instance(event_loop, class);
    }
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    Class::new(c"aioxide._aioxide.Loop", OFFSET + size_of::<LoopFields>())
        .doc(
            c"Loop(*, hold_tasks=True)\n--\n\n\
              The native half of the event loop; aioxide.Loop is made of it.",
        )
        .flags(c::Py_TPFLAGS_BASETYPE)
        .slot(c::Py_tp_new, new as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_setattro, setattro as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .methods(life_cycle())
        .methods(run::methods())
        .methods(lookout::methods())
        .methods(asyncgens::methods())
        .methods(scheduling())
        .methods(watching())
        .methods(crate::transport::loop_methods())
        .attributes(attributes())
        .attributes(asyncgens::attributes())
        .build(None)
}

fn life_cycle() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"_close",
            close,
            c"Drops what is scheduled and closes the descriptors."
        ),
        noargs!(c"is_closed", is_closed, c"Whether the loop was closed."),
        noargs!(c"is_running", is_running, c"Whether the loop runs."),
        noargs!(
            c"_check_closed",
            check_closed,
            c"RuntimeError if the loop was closed."
        ),
        noargs!(c"get_debug", get_debug, c"Whether debug mode is on."),
    ]
}

fn scheduling() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(
            c"call_soon",
            schedule::call_soon,
            c"($self, callback, *args, context=None)\nCalls callback(*args) in the next turn."
        ),
        varargs!(
            c"call_soon_threadsafe",
            schedule::call_soon_threadsafe,
            c"($self, callback, *args, context=None)\nAs call_soon, from any thread."
        ),
        varargs!(
            c"call_later",
            schedule::call_later,
            c"($self, delay, callback, *args, context=None)\n\
              Calls callback(*args) after delay seconds."
        ),
        varargs!(
            c"call_at",
            schedule::call_at,
            c"($self, when, callback, *args, context=None)\n\
              Calls callback(*args) at a loop time in seconds."
        ),
        noargs!(
            c"time",
            schedule::time,
            c"The loop's clock: monotonic seconds."
        ),
        noargs!(
            c"_write_to_self",
            schedule::write_to_self,
            c"Wakes the loop, from any thread."
        ),
        onearg!(
            c"_timer_handle_cancelled",
            schedule::timer_handle_cancelled,
            c"Notes that a timer handle of the loop was cancelled."
        ),
        noargs!(
            c"create_future",
            create::create_future,
            c"A native future bound to the loop."
        ),
        varargs!(
            c"create_task",
            create::create_task,
            c"($self, coro, **kwargs)\n\
              A task that drives coro: native, or made by the task factory."
        ),
        varargs!(
            c"set_task_factory",
            create::set_task_factory,
            c"($self, factory)\nSets the factory; None resets."
        ),
        noargs!(
            c"get_task_factory",
            create::get_task_factory,
            c"The factory, or None."
        ),
    ]
}

fn watching() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(
            c"add_reader",
            watch::add_reader,
            c"($self, fd, callback, *args)\nCalls callback(*args) when fd is readable."
        ),
        varargs!(
            c"add_writer",
            watch::add_writer,
            c"($self, fd, callback, *args)\nCalls callback(*args) when fd is writable."
        ),
        varargs!(
            c"remove_reader",
            watch::remove_reader,
            c"($self, fd)\nStops watching; was it watched?"
        ),
        varargs!(
            c"remove_writer",
            watch::remove_writer,
            c"($self, fd)\nStops watching; was it watched?"
        ),
        varargs!(
            c"_add_reader",
            watch::add_reader_unchecked,
            c"As add_reader for transports; returns the handle."
        ),
        varargs!(
            c"_add_writer",
            watch::add_writer_unchecked,
            c"As add_writer for transports; returns the handle."
        ),
        onearg!(
            c"_remove_reader",
            watch::remove_reader_unchecked,
            c"As remove_reader."
        ),
        onearg!(
            c"_remove_writer",
            watch::remove_writer_unchecked,
            c"As remove_writer."
        ),
        onearg!(
            c"_sock_settle",
            watch::settle_fd,
            c"Has the next sock_* on a descriptor ask the kernel."
        ),
        onearg!(
            c"_native_transport",
            watch::native_transport,
            c"The native transport that uses a descriptor, or None."
        ),
    ]
}

fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(
            c"_debug",
            get_debug,
            set_debug,
            c"Whether debug mode is on."
        ),
        attribute!(
            c"_thread_id",
            get_thread_id,
            set_thread_id,
            c"threading.get_ident() of the thread that runs the loop, or None."
        ),
        attribute!(
            c"_stopping",
            get_stopping,
            set_stopping,
            c"Whether stop() was called."
        ),
        attribute!(
            c"slow_callback_duration",
            get_slow_callback,
            set_slow_callback,
            c"Seconds from which debug mode warns about a callback."
        ),
        attribute!(
            c"_current_handle",
            get_current_handle,
            c"The handle that runs, in debug mode; else None."
        ),
        attribute!(c"_native_transports", look::transports, c"By number."),
        attribute!(c"_watched", look::watched, c"What is watched."),
        attribute!(c"_ready", look::ready, c"The handles that are to run."),
        attribute!(
            c"_scheduled",
            look::scheduled,
            c"The timer handles that wait."
        ),
        attribute!(
            c"_hold_tasks",
            get_hold_tasks,
            c"Whether the loop keeps tasks alive."
        ),
    ]
}
