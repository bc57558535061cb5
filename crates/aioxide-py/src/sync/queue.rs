//! `Queue`, `PriorityQueue` and `LifoQueue`; what is in one is `queue_items`, their Python face
//! `queue_class`.
//!
//! May touch: one queue's fields, the futures of those who wait. Invariants, asyncio's: a future
//! leaves its line when it is woken; who is woken and cannot go on wakes the next. *Source*:
//! `asyncio.queues.Queue`.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;

use super::bound::{Bound, Fields, create_future, fields, replaced, stock};
use super::coroutine::{Frame, Next, Quickly, Resumed};
use super::count::Count;
use super::event;
use super::line::{Line, cancel, is_cancelled, is_done, resolve};
use super::queue_items::{Items, Order};
use crate::ffi::builtin::{self, Comparison};
use crate::ffi::class::Visitor;
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Raised, Ref, Slot, compact_int};
use crate::state::state;

/// The fields of a queue.
#[repr(C)]
pub struct QueueFields {
    bound: Bound,
    pub(super) getters: Line,
    pub(super) putters: Line,
    pub(super) items: Items,
    pub(super) maxsize: Count,
    pub(super) unfinished: Count,
    /// `_finished`, an event that exists once somebody asked for it; until then `all_done` is it.
    pub(super) finished: Slot,
    pub(super) all_done: Cell<bool>,
    pub(super) shut_down: Cell<bool>,
}

impl QueueFields {
    pub(super) fn with_order(order: Order) -> QueueFields {
        QueueFields {
            bound: Bound::fresh(),
            getters: Line::empty(),
            putters: Line::empty(),
            items: Items::absent(order),
            maxsize: Count::new(0),
            unfinished: Count::new(0),
            finished: Slot::empty(),
            all_done: Cell::new(true),
            shut_down: Cell::new(false),
        }
    }
}

impl Fields for QueueFields {
    fn fresh() -> QueueFields {
        QueueFields::with_order(Order::First)
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.getters.visit(visitor);
        self.putters.visit(visitor);
        self.items.visit(visitor);
        self.maxsize.visit(visitor);
        self.unfinished.visit(visitor);
        visitor.slot(&self.finished);
    }

    fn clear(&self) {
        self.getters.clear();
        self.putters.clear();
        self.items.clear();
        self.maxsize.clear();
        self.unfinished.clear();
        self.finished.clear();
    }
}

/// asyncio's exceptions of queues.
pub struct Errors {
    empty: Ref,
    full: Ref,
    /// From 3.13 on.
    shut_down: Option<Ref>,
    pub(super) heappush: Ref,
    pub(super) heappop: Ref,
    /// These are CPython's own, which `ffi::heap` does alike.
    pub(super) native_heap: bool,
}

impl Errors {
    /// Looks them up, and the functions of `heapq`.
    pub fn find() -> R<Errors> {
        let shut_down = if cfg!(Py_3_13) {
            Some(stock(c"QueueShutDown")?)
        } else {
            None
        };
        let heapq = crate::ffi::call::import(c"heapq")?;
        let heappush = heapq.obj().getattr_str(c"heappush")?;
        let heappop = heapq.obj().getattr_str(c"heappop")?;
        let native_heap = [&heappush, &heappop]
            .iter()
            .all(|function| builtin::is_builtin_function(function.obj()));
        compact_int::probe()?;
        Ok(Errors {
            empty: stock(c"QueueEmpty")?,
            full: stock(c"QueueFull")?,
            shut_down,
            heappush,
            heappop,
            native_heap,
        })
    }
}

#[cold]
fn raise(class: &Ref) -> Raised {
    match class.obj().call0() {
        Ok(exception) => Raised::throw(exception),
        Err(raised) => raised,
    }
}

#[cold]
fn raise_shut_down() -> Raised {
    match &state().sync.queue_errors.shut_down {
        Some(class) => raise(class),
        None => Raised::runtime("this Python has no QueueShutDown"),
    }
}

pub(super) fn of(queue: Obj<'_>) -> &QueueFields {
    fields(queue)
}

