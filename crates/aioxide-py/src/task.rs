//! `Task`: the native task, a subclass of `_asyncio.Task` that drives a coroutine.
//!
//! ```text
//!            ┌── bare yield ──────────────┐
//! created ──> Step in the ready queue ──> running ── returns, raises ──> done
//!            └── future done <── waiting <┘ yields a future
//! ```
//! While it waits for a native future the task itself sits among that future's waiters. Everything
//! else (stock futures, subclasses) goes the documented way through `_asyncio_future_blocking` and
//! `add_done_callback`. May touch: its own fields, the future it waits for, its loop's queue.
//! Invariants: `waits_for` is set exactly from the yield of a future to the step that follows its
//! completion; a held task (`held` not zero) is in its loop's table at that place.
//! *Source*: `asyncio.tasks.Task`.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3_ffi as c;

use crate::event_loop::{self, LoopFields};
use crate::ffi::call::{string, uint};
use crate::ffi::class::bind_tuple;
use crate::ffi::context::ContextSlot;
use crate::ffi::error::given_matches;
#[cfg(not(Py_3_14))]
use crate::ffi::registry::Node;
use crate::ffi::stage::Stage;
use crate::ffi::{
    Obj, R, Raised, Ref, Signature, Slot, builtin, context, current, layout, registry,
};
use crate::future::{self, FutureFields};
use crate::state::state;
use crate::sync::coroutine;

mod cancel;
mod class;
mod sent;
mod wait;

use sent::Sent;

pub use cancel::{cancel, cancel_any, cancelling_of, uncancel_of};
pub use class::{build_type, step_callback, wakeup_callback};
pub use wait::{add_edge, cancel_awaited, discard_edge};

/// The fields of a task that asyncio's base does not have; the future part comes first.
#[repr(C)]
pub struct TaskFields {
    pub future: FutureFields,
    /// The future that the task waits for.
    waits_for: Slot,
    cancels_requested: Cell<u32>,
    /// One more than the place in the loop's table of held tasks; zero if not held.
    held: Cell<u32>,
    #[cfg(not(Py_3_14))]
    pub node: Node,
}

/// The fields of a native task.
#[inline]
pub fn fields(task: Obj<'_>) -> &TaskFields {
    // SAFETY: methods get instances from their own descriptors, everyone else made the object or
    // took it from a place where only native tasks go.
    unsafe { layout::fields(task.ptr(), state().layout.fields) }
}

/// The task whose list node this is, as a new reference; none if it is being freed.
///
/// # Safety
/// `node` is the `node` field of a live task.
#[cfg(not(Py_3_14))]
pub unsafe fn owner_of_node(node: *const Node) -> Option<Ref> {
    let offset = state().layout.fields + std::mem::offset_of!(TaskFields, node);
    // SAFETY: by the contract the task object begins `offset` bytes before its node.
    let task: Obj<'_> = unsafe { Obj::from_ptr(node.cast::<u8>().sub(offset).cast_mut().cast()) };
    // SAFETY: as above.
    (unsafe { c::Py_REFCNT(task.ptr()) } > 0).then(|| task.to_ref())
}

/// The source of `Task-N` numbers.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What a task is made of.
pub struct Options<'a> {
    /// The coroutine.
    pub coro: Obj<'a>,
    /// A name, or `None`/absent for `Task-N`.
    pub name: Option<Obj<'a>>,
    /// A context, or `None`/absent for a copy of the current one.
    pub context: Option<Obj<'a>>,
    /// Run the first step now, if the loop runs.
    pub eager: bool,
}

/// Creates a task on a native loop: the body of `loop.create_task()`.
pub fn create(event_loop: Obj<'_>, native: &LoopFields, options: &Options<'_>) -> R<Ref> {
    // SAFETY: a ready type of ours; zeroed memory is a valid uninitialised task.
    let task = unsafe { Ref::steal(c::PyType_GenericAlloc(state().task_type, 0)) }?;
    let this = fields(task.obj());
    this.future.attach(event_loop, native);
    this.future.trace_source(native)?;
    this.check(options)?;
    start(task.obj(), this, options)?;
    Ok(task)
}

const INIT: Signature = Signature {
    name: "Task",
    params: &["coro", "loop", "name", "context", "eager_start"],
    positional: 1,
    required: 1,
};

