//! The Python face of `Task`: methods, attributes, life cycle.
//!
//! May touch: the fields of one task. Invariant: a pending task that dies is reported, once.

use std::ffi::c_int;

use pyo3_ffi as c;

use super::{TaskFields, cancel, fields, init, step, wait, wakeup};
use crate::ffi::call::int;
use crate::ffi::class::{Class, Visitor, attribute, initializer, noargs, onearg, varargs};
use crate::ffi::error::SavedError;
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, registry, trash};
use crate::future;
use crate::future_iter;
use crate::state::{Asyncio, state};

fn cancel_method(task: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let message = future::cancel_argument(&args)?;
    drop(future::loop_of(task)?);
    cancel(task, message).map(boolean)
}

fn cancelling(task: Obj<'_>) -> R<Ref> {
    int(i64::from(fields(task).cancels_requested.get()))
}

fn uncancel(task: Obj<'_>) -> R<Ref> {
    fields(task).withdraw_cancel();
    cancelling(task)
}

const GET_STACK: Signature = Signature {
    name: "get_stack",
    params: &["limit"],
    positional: 0,
    required: 0,
};

fn get_stack(task: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [limit] = args.bind::<1>(&GET_STACK)?;
    state()
        .asyncio
        .task_get_stack
        .obj()
        .call(&[task, limit.unwrap_or(none())])
}

const PRINT_STACK: Signature = Signature {
    name: "print_stack",
    params: &["limit", "file"],
    positional: 0,
    required: 0,
};

fn print_stack(task: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [limit, file] = args.bind::<2>(&PRINT_STACK)?;
    let args = [task, limit.unwrap_or(none()), file.unwrap_or(none())];
    state().asyncio.task_print_stack.obj().call(&args)
}

fn set_result(_task: Obj<'_>, _value: Obj<'_>) -> R<Ref> {
    Err(Raised::runtime(
        "Task does not support set_result operation",
    ))
}

fn set_exception(_task: Obj<'_>, _value: Obj<'_>) -> R<Ref> {
    Err(Raised::runtime(
        "Task does not support set_exception operation",
    ))
}

fn get_coro(task: Obj<'_>) -> R<Ref> {
    Ok(fields(task).coro().get_or_none())
}

fn get_context(task: Obj<'_>) -> R<Ref> {
    super::context_of(task)
}

fn get_name(task: Obj<'_>) -> R<Ref> {
    fields(task).full_name()
}

fn set_name(task: Obj<'_>, name: Obj<'_>) -> R<Ref> {
    fields(task).set_name(name).map(|()| none_ref())
}

fn get_log_destroy_pending(task: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(task).future.log_destroy_pending.get()))
}

fn set_log_destroy_pending(task: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?.is_true()?;
    fields(task).future.log_destroy_pending.set(value);
    Ok(())
}

fn get_must_cancel(task: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(task).future.must_cancel.get()))
}

fn repr_of(task: Obj<'_>) -> R<Ref> {
    state().asyncio.task_repr.obj().call1(task)
}

unsafe extern "C" fn repr(task: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let task = unsafe { Obj::from_ptr(task) };
    crate::ffi::error::guard(|| repr_of(task))
}

unsafe extern "C" fn run_step(task: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: the callback's `self` is a native task.
    let task = unsafe { Obj::from_ptr(task) };
    crate::ffi::error::guard(|| step(task).map(|()| none_ref()))
}

unsafe extern "C" fn run_wakeup(task: *mut PyObject, awaited: *mut PyObject) -> *mut PyObject {
    // SAFETY: the callback's `self` is a native task, its argument a live object.
    let (task, awaited) = unsafe { (Obj::from_ptr(task), Obj::from_ptr(awaited)) };
    crate::ffi::error::guard(|| wakeup(task, awaited).map(|()| none_ref()))
}

struct Callbacks([c::PyMethodDef; 2]);

// SAFETY: the table is never written to; its pointers are to static text and functions.
unsafe impl Sync for Callbacks {}

/// The callables that a foreign loop or future gets; static, so that two for one task are equal.
static CALLBACKS: Callbacks = Callbacks([
    c::PyMethodDef {
        ml_name: c"task_step".as_ptr(),
        ml_meth: c::PyMethodDefPointer {
            PyCFunction: run_step,
        },
        ml_flags: c::METH_NOARGS,
        ml_doc: c"Runs the next step of the task.".as_ptr(),
    },
    c::PyMethodDef {
        ml_name: c"task_wakeup".as_ptr(),
        ml_meth: c::PyMethodDefPointer {
            PyCFunction: run_wakeup,
        },
        ml_flags: c::METH_O,
        ml_doc: c"Runs the next step of the task: the future it waited for is done.".as_ptr(),
    },
]);

fn bound(task: Obj<'_>, index: usize) -> R<Ref> {
    let definition = std::ptr::from_ref(&CALLBACKS.0[index]).cast_mut();
    // SAFETY: a static table entry, which is only read, and a live `self`.
    unsafe {
        Ref::steal(c::PyCFunction_NewEx(
            definition,
            task.ptr(),
            std::ptr::null_mut(),
        ))
    }
}

/// A callable that runs the task's next step: for loops that are not native.
pub fn step_callback(task: Obj<'_>) -> R<Ref> {
    bound(task, 0)
}

/// The done callback of a task that waits: `callback(future)`.
pub fn wakeup_callback(task: Obj<'_>) -> R<Ref> {
    bound(task, 1)
}

