//! Handles that only the queue or the timers of a running loop know, as nearly all are.
//!
//! While turns run the loop is alive, and so is all that it is to run, whatever the collector
//! thinks. So a handle of `call_soon` or `call_later` is shown to the collector only when somebody
//! has kept it past its run, or when the turns end. Whoever nobody has kept runs without a
//! reference to its callback being taken, and its memory serves the next. May touch: such handles.
//! Invariants: a handle that is hidden from the collector is in the queue or the timers of a loop
//! whose turns run, or about to get there, or just running; spare ones are hidden, hold nothing,
//! and nobody else refers to them.

use std::cell::{Cell, RefCell};

use pyo3_ffi as c;

use super::{
    Callback, GuardedFields, HandleFields, IN_TUPLE, INLINE_ARGS, Kind, Parts, allocate, fields,
    guarded, report, run,
};
use crate::event_loop::HAND_OVER_ENTRIES;
use crate::ffi::context::current_variables;
use crate::ffi::park::{calling, unwinding};
use crate::ffi::stage::{Stage, goes_quietly};
use crate::ffi::weak::has_weak_references;
use crate::ffi::{Obj, R, Raised, Ref, Slot};
use crate::state::state;

/// Room for spare handles of each type: as many as a thread leaves before it lets the loop run.
/// Memory that is given back in between is cleared by the kernel when it is needed again, which
/// takes longer than the rest of a call.
const SPARES_MAX: usize = HAND_OVER_ENTRIES;

/// What the handles of one loop share.
#[derive(Default)]
pub struct PerLoop {
    /// Handles of each kind that have run, or were cancelled, and that nobody has kept.
    spares: [RefCell<Vec<Ref>>; 3],
    /// Number of hidden timer handles that are not spare.
    hidden_timers: Cell<usize>,
    stage: Stage,
}

impl PerLoop {
    /// Drops the spare handles.
    pub fn clear(&self) {
        self.spares.iter().map(RefCell::take).for_each(drop);
    }

    /// Leaves the context that callbacks in a row ran in: before anything else runs.
    #[inline(always)]
    pub fn leave_context(&self) -> R<()> {
        self.stage.leave()
    }

    /// Whether there are hidden timer handles.
    pub fn has_hidden_timers(&self) -> bool {
        self.hidden_timers.get() != 0
    }

    /// Counts one hidden handle less.
    #[inline(always)]
    fn note_left(&self, this: &HandleFields) {
        if this.kind.get() == Kind::Timer {
            self.hidden_timers.set(self.hidden_timers.get() - 1);
        }
    }

    /// The spare handles of a kind.
    #[inline(always)]
    fn spares(&self, kind: Kind) -> &RefCell<Vec<Ref>> {
        &self.spares[kind as usize]
    }

    /// The context that callbacks and steps in a row run in.
    #[inline(always)]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Keeps a handle of that kind, empty, for the next.
    #[inline(always)]
    fn keep(&self, handle: Ref, kind: Kind) {
        let mut spares = self.spares(kind).borrow_mut();
        let len = spares.len();
        if len == spares.capacity() {
            make_room(&mut spares);
        }
        if len < SPARES_MAX {
            spares.push(handle);
        }
    }

    /// A spare handle.
    #[inline(always)]
    fn spare(&self, kind: Kind) -> Option<Ref> {
        self.spares(kind).borrow_mut().pop()
    }

    /// A handle that is made of `parts` again.
    #[inline(always)]
    fn reuse<'a>(
        &self,
        kind: Kind,
        event_loop: Obj<'_>,
        parts: Parts<'a>,
    ) -> Result<Ref, Parts<'a>> {
        let Some(spare) = self.spare(kind) else {
            return Err(parts);
        };
        fields(spare.obj()).refill(event_loop, parts);
        Ok(spare)
    }
}

/// More room for spare handles.
#[cold]
#[inline(never)]
fn make_room(spares: &mut Vec<Ref>) {
    let more = spares.len().clamp(16, SPARES_MAX);
    spares.reserve_exact(more);
}

/// Creates a handle for the queue of a loop whose turns run.
#[inline]
pub fn new_queued(event_loop: Obj<'_>, callback: &Callback<'_>, shared: &PerLoop) -> R<Ref> {
    if callback.context.is_none()
        && callback.args.len() <= INLINE_ARGS
        && let Some(variables) = current_variables()
        && let Some(spare) = shared.spare(Kind::Plain)
    {
        fields(spare.obj()).refill_plainly(event_loop, callback, variables);
        return Ok(spare);
    }
    new_queued_any(event_loop, callback, shared)
}

