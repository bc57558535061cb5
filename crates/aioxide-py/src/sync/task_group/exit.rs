//! `__aenter__`, `__aexit__` and `_aexit` of a group.
//!
//! May touch: the group, the task that entered it. Invariant: no task of the group is left when
//! leaving ends in anything but an exception thrown into it. *Source*: `TaskGroup.__aexit__`.

#![forbid(unsafe_code)]

use super::{
    GroupFields, add_error, call_abort, cancel, exception_group, has_own, is_base_error, of,
};
use crate::ffi::builtin::{is_generator_exit, is_subclass};
use crate::ffi::call::list_len;
use crate::ffi::error::given_matches;
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature};
use crate::state::state;
use crate::sync::bound;
use crate::sync::child;
use crate::sync::coroutine::{self, Frame, Kind, Next, Resumed};
use crate::sync::managed::no_arguments;
use crate::sync::task_group_class as class;

const GROUP: usize = 0;
const CLASS: usize = 1;
const EXCEPTION: usize = 2;
/// The cancellation to raise in the end.
const CANCELLATION: usize = 3;
/// The last cancellation that came while leaving.
const LAST: usize = 4;

static ENTERING: Kind = Kind {
    name: "__aenter__",
    qualname: "TaskGroup.__aenter__",
    body: enter,
    quick: None,
};

static LEAVING: Kind = Kind {
    name: "__aexit__",
    qualname: "TaskGroup.__aexit__",
    body: leave,
    quick: None,
};

static FINISHING: Kind = Kind {
    name: "_aexit",
    qualname: "TaskGroup._aexit",
    body: finish_up,
    quick: None,
};

const ENTER: Signature = no_arguments("TaskGroup.__aenter__");

const LEAVE: Signature = Signature {
    name: "TaskGroup.__aexit__",
    params: &["et", "exc", "tb"],
    positional: 3,
    required: 3,
};

const FINISH: Signature = Signature {
    name: "TaskGroup._aexit",
    params: &["et", "exc"],
    positional: 2,
    required: 2,
};

/// `__aenter__()`.
pub fn enter_method(group: Obj<'_>, args: Args<'_>) -> R<Ref> {
    args.bind_python::<0>(&ENTER)?;
    coroutine::create(&ENTERING, [Some(group.to_ref())])
}

/// `__aexit__(et, exc, tb)`.
pub fn leave_method(group: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [class, exception, _traceback] = args.bind_python::<3>(&LEAVE)?;
    coroutine::create(&LEAVING, locals(group, class, exception))
}

/// `_aexit(et, exc)`, from 3.14 on.
pub fn finish_method(group: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [class, exception] = args.bind_python::<2>(&FINISH)?;
    coroutine::create(&FINISHING, locals(group, class, exception))
}

/// The locals; `None` is an empty one.
fn locals(group: Obj<'_>, class: Option<Obj<'_>>, exc: Option<Obj<'_>>) -> [Option<Ref>; 3] {
    let given = |value: Option<Obj<'_>>| value.filter(|value| !value.is_none()).map(Obj::to_ref);
    [Some(group.to_ref()), given(class), given(exc)]
}

fn enter(frame: &Frame, resumed: Resumed) -> R<Next> {
    drop(resumed.value()?);
    let group = frame.slots[GROUP].get_or_none();
    let (group, this) = (group.obj(), of(group.obj()));
    if this.entered.get() {
        let repr = group.repr()?;
        return Err(Raised::runtime(&format!(
            "TaskGroup {repr} has already been entered"
        )));
    }
    let mut event_loop = bound::get_loop(group)?;
    if event_loop.obj().is_none() {
        event_loop = state().asyncio.get_running_loop.obj().call0()?;
        bound::set_loop(group, Some(event_loop.obj()))?;
    }
    this.parent.set(child::current_task(event_loop.obj())?);
    if this.parent.is_empty() {
        let repr = group.repr()?;
        return Err(Raised::runtime(&format!(
            "TaskGroup {repr} cannot determine the parent task"
        )));
    }
    this.entered.set(true);
    if this.cancel_on_enter.get() {
        call_cancel(group)?;
    }
    Ok(Next::Return(group.to_ref()))
}

fn call_cancel(group: Obj<'_>) -> R<()> {
    if has_own(group, class::CANCEL)? {
        return cancel(group);
    }
    group.call_method0(state().names.cancel.obj()).map(drop)
}

const STARTED: u8 = 0;
const WAITS: u8 = 1;
/// Somebody else's `_aexit` runs.
const DELEGATED: u8 = 2;

fn leave(frame: &Frame, resumed: Resumed) -> R<Next> {
    if !state().sync.task_group_rules.forgets {
        return finish_up(frame, resumed);
    }
    let group = frame.slots[GROUP].get_or_none();
    let next = go_on(frame, group.obj(), resumed);
    if matches!(next, Ok(Next::Await(_))) {
        return next;
    }
    // Exceptions hold frames: no group keeps them for longer than it must.
    let raised = next.map_err(Raised::take);
    let this = of(group.obj());
    this.parent.clear();
    this.errors.clear();
    this.base_error.clear();
    raised.map_err(Raised::throw)
}

