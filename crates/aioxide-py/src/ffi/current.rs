//! The current task of a thread, where `asyncio.current_task` looks for it.
//!
//! 3.14 and later keep it in the thread state: found by the probe and written there directly.
//! Before, it lives in the dict `_asyncio._current_tasks`, keyed by loop.
//! Invariant: between `enter` and `leave` of a task no other task of the loop is entered.

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, PyObject, Ref, Slot};
use crate::state::state;

/// The thread state's word for the running task, or null where it was not found.
#[inline]
fn thread_slot() -> *mut *mut PyObject {
    match state().layout.running_task {
        Some(offset) => thread_word(offset),
        None => std::ptr::null_mut(),
    }
}

/// A word of this thread's state that holds an owned reference or null.
#[inline]
fn thread_word(offset: usize) -> *mut *mut PyObject {
    // SAFETY: the thread is attached; the offset was found inside the thread state.
    unsafe {
        let thread = c::PyThreadState_Get().cast::<u8>();
        thread.add(offset).cast::<*mut PyObject>()
    }
}

/// Makes `task` the current task of the loop in `event_loop`, which runs on this thread.
/// RuntimeError where another task is current, as `asyncio.tasks._enter_task`.
#[inline]
pub fn enter(event_loop: &Slot, task: Obj<'_>) -> R<()> {
    let slot = thread_slot();
    // SAFETY: a word of this thread's state, or null.
    if !slot.is_null() && unsafe { (*slot).is_null() } {
        // SAFETY: the word owns its reference, as CPython's `enter_task` leaves it.
        unsafe { *slot = task.to_ref().into_ptr() };
        return Ok(());
    }
    let event_loop = event_loop.get_or_none();
    if cfg!(Py_3_14) {
        return enter_slow(event_loop.obj(), task);
    }
    enter_dict(event_loop.obj(), task)
}

/// Undoes `enter`.
#[inline]
pub fn leave(event_loop: &Slot, task: Obj<'_>) -> R<()> {
    let slot = thread_slot();
    // SAFETY: a word of this thread's state, or null.
    if !slot.is_null() && unsafe { *slot } == task.ptr() {
        // SAFETY: the word owned one reference, which becomes ours.
        let owned = unsafe { Ref::steal_opt(std::mem::replace(&mut *slot, std::ptr::null_mut())) };
        drop(owned);
        return Ok(());
    }
    let event_loop = event_loop.get_or_none();
    if cfg!(Py_3_14) {
        return leave_slow(event_loop.obj(), task);
    }
    leave_dict(event_loop.obj(), task)
}

#[cold]
fn enter_slow(event_loop: Obj<'_>, task: Obj<'_>) -> R<()> {
    state().enter_task.obj().call(&[event_loop, task]).map(drop)
}

#[cold]
fn leave_slow(event_loop: Obj<'_>, task: Obj<'_>) -> R<()> {
    state().leave_task.obj().call(&[event_loop, task]).map(drop)
}

fn enter_dict(event_loop: Obj<'_>, task: Obj<'_>) -> R<()> {
    let Some(tasks) = &state().current_tasks else {
        return enter_slow(event_loop, task);
    };
    // SAFETY: a dict and a live key; the result is borrowed or null.
    let current = unsafe { c::PyDict_GetItemWithError(tasks.ptr(), event_loop.ptr()) };
    if !current.is_null() {
        return enter_slow(event_loop, task);
    }
    super::call::dict_set(tasks.obj(), event_loop, task)
}

fn leave_dict(event_loop: Obj<'_>, task: Obj<'_>) -> R<()> {
    let Some(tasks) = &state().current_tasks else {
        return leave_slow(event_loop, task);
    };
    // SAFETY: a dict and a live key; the result is borrowed or null.
    let current = unsafe { c::PyDict_GetItemWithError(tasks.ptr(), event_loop.ptr()) };
    if current != task.ptr() {
        return leave_slow(event_loop, task);
    }
    // SAFETY: the key was just found.
    super::error::check(unsafe { c::PyDict_DelItem(tasks.ptr(), event_loop.ptr()) })
}

/// The loop that runs on this thread; RuntimeError if none does. *Source*:
/// `asyncio.get_running_loop`.
#[inline]
pub fn loop_required() -> R<Ref> {
    state().asyncio.get_running_loop.obj().call0()
}

/// The current task of the loop that runs on this thread. *Source*: `asyncio.current_task`.
#[inline]
pub fn task_of(event_loop: Obj<'_>) -> R<Option<Ref>> {
    let slot = thread_slot();
    if !slot.is_null() {
        // SAFETY: a word of this thread's state, which owns its reference or is null.
        return Ok(unsafe { Obj::from_nullable(*slot) }.map(Obj::to_ref));
    }
    if let Some(tasks) = &state().current_tasks {
        return super::builtin::dict_get(tasks.obj(), event_loop);
    }
    let task = state().asyncio.current_task.obj().call1(event_loop)?;
    Ok((!task.obj().is_none()).then_some(task))
}

/// Makes `task` (or no task, for `None`) current and returns what was current before, for eager
/// starts inside a running task. *Source*: `asyncio.tasks._swap_current_task`.
pub fn swap(event_loop: Obj<'_>, task: Obj<'_>) -> R<Ref> {
    let slot = thread_slot();
    if !slot.is_null() && runs(event_loop) {
        let current = if task.is_none() {
            std::ptr::null_mut()
        } else {
            task.to_ref().into_ptr()
        };
        // SAFETY: a word of this thread's state, which owns its reference or is null: the old one
        // becomes ours, the new one its own.
        let previous = unsafe { Ref::steal_opt(std::mem::replace(&mut *slot, current)) };
        return Ok(previous.unwrap_or_else(super::object::none_ref));
    }
    if let Some(function) = &state().swap_current_task {
        return function.obj().call(&[event_loop, task]);
    }
    let Some(tasks) = &state().current_tasks else {
        return Err(super::Raised::runtime(
            "asyncio keeps no table of current tasks",
        ));
    };
    // SAFETY: a dict and a live key; the result is borrowed or null.
    let current = unsafe { c::PyDict_GetItemWithError(tasks.ptr(), event_loop.ptr()) };
    // SAFETY: borrowed from the dict.
    let previous = unsafe { Obj::from_nullable(current) }.map(Obj::to_ref);
    if !task.is_none() {
        super::call::dict_set(tasks.obj(), event_loop, task)?;
    } else if previous.is_some() {
        // SAFETY: the key was just found.
        super::error::check(unsafe { c::PyDict_DelItem(tasks.ptr(), event_loop.ptr()) })?;
    }
    Ok(previous.unwrap_or_else(super::object::none_ref))
}

/// The loop that runs on this thread, or None. *Source*: `asyncio.events._get_running_loop`.
#[inline]
pub fn running_loop() -> R<Ref> {
    let Some(offset) = state().layout.running_loop else {
        return state().asyncio.running_loop_or_none.obj().call0();
    };
    // SAFETY: found by the probe; what lies there is owned by this thread.
    let running = unsafe { Obj::from_nullable(*thread_word(offset)) };
    Ok(running.map_or_else(super::object::none_ref, Obj::to_ref))
}

/// Whether the loop is known to run on this thread.
#[inline]
fn runs(event_loop: Obj<'_>) -> bool {
    let offset = state().layout.running_loop;
    // SAFETY: found by the probe; only compared.
    offset.is_some_and(|offset| unsafe { *thread_word(offset) } == event_loop.ptr())
}
