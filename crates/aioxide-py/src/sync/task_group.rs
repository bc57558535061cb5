//! `TaskGroup`: tasks that end together. Rooms: `rules` (what differs between versions), `exit`
//! (entering and leaving).
//!
//! May touch: one group's fields, its tasks, the task that entered it. Invariants: a task is in
//! `tasks` from its making until the group is told that it is done; the group is told by an entry
//! of the ready queue of its own. *Source*: `asyncio.taskgroups.TaskGroup`.

#![forbid(unsafe_code)]

use std::cell::Cell;

use super::bound::{self, Bound, Fields, fields, replaced};
use super::{Listener, child, task_group_class as class};
use crate::event_loop;
use crate::ffi::builtin::is_exit;
use crate::ffi::call::{dict, dict_set, list_append, string, tuple};
use crate::ffi::class::Visitor;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Slot, set};
use crate::future;
use crate::state::state;
use crate::task;

pub mod exit;
mod rules;

pub use rules::Rules;

/// The fields of a group.
#[repr(C)]
pub struct GroupFields {
    bound: Bound,
    /// The task that entered the group.
    pub(super) parent: Slot,
    /// The set of tasks that are not done.
    pub(super) tasks: Slot,
    /// The list of their exceptions.
    pub(super) errors: Slot,
    /// The first `SystemExit` or `KeyboardInterrupt`, which wins over everything else.
    pub(super) base_error: Slot,
    /// What `__aexit__` waits for, while it does.
    pub(super) on_completed: Slot,
    pub(super) entered: Cell<bool>,
    pub(super) exiting: Cell<bool>,
    pub(super) aborting: Cell<bool>,
    pub(super) parent_cancel_requested: Cell<bool>,
    pub(super) cancel_on_enter: Cell<bool>,
}

impl GroupFields {
    fn slots(&self) -> [&Slot; 5] {
        [
            &self.parent,
            &self.tasks,
            &self.errors,
            &self.base_error,
            &self.on_completed,
        ]
    }

    /// Whether any task is not done.
    fn has_tasks(&self) -> bool {
        self.tasks
            .get()
            .is_some_and(|tasks| set::len(tasks.obj()) > 0)
    }
}

