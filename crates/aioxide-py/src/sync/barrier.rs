//! `Barrier`.
//!
//! What is called often is here; `reset()`, `abort()` and asyncio's private methods are asyncio's
//! own, on the attributes of this type. May touch: one barrier's fields, its condition. *Source*:
//! `asyncio.locks.Barrier`.

use std::ffi::CStr;

use pyo3_ffi as c;

use super::bound::{self, Bound, Family, Fields, fields, replaced, repr_with, stock};
use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::count::Count;
use super::function::{self, Function};
use super::managed::{check_none, coroutine_method, no_arguments};
use super::{condition, condition_class, lock};
use crate::ffi::args::unexpected_keyword;
use crate::ffi::builtin::Comparison;
use crate::ffi::call::{import, int};
use crate::ffi::class::{Visitor, attribute, bind_tuple_python, initializer, noargs};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::python_method::{property, python_method};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, Slot};
use crate::future::required;
use crate::state::state;

/// The fields of a barrier.
#[repr(C)]
pub struct BarrierFields {
    bound: Bound,
    condition: Slot,
    /// A member of `asyncio.locks._BarrierState`.
    state: Slot,
    parties: Count,
    count: Count,
}

impl Fields for BarrierFields {
    fn fresh() -> BarrierFields {
        BarrierFields {
            bound: Bound::fresh(),
            condition: Slot::empty(),
            state: Slot::empty(),
            parties: Count::new(0),
            count: Count::new(0),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.condition);
        visitor.slot(&self.state);
        self.parties.visit(visitor);
        self.count.visit(visitor);
    }

    fn clear(&self) {
        self.condition.clear();
        self.state.clear();
        self.parties.clear();
        self.count.clear();
    }
}

/// asyncio's names for where a barrier stands.
pub struct States {
    filling: Ref,
    draining: Ref,
    resetting: Ref,
    broken: Ref,
    error: Ref,
}

impl States {
    /// Looks the states up.
    pub fn find() -> R<States> {
        let states = import(c"asyncio.locks")?
            .obj()
            .getattr_str(c"_BarrierState")?;
        let states = states.obj();
        Ok(States {
            filling: states.getattr_str(c"FILLING")?,
            draining: states.getattr_str(c"DRAINING")?,
            resetting: states.getattr_str(c"RESETTING")?,
            broken: states.getattr_str(c"BROKEN")?,
            error: stock(c"BrokenBarrierError")?,
        })
    }

    fn broken(&self, message: &str) -> Raised {
        Raised::new(self.error.obj(), message)
    }
}

fn of(barrier: Obj<'_>) -> &BarrierFields {
    fields(barrier)
}

impl BarrierFields {
    fn is(&self, state: &Ref) -> bool {
        self.state.ptr() == state.ptr()
    }
}

/// The methods that others call.
const METHODS: [&CStr; 6] = [
    c"_block",
    c"_release",
    c"_wait",
    c"_exit",
    c"wait",
    c"_get_loop",
];
const WAIT: u32 = 1 << 4;
const PRIVATE: u32 = 0b101111;

/// Where `wait()` keeps the barrier, the future of the lock's line, the party's index, and the
/// native condition and lock that its first step found: the barrier may be given others later.
const SELF: usize = 0;
const LOCK_WAITER: usize = 1;
const INDEX: usize = 2;
const CONDITION: usize = 3;
const LOCK: usize = 4;

/// Has not begun.
const STARTED: u8 = 0;
/// Takes the condition's lock.
const LOCKS: u8 = 1;
/// Waits until the barrier has drained or is reset.
const BLOCKED: u8 = 2;
/// Waits for the other parties.
const FILLS: u8 = 3;
/// Waits as asyncio does: the barrier was changed before the first step.
const STOCK: u8 = 4;

fn wait(frame: &Frame, resumed: Resumed) -> R<Next> {
    let barrier = frame.slots[SELF].get_or_none();
    let barrier = barrier.obj();
    if frame.stage.get() == STARTED && !begin(frame, barrier)? {
        frame.stage.set(STOCK);
        return wait_as_stock(barrier).map(Next::Await);
    }
    if frame.stage.get() == STOCK {
        return resumed.value().map(Next::Return);
    }
    let condition = frame.slots[CONDITION].get_or_none();
    if frame.stage.get() == LOCKS {
        let lock = frame.slots[LOCK].get_or_none();
        let waiter = &frame.slots[LOCK_WAITER];
        if let Some(future) = lock::advance(lock.obj(), waiter, resumed)? {
            return Ok(Next::Await(future));
        }
        frame.stage.set(BLOCKED);
        return finish(frame, barrier, condition.obj(), Resumed::Value(none_ref()));
    }
    finish(frame, barrier, condition.obj(), resumed)
}

/// Remembers what the wait stands on, if all of that is native.
fn begin(frame: &Frame, barrier: Obj<'_>) -> R<bool> {
    if !is_plain(barrier)? {
        return Ok(false);
    }
    let condition = of(barrier).condition.get_or_none();
    frame.slots[LOCK].set(Some(condition::lock_of(condition.obj())));
    frame.slots[CONDITION].set(Some(condition));
    frame.stage.set(LOCKS);
    Ok(true)
}