/// The methods that others call, and the bits that stand for them.
pub(super) const METHODS: [&CStr; 10] = [
    c"_init",
    c"_put",
    c"_get",
    c"_wakeup_next",
    c"_get_loop",
    c"qsize",
    c"full",
    c"empty",
    c"put_nowait",
    c"get_nowait",
];
pub(super) const INIT: u32 = 1;
pub(super) const PUT: u32 = 1 << 1;
pub(super) const GET: u32 = 1 << 2;
pub(super) const WAKEUP_NEXT: u32 = 1 << 3;
pub(super) const GET_LOOP: u32 = 1 << 4;
pub(super) const QSIZE: u32 = 1 << 5;
pub(super) const FULL: u32 = 1 << 6;
pub(super) const EMPTY: u32 = 1 << 7;
pub(super) const PUT_NOWAIT: u32 = 1 << 8;
pub(super) const GET_NOWAIT: u32 = 1 << 9;

pub(super) const BY_FULL: u32 = QSIZE;
pub(super) const BY_PUT_NOWAIT: u32 = PUT | WAKEUP_NEXT | QSIZE | FULL;
pub(super) const BY_GET_NOWAIT: u32 = GET | WAKEUP_NEXT | EMPTY;
pub(super) const BY_PUT: u32 = BY_PUT_NOWAIT | PUT_NOWAIT | GET_LOOP;
pub(super) const BY_GET: u32 = BY_GET_NOWAIT | GET_NOWAIT | GET_LOOP;

#[inline]
pub(super) fn is_native(queue: Obj<'_>, needed: u32) -> R<bool> {
    let sync = &state().sync;
    let family = match of(queue).items.order() {
        Order::First => &sync.queue,
        Order::Last => &sync.lifo_queue,
        Order::Least => &sync.priority_queue,
    };
    Ok(replaced(queue, family)? & needed == 0)
}

/// `_wakeup_next(line)`: wakes the first who is not done; the done ones leave.
#[inline]
fn wake_next(line: &Line) -> R<()> {
    while let Some(waiter) = line.pop()? {
        if !is_done(waiter.obj())? {
            return resolve(waiter.obj(), none_ref());
        }
    }
    Ok(())
}

pub(super) fn wake_all(line: &Line) -> R<()> {
    while let Some(waiter) = line.pop()? {
        if !is_done(waiter.obj())? {
            resolve(waiter.obj(), none_ref())?;
        }
    }
    Ok(())
}

#[inline]
pub(super) fn is_full(queue: Obj<'_>) -> R<bool> {
    let this = of(queue);
    if this.maxsize.is(Comparison::AtMost, 0)? {
        return Ok(false);
    }
    let len = this.items.len(queue)? as i64;
    this.maxsize.is(Comparison::AtMost, len)
}

#[inline]
pub(super) fn put_nowait(queue: Obj<'_>, item: Obj<'_>) -> R<()> {
    let this = of(queue);
    if this.shut_down.get() {
        return Err(raise_shut_down());
    }
    if is_full(queue)? {
        return Err(raise(&state().sync.queue_errors.full));
    }
    put_where_room_is(queue, this, item)
}

#[inline]
fn put_where_room_is(queue: Obj<'_>, this: &QueueFields, item: Obj<'_>) -> R<()> {
    this.items.put(queue, item)?;
    this.unfinished.add(1)?;
    set_finished(this, false)?;
    wake_next(&this.getters)
}

#[inline]
pub(super) fn get_nowait(queue: Obj<'_>) -> R<Ref> {
    let this = of(queue);
    if this.items.is_empty(queue)? {
        if this.shut_down.get() {
            return Err(raise_shut_down());
        }
        return Err(raise(&state().sync.queue_errors.empty));
    }
    get_what_is_there(queue, this)
}

#[inline]
fn get_what_is_there(queue: Obj<'_>, this: &QueueFields) -> R<Ref> {
    let item = this.items.get(queue)?;
    wake_next(&this.putters)?;
    Ok(item)
}

#[inline]
pub(super) fn set_finished(this: &QueueFields, value: bool) -> R<()> {
    this.all_done.set(value);
    match this.finished.get() {
        None => Ok(()),
        Some(finished) => event::assign(finished.obj(), value),
    }
}

