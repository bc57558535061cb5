//! The Python type `JobQueue`: an executor's work queue that also takes jobs of loops.
//!
//! May touch: the memory of queue objects. Invariant: the fields are written before anybody sees
//! the object and dropped once, in `tp_dealloc`.

use std::ffi::c_int;

use pyo3_ffi as c;

use super::jobs::{Jobs, Submitted};
use crate::ffi::call::{import, uint};
use crate::ffi::class::{Class, Visitor, noargs, onearg, varargs};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, error, layout};

const OFFSET: usize = size_of::<PyObject>();

fn fields<'a>(queue: Obj<'a>) -> &'a Jobs {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(queue.ptr(), OFFSET) }
}

fn work(queue: Obj<'_>) -> R<Ref> {
    Ok(fields(queue).work())
}

fn submit(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [is_full, event_loop, future, call @ ..] = args.positional() else {
        return Err(Raised::type_error(
            "submit() takes whether the executor is full, a loop, a future and what to call",
        ));
    };
    let is_full = is_full.is_true()?;
    Ok(
        match fields(queue).submit(is_full, *event_loop, *future, call)? {
            Submitted::Queued => boolean(true),
            Submitted::Refused => boolean(false),
            Submitted::NeedsWorker => none_ref(),
        },
    )
}

fn put(queue: Obj<'_>, item: Obj<'_>) -> R<Ref> {
    fields(queue).put(item.to_ref());
    Ok(none_ref())
}

fn get_nowait(queue: Obj<'_>) -> R<Ref> {
    match fields(queue).take_object() {
        Some(object) => Ok(object),
        None => {
            let empty = import(c"queue")?.obj().getattr_str(c"Empty")?;
            Err(Raised::throw(empty.obj().call0()?))
        }
    }
}

fn needs_worker(queue: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(queue).needs_worker()))
}

fn close(queue: Obj<'_>, cancel: Obj<'_>) -> R<Ref> {
    fields(queue).close(cancel.is_true()?);
    Ok(none_ref())
}

fn arrive(queue: Obj<'_>) -> R<Ref> {
    fields(queue).arrive();
    Ok(none_ref())
}

fn empty(queue: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(queue).len() == 0))
}

fn idle_count(queue: Obj<'_>) -> R<Ref> {
    uint(fields(queue).idle_count() as u64)
}

fn qsize(queue: Obj<'_>) -> R<Ref> {
    uint(fields(queue).len() as u64)
}

// ---- life cycle ---------------------------------------------------------------------------------

unsafe extern "C" fn new(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    error::guard(|| {
        // SAFETY: a ready type of ours.
        let queue = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
        let place = std::ptr::from_ref(fields(queue.obj())).cast_mut();
        // SAFETY: fresh memory of the type's size; nobody has seen the object, and nothing that
        // could start a collection happened since it was allocated.
        unsafe { place.write(Jobs::default()) };
        Ok(queue)
    })
}

unsafe extern "C" fn traverse(
    queue: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let queue = unsafe { Obj::from_ptr(queue) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(queue.type_ptr().cast());
    fields(queue).visit(&mut visitor);
    visitor.status()
}

unsafe extern "C" fn clear(queue: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    fields(unsafe { Obj::from_ptr(queue) }).clear();
    0
}

unsafe extern "C" fn dealloc(queue: *mut PyObject) {
    // SAFETY: an instance without references left; its fields were written by `new`.
    unsafe {
        let class = c::Py_TYPE(queue);
        c::PyObject_GC_UnTrack(queue.cast());
        clear(queue);
        std::ptr::from_ref(fields(Obj::from_ptr(queue)))
            .cast_mut()
            .drop_in_place();
        crate::future::free_instance(queue, class);
    }
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    Class::new(c"aioxide._aioxide.JobQueue", OFFSET + size_of::<Jobs>())
        .doc(
            c"JobQueue()\n--\n\n\
              The work queue of an executor whose jobs may come from, and answer to, a loop.",
        )
        .slot(c::Py_tp_new, new as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .methods([
            noargs!(
                c"work",
                work,
                c"($self, /)\nRuns jobs in this thread; returns the next item that is none."
            ),
            varargs!(
                c"submit",
                submit,
                c"Queues function(*args) for a future of a loop. False if it cannot,\n\
                  None if a thread must be started first."
            ),
            noargs!(
                c"arrive",
                arrive,
                c"($self, /)\nThe thread that was expected is there, or never will be."
            ),
            noargs!(
                c"idle_count",
                idle_count,
                c"($self, /)\nThe number of threads that wait for work."
            ),
            noargs!(c"empty", empty, c"($self, /)\nWhether nothing is queued."),
            onearg!(
                c"put",
                put,
                c"($self, item, /)\nQueues an item that work() is to return."
            ),
            noargs!(
                c"get_nowait",
                get_nowait,
                c"($self, /)\nTakes out an item that was put; queue.Empty if none."
            ),
            noargs!(
                c"needs_worker",
                needs_worker,
                c"($self, /)\nWhether a thread should be started, which is expected from then on."
            ),
            onearg!(
                c"close",
                close,
                c"($self, cancel, /)\nRefuses jobs; cancels those that wait, or not."
            ),
            noargs!(c"qsize", qsize, c"($self, /)\nThe number of queued items."),
        ])
        .build(None)
}
