//! `_GatheringFuture`: the future that `gather` returns, told by each child when that is done.
//!
//! A native future, and a subclass of asyncio's class of this name. May touch: its own fields, its
//! children. Invariants: `children` is complete exactly when `is_built`; before that a done child
//! only counts. *Source*: `asyncio.tasks._GatheringFuture`, `asyncio.gather`.

use std::cell::Cell;
use std::ffi::c_int;

use pyo3_ffi as c;

use super::child;
use crate::ffi::call::{list_item, list_len, list_of};
use crate::ffi::class::{
    Class, Definition, Visitor, attribute, bind_tuple, initializer, onearg, varargs,
};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Ref, Signature, Slot, layout, trash};
use crate::future::{self, FutureFields};
use crate::state::{Asyncio, state};

/// The fields of a gathering future; the future part comes first.
#[repr(C)]
pub struct GatheringFields {
    pub future: FutureFields,
    /// The list of children, one for each argument.
    children: Slot,
    /// The task that called `gather`.
    caller: Slot,
    /// How many different children there are.
    expected: Cell<usize>,
    finished: Cell<usize>,
    return_exceptions: Cell<bool>,
    cancel_requested: Cell<bool>,
    is_built: Cell<bool>,
}

/// The fields of a gathering future.
#[inline]
pub fn fields(outer: Obj<'_>) -> &GatheringFields {
    debug_assert!(outer.is_instance_of_type(state().gathering_type));
    // SAFETY: methods get instances from their own descriptors, everyone else made the object; the
    // future part lies where it does in every native future.
    unsafe { layout::fields(outer.ptr(), state().layout.fields) }
}

/// An outer future that knows neither its loop nor its children yet.
pub fn allocate() -> R<Ref> {
    // SAFETY: a ready type of ours; zeroed memory is a valid uninitialised future.
    unsafe { Ref::steal(c::PyType_GenericAlloc(state().gathering_type, 0)) }
}

impl GatheringFields {
    /// Sets what is known before the first child exists.
    pub fn begin(&self, return_exceptions: bool, caller: Option<Ref>) {
        self.return_exceptions.set(return_exceptions);
        self.caller.set(caller);
    }

    /// The task that called `gather`.
    pub fn caller(&self) -> Option<Ref> {
        self.caller.get()
    }

    /// All children exist: from now on the last of them to be done completes the future.
    pub fn complete_children(&self, children: Ref, expected: usize) {
        self.children.set(Some(children));
        self.expected.set(expected);
        self.is_built.set(true);
    }

    fn children(&self) -> Vec<Ref> {
        let Some(list) = self.children.get() else {
            return Vec::new();
        };
        (0..list_len(list.obj()))
            .filter_map(|index| list_item(list.obj(), index))
            .collect()
    }
}

/// One child is done.
pub fn child_done(outer: Obj<'_>, child: Obj<'_>) -> R<()> {
    let this = fields(outer);
    let finished = this.finished.get() + 1;
    this.finished.set(finished);
    let caller = this.caller.get();
    child::discard_edge(child, caller.as_ref())?;
    if !this.is_built.get() || !this.future.is_pending() {
        if !child::is_cancelled(child)? {
            // Nobody will ask for it: it counts as retrieved.
            drop(child::exception(child)?);
        }
        return Ok(());
    }
    if !this.return_exceptions.get() {
        let error = if child::is_cancelled(child)? {
            Some(child::make_cancelled_error(child)?)
        } else {
            child::exception(child)?
        };
        if let Some(error) = error {
            discard_edges(this, caller.as_ref())?;
            return future::set_exception(outer, error.obj());
        }
    }
    if finished == this.expected.get() {
        return finish(outer, this);
    }
    Ok(())
}

/// Children that outlive the outer future are no longer awaited by its caller.
fn discard_edges(this: &GatheringFields, caller: Option<&Ref>) -> R<()> {
    if caller.is_none() || !cfg!(Py_3_14) {
        return Ok(());
    }
    for child in this.children() {
        child::discard_edge(child.obj(), caller)?;
    }
    Ok(())
}

/// Every child is done.
fn finish(outer: Obj<'_>, this: &GatheringFields) -> R<()> {
    let children = this.children();
    let mut results = Vec::with_capacity(children.len());
    for child in &children {
        results.push(result_of(child.obj())?);
    }
    match children.last() {
        Some(last) if this.cancel_requested.get() => {
            let error = child::make_cancelled_error(last.obj())?;
            future::set_exception(outer, error.obj())
        }
        _ => future::set_result(outer, list_of(results)?),
    }
}

/// What stands for a child in the list of results.
fn result_of(child: Obj<'_>) -> R<Ref> {
    if child::is_cancelled(child)? {
        let message = child::cancel_message(child)?;
        let class = state().asyncio.cancelled_error.obj();
        return if message.obj().is_none() {
            class.call1(crate::ffi::call::string("")?.obj())
        } else {
            class.call1(message.obj())
        };
    }
    match child::exception(child)? {
        Some(exception) => Ok(exception),
        None => child::result(child),
    }
}

