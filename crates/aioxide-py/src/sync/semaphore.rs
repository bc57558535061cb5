//! `Semaphore` and `BoundedSemaphore`.
//!
//! May touch: one semaphore's fields, the futures of those who wait. Invariant: a future that was
//! resolved has its unit taken off `value` already; whoever cannot use it gives it back. *Source*:
//! `asyncio.locks.Semaphore`.

use std::ffi::CStr;

use pyo3_ffi as c;

use super::bound::{self, Bound, Family, Fields, create_future, fields, replaced, repr_with};
use super::coroutine::{self, Frame, Kind, Next, Quickly, Resumed};
use super::count::Count;
use super::function::{self, Function};
use super::line::{Line, is_cancelled, is_done, resolve};
use super::managed::{ENTER, check_none, coroutine_method, exit_method, no_arguments};
use crate::ffi::builtin::Comparison;
use crate::ffi::class::{Visitor, attribute, bind_tuple_python, initializer, noargs};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::python_method::python_method;
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature};
use crate::future::required;
use crate::state::state;

/// The fields of a semaphore; the bound counts for a `BoundedSemaphore` only.
#[repr(C)]
pub struct SemaphoreFields {
    bound: Bound,
    waiters: Line,
    value: Count,
    bound_value: Count,
}

impl Fields for SemaphoreFields {
    fn fresh() -> SemaphoreFields {
        SemaphoreFields {
            bound: Bound::fresh(),
            waiters: Line::absent(),
            value: Count::new(1),
            bound_value: Count::new(1),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.waiters.visit(visitor);
        self.value.visit(visitor);
        self.bound_value.visit(visitor);
    }

    fn clear(&self) {
        self.waiters.clear();
        self.value.clear();
        self.bound_value.clear();
    }
}

fn of(semaphore: Obj<'_>) -> &SemaphoreFields {
    fields(semaphore)
}

/// The methods that others call, and the bits that stand for them.
const METHODS: [&CStr; 5] = [
    c"_wake_up_next",
    c"_get_loop",
    c"locked",
    c"acquire",
    c"release",
];
const WAKE_UP_NEXT: u32 = 1;
const GET_LOOP: u32 = 1 << 1;
const LOCKED: u32 = 1 << 2;
const ACQUIRE: u32 = 1 << 3;
const RELEASE: u32 = 1 << 4;

#[inline]
fn is_native(semaphore: Obj<'_>, needed: u32) -> R<bool> {
    let sync = &state().sync;
    let family = if sync.bounded_semaphore.is_core_of(semaphore) {
        &sync.bounded_semaphore
    } else {
        &sync.semaphore
    };
    Ok(replaced(semaphore, family)? & needed == 0)
}

impl SemaphoreFields {
    #[inline]
    fn is_locked(&self) -> R<bool> {
        Ok(self.value.is(Comparison::Equal, 0)? || self.waiters.has_live()?)
    }

    /// Wakes the first who is not done; whether there was one.
    #[inline]
    fn wake_next(&self) -> R<bool> {
        if self.waiters.is_empty()? {
            return Ok(false);
        }
        let woken = self.waiters.find(|waiter| {
            if is_done(waiter)? {
                return Ok(None);
            }
            self.value.add(-1)?;
            resolve(waiter, boolean(true)).map(Some)
        })?;
        Ok(woken.is_some())
    }

    /// What follows the end of a wait: those who had to wait behind it may go now.
    fn wake_allowed(&self) -> R<()> {
        while self.value.is(Comparison::Greater, 0)? && self.wake_next()? {}
        Ok(())
    }

