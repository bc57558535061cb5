//! asyncio's primitives, without a Python frame: what its `async def` functions return is a native
//! coroutine here.
//!
//! Rooms: `coroutine` (the object and how it is driven), `function` (callables that return one),
//! `listener` (native objects that are told when a future is done), `child` (futures and tasks of
//! any make), `bound`, `line`, `count`, `managed` (what locks and queues are made of), then one
//! file for each primitive; `gathering` is the future that `gather` returns. Invariant: whoever
//! wakes somebody does so by an entry of the ready queue where asyncio has one, so the order of
//! wake-ups is asyncio's.

mod as_completed;
mod barrier;
mod bound;
mod cell;
pub mod child;
mod condition;
mod condition_class;
pub mod coroutine;
mod count;
mod event;
pub mod function;
pub mod gather;
pub mod gathering;
mod line;
mod listener;
mod lock;
mod managed;
mod queue;
mod queue_class;
mod queue_items;
mod release;
mod semaphore;
mod shield;
mod sleep;
mod task_group;
mod task_group_class;
mod timeout;
mod timeout_class;
mod to_thread;
mod wait;
mod wait_for;
mod waiting;

pub use as_completed::build_type as build_as_completed_type;
pub use cell::build_type as build_cell_type;
pub use listener::Listener;
pub use timeout::{Timeouts, note_made};
pub use timeout_class::build as build_timeouts;
pub use waiting::Waiting;

use bound::{Family, stock};
use pyo3_ffi as c;

use crate::ffi::call::{int, interned, text};
use crate::ffi::class::{onearg, varargs};
use crate::ffi::{Obj, R, Ref};
use crate::state::state;

/// The native locks and queues, and how the running version's behave.
pub struct Families {
    pub lock: Family,
    pub event: Family,
    pub condition: Family,
    pub semaphore: Family,
    pub bounded_semaphore: Family,
    pub barrier: Family,
    pub barrier_states: barrier::States,
    pub queue: Family,
    pub priority_queue: Family,
    pub lifo_queue: Family,
    pub queue_errors: queue::Errors,
    pub task_group: Family,
    pub task_group_rules: task_group::Rules,
    pub quirks: Quirks,
}

/// Behaviour that differs between Python versions, read off asyncio's own classes.
pub struct Quirks {
    /// The end of a wait for a semaphore wakes as many as its value allows, not one.
    pub semaphore_wakes_all_allowed: bool,
    /// `Condition.wait()` that raises hands the notification it may have got to another.
    pub condition_passes_notification: bool,
    /// What `Barrier(0)` says.
    pub barrier_parties: String,
}

impl Quirks {
    fn probe() -> R<Quirks> {
        let semaphore = stock(c"Semaphore")?.obj().call1(int(0)?.obj())?;
        let woken = semaphore
            .obj()
            .call_method0(interned(c"_wake_up_next")?.obj())?;
        let condition = stock(c"Condition")?;
        let notify = condition.obj().getattr_opt(interned(c"_notify")?.obj())?;
        let refused = match stock(c"Barrier")?.obj().call1(int(0)?.obj()) {
            Ok(_) => String::new(),
            Err(raised) => text(raised.take().obj().str()?.obj())?,
        };
        Ok(Quirks {
            semaphore_wakes_all_allowed: !woken.obj().is_none(),
            condition_passes_notification: notify.is_some(),
            barrier_parties: refused,
        })
    }
}

impl Families {
    /// Creates the types; `maker` is the type of coroutine functions.
    pub fn new(maker: Obj<'_>) -> R<Families> {
        let semaphore = semaphore::build(maker)?;
        let queue = queue_class::build(maker)?;
        let task_group_rules = task_group::Rules::read(stock(c"TaskGroup")?.obj())?;
        Ok(Families {
            lock: lock::build(maker)?,
            event: event::build(maker)?,
            condition: condition_class::build(maker)?,
            bounded_semaphore: semaphore::build_bounded(&semaphore)?,
            semaphore,
            barrier: barrier::build(maker)?,
            barrier_states: barrier::States::find()?,
            priority_queue: queue_class::build_priority(&queue)?,
            lifo_queue: queue_class::build_lifo(&queue)?,
            queue,
            queue_errors: queue::Errors::find()?,
            task_group: task_group_class::build(maker, &task_group_rules)?,
            task_group_rules,
            quirks: Quirks::probe()?,
        })
    }

    /// The classes that users see, which answer `isinstance` for asyncio's.
    pub fn leaves(&self) -> [(&'static std::ffi::CStr, &Ref); 10] {
        [
            (c"Lock", &self.lock.leaf),
            (c"Event", &self.event.leaf),
            (c"Condition", &self.condition.leaf),
            (c"Semaphore", &self.semaphore.leaf),
            (c"BoundedSemaphore", &self.bounded_semaphore.leaf),
            (c"Barrier", &self.barrier.leaf),
            (c"Queue", &self.queue.leaf),
            (c"PriorityQueue", &self.priority_queue.leaf),
            (c"LifoQueue", &self.lifo_queue.leaf),
            (c"TaskGroup", &self.task_group.leaf),
        ]
    }
}

/// The module's functions of this room that return no coroutine.
pub fn methods() -> impl Iterator<Item = c::PyMethodDef> {
    timeout_class::methods().into_iter().chain([
        varargs!(
            c"as_completed",
            as_completed::as_completed,
            c"($module, /, fs, *, timeout=None)\n\
              Create an iterator of awaitables or their results in completion order."
        ),
        varargs!(
            c"shield",
            shield::shield,
            c"($module, /, arg)\nWait for a future, shielding it from cancellation."
        ),
        onearg!(
            c"_want_origins",
            coroutine::want_origins,
            c"($module, wanted, /)\nTells that a loop which debugs begins to run, or ends."
        ),
    ])
}

/// Adds to the module what it exports of this room.
pub fn export(module: Obj<'_>) -> R<()> {
    for (name, class) in state().sync.leaves() {
        module.setattr(interned(name)?.obj(), class.obj())?;
    }
    let timeout = interned(c"Timeout")?;
    module.setattr(timeout.obj(), state().timeouts.leaf.obj())?;
    function::export(
        module,
        &[
            &sleep::SLEEP,
            &to_thread::TO_THREAD,
            &wait::WAIT,
            &wait_for::WAIT_FOR,
        ],
    )
}