/// `outer.cancel(msg)`: cancels the children. The outer future is cancelled by what they do then.
pub fn cancel(outer: Obj<'_>, message: Obj<'_>) -> R<bool> {
    let this = fields(outer);
    if !this.future.is_pending() {
        return Ok(false);
    }
    let mut any = false;
    for child in this.children() {
        any |= child::cancel(child.obj(), message)?;
    }
    if any {
        // Then the cancellation goes on to whoever awaits, whatever `return_exceptions` says.
        this.cancel_requested.set(true);
    }
    Ok(any)
}

fn cancel_method(outer: Obj<'_>, args: Args<'_>) -> R<Ref> {
    drop(future::loop_of(outer)?);
    let message = future::cancel_argument(&args)?.unwrap_or_else(none_ref);
    cancel(outer, message.obj()).map(boolean)
}

fn done_method(outer: Obj<'_>, child: Obj<'_>) -> R<Ref> {
    child_done(outer, child).map(|()| none_ref())
}

static DONE: Definition = Definition::new(onearg!(
    c"_done_callback",
    done_method,
    c"Tells the gathering future that a child is done."
));

/// The callable for loops and futures that are not native: `callback(child)`.
pub fn callback(outer: Obj<'_>) -> R<Ref> {
    DONE.bind(outer)
}

const INIT: Signature = Signature {
    name: "_GatheringFuture",
    params: &["children", "loop"],
    positional: 1,
    required: 1,
};

fn init(outer: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [children, event_loop] = bind_tuple::<2>(args, kwargs, &INIT)?;
    future::initialise(outer, event_loop)?;
    let children = list_of(crate::ffi::builtin::collect(
        children.as_ref().map(Ref::obj),
    )?)?;
    fields(outer).children.set(Some(children));
    Ok(())
}

fn get_children(outer: Obj<'_>) -> R<Ref> {
    Ok(fields(outer).children.get_or_none())
}

fn get_cancel_requested(outer: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(outer).cancel_requested.get()))
}

fn set_cancel_requested(outer: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?.is_true()?;
    fields(outer).cancel_requested.set(value);
    Ok(())
}

unsafe extern "C" fn traverse(
    outer: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let outer = unsafe { Obj::from_ptr(outer) };
    let mut visitor = Visitor::new(visit, arg);
    let this = fields(outer);
    future::traverse_base(outer, state().asyncio.future_class.obj(), &mut visitor);
    this.future.visit(&mut visitor);
    visitor.slot(&this.children);
    visitor.slot(&this.caller);
    visitor.status()
}

unsafe extern "C" fn clear(outer: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let outer = unsafe { Obj::from_ptr(outer) };
    let this = fields(outer);
    this.future.clear();
    this.children.clear();
    this.caller.clear();
    future::clear_base(outer, state().asyncio.future_class.obj());
    0
}

unsafe extern "C" fn dealloc(outer: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(outer, free) }
}

/// Takes an instance apart.
///
/// # Safety
/// `outer` is an instance of ours without references.
unsafe fn free(outer: *mut PyObject) {
    // SAFETY: an instance of ours without references; a finalizer may bring it back to life.
    unsafe {
        if c::PyObject_CallFinalizerFromDealloc(outer) < 0 {
            return;
        }
        let class = c::Py_TYPE(outer);
        c::PyObject_GC_UnTrack(outer.cast());
        c::PyObject_ClearWeakRefs(outer);
        clear(outer);
        future::free_instance(outer, class);
    }
}

/// Creates `_GatheringFuture` under the native future and asyncio's own class of this name.
pub fn build_type(asyncio: &Asyncio, native: Obj<'_>, offset: usize) -> R<Ref> {
    Class::new(
        c"aioxide._GatheringFuture",
        offset + size_of::<GatheringFields>(),
    )
    .doc(c"What gather() returns: cancel() cancels the children.")
    .slot(c::Py_tp_init, initializer!(init))
    .slot(c::Py_tp_traverse, traverse as *mut _)
    .slot(c::Py_tp_clear, clear as *mut _)
    .slot(c::Py_tp_dealloc, dealloc as *mut _)
    .methods([varargs!(
        c"cancel",
        cancel_method,
        c"($self, /, msg=None)\nCancels every child; False if none could be."
    )])
    .attributes([
        attribute!(
            c"_children",
            get_children,
            c"The children, one per argument."
        ),
        attribute!(
            c"_cancel_requested",
            get_cancel_requested,
            set_cancel_requested,
            c"Whether cancel() reached a child."
        ),
    ])
    .build_under(&[native, asyncio.gathering_class.obj()])
}