impl Fields for GroupFields {
    fn fresh() -> GroupFields {
        GroupFields {
            bound: Bound::fresh(),
            parent: Slot::empty(),
            tasks: Slot::empty(),
            errors: Slot::empty(),
            base_error: Slot::empty(),
            on_completed: Slot::empty(),
            entered: Cell::new(false),
            exiting: Cell::new(false),
            aborting: Cell::new(false),
            parent_cancel_requested: Cell::new(false),
            cancel_on_enter: Cell::new(false),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        for slot in self.slots() {
            visitor.slot(slot);
        }
    }

    fn clear(&self) {
        for slot in self.slots() {
            slot.clear();
        }
    }
}

pub(super) fn of(group: Obj<'_>) -> &GroupFields {
    fields(group)
}

/// Whether none of these methods is replaced by a subclass or on the instance.
#[inline]
fn has_own(group: Obj<'_>, methods: u32) -> R<bool> {
    Ok(replaced(group, &state().sync.task_group)? & methods == 0)
}

// ---- making tasks -------------------------------------------------------------------------------

/// `group.create_task(coro, ...)`.
pub(super) fn create_task(group: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let this = of(group);
    let coro = class::coroutine_of(&args)?;
    let refusal = if !this.entered.get() {
        Some("has not been entered")
    } else if this.exiting.get() && !this.has_tasks() {
        Some("is finished")
    } else if this.aborting.get() {
        Some("is shutting down")
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Err(refuse(group, coro, refusal));
    }
    let parent = this.parent.get_or_none();
    let task = make_task(group, parent.obj(), coro, &args)?;
    add(group, this, &parent, task.obj())?;
    Ok(task)
}

#[cold]
fn refuse(group: Obj<'_>, coro: Obj<'_>, refusal: &str) -> Raised {
    let closed = if state().sync.task_group_rules.closes_refused {
        coro.call_method0(state().names.close.obj()).map(drop)
    } else {
        Ok(())
    };
    match closed.and_then(|()| group.repr()) {
        Ok(repr) => Raised::runtime(&format!("TaskGroup {repr} {refusal}")),
        Err(raised) => raised,
    }
}

/// `self._loop.create_task(coro, ...)`.
fn make_task(group: Obj<'_>, parent: Obj<'_>, coro: Obj<'_>, args: &Args<'_>) -> R<Ref> {
    let event_loop = bound::get_loop(group)?;
    if !args.has_named()
        && future::is_native(parent)
        && let Some(native) = future::fields(parent).native()
        && native.object().is(event_loop.obj())
        && native.makes_tasks_directly()
        && task::is_exact_coroutine(coro)
    {
        return event_loop::create_plain_task(event_loop.obj(), native, coro);
    }
    class::make_task(event_loop.obj(), coro, args)
}

/// Enters a new task.
fn add(group: Obj<'_>, this: &GroupFields, parent: &Ref, task: Obj<'_>) -> R<()> {
    let rules = &state().sync.task_group_rules;
    child::add_edge(task, Some(parent).filter(|_| rules.shows_edges))?;
    if rules.tells_at_once_if_done && child::is_done(task)? {
        return tell(group, task);
    }
    set::add(this.tasks.get_or_none().obj(), task)?;
    if has_own(group, class::ON_TASK_DONE)? {
        child::listen(task, group, Listener::Group)?;
    } else {
        let callback = group.getattr(state().names._on_task_done.obj())?;
        let name = state().names.add_done_callback.obj();
        task.call_method1(name, callback.obj())?;
    }
    if rules.cancels_late_comers && this.aborting.get() && !child::is_done(task)? {
        child::cancel_plainly(task)?;
    }
    Ok(())
}

/// `self._on_task_done(task)`.
fn tell(group: Obj<'_>, task: Obj<'_>) -> R<()> {
    if has_own(group, class::ON_TASK_DONE)? {
        return task_done(group, task);
    }
    let name = state().names._on_task_done.obj();
    group.call_method1(name, task).map(drop)
}

// ---- their ends ---------------------------------------------------------------------------------

/// One task is done: `_on_task_done(task)`.
pub fn task_done(group: Obj<'_>, task: Obj<'_>) -> R<()> {
    let this = of(group);
    set::discard(this.tasks.get_or_none().obj(), task)?;
    let parent = this.parent.get_or_none();
    if state().sync.task_group_rules.shows_edges {
        child::discard_edge(task, Some(&parent))?;
    }
    if let Some(completed) = this.on_completed.get()
        && !this.has_tasks()
        && !child::is_done(completed.obj())?
    {
        child::set_result(completed.obj(), crate::ffi::object::boolean(true))?;
    }
    if child::is_cancelled(task)? {
        return Ok(());
    }
    match child::exception(task)? {
        Some(exception) => task_failed(group, this, task, &exception),
        None => Ok(()),
    }
}

#[cold]
fn task_failed(group: Obj<'_>, this: &GroupFields, task: Obj<'_>, exception: &Ref) -> R<()> {
    add_error(this, exception.obj())?;
    if is_base_error(group, exception.obj())? && this.base_error.is_empty() {
        this.base_error.set(Some(exception.clone()));
    }
    let parent = this.parent.get_or_none();
    if child::is_done(parent.obj())? {
        return report_orphan(group, parent.obj(), task, exception.obj());
    }
    if !this.aborting.get() && !this.parent_cancel_requested.get() {
        // The body is to be interrupted; leaving the group takes this request back.
        call_abort(group)?;
        this.parent_cancel_requested.set(true);
        child::cancel_plainly(parent.obj())?;
    }
    Ok(())
}

/// `self._errors.append(exception)`.
fn add_error(this: &GroupFields, exception: Obj<'_>) -> R<()> {
    match this.errors.get() {
        Some(errors) => list_append(errors.obj(), exception),
        None => {
            let name = state().names.append.obj();
            none().call_method1(name, exception).map(drop)
        }
    }
}

fn report_orphan(group: Obj<'_>, parent: Obj<'_>, task: Obj<'_>, exception: Obj<'_>) -> R<()> {
    let names = &state().names;
    let (task_repr, parent) = (task.repr()?, crate::ffi::call::text(parent.str()?.obj())?);
    let message = string(&format!(
        "Task {task_repr} has errored out but its parent task {parent} is already completed"
    ))?;
    let context = dict()?;
    dict_set(context.obj(), names.message.obj(), message.obj())?;
    dict_set(context.obj(), names.exception.obj(), exception)?;
    dict_set(context.obj(), names.task.obj(), task)?;
    let event_loop = bound::get_loop(group)?;
    let name = names.call_exception_handler.obj();
    event_loop.obj().call_method1(name, context.obj()).map(drop)
}

/// `self._is_base_error(exception)`.
fn is_base_error(group: Obj<'_>, exception: Obj<'_>) -> R<bool> {
    if has_own(group, class::IS_BASE_ERROR)? {
        return Ok(is_exit(exception));
    }
    let name = state().names._is_base_error.obj();
    group.call_method1(name, exception)?.obj().is_true()
}

// ---- giving up ----------------------------------------------------------------------------------

/// `self._abort()`.
fn call_abort(group: Obj<'_>) -> R<()> {
    if has_own(group, class::ABORT)? {
        return abort(group);
    }
    group.call_method0(state().names._abort.obj()).map(drop)
}

/// `_abort()`: cancels every task.
pub(super) fn abort(group: Obj<'_>) -> R<()> {
    let this = of(group);
    this.aborting.set(true);
    for task in set::items(this.tasks.get_or_none().obj())? {
        if !child::is_done(task.obj())? {
            child::cancel_plainly(task.obj())?;
        }
    }
    Ok(())
}

/// `cancel()`, from 3.15 on: leaves the group without an exception.
pub(super) fn cancel(group: Obj<'_>) -> R<()> {
    let this = of(group);
    if !this.entered.get() {
        this.cancel_on_enter.set(true);
        return Ok(());
    }
    if this.aborting.get() || (this.exiting.get() && !this.has_tasks()) {
        return Ok(());
    }
    call_abort(group)?;
    if let Some(parent) = this.parent.get()
        && !this.parent_cancel_requested.replace(true)
    {
        child::cancel_plainly(parent.obj())?;
    }
    Ok(())
}

/// A group as printed. *Source*: `TaskGroup.__repr__`.
pub(super) fn repr(group: Obj<'_>) -> R<Ref> {
    let this = of(group);
    let mut text = String::from("<TaskGroup");
    let tasks = this.tasks.get().map_or(0, |tasks| set::len(tasks.obj()));
    if tasks > 0 {
        text += &format!(" tasks={tasks}");
    }
    let errors = this.errors.get();
    let errors = errors.map_or(0, |errors| crate::ffi::call::list_len(errors.obj()));
    if errors > 0 {
        text += &format!(" errors={errors}");
    }
    if this.aborting.get() {
        text += " cancelling";
    } else if this.entered.get() {
        text += " entered";
    }
    string(&(text + ">"))
}

/// The arguments of a `raise group(...)`: message and exceptions.
fn exception_group(errors: Obj<'_>) -> R<Ref> {
    let message = string("unhandled errors in a TaskGroup")?;
    let args = tuple(&[message.obj(), errors])?;
    let class = crate::ffi::builtin::base_exception_group();
    class.call_dict(args.obj(), None)
}

/// `None`, for methods.
pub(super) fn nothing(done: R<()>) -> R<Ref> {
    done.map(|()| none_ref())
}
