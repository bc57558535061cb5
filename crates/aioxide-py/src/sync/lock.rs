//! `Lock`, and what a `Condition` does to one.
//!
//! May touch: one lock's fields, the futures of those who wait. Invariants, asyncio's: who waits
//! first is woken first; a lock that is free while somebody waits has woken the first of them.
//! *Source*: `asyncio.locks.Lock`.

use std::cell::Cell;
use std::ffi::CStr;

use pyo3_ffi as c;

use super::bound::{self, Bound, Family, Fields, create_future, fields, replaced, repr_with};
use super::coroutine::{self, Frame, Kind, Next, Quickly, Resumed};
use super::function::{self, Function};
use super::line::{Line, is_done, resolve};
use super::managed::{ENTER, check_none, coroutine_method, exit_method, no_arguments};
use crate::ffi::class::{Visitor, attribute, bind_tuple_python, initializer, noargs};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::python_method::python_method;
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, Slot};
use crate::future::required;
use crate::state::state;

/// The fields of a lock.
#[repr(C)]
pub struct LockFields {
    bound: Bound,
    waiters: Line,
    locked: Cell<bool>,
}

impl Fields for LockFields {
    fn fresh() -> LockFields {
        LockFields {
            bound: Bound::fresh(),
            waiters: Line::absent(),
            locked: Cell::new(false),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.waiters.visit(visitor);
    }

    fn clear(&self) {
        self.waiters.clear();
    }
}

fn of(lock: Obj<'_>) -> &LockFields {
    fields(lock)
}

/// The methods that others call, and the bits that stand for them.
const METHODS: [&CStr; 5] = [
    c"_wake_up_first",
    c"_get_loop",
    c"acquire",
    c"release",
    c"locked",
];
const WAKE_UP_FIRST: u32 = 1;
const GET_LOOP: u32 = 1 << 1;
const ACQUIRE: u32 = 1 << 2;
const RELEASE: u32 = 1 << 3;
const ANY: u32 = 0b11111;

#[inline(always)]
fn is_native(lock: Obj<'_>, needed: u32) -> R<bool> {
    Ok(replaced(lock, &state().sync.lock)? & needed == 0)
}

/// Whether the object is a native lock none of whose methods is replaced.
#[inline]
pub fn is_plain(object: Obj<'_>) -> R<bool> {
    Ok(state().sync.lock.is_core_of(object) && is_native(object, ANY)?)
}

/// Whether `release` of a native lock is the native one.
#[inline]
pub fn has_own_release(lock: Obj<'_>) -> R<bool> {
    is_native(lock, RELEASE | WAKE_UP_FIRST)
}

/// `lock.locked()` of a plain lock.
#[inline]
pub fn is_locked(lock: Obj<'_>) -> bool {
    of(lock).locked.get()
}

/// One part of `acquire()`: `waiter` is empty at first, and holds the future while it waits.
/// Nothing comes back once the lock is taken, else the future to await.
#[inline]
pub fn advance(lock: Obj<'_>, waiter: &Slot, resumed: Resumed) -> R<Option<Ref>> {
    let this = of(lock);
    let Some(future) = waiter.take() else {
        return begin(lock, waiter);
    };
    this.waiters.remove(future.obj())?;
    let exception = match resumed {
        Resumed::Value(_) => {
            this.locked.set(true);
            return Ok(None);
        }
        Resumed::Raised(exception) => exception,
    };
    let cancelled = state().asyncio.cancelled_error.ptr();
    if crate::ffi::error::given_matches(exception.obj(), cancelled) && !this.locked.get() {
        wake_first(this)?;
    }
    Err(Raised::throw(exception))
}

/// The part of `acquire()` before it waits.
fn begin(lock: Obj<'_>, waiter: &Slot) -> R<Option<Ref>> {
    let this = of(lock);
    if !this.locked.get() && !this.waiters.has_live()? {
        this.locked.set(true);
        return Ok(None);
    }
    let future = create_future(lock)?;
    this.waiters.push(&future)?;
    waiter.set(Some(future.clone()));
    Ok(Some(future))
}

/// `release()` of a plain lock.
#[inline]
pub fn release(lock: Obj<'_>) -> R<()> {
    let this = of(lock);
    if !this.locked.replace(false) {
        return Err(Raised::runtime("Lock is not acquired."));
    }
    wake_first(this)
}

#[inline]
fn wake_first(this: &LockFields) -> R<()> {
    match this.waiters.first()? {
        Some(first) if !is_done(first.obj())? => resolve(first.obj(), boolean(true)),
        _ => Ok(()),
    }
}

/// Where coroutines keep the lock and the future.
const SELF: usize = 0;
const WAITER: usize = 1;

fn acquire(frame: &Frame, resumed: Resumed) -> R<Next> {
    acquire_for(frame, resumed, boolean(true))
}

fn enter(frame: &Frame, resumed: Resumed) -> R<Next> {
    acquire_for(frame, resumed, none_ref())
}

#[inline]
fn acquire_for(frame: &Frame, resumed: Resumed, result: Ref) -> R<Next> {
    let lock = frame.slots[SELF].get_or_none();
    Ok(match advance(lock.obj(), &frame.slots[WAITER], resumed)? {
        Some(future) => Next::Await(future),
        None => Next::Return(result),
    })
}

/// Takes a lock, or begins to wait for it.
#[inline]
fn acquire_quickly(lock: Obj<'_>, frame: &Frame, result: Ref) -> R<Quickly> {
    let this = of(lock);
    if !this.locked.get() && this.waiters.is_surely_empty() {
        this.locked.set(true);
        return Ok(Quickly::Return(result));
    }
    Ok(match begin(lock, &frame.slots[WAITER])? {
        Some(future) => Quickly::Await(future),
        None => Quickly::Return(result),
    })
}

/// Lets go of a lock for which nobody waits; false if there is more to it.
#[inline]
pub fn release_quickly(lock: Obj<'_>) -> bool {
    let this = of(lock);
    this.waiters.is_surely_empty()
        && this.locked.get()
        && bound::surely_replaced(lock) == Some(0)
        && {
            this.locked.set(false);
            true
        }
}

// ---- the Python face ----------------------------------------------------------------------------

fn locked(lock: Obj<'_>) -> R<Ref> {
    Ok(boolean(is_locked(lock)))
}

fn set_locked(lock: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(lock).locked.set(required(value)?.is_true()?);
    Ok(())
}

fn get_waiters(lock: Obj<'_>) -> R<Ref> {
    of(lock).waiters.show()
}

fn set_waiters(lock: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(lock).waiters.assign(required(value)?);
    Ok(())
}

fn repr_text(lock: Obj<'_>) -> R<Ref> {
    let this = of(lock);
    let state = if this.locked.get() {
        "locked"
    } else {
        "unlocked"
    };
    repr_with(lock, state, this.waiters.len()?)
}

unsafe extern "C" fn repr(lock: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let lock = unsafe { Obj::from_ptr(lock) };
    crate::ffi::error::guard(|| repr_text(lock))
}

const INIT: Signature = Signature {
    name: "Lock.__init__",
    params: &[],
    positional: 0,
    required: 0,
};

fn init(lock: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    bind_tuple_python::<0>(args, kwargs, &INIT)?;
    of(lock).waiters.forget();
    of(lock).locked.set(false);
    Ok(())
}

fn get_state(lock: Obj<'_>) -> R<Ref> {
    bound::get_state(lock, &[c"_waiters", c"_locked"])
}

static ACQUIRING: Kind = Kind {
    name: "acquire",
    qualname: "Lock.acquire",
    body: acquire,
    quick: Some(|lock, frame| acquire_quickly(lock, frame, boolean(true))),
};
static ENTERING: Kind = Kind {
    name: "__aenter__",
    qualname: "_ContextManagerMixin.__aenter__",
    body: enter,
    quick: Some(|lock, frame| acquire_quickly(lock, frame, none_ref())),
};

const ARGUMENTS: Signature = no_arguments("Lock.acquire");

fn acquire_method(lock: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ARGUMENTS)?;
    if !is_native(lock, WAKE_UP_FIRST | GET_LOOP)? {
        return state().sync.lock.as_stock(&state().names.acquire, &[lock]);
    }
    coroutine::create(&ACQUIRING, [Some(lock.to_ref())])
}