/// As `new_queued`, whatever it is made of.
#[inline(never)]
fn new_queued_any(event_loop: Obj<'_>, callback: &Callback<'_>, shared: &PerLoop) -> R<Ref> {
    match shared.reuse(Kind::Plain, event_loop, Parts::of(callback)?) {
        Ok(handle) => Ok(handle),
        // SAFETY: our type, of the size that its fields need.
        Err(parts) => unsafe {
            let fields = || parts.fields(event_loop, None);
            allocate(&state().types.handle, fields).map(hide)
        },
    }
}

/// Creates a timer handle, due at `when` in loop seconds, for a loop whose turns run.
#[inline]
pub fn new_timed(
    event_loop: Obj<'_>,
    callback: &Callback<'_>,
    when: f64,
    shared: &PerLoop,
) -> R<Ref> {
    let handle = match shared.reuse(Kind::Timer, event_loop, Parts::of(callback)?) {
        Ok(handle) => {
            fields(handle.obj()).when.set(when);
            handle
        }
        // SAFETY: our type, of the size that its fields need.
        Err(parts) => unsafe {
            let fields = || parts.fields(event_loop, Some(when));
            allocate(&state().types.timer_handle, fields).map(hide)?
        },
    };
    shared.hidden_timers.set(shared.hidden_timers.get() + 1);
    Ok(handle)
}

/// As `new_queued`, for one that other threads may cancel: from 3.14 on it is guarded.
pub fn new_queued_thread_safe(
    event_loop: Obj<'_>,
    callback: &Callback<'_>,
    shared: &PerLoop,
) -> R<Ref> {
    let Some(class) = &state().types.thread_safe_handle else {
        return new_queued_any(event_loop, callback, shared);
    };
    match shared.reuse(Kind::Guarded, event_loop, Parts::of(callback)?) {
        Ok(handle) => Ok(handle),
        // SAFETY: our type, of the size that its fields need.
        Err(parts) => unsafe {
            let fields = || GuardedFields::holding(parts.fields(event_loop, None));
            allocate(class, fields).map(hide)
        },
    }
}

/// Marks a new handle as one that the collector does not know.
#[inline(always)]
fn hide(handle: Ref) -> Ref {
    fields(handle.obj()).hidden.set(true);
    handle
}

/// Shows the handle to the collector, if that does not know it yet.
#[inline]
pub fn show(handle: Obj<'_>, shared: &PerLoop) {
    let this = fields(handle);
    if this.hidden.replace(false) {
        shared.note_left(this);
        // SAFETY: complete, and not tracked so far.
        unsafe { c::PyObject_GC_Track(handle.ptr().cast()) };
    }
}

/// Drops the queue's or the timers' reference to a handle.
#[inline]
fn let_go(handle: Ref, shared: &PerLoop) {
    show(handle.obj(), shared);
    drop(handle);
}

/// Drops a cancelled handle that has left the timers.
pub fn discard(handle: Ref, shared: &PerLoop) {
    let this = fields(handle.obj());
    this.set_scheduled(false);
    if is_sole(handle.obj(), this) {
        recycle(handle, shared);
    } else {
        let_go(handle, shared);
    }
}

/// Runs a handle of the queue, as `run` does, and drops it.
#[inline]
pub fn run_queued(handle: Ref, shared: &PerLoop) -> R<()> {
    let this = fields(handle.obj());
    if !is_sole(handle.obj(), this) {
        return run_known(handle, shared);
    }
    match run_sole(this, shared) {
        Ok(()) => {
            if !this.goes_quietly() {
                shared.leave_context()?;
            }
            recycle(handle, shared);
            Ok(())
        }
        Err(raised) => fail(handle, shared, raised),
    }
}

/// Runs a handle that somebody may look at, or cancel, while it runs.
#[inline(never)]
fn run_known(handle: Ref, shared: &PerLoop) -> R<()> {
    shared.leave_context()?;
    fields(handle.obj()).set_scheduled(false);
    // A cancelled one has nothing to call.
    let result = run(handle.obj());
    let_go(handle, shared);
    result
}

/// Whether nobody but the caller can have this handle, as long as its callback succeeds: the
/// collector can't show it to anybody either.
#[inline(always)]
fn is_sole(handle: Obj<'_>, this: &HandleFields) -> bool {
    // SAFETY: alive.
    this.hidden.get() && unsafe { c::Py_REFCNT(handle.ptr()) } == 1 && !has_weak_references(handle)
}