fn go_on(frame: &Frame, group: Obj<'_>, resumed: Resumed) -> R<Next> {
    match frame.stage.get() {
        STARTED if !has_own(group, class::AEXIT)? => {
            frame.stage.set(DELEGATED);
            let (class, exception) = (
                frame.slots[CLASS].get_or_none(),
                frame.slots[EXCEPTION].get_or_none(),
            );
            let args = [group, class.obj(), exception.obj()];
            let name = state().names._aexit.obj();
            group.call_method(name, &args).map(Next::Await)
        }
        DELEGATED => resumed.value().map(Next::Return),
        _ => finish_up(frame, resumed),
    }
}

/// The body of `_aexit`, before 3.14 of `__aexit__`.
fn finish_up(frame: &Frame, resumed: Resumed) -> R<Next> {
    let group = frame.slots[GROUP].get_or_none();
    let (group, this) = (group.obj(), of(group.obj()));
    if frame.stage.get() == STARTED {
        drop(resumed.value()?);
        begin(frame, group, this)?;
    } else {
        if let Resumed::Raised(exception) = resumed {
            interrupted(frame, group, this, exception)?;
        }
        this.on_completed.clear();
    }
    if this.has_tasks() {
        frame.stage.set(WAITS);
        if this.on_completed.is_empty() {
            let event_loop = bound::get_loop(group)?;
            let future = crate::event_loop::create_future_on(event_loop.obj())?;
            this.on_completed.set(Some(future));
        }
        return Ok(Next::Await(this.on_completed.get_or_none()));
    }
    conclude(frame, this)
}

fn is_cancellation(class: Obj<'_>) -> R<bool> {
    let cancelled = state().asyncio.cancelled_error.obj();
    if state().sync.task_group_rules.knows_subclasses {
        is_subclass(class, cancelled)
    } else {
        Ok(class.is(cancelled))
    }
}

fn begin(frame: &Frame, group: Obj<'_>, this: &GroupFields) -> R<()> {
    let rules = &state().sync.task_group_rules;
    this.exiting.set(true);
    let exception = frame.slots[EXCEPTION].get();
    if let Some(exception) = &exception
        && is_base_error(group, exception.obj())?
        && this.base_error.is_empty()
    {
        this.base_error.set(Some(exception.clone()));
    }
    let class = frame.slots[CLASS].get();
    if let Some(class) = &class
        && is_cancellation(class.obj())?
    {
        frame.slots[CANCELLATION].set(exception);
    }
    if rules.uncancels_first && this.parent_cancel_requested.get() && uncancel(this)? == 0 {
        frame.slots[CANCELLATION].clear();
    }
    if class.is_some() && !this.aborting.get() {
        // The body failed, or the parent is being cancelled.
        call_abort(group)?;
    }
    Ok(())
}

/// A cancellation, or something else, while leaving waits.
fn interrupted(frame: &Frame, group: Obj<'_>, this: &GroupFields, exception: Ref) -> R<()> {
    if !given_matches(exception.obj(), state().asyncio.cancelled_error.ptr()) {
        return Err(Raised::throw(exception));
    }
    frame.slots[LAST].set(Some(exception.clone()));
    if !this.aborting.get() {
        // The parent is being cancelled from outside while tasks still run.
        frame.slots[CANCELLATION].set(Some(exception));
        call_abort(group)?;
    }
    Ok(())
}

/// No task is left: what comes out of `async with`.
fn conclude(frame: &Frame, this: &GroupFields) -> R<Next> {
    let rules = &state().sync.task_group_rules;
    if let Some(error) = this.base_error.get() {
        return Err(Raised::raise(error));
    }
    if !rules.uncancels_first && this.parent_cancel_requested.get() {
        if uncancel(this)? == 0 {
            frame.slots[CANCELLATION].clear();
        } else if rules.keeps_last_cancellation && frame.slots[CANCELLATION].is_empty() {
            frame.slots[CANCELLATION].set(frame.slots[LAST].take());
        }
    }
    let has_errors = || {
        this.errors
            .get()
            .is_some_and(|errors| list_len(errors.obj()) > 0)
    };
    if let Some(cancellation) = frame.slots[CANCELLATION].get()
        && !has_errors()
    {
        return Err(Raised::raise(cancellation));
    }
    let class = frame.slots[CLASS].get();
    let exception = frame.slots[EXCEPTION].get_or_none();
    if let Some(class) = &class
        && !is_cancellation(class.obj())?
    {
        add_error(this, exception.obj())?;
    }
    if !has_errors() {
        return Ok(Next::Return(if rules.can_be_cancelled {
            boolean(true)
        } else {
            none_ref()
        }));
    }
    if rules.cancels_again {
        cancel_again(this)?;
    }
    let errors = this.errors.get_or_none();
    if rules.raises_lone_generator_exit
        && let Some(class) = &class
        && is_generator_exit(class.obj())?
        && list_len(errors.obj()) == 1
    {
        return Err(Raised::raise(exception));
    }
    if !rules.forgets {
        this.errors.clear();
    }
    Err(Raised::raise_from_none(exception_group(errors.obj())?))
}

/// Delivers a cancellation from outside again, with the same count.
fn cancel_again(this: &GroupFields) -> R<()> {
    let parent = this.parent.get_or_none();
    let name = state().names.cancelling.obj();
    if parent.obj().call_method0(name)?.obj().is_true()? {
        uncancel(this)?;
        child::cancel_plainly(parent.obj())?;
    }
    Ok(())
}

/// `self._parent_task.uncancel()`.
fn uncancel(this: &GroupFields) -> R<i64> {
    let parent = this.parent.get_or_none();
    let left = parent.obj().call_method0(state().names.uncancel.obj())?;
    left.obj().to_i64()
}