fn init(task: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [coro, event_loop, name, run_context, eager] = bind_tuple::<5>(args, kwargs, &INIT)?;
    let Some(coro) = coro else {
        return Err(Raised::type_error("a coroutine was expected"));
    };
    let eager = eager.map_or(Ok(false), |eager| eager.obj().is_true())?;
    if !fields(task).future.event_loop.is_empty() && !state().quirks.init_once {
        fields(task).let_go();
    }
    future::initialise(task, event_loop)?;
    let options = Options {
        coro: coro.obj(),
        name: name.as_ref().map(Ref::obj),
        context: run_context.as_ref().map(Ref::obj),
        eager,
    };
    let this = fields(task);
    this.check(&options)?;
    this.waits_for.clear();
    this.future.exception().clear();
    this.future.must_cancel.set(false);
    this.cancels_requested.set(0);
    start(task, this, &options)
}

/// Fills a task that is bound to its loop and not cancelled, and schedules or runs its first step.
/// What it is made of has been checked.
#[inline(always)]
fn start(task: Obj<'_>, this: &TaskFields, options: &Options<'_>) -> R<()> {
    this.context().swap(&ContextSlot::new(options.context)?);
    this.future.log_destroy_pending.set(true);
    this.coro().set(Some(options.coro.to_ref()));
    match options.name {
        Some(name) if !name.is_none() => this.set_name(name)?,
        _ => {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
            this.name().set(Some(uint(number)?));
        }
    }
    mark_task(task);
    if options.eager && event_loop::is_running(future::loop_of(task)?.obj())? {
        return eager_start(task, this);
    }
    schedule_step(task, this)?;
    this.register(task)
}

#[cold]
fn not_a_coroutine(got: Obj<'_>) -> Raised {
    match got.repr() {
        Ok(got) => Raised::type_error(&format!("a coroutine was expected, got {got}")),
        Err(raised) => raised,
    }
}

/// From 3.15 on only a real context will do. Before, anything with `run` passes for one.
fn check_context(given: Obj<'_>) -> R<()> {
    if cfg!(Py_3_15) && !context::is_native(given) {
        let name = builtin::type_name(given)?;
        return Err(Raised::type_error(&format!(
            "a contextvars.Context was expected, got {name}"
        )));
    }
    Ok(())
}

/// Whether this is a coroutine that an `async def` function made, or a native one.
#[inline]
pub fn is_exact_coroutine(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyCoro_CheckExact(object.ptr()) != 0 || coroutine::is_native(object) }
}

#[cold]
fn acts_as_coroutine(coro: Obj<'_>) -> R<bool> {
    state()
        .asyncio
        .iscoroutine
        .obj()
        .call1(coro)?
        .obj()
        .is_true()
}

impl TaskFields {
    /// TypeError unless a task can be made of this. Such a task dies without a word.
    #[inline]
    fn check(&self, options: &Options<'_>) -> R<()> {
        if !is_exact_coroutine(options.coro) && !acts_as_coroutine(options.coro)? {
            self.future.log_destroy_pending.set(false);
            return Err(not_a_coroutine(options.coro));
        }
        match options.context {
            Some(given) if !given.is_none() => check_context(given),
            _ => Ok(()),
        }
    }

    /// Enters the tables that keep the task visible and, if the loop holds tasks, alive.
    fn register(&self, task: Obj<'_>) -> R<()> {
        registry::register(task)?;
        if let Some(native) = self.future.native()
            && self.held.get() == 0
            && native.holds_tasks()
        {
            self.held.set(native.hold(task.to_ref()) + 1);
        }
        Ok(())
    }

    /// Leaves those tables: the task is done.
    fn retire(&self, task: Obj<'_>) -> R<()> {
        drop(self.step_exception());
        self.let_go();
        registry::unregister(task)
    }

    /// Gives up the loop's hold.
    #[inline]
    fn let_go(&self) {
        let held = self.held.replace(0);
        if held != 0
            && let Some(native) = self.future.native()
        {
            drop(native.release(held - 1));
        }
    }

    /// Takes what the next step is to throw, made by the task itself.
    #[inline]
    fn step_exception(&self) -> Option<Ref> {
        if self.future.is_pending() {
            self.future.exception().take()
        } else {
            None
        }
    }

