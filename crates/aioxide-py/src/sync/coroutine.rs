//! The native coroutine: what a function that asyncio writes with `async def` returns here.
//!
//! A primitive is a *body*: a plain function that is called with the outcome of what it awaited
//! last and says what comes next. Its locals are the frame's slots, its program counter is the
//! frame's `stage`. The body never sees how an awaitable is driven.
//!
//! ```text
//! created ── send(None) ──> running ── Return, error ──> finished
//!                            │   ^
//!                 Yield, Await     send, throw
//!                            v   │
//!                          suspended
//! ```
//! May touch: its own frame, the future it waits for. Invariants: all objects of a coroutine are in
//! slots, so the collector sees them; a finished frame holds nothing; a body is never entered twice
//! at a time. asyncio takes the object for one of Cython's coroutines. *Source*: PEP 492, PEP 380.

use std::cell::Cell;

use pyo3_ffi as c;

use crate::ffi::object::none_ref;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Slot, layout};
use crate::state::state;

mod awaiting;
mod class;
mod detail;
mod spare;
mod wrapper;

pub use class::build_type;
pub use detail::{Origins, want_origins};
pub use spare::Spare;
pub use wrapper::build_type as build_wrapper_type;

/// What a body is told when it goes on.
pub enum Resumed {
    /// `None` at the start and after `Next::Yield`; after `Next::Await` the result.
    Value(Ref),
    /// The exception of what was awaited, or one thrown into the coroutine meanwhile.
    Raised(Ref),
}

impl Resumed {
    /// The value, or the exception raised: for bodies without a handler.
    #[inline]
    pub fn value(self) -> R<Ref> {
        match self {
            Resumed::Value(value) => Ok(value),
            Resumed::Raised(exception) => Err(Raised::throw(exception)),
        }
    }
}

/// What a body wants next; an `Err` raises out of the coroutine.
pub enum Next {
    /// `await object`, for anything that can be awaited.
    Await(Ref),
    /// A bare `yield`: go on in the next turn.
    Yield,
    /// `return object`.
    Return(Ref),
}

/// Goes on with a coroutine: from what it awaited to what it awaits next.
pub type Body = fn(&Frame, Resumed) -> R<Next>;

/// What is tried before the body, at the start and after a bare `yield`, when it is sent `None`:
/// it is given the first local, and either goes on by itself or leaves all as it is to the body.
pub type Quick = fn(Obj<'_>, &Frame) -> R<Quickly>;

/// What came of a quick try.
pub enum Quickly {
    /// The body has to do it.
    No,
    /// `return object`. The frame holds nothing but the first local.
    Return(Ref),
    /// A bare `yield`.
    Yield,
    /// `await object`; what follows is the body's.
    Await(Ref),
}

/// What makes one function's coroutines different from another's.
pub struct Kind {
    /// `__name__`.
    pub name: &'static str,
    /// `__qualname__`, which warnings and task reprs show.
    pub qualname: &'static str,
    /// What it does.
    pub body: Body,
    /// A shorter way for what is frequent.
    pub quick: Option<Quick>,
}

/// How many objects a body can keep.
pub const SLOTS: usize = 6;

/// What a body keeps from one call to the next.
#[repr(C)]
pub struct Frame {
    /// The body's locals, traversed by the collector and emptied at the end.
    pub slots: [Slot; SLOTS],
    /// A local that is no object.
    pub number: Cell<i64>,
    /// The body's program counter; zero at the start.
    pub stage: Cell<u8>,
    // The rest is the coroutine's own, here because there is room.
    phase: Cell<u8>,
    waiting: Cell<u8>,
    /// The collector or the destructor has finalized it.
    finalized: Cell<bool>,
}

impl Frame {
    #[inline]
    fn clear(&self) {
        for slot in &self.slots {
            if !slot.is_empty() {
                slot.clear();
            }
        }
    }
}

/// Where a coroutine stands. Zero memory is `Finished`, so that an object without a kind is inert.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Phase {
    Finished = 0,
    Created,
    Running,
    Suspended,
}

/// What a suspended coroutine waits in.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Waiting {
    /// Its own bare yield.
    Bare = 0,
    /// A native future, in `awaited`.
    Future,
    /// An iterator, in `awaited`.
    Iterator,
}

#[repr(C)]
struct Fields {
    frame: Frame,
    kind: Cell<Option<&'static Kind>>,
    awaited: Slot,
    /// What few coroutines have: names of their own, an origin. Stays to the coroutine's end.
    details: Slot,
    weakrefs: Cell<*mut PyObject>,
}