    /// The end of a wait that raised.
    fn give_up(&self, future: Obj<'_>, exception: Ref) -> R<Next> {
        let cancelled = state().asyncio.cancelled_error.ptr();
        let cancelled = crate::ffi::error::given_matches(exception.obj(), cancelled);
        let wakes_all = state().sync.quirks.semaphore_wakes_all_allowed;
        if cancelled && !is_cancelled(future)? && (!wakes_all || is_done(future)?) {
            self.value.add(1)?;
            if !wakes_all {
                self.wake_next()?;
            }
        }
        if wakes_all {
            self.wake_allowed()?;
        }
        Err(Raised::throw(exception))
    }
}

/// Where coroutines keep the semaphore and the future.
const SELF: usize = 0;
const WAITER: usize = 1;

/// What follows the wait in `acquire()`; the result is what `done` gives.
#[inline]
fn advance(frame: &Frame, resumed: Resumed, done: Ref) -> R<Next> {
    let semaphore = frame.slots[SELF].get_or_none();
    let this = of(semaphore.obj());
    let future = frame.slots[WAITER].take().unwrap_or_else(none_ref);
    this.waiters.remove(future.obj())?;
    match resumed {
        Resumed::Raised(exception) => return this.give_up(future.obj(), exception),
        Resumed::Value(_) if state().sync.quirks.semaphore_wakes_all_allowed => {
            this.wake_allowed()?;
        }
        Resumed::Value(_) => {
            if this.value.is(Comparison::Greater, 0)? {
                this.wake_next()?;
            }
        }
    }
    Ok(Next::Return(done))
}

fn acquire(frame: &Frame, resumed: Resumed) -> R<Next> {
    advance(frame, resumed, boolean(true))
}

fn enter(frame: &Frame, resumed: Resumed) -> R<Next> {
    advance(frame, resumed, none_ref())
}

/// The part of `acquire()` before it waits.
#[inline]
fn acquire_quickly(semaphore: Obj<'_>, frame: &Frame, result: Ref) -> R<Quickly> {
    let this = of(semaphore);
    if !this.is_locked()? {
        this.value.add(-1)?;
        return Ok(Quickly::Return(result));
    }
    let future = create_future(semaphore)?;
    this.waiters.push(&future)?;
    frame.slots[WAITER].set(Some(future.clone()));
    Ok(Quickly::Await(future))
}

/// `release()` of a semaphore with native methods.
#[inline]
pub fn release(semaphore: Obj<'_>) -> R<()> {
    let this = of(semaphore);
    let sync = &state().sync;
    if semaphore.type_ptr() != sync.semaphore.leaf.ptr().cast()
        && sync.bounded_semaphore.is_core_of(semaphore)
        && this.value.is_to(Comparison::AtLeast, &this.bound_value)?
    {
        return Err(Raised::value_error(
            "BoundedSemaphore released too many times",
        ));
    }
    release_one(this)
}

fn release_one(this: &SemaphoreFields) -> R<()> {
    this.value.add(1)?;
    this.wake_next().map(drop)
}

/// Whether `release` of a native semaphore is the native one.
pub fn has_own_release(semaphore: Obj<'_>) -> R<bool> {
    is_native(semaphore, RELEASE | WAKE_UP_NEXT)
}

// ---- the Python face ----------------------------------------------------------------------------

fn locked(semaphore: Obj<'_>) -> R<Ref> {
    of(semaphore).is_locked().map(boolean)
}

fn wake_up_next(semaphore: Obj<'_>) -> R<Ref> {
    let woken = of(semaphore).wake_next()?;
    Ok(if state().sync.quirks.semaphore_wakes_all_allowed {
        boolean(woken)
    } else {
        none_ref()
    })
}

fn get_value(semaphore: Obj<'_>) -> R<Ref> {
    of(semaphore).value.get()
}

fn set_value(semaphore: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(semaphore).value.set(required(value)?);
    Ok(())
}

fn get_bound_value(semaphore: Obj<'_>) -> R<Ref> {
    of(semaphore).bound_value.get()
}

fn set_bound_value(semaphore: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(semaphore).bound_value.set(required(value)?);
    Ok(())
}

fn get_waiters(semaphore: Obj<'_>) -> R<Ref> {
    of(semaphore).waiters.show()
}

fn set_waiters(semaphore: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(semaphore).waiters.assign(required(value)?);
    Ok(())
}

fn repr_text(semaphore: Obj<'_>) -> R<Ref> {
    let this = of(semaphore);
    let locked = semaphore.call_method0(state().names.locked.obj())?;
    let state = if locked.obj().is_true()? {
        "locked".to_owned()
    } else {
        let value = crate::ffi::call::text(this.value.get()?.obj().str()?.obj())?;
        format!("unlocked, value:{value}")
    };
    repr_with(semaphore, &state, this.waiters.len()?)
}

unsafe extern "C" fn repr(semaphore: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let semaphore = unsafe { Obj::from_ptr(semaphore) };
    crate::ffi::error::guard(|| repr_text(semaphore))
}

const INIT: Signature = Signature {
    name: "Semaphore.__init__",
    params: &["value"],
    positional: 1,
    required: 0,
};
const INIT_BOUNDED: Signature = Signature {
    name: "BoundedSemaphore.__init__",
    ..INIT
};

fn init(semaphore: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [value] = bind_tuple_python::<1>(args, kwargs, &INIT)?;
    init_with(of(semaphore), value)
}

fn init_bounded(semaphore: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [value] = bind_tuple_python::<1>(args, kwargs, &INIT_BOUNDED)?;
    init_with(of(semaphore), value)
}

fn init_with(this: &SemaphoreFields, value: Option<Ref>) -> R<()> {
    let given = Count::new(1);
    if let Some(value) = value {
        given.set(value.obj());
    }
    if given.is(Comparison::Less, 0)? {
        return Err(Raised::value_error("Semaphore initial value must be >= 0"));
    }
    let value = given.get()?;
    this.bound_value.set(value.obj());
    this.value.set(value.obj());
    this.waiters.forget();
    Ok(())
}

fn get_state(semaphore: Obj<'_>) -> R<Ref> {
    bound::get_state(semaphore, &[c"_waiters", c"_value"])
}

fn get_bounded_state(semaphore: Obj<'_>) -> R<Ref> {
    bound::get_state(semaphore, &[c"_bound_value", c"_waiters", c"_value"])
}

static ACQUIRING: Kind = Kind {
    name: "acquire",
    qualname: "Semaphore.acquire",
    body: acquire,
    quick: Some(|semaphore, frame| acquire_quickly(semaphore, frame, boolean(true))),
};
static ENTERING: Kind = Kind {
    name: "__aenter__",
    qualname: "_ContextManagerMixin.__aenter__",
    body: enter,
    quick: Some(|semaphore, frame| acquire_quickly(semaphore, frame, none_ref())),
};

const ARGUMENTS: Signature = no_arguments("Semaphore.acquire");

fn acquire_method(semaphore: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ARGUMENTS)?;
    if !is_native(semaphore, WAKE_UP_NEXT | GET_LOOP | LOCKED)? {
        let family = &state().sync.semaphore;
        return family.as_stock(&state().names.acquire, &[semaphore]);
    }
    coroutine::create(&ACQUIRING, [Some(semaphore.to_ref())])
}