    /// The task may die pending without a word: nobody but its maker knows it.
    pub fn keep_quiet(&self) {
        self.future.log_destroy_pending.set(false);
    }

    /// The loop forgot this task by itself.
    pub fn forget_hold(&self) {
        self.held.set(0);
    }

    /// The coroutine. Lies in the base, where tools outside the process read it.
    #[inline]
    pub fn coro(&self) -> &Slot {
        let layout = &state().layout;
        // SAFETY: `fields` takes these from the right place, of a native task.
        unsafe { layout.slot_before(self, layout.places.coro) }
    }

    /// What it runs in: a context, or its variables.
    #[inline]
    fn context(&self) -> &ContextSlot {
        let layout = &state().layout;
        // SAFETY: as above.
        ContextSlot::over(unsafe { layout.slot_before(self, layout.places.context) })
    }

    /// The name, or the number in `Task-N` while nobody has asked for it. Tools read it, too.
    #[inline]
    fn name(&self) -> &Slot {
        let layout = &state().layout;
        // SAFETY: as above.
        unsafe { layout.slot_before(self, layout.places.name) }
    }

    fn set_name(&self, name: Obj<'_>) -> R<()> {
        let name = if name.is_exact_str() {
            name.to_ref()
        } else {
            name.str()?
        };
        self.name().set(Some(name));
        Ok(())
    }

    fn full_name(&self) -> R<Ref> {
        let name = self.name().get_or_none();
        if !name.obj().is_exact_int() {
            return Ok(name);
        }
        let name = string(&format!("Task-{}", name.obj().to_i64()?))?;
        self.name().set(Some(name.clone()));
        Ok(name)
    }
}

/// Tells tools outside the process that this future is a task.
#[inline]
fn mark_task(task: Obj<'_>) {
    if let Some(offset) = state().layout.is_task {
        // SAFETY: found by the probe in the base of this very type.
        unsafe { &*layout::base_byte(task, offset) }.set(1);
    }
}

/// Takes a task out of all tables: someone else completes it.
pub fn retire(task: Obj<'_>) -> R<()> {
    fields(task).retire(task)
}

/// Puts the next step into the loop's ready queue.
fn schedule_step(task: Obj<'_>, this: &TaskFields) -> R<()> {
    if let Some(native) = this.future.native() {
        return native.push_step(task.to_ref());
    }
    let event_loop = future::loop_of(task)?;
    let callback = class::step_callback(task)?;
    let run_context = this.context().context()?;
    event_loop::foreign_call_soon(event_loop.obj(), callback.obj(), None, run_context.obj())
}

/// Lets the next step throw `error` into the coroutine.
fn schedule_error(task: Obj<'_>, this: &TaskFields, message: &str) -> R<()> {
    let error = Raised::runtime(message).take();
    this.future.exception().set(Some(error));
    schedule_step(task, this)
}

/// Runs the step of a `Step` entry in the task's context, which stays entered for the next one.
#[inline(always)]
pub fn run_step_on(task: Obj<'_>, stage: &Stage) -> R<()> {
    let context = fields(task).context();
    match stage.lend(context) {
        Some(Ok(lent)) => {
            let stepped = step(task);
            stage.take_back(lent, context, stepped)
        }
        Some(Err(raised)) => Err(raised),
        // Somebody has its context.
        None => stage.leave().and_then(|()| run_step(task)),
    }
}

/// Runs the step of a `Step` entry in the task's context.
pub fn run_step(task: Obj<'_>) -> R<()> {
    let this = fields(task);
    if let Some(result) = this.context().run(|| step(task)) {
        return result;
    }
    let callback = class::step_callback(task)?;
    let run_context = this.context().context()?;
    let run = run_context.obj().getattr(state().names.run.obj())?;
    run.obj().call1(callback.obj()).map(drop)
}

/// The context that a task runs in.
pub fn context_of(task: Obj<'_>) -> R<Ref> {
    fields(task).context().context()
}

/// One step, as the current task of its loop: continues with the outcome of what it waited for.
#[inline(always)]
pub fn step(task: Obj<'_>) -> R<()> {
    let this = fields(task);
    let exception = match this.waits_for.get() {
        Some(awaited) => wait::outcome_of(task, awaited.obj())?,
        None => this.step_exception(),
    };
    step_as_current(task, this, exception)
}