/// Whether `wait()` can do without asyncio's own code: nothing of all that it uses is replaced.
fn is_plain(barrier: Obj<'_>) -> R<bool> {
    let sync = &state().sync;
    let condition = of(barrier).condition.get_or_none();
    Ok(replaced(barrier, &sync.barrier)? & PRIVATE == 0
        && sync.condition.is_core_of(condition.obj())
        && condition::is_plain(condition.obj())?)
}

fn wait_as_stock(barrier: Obj<'_>) -> R<Ref> {
    let family = &state().sync.barrier;
    family.as_stock(&state().names.wait, &[barrier])
}

/// Goes on under the lock, and gives it away when the wait is over.
fn finish(frame: &Frame, barrier: Obj<'_>, condition: Obj<'_>, resumed: Resumed) -> R<Next> {
    let next = match under_lock(frame, barrier, condition, resumed) {
        Ok(Next::Await(awaitable)) => return Ok(Next::Await(awaitable)),
        Ok(next) => Ok(next),
        Err(raised) => Err(raised.take()),
    };
    let left = leave(frame, barrier);
    let released = left.and_then(|()| condition::release(condition));
    match (released, next) {
        (Ok(()), Ok(next)) => Ok(next),
        (Ok(()), Err(exception)) => Err(Raised::throw(exception)),
        (Err(raised), _) => Err(raised),
    }
}

/// Undoes what the arrival counted, if it had come to that.
fn leave(frame: &Frame, barrier: Obj<'_>) -> R<()> {
    if frame.slots[INDEX].is_empty() {
        return Ok(());
    }
    of(barrier).count.add(-1)?;
    exit(barrier)
}

fn under_lock(frame: &Frame, barrier: Obj<'_>, condition: Obj<'_>, resumed: Resumed) -> R<Next> {
    drop(resumed.value()?);
    let this = of(barrier);
    let states = &state().sync.barrier_states;
    if frame.stage.get() == BLOCKED {
        if this.is(&states.draining) || this.is(&states.resetting) {
            return condition_class::wait_method_of(condition).map(Next::Await);
        }
        if this.is(&states.broken) {
            return Err(states.broken("Barrier aborted"));
        }
        let index = this.count.get()?;
        this.count.add(1)?;
        frame.slots[INDEX].set(Some(index.clone()));
        frame.stage.set(FILLS);
        if this.count.is_to(Comparison::Equal, &this.parties)? {
            this.state.set(Some(states.draining.clone()));
            drop(condition::notify_all(condition)?);
            return Ok(Next::Return(index));
        }
    }
    if this.is(&states.filling) {
        return condition_class::wait_method_of(condition).map(Next::Await);
    }
    if this.is(&states.broken) || this.is(&states.resetting) {
        return Err(states.broken("Abort or reset of barrier"));
    }
    Ok(Next::Return(frame.slots[INDEX].get_or_none()))
}

/// The last one out tells those who wait for the barrier to drain.
fn exit(barrier: Obj<'_>) -> R<()> {
    let this = of(barrier);
    let states = &state().sync.barrier_states;
    if this.count.is(Comparison::Equal, 0)? {
        if this.is(&states.resetting) || this.is(&states.draining) {
            this.state.set(Some(states.filling.clone()));
        }
        notify_all(this.condition.get_or_none().obj())?;
    }
    Ok(())
}

/// `condition.notify_all()`, whatever the condition is.
fn notify_all(condition: Obj<'_>) -> R<()> {
    if state().sync.condition.is_core_of(condition) && condition::is_plain(condition)? {
        return condition::notify_all(condition).map(drop);
    }
    let name = state().names.notify_all.obj();
    condition.call_method0(name).map(drop)
}

// ---- the Python face ----------------------------------------------------------------------------

fn exit_private(barrier: Obj<'_>) -> R<Ref> {
    exit(barrier).map(|()| none_ref())
}

fn get_state(barrier: Obj<'_>) -> R<Ref> {
    Ok(of(barrier).state.get_or_none())
}

fn set_state(barrier: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(barrier).state.set(Some(required(value)?.to_ref()));
    Ok(())
}

fn get_condition(barrier: Obj<'_>) -> R<Ref> {
    Ok(of(barrier).condition.get_or_none())
}

fn set_condition(barrier: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(barrier).condition.set(Some(required(value)?.to_ref()));
    Ok(())
}

fn get_count(barrier: Obj<'_>) -> R<Ref> {
    of(barrier).count.get()
}

fn set_count(barrier: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(barrier).count.set(required(value)?);
    Ok(())
}

fn get_parties(barrier: Obj<'_>) -> R<Ref> {
    of(barrier).parties.get()
}

fn set_parties(barrier: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(barrier).parties.set(required(value)?);
    Ok(())
}

fn n_waiting(barrier: Obj<'_>) -> R<Ref> {
    let this = of(barrier);
    if this.is(&state().sync.barrier_states.filling) {
        this.count.get()
    } else {
        int(0)
    }
}