fn report_destroyed(task: Obj<'_>, this: &TaskFields) {
    let uninitialised = this.future.event_loop.is_empty();
    if uninitialised || !this.future.is_pending() || !this.future.log_destroy_pending.get() {
        return;
    }
    let saved = SavedError::save();
    let message = "Task was destroyed but it is pending!";
    future::tell_handler(&this.future, message, &[(state().names.task.obj(), task)]);
    saved.restore();
}

unsafe extern "C" fn finalize(task: *mut PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let task = unsafe { Obj::from_ptr(task) };
    let done = crate::ffi::error::guard_status(|| {
        // Where asyncio keeps tasks in a WeakSet, a dying task is out of it even if it is revived.
        #[cfg(not(Py_3_14))]
        registry::unregister(task)?;
        report_destroyed(task, fields(task));
        future::report_unretrieved(task);
        Ok(())
    });
    debug_assert_eq!(done, 0);
}

impl TaskFields {
    fn visit(&self, visitor: &mut Visitor) {
        self.future.visit(visitor);
        visitor.slot(&self.waits_for);
    }

    fn clear(&self) {
        self.let_go();
        self.future.clear();
        self.waits_for.clear();
    }
}

unsafe extern "C" fn traverse(
    task: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let task = unsafe { Obj::from_ptr(task) };
    let mut visitor = Visitor::new(visit, arg);
    future::traverse_base(task, state().asyncio.task_class.obj(), &mut visitor);
    fields(task).visit(&mut visitor);
    visitor.status()
}

unsafe extern "C" fn clear(task: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let task = unsafe { Obj::from_ptr(task) };
    fields(task).clear();
    future::clear_base(task, state().asyncio.task_class.obj());
    0
}

unsafe extern "C" fn dealloc(task: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(task, free) }
}

/// Whether the finalizer would do nothing: exactly our type, done, its exception seen.
#[inline]
fn dies_quietly(task: Obj<'_>) -> bool {
    let this = &fields(task).future;
    let exact = task.type_ptr() == state().task_type;
    exact && !this.is_pending() && !this.log_traceback.get()
}

/// Takes an instance apart.
///
/// # Safety
/// `task` is an instance of ours without references.
unsafe fn free(task: *mut PyObject) {
    // SAFETY: an instance of ours without references; a finalizer may bring it back to life.
    unsafe {
        if !dies_quietly(Obj::from_ptr(task)) && c::PyObject_CallFinalizerFromDealloc(task) < 0 {
            return;
        }
        let class = c::Py_TYPE(task);
        c::PyObject_GC_UnTrack(task.cast());
        if let Err(raised) = registry::unregister(Obj::from_ptr(task)) {
            drop(raised.take());
        }
        c::PyObject_ClearWeakRefs(task);
        clear(task);
        future::free_instance(task, class);
    }
}

/// Creates `Task`, a subclass of `_asyncio.Task` whose fields begin at `offset`.
pub fn build_type(asyncio: &Asyncio, offset: usize) -> R<Ref> {
    let class = Class::new(c"aioxide.Task", offset + size_of::<TaskFields>());
    let class = future_iter::slots(class)
        .doc(
            c"Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\n\
              A native task. Source: asyncio.Task.",
        )
        .flags(c::Py_TPFLAGS_BASETYPE)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .slot(c::Py_tp_finalize, finalize as *mut _)
        .methods(future::common_methods())
        .methods(methods())
        .attributes(future::common_attributes())
        .attributes([
            attribute!(
                c"_log_destroy_pending",
                get_log_destroy_pending,
                set_log_destroy_pending,
                c"Whether dying while pending is reported."
            ),
            attribute!(
                c"_must_cancel",
                get_must_cancel,
                c"Whether the next step is cancelled."
            ),
            attribute!(c"_coro", get_coro, c"The coroutine."),
            attribute!(
                c"_fut_waiter",
                wait::awaited,
                c"The future that the task waits for."
            ),
        ])
        .build(Some(asyncio.task_class.obj()))?;
    future_iter::hide(class, c"__next__")
}

fn methods() -> [c::PyMethodDef; 11] {
    [
        onearg!(
            c"set_result",
            set_result,
            c"($self, result, /)\nNot for tasks: raises RuntimeError."
        ),
        onearg!(
            c"set_exception",
            set_exception,
            c"($self, exception, /)\nNot for tasks: raises RuntimeError."
        ),
        varargs!(
            c"cancel",
            cancel_method,
            c"($self, /, msg=None)\n\
              Requests that CancelledError is raised in the coroutine; False if it is done."
        ),
        noargs!(
            c"cancelling",
            cancelling,
            c"How many cancellations were requested."
        ),
        noargs!(
            c"uncancel",
            uncancel,
            c"Takes one request back; returns how many remain."
        ),
        varargs!(
            c"get_stack",
            get_stack,
            c"($self, /, *, limit=None)\nThe frames of the coroutine, oldest first."
        ),
        varargs!(
            c"print_stack",
            print_stack,
            c"($self, /, *, limit=None, file=None)\nPrints the frames of get_stack()."
        ),
        noargs!(
            c"get_coro",
            get_coro,
            c"The coroutine; None if it finished eagerly."
        ),
        noargs!(
            c"get_context",
            get_context,
            c"The context that the coroutine runs in."
        ),
        noargs!(c"get_name", get_name, c"The name."),
        onearg!(c"set_name", set_name, c"Sets the name to str(value)."),
    ]
}