/// As `step`, after a future that told through its callback list that it is done.
fn wakeup(task: Obj<'_>, awaited: Obj<'_>) -> R<()> {
    let exception = wait::outcome_of(task, awaited)?;
    step_as_current(task, fields(task), exception)
}

#[inline(always)]
fn step_as_current(task: Obj<'_>, this: &TaskFields, exception: Option<Ref>) -> R<()> {
    let event_loop = &this.future.event_loop;
    current::enter(event_loop, task)?;
    match advance(task, this, exception) {
        Ok(()) => current::leave(event_loop, task),
        Err(raised) => {
            let error = raised.take();
            if let Err(second) = current::leave(event_loop, task) {
                drop(second.take());
            }
            Err(Raised::throw(error))
        }
    }
}

fn advance(task: Obj<'_>, this: &TaskFields, mut exception: Option<Ref>) -> R<()> {
    if !this.future.is_pending() {
        return Err(wait::already_done(task, exception.as_ref()));
    }
    if this.future.must_cancel.replace(false) {
        exception = Some(this.cancellation(exception)?);
    }
    this.waits_for.clear();
    let Some(coro) = this.coro().get() else {
        return Err(Raised::runtime("uninitialized Task object"));
    };
    let sent = match exception {
        None => sent::send_none(coro.obj()),
        Some(exception) => sent::throw(coro.obj(), exception),
    };
    match sent {
        Sent::Yielded(yielded) => wait::wait_for(task, this, yielded),
        Sent::Returned(value) => complete(task, this, value),
        Sent::Raised(raised) => fail(task, this, raised),
    }
}

impl TaskFields {
    /// What a requested cancellation throws in the place of an exception or of nothing.
    #[cold]
    fn cancellation(&self, exception: Option<Ref>) -> R<Ref> {
        let cancelled = state().asyncio.cancelled_error.ptr();
        match exception {
            Some(exception) if given_matches(exception.obj(), cancelled) => Ok(exception),
            _ => future::make_cancelled_error(&self.future),
        }
    }
}

fn complete(task: Obj<'_>, this: &TaskFields, value: Ref) -> R<()> {
    this.retire(task)?;
    if this.future.must_cancel.replace(false) {
        return cancel_at_last(task, this);
    }
    future::set_result(task, value)
}

/// It was cancelled while its last step ran.
#[cold]
fn cancel_at_last(task: Obj<'_>, this: &TaskFields) -> R<()> {
    let message = this.future.cancel_message().get();
    future::cancel_future(task, message).map(drop)
}

#[cold]
fn fail(task: Obj<'_>, this: &TaskFields, raised: Raised) -> R<()> {
    let exits = raised.is_exit();
    let cancelled = raised.matches(state().asyncio.cancelled_error.ptr());
    let exception = raised.take();
    this.retire(task)?;
    if cancelled {
        if this.future.is_pending() {
            this.future.exception().set(Some(exception));
        }
        return future::cancel_future(task, None).map(drop);
    }
    future::set_exception(task, exception.obj())?;
    if exits {
        Err(Raised::throw(exception))
    } else {
        Ok(())
    }
}

/// Runs the first step now, inside whatever runs. *Source*: `asyncio.Task(eager_start=True)`.
fn eager_start(task: Obj<'_>, this: &TaskFields) -> R<()> {
    let event_loop = future::loop_of(task)?;
    let previous = current::swap(event_loop.obj(), task)?;
    let result = this.register(task).and_then(|()| {
        match this.context().run(|| advance(task, this, None)) {
            Some(stepped) => stepped,
            // No context: TypeError.
            None => context::enter(this.context().context()?.obj()),
        }
    });
    let result = match result {
        Ok(()) => current::swap(event_loop.obj(), previous.obj()).map(drop),
        Err(raised) => {
            let error = raised.take();
            if let Err(second) = current::swap(event_loop.obj(), previous.obj()) {
                drop(second.take());
            }
            Err(Raised::throw(error))
        }
    };
    if !this.future.is_pending() {
        this.coro().clear();
    }
    result
}