/// The event behind `join()`.
pub(super) fn finished(this: &QueueFields) -> R<Ref> {
    if let Some(finished) = this.finished.get() {
        return Ok(finished);
    }
    let made = event::create(this.all_done.get())?;
    this.finished.set(Some(made.clone()));
    Ok(made)
}

// ---- bodies -------------------------------------------------------------------------------------

/// Where coroutines keep the queue, the future, and what is put.
pub(super) const SELF: usize = 0;
pub(super) const WAITER: usize = 1;
pub(super) const ITEM: usize = 2;

/// Joins a line.
#[inline]
fn begin_wait(frame: &Frame, queue: Obj<'_>, line: &Line) -> R<Ref> {
    if of(queue).shut_down.get() {
        return Err(raise_shut_down());
    }
    let future = create_future(queue)?;
    line.push(&future)?;
    frame.slots[WAITER].set(Some(future.clone()));
    Ok(future)
}

/// Leaves a line under an exception. Whoever was woken and cannot go on wakes the next, if there
/// is still something to go on with.
fn give_up(line: &Line, waiter: Obj<'_>, usable: impl FnOnce() -> R<bool>) -> R<()> {
    cancel(waiter)?;
    line.discard(waiter)?;
    if usable()? && !is_cancelled(waiter)? {
        wake_next(line)?;
    }
    Ok(())
}

pub(super) fn put(frame: &Frame, resumed: Resumed) -> R<Next> {
    let queue = frame.slots[SELF].get_or_none();
    let queue = queue.obj();
    let line = &of(queue).putters;
    if let Some(waiter) = frame.slots[WAITER].take()
        && let Resumed::Raised(exception) = resumed
    {
        give_up(line, waiter.obj(), || is_full(queue).map(|full| !full))?;
        return Err(Raised::throw(exception));
    }
    if is_full(queue)? {
        return begin_wait(frame, queue, line).map(Next::Await);
    }
    put_nowait(queue, frame.slots[ITEM].get_or_none().obj())?;
    Ok(Next::Return(none_ref()))
}

/// The part of `put()` before it waits.
pub(super) fn put_quickly(queue: Obj<'_>, frame: &Frame) -> R<Quickly> {
    let this = of(queue);
    if is_full(queue)? {
        return begin_wait(frame, queue, &this.putters).map(Quickly::Await);
    }
    if this.shut_down.get() {
        return Err(raise_shut_down());
    }
    let item = frame.slots[ITEM].take().unwrap_or_else(none_ref);
    if let Err(raised) = put_where_room_is(queue, this, item.obj()) {
        frame.slots[ITEM].set(Some(item));
        return Err(raised);
    }
    Ok(Quickly::Return(none_ref()))
}

/// The part of `get()` before it waits.
pub(super) fn get_quickly(queue: Obj<'_>, frame: &Frame) -> R<Quickly> {
    let this = of(queue);
    if this.items.is_empty(queue)? {
        return begin_wait(frame, queue, &this.getters).map(Quickly::Await);
    }
    get_what_is_there(queue, this).map(Quickly::Return)
}

pub(super) fn get(frame: &Frame, resumed: Resumed) -> R<Next> {
    let queue = frame.slots[SELF].get_or_none();
    let queue = queue.obj();
    let this = of(queue);
    if let Some(waiter) = frame.slots[WAITER].take()
        && let Resumed::Raised(exception) = resumed
    {
        let usable = || this.items.is_empty(queue).map(|empty| !empty);
        give_up(&this.getters, waiter.obj(), usable)?;
        return Err(Raised::throw(exception));
    }
    if this.items.is_empty(queue)? {
        return begin_wait(frame, queue, &this.getters).map(Next::Await);
    }
    get_nowait(queue).map(Next::Return)
}

pub(super) fn join(frame: &Frame, resumed: Resumed) -> R<Next> {
    drop(resumed.value()?);
    let queue = frame.slots[SELF].get_or_none();
    let this = of(queue.obj());
    let begun = frame.stage.replace(1) != 0;
    if begun || !this.unfinished.is(Comparison::Greater, 0)? {
        return Ok(Next::Return(none_ref()));
    }
    let finished = finished(this)?;
    let wait = state().names.wait.obj();
    finished.obj().call_method0(wait).map(Next::Await)
}