/// Runs the callback of a handle that nobody else has.
#[inline(always)]
fn run_sole(this: &HandleFields, shared: &PerLoop) -> R<()> {
    // SAFETY: nobody can change the field.
    let Some(callback) = (unsafe { this.callback.borrowed() }) else {
        return Ok(());
    };
    match shared.stage.enter(&this.context) {
        Some(Ok(context)) => {
            let result = call_sole(this, callback);
            shared.stage.stay(context, &this.context, result)
        }
        Some(Err(raised)) => Err(raised),
        None => run_outside(this, shared, callback),
    }
}

/// Runs a callback for which a program gave a context.
#[inline(never)]
fn run_outside(this: &HandleFields, shared: &PerLoop, callback: Obj<'_>) -> R<()> {
    shared.leave_context()?;
    match this.context.run(|| call_sole(this, callback)) {
        Some(result) => result,
        None => super::call_in(this, callback),
    }
}

/// Calls with the handle's own references, which nobody can take away.
#[inline(always)]
fn call_sole(this: &HandleFields, callback: Obj<'_>) -> R<()> {
    let nargs = this.nargs.get();
    if nargs == IN_TUPLE {
        return super::call(this, callback);
    }
    // SAFETY: so many of the slots from there on hold references. The word before is one that the
    // callee may use meanwhile, as the flag tells it: nobody looks at it.
    let result = unsafe {
        let args = std::ptr::from_ref(&this.first_arg).cast();
        let flagged = usize::from(nargs) | c::PY_VECTORCALL_ARGUMENTS_OFFSET;
        calling(|| {
            Ref::steal(unwinding::PyObject_Vectorcall(
                callback.ptr(),
                args,
                flagged,
                std::ptr::null_mut(),
            ))
        })
    };
    result.map(drop)
}

/// Keeps a handle that nobody else has, empty, for the next.
#[inline(always)]
fn recycle(handle: Ref, shared: &PerLoop) {
    let this = fields(handle.obj());
    shared.note_left(this);
    if !this.source_traceback.is_empty() || !this.repr.is_empty() {
        return drop_debugged(handle);
    }
    this.drop_target();
    this.context.clear();
    this.event_loop.clear();
    if !this.when_given.is_empty() {
        this.when_given.clear();
    }
    this.cancelled.set(false);
    let kind = this.kind.get();
    shared.keep(handle, kind);
}

/// Debug mode: it may hold more.
#[cold]
#[inline(never)]
fn drop_debugged(handle: Ref) {
    drop(handle);
}

/// Reports what the callback raised, unless that ends the run.
#[cold]
fn fail(handle: Ref, shared: &PerLoop, raised: Raised) -> R<()> {
    fields(handle.obj()).set_scheduled(false);
    let result = if raised.is_exit() {
        Err(raised)
    } else {
        let exception = raised.take();
        guarded(handle.obj(), || report(handle.obj(), exception))
    };
    let_go(handle, shared);
    result
}

impl HandleFields {
    /// As `refill`, with the current context's variables and no more arguments than have a slot.
    #[inline(always)]
    fn refill_plainly(&self, event_loop: Obj<'_>, callback: &Callback<'_>, variables: Ref) {
        debug_assert!(callback.args.len() <= INLINE_ARGS);
        self.nargs.set(callback.args.len() as u8);
        if let [first, rest @ ..] = callback.args {
            self.first_arg.fill(Some(first.to_ref()));
            for (slot, arg) in [&self.second_arg, &self.third_arg].into_iter().zip(rest) {
                slot.fill(Some(arg.to_ref()));
            }
        }
        self.context.fill_with_variables(variables);
        self.event_loop.fill(Some(event_loop.to_ref()));
        self.callback.fill(Some(callback.function.to_ref()));
    }

    /// Whether nothing of Python's runs when a handle that nobody else has lets go of all.
    #[inline(always)]
    fn goes_quietly(&self) -> bool {
        // SAFETY: nobody changes it meanwhile.
        let is_quiet = |slot: &Slot| unsafe { slot.borrowed() }.is_none_or(goes_quietly);
        let has_args = self.nargs.get() != 0;
        is_quiet(&self.callback) && (!has_args || self.arg_slots().into_iter().all(is_quiet))
    }
}