const OFFSET: usize = size_of::<PyObject>();

#[inline]
fn fields(coroutine: Obj<'_>) -> &Fields {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(coroutine.ptr(), OFFSET) }
}

/// Whether the object is a native coroutine.
#[inline]
pub fn is_native(object: Obj<'_>) -> bool {
    object.type_ptr() == state().types.coroutine.ptr().cast()
}

/// A coroutine of `kind` whose first slots hold `locals`. Nothing runs before it is awaited.
#[inline]
pub fn create<const N: usize>(kind: &'static Kind, locals: [Option<Ref>; N]) -> R<Ref> {
    make(kind, locals, true)
}

/// As `create`, for one that keeps nothing alive but a number, from its beginning to its end: the
/// collector is not told of it, unless it is given more.
#[inline]
pub fn create_of_number(kind: &'static Kind, number: Ref) -> R<Ref> {
    debug_assert!(number.obj().is_exact_int());
    make(kind, [Some(number)], false)
}

#[inline(always)]
fn make<const N: usize>(kind: &'static Kind, locals: [Option<Ref>; N], is_known: bool) -> R<Ref> {
    const { assert!(N <= SLOTS) };
    let state = state();
    let class = state.types.coroutine.ptr().cast();
    // Zeroed memory is a valid, finished coroutine.
    let coroutine = state.spare_coroutines.take(class, is_known)?;
    let this = fields(coroutine.obj());
    if state.origins.are_wanted() {
        detail::remember_origin(&coroutine)?;
    }
    for (slot, local) in this.frame.slots.iter().zip(locals) {
        slot.set(local);
    }
    this.kind.set(Some(kind));
    this.frame.phase.set(Phase::Created as u8);
    Ok(coroutine)
}

/// What driving a coroutine gave.
pub enum Sent {
    /// It waits; this goes to whoever drives it.
    Yielded(Ref),
    /// It returned.
    Returned(Ref),
}

/// What whoever drives it puts in.
enum Input<'a> {
    Send(Obj<'a>),
    Throw(Ref),
}

impl Fields {
    #[inline]
    fn phase(&self) -> Phase {
        match self.frame.phase.get() {
            0 => Phase::Finished,
            1 => Phase::Created,
            2 => Phase::Running,
            _ => Phase::Suspended,
        }
    }

    #[inline]
    fn waiting(&self) -> Waiting {
        match self.frame.waiting.get() {
            0 => Waiting::Bare,
            1 => Waiting::Future,
            _ => Waiting::Iterator,
        }
    }

    /// Lets go of everything.
    #[inline]
    fn finish(&self) {
        self.frame.phase.set(Phase::Finished as u8);
        self.awaited.clear();
        self.frame.clear();
    }

    /// Ends with an exception.
    #[cold]
    fn fail(&self, raised: Raised) -> Raised {
        // Letting go may run other code: not under an exception.
        let exception = raised.take();
        self.finish();
        awaiting::without_stop_iteration(exception)
    }
}

/// `coroutine.send(value)`, without StopIteration.
#[inline(always)]
pub fn send(coroutine: Obj<'_>, value: Obj<'_>) -> R<Sent> {
    let this = fields(coroutine);
    if value.is_none()
        && let Some(sent) = send_quickly(this)
    {
        return sent;
    }
    send_by_body(this, value)
}

#[inline(never)]
fn send_by_body(this: &Fields, value: Obj<'_>) -> R<Sent> {
    match this.phase() {
        Phase::Suspended => {}
        Phase::Created if value.is_none() => {}
        phase => return Err(cannot_send(phase)),
    }
    drive(this, Input::Send(value))
}

