//! Native objects that are told when a future is done.
//!
//! Where asyncio adds a Python callable to a future, wraps it in a Handle at its time and runs
//! it in a context of its own, a native object sits among the future's waiters itself, and telling
//! it is one entry of the ready queue. May touch: nothing itself. Invariant: what is shown in its
//! place, to a future on a foreign loop and to whoever looks, is a callable that does the same.

#![forbid(unsafe_code)]

use super::{as_completed, gathering, release, shield, task_group, wait};
use crate::ffi::{Obj, R, Ref};
use crate::state::state;

/// Which kind of native object listens. The numbers begin at 1: futures keep them in a byte, where
/// 0 means another kind of waiter.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Listener {
    /// The future that `gather` returned.
    Gather = 1,
    /// A task group.
    Group = 2,
    /// A future that somebody awaits until another one is done.
    Release = 3,
    /// The cell of a `wait`.
    Wait = 4,
    /// The cell of a `shield`, to be told by the inner future: who awaits it.
    ShieldEdge = 5,
    /// The cell of a `shield`, to be told by the inner future.
    ShieldInner = 6,
    /// The cell of a `shield`, to be told by the outer future.
    ShieldOuter = 7,
    /// The iterator of an `as_completed`.
    AsCompleted = 8,
}

impl Listener {
    /// The number that a future keeps.
    #[inline]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The listener of a number; none for 0.
    #[inline]
    pub fn from_number(number: u8) -> Option<Listener> {
        match number {
            1 => Some(Listener::Gather),
            2 => Some(Listener::Group),
            3 => Some(Listener::Release),
            4 => Some(Listener::Wait),
            5 => Some(Listener::ShieldEdge),
            6 => Some(Listener::ShieldInner),
            7 => Some(Listener::ShieldOuter),
            8 => Some(Listener::AsCompleted),
            _ => None,
        }
    }

    /// Tells `target` that `future` is done.
    #[inline]
    pub fn tell(self, target: Obj<'_>, future: Obj<'_>) -> R<()> {
        match self {
            Listener::Gather => gathering::child_done(target, future),
            Listener::Group => task_group::task_done(target, future),
            Listener::Release => release::release(target),
            Listener::Wait => wait::completed(target, future),
            Listener::ShieldEdge => shield::clear_edge(target, future),
            Listener::ShieldInner => shield::inner_done(target, future),
            Listener::ShieldOuter => shield::outer_done(target),
            Listener::AsCompleted => as_completed::completed(target, future),
        }
    }

    /// A callable that tells `target`: `callback(future)`. Two for one target are equal.
    pub fn callback(self, target: Obj<'_>) -> R<Ref> {
        match self {
            Listener::Gather => gathering::callback(target),
            Listener::Group => target.getattr(state().names._on_task_done.obj()),
            Listener::Release => release::callback(target),
            Listener::Wait => wait::callback(target),
            Listener::ShieldEdge => shield::CLEAR_EDGE.bind(target),
            Listener::ShieldInner => shield::INNER_DONE.bind(target),
            Listener::ShieldOuter => shield::OUTER_DONE.bind(target),
            Listener::AsCompleted => as_completed::callback(target),
        }
    }
}