fn broken(barrier: Obj<'_>) -> R<Ref> {
    Ok(boolean(of(barrier).is(&state().sync.barrier_states.broken)))
}

fn repr_text(barrier: Obj<'_>) -> R<Ref> {
    let this = of(barrier);
    let text = |value: Ref| crate::ffi::call::text(value.obj().str()?.obj());
    let value = state().names.value.obj();
    let mut described = text(this.state.get_or_none().obj().getattr(value)?)?;
    if !this.is(&state().sync.barrier_states.broken) {
        let (waiting, parties) = (text(n_waiting(barrier)?)?, text(this.parties.get()?)?);
        described.push_str(&format!(", waiters:{waiting}/{parties}"));
    }
    repr_with(barrier, &described, 0)
}

unsafe extern "C" fn repr(barrier: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let barrier = unsafe { Obj::from_ptr(barrier) };
    crate::ffi::error::guard(|| repr_text(barrier))
}

const INIT: Signature = Signature {
    name: "Barrier.__init__",
    params: &["parties"],
    positional: 1,
    required: 1,
};

fn init(barrier: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [parties] = bind_tuple_python::<1>(args, kwargs, &INIT)?;
    let sync = &state().sync;
    let given = Count::new(0);
    given.set(parties.unwrap_or_else(none_ref).obj());
    if given.is(Comparison::Less, 1)? {
        return Err(Raised::value_error(&sync.quirks.barrier_parties));
    }
    let this = of(barrier);
    this.condition.set(Some(sync.condition.leaf.obj().call0()?));
    this.parties.set(given.get()?.obj());
    this.state.set(Some(sync.barrier_states.filling.clone()));
    this.count.set(int(0)?.obj());
    Ok(())
}

fn get_instance_state(barrier: Obj<'_>) -> R<Ref> {
    bound::get_state(barrier, &[c"_cond", c"_parties", c"_state", c"_count"])
}

static WAITING: Kind = Kind {
    name: "wait",
    qualname: "Barrier.wait",
    body: wait,
    quick: None,
};
static LEAVING: Kind = Kind {
    name: "__aexit__",
    qualname: "Barrier.__aexit__",
    body: |_frame, _resumed| Ok(Next::Return(none_ref())),
    quick: None,
};

const ARGUMENTS: Signature = no_arguments("Barrier.wait");
const ENTER_ARGUMENTS: Signature = no_arguments("Barrier.__aenter__");

fn wait_method(barrier: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ARGUMENTS)?;
    if !is_plain(barrier)? {
        return wait_as_stock(barrier);
    }
    coroutine::create(&WAITING, [Some(barrier.to_ref())])
}

fn enter_method(barrier: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ENTER_ARGUMENTS)?;
    let family = &state().sync.barrier;
    if replaced(barrier, family)? & WAIT != 0 {
        return family.as_stock(&state().names.__aenter__, &[barrier]);
    }
    wait_method(barrier, args)
}

fn exit_method(_barrier: Obj<'_>, args: Args<'_>) -> R<Ref> {
    if let Some((name, _)) = args.named().next() {
        return Err(unexpected_keyword("Barrier.__aexit__", name));
    }
    coroutine::create(&LEAVING, [])
}

static FUNCTIONS: [&Function; 3] = [
    &coroutine_method!(
        "wait",
        "Barrier.wait",
        "(self)",
        "Waits for the other parties, and returns the number of this one.",
        wait_method
    ),
    &coroutine_method!(
        "__aenter__",
        "Barrier.__aenter__",
        "(self)",
        "As wait().",
        enter_method
    ),
    &coroutine_method!(
        "__aexit__",
        "Barrier.__aexit__",
        "(self, *args)",
        "Does nothing.",
        exit_method
    ),
];

/// Creates the type.
pub fn build(maker: Obj<'_>) -> R<Family> {
    let core = bound::core::<BarrierFields>(c"aioxide._Barrier")
        .doc(c"_Barrier(parties)\n--\n\nThe native part of Barrier.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .methods([
            python_method!(
                "Barrier",
                _exit(),
                exit_private,
                "What the last one out does."
            ),
            noargs!(c"__getstate__", get_instance_state, c"For copy and pickle."),
        ])
        .attributes([
            property!(parties, get_parties, c"How many must come."),
            property!(n_waiting, n_waiting, c"How many have come and wait."),
            property!(broken, broken, c"Whether abort() was called."),
            attribute!(
                c"_parties",
                get_parties,
                set_parties,
                c"How many must come."
            ),
            attribute!(
                c"_state",
                get_state,
                set_state,
                c"Where the barrier stands."
            ),
            attribute!(c"_count", get_count, set_count, c"How many have come."),
            attribute!(
                c"_cond",
                get_condition,
                set_condition,
                c"What they wait in."
            ),
        ])
        .build(None)?;
    function::add_methods(core.obj(), maker, &FUNCTIONS)?;
    Family::new(c"Barrier", &[core.obj()], &METHODS)
}