fn enter_method(semaphore: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ENTER)?;
    if !is_native(semaphore, WAKE_UP_NEXT | GET_LOOP | LOCKED | ACQUIRE)? {
        let family = &state().sync.semaphore;
        return family.as_stock(&state().names.__aenter__, &[semaphore]);
    }
    coroutine::create(&ENTERING, [Some(semaphore.to_ref())])
}

/// `Semaphore.release(semaphore)`, also where `super()` of a bounded one means it.
fn release_method(semaphore: Obj<'_>) -> R<Ref> {
    if !is_native(semaphore, WAKE_UP_NEXT)? {
        let family = &state().sync.semaphore;
        return family.as_stock(&state().names.release, &[semaphore]);
    }
    release_one(of(semaphore)).map(|()| none_ref())
}

fn release_bounded_method(semaphore: Obj<'_>) -> R<Ref> {
    if !is_native(semaphore, WAKE_UP_NEXT)? {
        let family = &state().sync.bounded_semaphore;
        return family.as_stock(&state().names.release, &[semaphore]);
    }
    release(semaphore).map(|()| none_ref())
}

static FUNCTIONS: [&Function; 3] = [
    &coroutine_method!(
        "acquire",
        "Semaphore.acquire",
        "(self)",
        "Waits until the counter is above zero, takes one off, and returns True.",
        acquire_method
    ),
    &coroutine_method!(
        "__aenter__",
        "_ContextManagerMixin.__aenter__",
        "(self)",
        "Takes one off the counter.",
        enter_method
    ),
    &coroutine_method!(
        "__aexit__",
        "_ContextManagerMixin.__aexit__",
        "(self, exc_type, exc, tb)",
        "Gives it back.",
        exit_method
    ),
];

/// Creates `Semaphore`.
pub fn build(maker: Obj<'_>) -> R<Family> {
    let core = bound::core::<SemaphoreFields>(c"aioxide._Semaphore")
        .doc(c"_Semaphore(value=1)\n--\n\nThe native part of Semaphore.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .methods([
            python_method!(
                "Semaphore",
                release(),
                release_method,
                "Adds one to the counter."
            ),
            python_method!(
                "Semaphore",
                locked(),
                locked,
                "Whether acquire() would have to wait."
            ),
            python_method!(
                "Semaphore",
                _wake_up_next(),
                wake_up_next,
                "Gives one to the first in line."
            ),
            noargs!(c"__getstate__", get_state, c"For copy and pickle."),
        ])
        .attributes([
            attribute!(c"_value", get_value, set_value, c"The counter."),
            attribute!(
                c"_waiters",
                get_waiters,
                set_waiters,
                c"The futures of those who wait; None before anybody waited."
            ),
        ])
        .build(None)?;
    function::add_methods(core.obj(), maker, &FUNCTIONS)?;
    Family::new(c"Semaphore", &[core.obj()], &METHODS)
}

/// Creates `BoundedSemaphore` under `Semaphore`.
pub fn build_bounded(semaphore: &Family) -> R<Family> {
    let core = bound::core::<SemaphoreFields>(c"aioxide._BoundedSemaphore")
        .doc(c"_BoundedSemaphore(value=1)\n--\n\nThe native part of BoundedSemaphore.")
        .slot(c::Py_tp_init, initializer!(init_bounded))
        .methods([
            python_method!(
                "BoundedSemaphore",
                release(),
                release_bounded_method,
                "Adds one to the counter; ValueError above the first value."
            ),
            noargs!(c"__getstate__", get_bounded_state, c"For copy and pickle."),
        ])
        .attributes([attribute!(
            c"_bound_value",
            get_bound_value,
            set_bound_value,
            c"What the counter may not exceed."
        )])
        .build(Some(semaphore.core.obj()))?;
    let bases = [core.obj(), semaphore.leaf.obj()];
    Family::new(c"BoundedSemaphore", &bases, &METHODS)
}