/// `send(None)`, if the coroutine's kind has a shorter way for it.
#[inline(always)]
fn send_quickly(this: &Fields) -> Option<R<Sent>> {
    let phase = this.frame.phase.get();
    let can_begin = phase == Phase::Created as u8 || phase == Phase::Suspended as u8;
    if !can_begin || this.frame.waiting.get() != Waiting::Bare as u8 {
        return None;
    }
    let quick = this.kind.get()?.quick?;
    let first = this.frame.slots[0].take()?;
    this.frame.phase.set(Phase::Running as u8);
    match quick(first.obj(), &this.frame) {
        Ok(Quickly::Return(value)) => {
            debug_assert!(this.frame.slots.iter().all(Slot::is_empty));
            this.frame.phase.set(Phase::Finished as u8);
            drop(first);
            Some(Ok(Sent::Returned(value)))
        }
        Ok(Quickly::Yield) => {
            this.frame.phase.set(Phase::Suspended as u8);
            this.frame.slots[0].set(Some(first));
            Some(Ok(Sent::Yielded(none_ref())))
        }
        Ok(Quickly::Await(awaitable)) => {
            this.frame.slots[0].set(Some(first));
            Some(conclude(
                this,
                go_on(this, awaiting::begin(this, awaitable)),
            ))
        }
        Ok(Quickly::No) => {
            this.frame.slots[0].set(Some(first));
            this.frame.phase.set(phase);
            None
        }
        Err(raised) => {
            this.frame.slots[0].set(Some(first));
            Some(Err(this.fail(raised)))
        }
    }
}

/// `coroutine.throw(exception)`, without StopIteration.
fn throw(coroutine: Obj<'_>, exception: Ref) -> R<Sent> {
    let this = fields(coroutine);
    match this.phase() {
        Phase::Suspended => drive(this, Input::Throw(exception)),
        Phase::Created => {
            this.finish();
            Err(if cfg!(Py_3_12) {
                Raised::throw(exception)
            } else {
                awaiting::without_stop_iteration(exception)
            })
        }
        phase => Err(cannot_send(phase)),
    }
}

/// `coroutine.close()`.
fn close(coroutine: Obj<'_>) -> R<Ref> {
    let this = fields(coroutine);
    match this.phase() {
        Phase::Finished => return Ok(none_ref()),
        Phase::Created => {
            this.finish();
            return Ok(none_ref());
        }
        Phase::Running => return Err(cannot_send(Phase::Running)),
        Phase::Suspended => {}
    }
    // SAFETY: a static of the interpreter.
    let class = unsafe { Obj::from_ptr(c::PyExc_GeneratorExit) };
    match drive(this, Input::Throw(class.call0()?)) {
        Ok(Sent::Yielded(_)) => Err(Raised::runtime("coroutine ignored GeneratorExit")),
        Ok(Sent::Returned(value)) => Ok(if cfg!(Py_3_13) { value } else { none_ref() }),
        // SAFETY: a static of the interpreter.
        Err(raised) if raised.matches(unsafe { c::PyExc_GeneratorExit }) => {
            drop(raised.take());
            Ok(none_ref())
        }
        Err(raised) => Err(raised),
    }
}

#[cold]
fn cannot_send(phase: Phase) -> Raised {
    match phase {
        Phase::Finished => Raised::runtime("cannot reuse already awaited coroutine"),
        Phase::Running => Raised::value_error("coroutine already executing"),
        _ => Raised::type_error("can't send non-None value to a just-started coroutine"),
    }
}

#[inline]
fn drive(this: &Fields, input: Input<'_>) -> R<Sent> {
    let begun = this.phase() == Phase::Suspended;
    this.frame.phase.set(Phase::Running as u8);
    let step = if begun {
        awaiting::go_on(this, input)
    } else {
        awaiting::Step::Resumed(Resumed::Value(none_ref()))
    };
    conclude(this, go_on(this, step))
}

/// What follows from what a running coroutine gave.
#[inline]
fn conclude(this: &Fields, sent: R<Sent>) -> R<Sent> {
    match sent {
        Ok(Sent::Yielded(_)) => this.frame.phase.set(Phase::Suspended as u8),
        Ok(Sent::Returned(_)) => this.finish(),
        Err(raised) => return Err(this.fail(raised)),
    }
    sent
}

/// Calls the body until it waits or ends.
#[inline]
fn go_on(this: &Fields, mut step: awaiting::Step) -> R<Sent> {
    let Some(kind) = this.kind.get() else {
        return Err(cannot_send(Phase::Finished));
    };
    loop {
        let resumed = match step {
            awaiting::Step::Resumed(resumed) => resumed,
            awaiting::Step::Yielded(value) => return Ok(Sent::Yielded(value)),
        };
        step = match (kind.body)(&this.frame, resumed)? {
            Next::Return(value) => return Ok(Sent::Returned(value)),
            Next::Yield => {
                this.frame.waiting.set(Waiting::Bare as u8);
                awaiting::Step::Yielded(none_ref())
            }
            Next::Await(awaitable) => awaiting::begin(this, awaitable),
        };
    }
}