fn enter_method(lock: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ENTER)?;
    if !is_native(lock, WAKE_UP_FIRST | GET_LOOP | ACQUIRE)? {
        let sync = &state().sync;
        return sync.lock.as_stock(&state().names.__aenter__, &[lock]);
    }
    coroutine::create(&ENTERING, [Some(lock.to_ref())])
}

fn release_method(lock: Obj<'_>) -> R<Ref> {
    if !is_native(lock, WAKE_UP_FIRST)? {
        return state().sync.lock.as_stock(&state().names.release, &[lock]);
    }
    release(lock).map(|()| none_ref())
}

static FUNCTIONS: [&Function; 3] = [
    &coroutine_method!(
        "acquire",
        "Lock.acquire",
        "(self)",
        "Waits until the lock is free, takes it, and returns True.",
        acquire_method
    ),
    &coroutine_method!(
        "__aenter__",
        "_ContextManagerMixin.__aenter__",
        "(self)",
        "Takes the lock.",
        enter_method
    ),
    &coroutine_method!(
        "__aexit__",
        "_ContextManagerMixin.__aexit__",
        "(self, exc_type, exc, tb)",
        "Releases the lock.",
        exit_method
    ),
];

/// Creates the type.
pub fn build(maker: Obj<'_>) -> R<Family> {
    let core = bound::core::<LockFields>(c"aioxide._Lock")
        .doc(c"_Lock()\n--\n\nThe native part of Lock.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .methods([
            python_method!(
                "Lock",
                release(),
                release_method,
                "Lets the next one take the lock."
            ),
            python_method!("Lock", locked(), locked, "Whether somebody has the lock."),
            noargs!(c"__getstate__", get_state, c"For copy and pickle."),
        ])
        .attributes([
            attribute!(c"_locked", locked, set_locked, c"Whether somebody has it."),
            attribute!(
                c"_waiters",
                get_waiters,
                set_waiters,
                c"The futures of those who wait; None before anybody waited."
            ),
        ])
        .build(None)?;
    function::add_methods(core.obj(), maker, &FUNCTIONS)?;
    Family::new(c"Lock", &[core.obj()], &METHODS)
}
