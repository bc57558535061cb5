//! `Condition`; its Python face is `condition_class`.
//!
//! May touch: one condition's fields, its lock, the futures of those who wait. Invariant: however a
//! wait ends, the lock is held again; who was woken and then raised wakes another.
//! *Source*: `asyncio.locks.Condition`.

#![forbid(unsafe_code)]

use std::ffi::CStr;

use super::bound::{Bound, Fields, create_future, fields, replaced};
use super::coroutine::{Frame, Next, Resumed};
use super::count::Count;
use super::line::{Line, is_done, resolve};
use super::lock;
use crate::ffi::builtin::{Comparison, chain_context};
use crate::ffi::call::int;
use crate::ffi::class::Visitor;
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, Slot};
use crate::state::state;

/// The fields of a condition.
#[repr(C)]
pub struct ConditionFields {
    bound: Bound,
    pub(super) waiters: Line,
    pub(super) lock: Slot,
}

impl Fields for ConditionFields {
    fn fresh() -> ConditionFields {
        ConditionFields {
            bound: Bound::fresh(),
            waiters: Line::empty(),
            lock: Slot::empty(),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.waiters.visit(visitor);
        visitor.slot(&self.lock);
    }

    fn clear(&self) {
        self.waiters.clear();
        self.lock.clear();
    }
}

pub(super) fn of(condition: Obj<'_>) -> &ConditionFields {
    fields(condition)
}

/// The methods that others call, and the bits that stand for them.
pub(super) const METHODS: [&CStr; 7] = [
    c"locked",
    c"acquire",
    c"release",
    c"_get_loop",
    c"_notify",
    c"notify",
    c"wait",
];
const OF_LOCK: u32 = 0b111;
pub(super) const GET_LOOP: u32 = 1 << 3;
pub(super) const PRIVATE_NOTIFY: u32 = 1 << 4;
const NOTIFY: u32 = 1 << 5;
pub(super) const WAIT: u32 = 1 << 6;

#[inline]
pub(super) fn is_native(condition: Obj<'_>, needed: u32) -> R<bool> {
    Ok(replaced(condition, &state().sync.condition)? & needed == 0)
}

/// Whether the condition stands on a native lock, with nothing replaced in between.
#[inline]
pub fn has_plain_lock(condition: Obj<'_>) -> R<bool> {
    let lock = of(condition).lock.get_or_none();
    Ok(is_native(condition, OF_LOCK)? && lock::is_plain(lock.obj())?)
}

/// Whether nothing at all is replaced, in the condition and its lock.
pub fn is_plain(condition: Obj<'_>) -> R<bool> {
    Ok(is_native(condition, u32::MAX)? && has_plain_lock(condition)?)
}

/// The lock.
pub fn lock_of(condition: Obj<'_>) -> Ref {
    of(condition).lock.get_or_none()
}

pub(super) fn is_locked(condition: Obj<'_>) -> R<bool> {
    if has_plain_lock(condition)? {
        let lock = of(condition).lock.get_or_none();
        return Ok(lock::is_locked(lock.obj()));
    }
    let locked = condition.call_method0(state().names.locked.obj())?;
    locked.obj().is_true()
}

/// `self.release()`.
pub fn release(condition: Obj<'_>) -> R<()> {
    if has_plain_lock(condition)? {
        return lock::release(of(condition).lock.get_or_none().obj());
    }
    let release = state().names.release.obj();
    condition.call_method0(release).map(drop)
}

// ---- waiting ------------------------------------------------------------------------------------

/// Where `wait()` keeps things: the condition, its future, the future of the lock's line, the last
/// cancellation while it takes the lock again, and how the wait itself ended.
pub(super) const SELF: usize = 0;
const WAITER: usize = 1;
const LOCK_WAITER: usize = 2;
const CANCELLATION: usize = 3;
const RAISED: usize = 4;
/// The native lock in whose line it stands: `_lock` may be set to another meanwhile.
const LOCK: usize = 5;

pub(super) const STARTED: u8 = 0;
const WAITS: u8 = 1;
/// Takes the native lock again.
const LOCKS: u8 = 2;
/// Awaits the `acquire()` of another lock.
const ACQUIRES: u8 = 3;

pub(super) fn wait(frame: &Frame, resumed: Resumed) -> R<Next> {
    let condition = frame.slots[SELF].get_or_none();
    let condition = condition.obj();
    match frame.stage.get() {
        STARTED => start_wait(frame, condition),
        WAITS => {
            let future = frame.slots[WAITER].get_or_none();
            let removed = of(condition).waiters.remove(future.obj());
            keep(frame, removed.and_then(|()| resumed.value().map(drop)));
            lock_again(frame, condition, None)
        }
        _ => lock_again(frame, condition, Some(resumed)),
    }
}

fn start_wait(frame: &Frame, condition: Obj<'_>) -> R<Next> {
    if !is_locked(condition)? {
        return Err(Raised::runtime("cannot wait on un-acquired lock"));
    }
    if state().sync.quirks.condition_passes_notification {
        let future = create_future(condition)?;
        release(condition)?;
        return join_line(frame, condition, future);
    }
    release(condition)?;
    match create_future(condition) {
        Ok(future) => join_line(frame, condition, future),
        Err(raised) => {
            keep(frame, Err(raised));
            lock_again(frame, condition, None)
        }
    }
}

fn join_line(frame: &Frame, condition: Obj<'_>, future: Ref) -> R<Next> {
    if let Err(raised) = of(condition).waiters.push(&future) {
        keep(frame, Err(raised));
        return lock_again(frame, condition, None);
    }
    frame.slots[WAITER].set(Some(future.clone()));
    frame.stage.set(WAITS);
    Ok(Next::Await(future))
}

/// Remembers how the wait ended, for when the lock is held again.
fn keep(frame: &Frame, ended: R<()>) {
    frame.slots[RAISED].set(ended.err().map(Raised::take));
}

/// Takes the lock, over and over while it is cancelled; then ends as the wait ended.
fn lock_again(frame: &Frame, condition: Obj<'_>, mut resumed: Option<Resumed>) -> R<Next> {
    loop {
        let cancelled = match acquire_step(frame, condition, resumed.take()) {
            Ok(None) => return end_wait(frame, condition),
            Ok(Some(awaitable)) => return Ok(Next::Await(awaitable)),
            Err(raised) => raised.take(),
        };
        let error = state().asyncio.cancelled_error.ptr();
        if let Some(before) = frame.slots[RAISED].get() {
            chain_context(cancelled.obj(), before.obj());
        }
        if !crate::ffi::error::given_matches(cancelled.obj(), error) {
            return fail(condition, cancelled);
        }
        frame.slots[CANCELLATION].set(Some(cancelled));
        frame.stage.set(LOCKS);
    }
}

/// One part of `self.acquire()`: what to await, or nothing once the lock is held.
pub(super) fn acquire_step(
    frame: &Frame,
    condition: Obj<'_>,
    resumed: Option<Resumed>,
) -> R<Option<Ref>> {
    if frame.stage.get() == ACQUIRES
        && let Some(resumed) = resumed
    {
        return resumed.value().map(|_| None);
    }
    if frame.slots[LOCK_WAITER].is_empty() {
        let is_plain = has_plain_lock(condition)?;
        let lock = of(condition).lock.get().filter(|_| is_plain);
        frame.slots[LOCK].set(lock);
    }
    if let Some(lock) = frame.slots[LOCK].get() {
        frame.stage.set(LOCKS);
        let resumed = resumed.unwrap_or_else(|| Resumed::Value(none_ref()));
        return lock::advance(lock.obj(), &frame.slots[LOCK_WAITER], resumed);
    }
    frame.stage.set(ACQUIRES);
    let acquire = state().names.acquire.obj();
    condition.call_method0(acquire).map(Some)
}

fn end_wait(frame: &Frame, condition: Obj<'_>) -> R<Next> {
    if let Some(cancelled) = frame.slots[CANCELLATION].take() {
        if state().sync.quirks.condition_passes_notification {
            return fail(condition, cancelled);
        }
        let error = state().asyncio.cancelled_error.obj().call0()?;
        if let Some(before) = frame.slots[RAISED].take() {
            chain_context(error.obj(), before.obj());
        }
        return Err(Raised::throw(error));
    }
    match frame.slots[RAISED].take() {
        Some(raised) => fail(condition, raised),
        None => Ok(Next::Return(boolean(true))),
    }
}

/// Raises out of `wait()`. A notification that it may have got goes to another.
fn fail(condition: Obj<'_>, exception: Ref) -> R<Next> {
    if state().sync.quirks.condition_passes_notification {
        notify_some(condition, &Count::new(1))?;
    }
    Err(Raised::throw(exception))
}

// ---- notifying ----------------------------------------------------------------------------------

pub(super) fn notify_some(condition: Obj<'_>, most: &Count) -> R<()> {
    let mut woken = 0;
    of(condition).waiters.find(|waiter| {
        if most.is(Comparison::AtMost, woken)? {
            return Ok(Some(()));
        }
        if !is_done(waiter)? {
            woken += 1;
            resolve(waiter, boolean(false))?;
        }
        Ok(None)
    })?;
    Ok(())
}

pub(super) fn notify_checked(condition: Obj<'_>, most: &Count) -> R<Ref> {
    if !is_locked(condition)? {
        return Err(Raised::runtime("cannot notify on un-acquired lock"));
    }
    notify_some(condition, most).map(|()| none_ref())
}

/// `notify_all()`.
pub fn notify_all(condition: Obj<'_>) -> R<Ref> {
    let waiting = of(condition).waiters.len()? as i64;
    if !is_native(condition, NOTIFY | PRIVATE_NOTIFY)? {
        let notify = state().names.notify.obj();
        return condition.call_method1(notify, int(waiting)?.obj());
    }
    notify_checked(condition, &Count::new(waiting))
}
