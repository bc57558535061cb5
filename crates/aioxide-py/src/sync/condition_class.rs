//! The Python face of `Condition`.
//!
//! May touch: one condition's fields. Invariant: `locked`, `acquire` and `release` are the lock's,
//! unless the instance was given others.

use pyo3_ffi as c;

use super::bound::{self, Family, own_attribute, replaced, repr_with, set_own_attribute};
use super::condition::{
    ConditionFields, GET_LOOP, METHODS, PRIVATE_NOTIFY, SELF, STARTED, WAIT, acquire_step,
    is_locked, is_native, notify_all, notify_checked, notify_some, of, wait,
};
use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::count::Count;
use super::function::{self, Function};
use super::managed::{ENTER, check_none, coroutine_method, exit_method, no_arguments};
use crate::ffi::class::{attribute, bind_tuple_python, initializer, noargs, varargs};
use crate::ffi::object::none_ref;
use crate::ffi::python_method::python_method;
use crate::ffi::{Args, Obj, PyObject, R, Ref, Signature};
use crate::future::required;
use crate::state::state;

/// Where `wait_for()` keeps the predicate.
const PREDICATE: usize = 1;

fn wait_for(frame: &Frame, resumed: Resumed) -> R<Next> {
    drop(resumed.value()?);
    let condition = frame.slots[SELF].get_or_none();
    let predicate = frame.slots[PREDICATE].get_or_none();
    let result = predicate.obj().call0()?;
    if result.obj().is_true()? {
        return Ok(Next::Return(result));
    }
    if is_native(condition.obj(), WAIT)? {
        return wait_method_of(condition.obj()).map(Next::Await);
    }
    let wait = state().names.wait.obj();
    condition.obj().call_method0(wait).map(Next::Await)
}

const NOTIFY_ARGUMENTS: Signature = Signature {
    name: "Condition.notify",
    params: &["n"],
    positional: 1,
    required: 0,
};

fn notify_method(condition: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [given] = args.bind_python::<1>(&NOTIFY_ARGUMENTS)?;
    let most = Count::new(1);
    if let Some(given) = given {
        most.set(given);
    }
    if !is_native(condition, PRIVATE_NOTIFY)? {
        let family = &state().sync.condition;
        return family.as_stock(&state().names.notify, &[condition, most.get()?.obj()]);
    }
    notify_checked(condition, &most)
}

fn notify_private(condition: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [given] = args.bind_python::<1>(&Signature {
        name: "Condition._notify",
        required: 1,
        ..NOTIFY_ARGUMENTS
    })?;
    let most = Count::new(1);
    if let Some(given) = given {
        most.set(given);
    }
    notify_some(condition, &most).map(|()| none_ref())
}

/// What the condition has of its lock; an entry of the instance's dict stands before it.
fn of_lock(condition: Obj<'_>, name: &Ref) -> R<Ref> {
    match own_attribute(condition, name)? {
        Some(own) => Ok(own),
        None => of(condition).lock.get_or_none().obj().getattr(name.obj()),
    }
}

fn get_locked(condition: Obj<'_>) -> R<Ref> {
    of_lock(condition, &state().names.locked)
}

fn get_acquire(condition: Obj<'_>) -> R<Ref> {
    of_lock(condition, &state().names.acquire)
}

fn get_release(condition: Obj<'_>) -> R<Ref> {
    of_lock(condition, &state().names.release)
}

fn set_locked(condition: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    set_own_attribute(condition, &state().names.locked, value)
}

fn set_acquire(condition: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    set_own_attribute(condition, &state().names.acquire, value)
}

fn set_release(condition: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    set_own_attribute(condition, &state().names.release, value)
}

fn get_lock(condition: Obj<'_>) -> R<Ref> {
    Ok(of(condition).lock.get_or_none())
}

/// Another lock: what was taken from the one before, its methods, stays, as in asyncio.
fn set_lock(condition: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = required(value)?.to_ref();
    let this = of(condition);
    if !this.lock.is_empty() && this.lock.ptr() != value.ptr() {
        let names = &state().names;
        for name in [&names.locked, &names.acquire, &names.release] {
            let method = of_lock(condition, name)?;
            set_own_attribute(condition, name, Some(method.obj()))?;
        }
    }
    this.lock.set(Some(value));
    Ok(())
}

fn get_waiters(condition: Obj<'_>) -> R<Ref> {
    of(condition).waiters.show()
}

fn set_waiters(condition: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(condition).waiters.assign(required(value)?);
    Ok(())
}

fn repr_text(condition: Obj<'_>) -> R<Ref> {
    let state = if is_locked(condition)? {
        "locked"
    } else {
        "unlocked"
    };
    repr_with(condition, state, of(condition).waiters.len()?)
}

unsafe extern "C" fn repr(condition: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let condition = unsafe { Obj::from_ptr(condition) };
    crate::ffi::error::guard(|| repr_text(condition))
}

const INIT: Signature = Signature {
    name: "Condition.__init__",
    params: &["lock"],
    positional: 1,
    required: 0,
};

fn init(condition: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [given] = bind_tuple_python::<1>(args, kwargs, &INIT)?;
    let state = state();
    let given = given.filter(|given| !given.obj().is_none());
    let lock = given.map_or_else(|| state.sync.lock.leaf.obj().call0(), Ok)?;
    let this = of(condition);
    this.lock.set(Some(lock.clone()));
    this.waiters.reset();
    let native = state.sync.lock.is_core_of(lock.obj());
    let names = &state.names;
    for (bit, name) in [&names.locked, &names.acquire, &names.release]
        .iter()
        .enumerate()
    {
        // The lock's methods stand before those of a subclass, as asyncio has it.
        let of_class = replaced(condition, &state.sync.condition)? & (1 << bit) != 0;
        if of_class || !native {
            let method = lock.obj().getattr(name.obj())?;
            if of_class {
                set_own_attribute(condition, name, Some(method.obj()))?;
            }
        }
    }
    Ok(())
}

fn get_state(condition: Obj<'_>) -> R<Ref> {
    let names = [c"_lock", c"locked", c"acquire", c"release", c"_waiters"];
    bound::get_state(condition, &names)
}

static WAITING: Kind = Kind {
    name: "wait",
    qualname: "Condition.wait",
    body: wait,
    quick: None,
};
static WAITING_FOR: Kind = Kind {
    name: "wait_for",
    qualname: "Condition.wait_for",
    body: wait_for,
    quick: None,
};
static ENTERING: Kind = Kind {
    name: "__aenter__",
    qualname: "_ContextManagerMixin.__aenter__",
    body: enter,
    quick: None,
};

/// Takes the lock, by its own `acquire()` if need be; returns None.
fn enter(frame: &Frame, resumed: Resumed) -> R<Next> {
    let condition = frame.slots[SELF].get_or_none();
    let begun = frame.stage.get() != STARTED;
    Ok(
        match acquire_step(frame, condition.obj(), begun.then_some(resumed))? {
            Some(awaitable) => Next::Await(awaitable),
            None => Next::Return(none_ref()),
        },
    )
}

const WAIT_ARGUMENTS: Signature = no_arguments("Condition.wait");
const WAIT_FOR_ARGUMENTS: Signature = Signature {
    name: "Condition.wait_for",
    params: &["predicate"],
    positional: 1,
    required: 1,
};

/// `wait()`, for those who call it natively.
pub fn wait_method_of(condition: Obj<'_>) -> R<Ref> {
    if !is_native(condition, GET_LOOP | PRIVATE_NOTIFY)? {
        let family = &state().sync.condition;
        return family.as_stock(&state().names.wait, &[condition]);
    }
    coroutine::create(&WAITING, [Some(condition.to_ref())])
}

fn wait_method(condition: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &WAIT_ARGUMENTS)?;
    wait_method_of(condition)
}

fn wait_for_method(condition: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [predicate] = args.bind_python::<1>(&WAIT_FOR_ARGUMENTS)?;
    coroutine::create(
        &WAITING_FOR,
        [Some(condition.to_ref()), predicate.map(Obj::to_ref)],
    )
}

fn enter_method(condition: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ENTER)?;
    coroutine::create(&ENTERING, [Some(condition.to_ref())])
}

static FUNCTIONS: [&Function; 4] = [
    &coroutine_method!(
        "wait",
        "Condition.wait",
        "(self)",
        "Gives the lock away until it is notified, then takes it again and returns True.",
        wait_method
    ),
    &coroutine_method!(
        "wait_for",
        "Condition.wait_for",
        "(self, predicate)",
        "Waits until predicate() is true, and returns what it gave.",
        wait_for_method
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
    let core = bound::core::<ConditionFields>(c"aioxide._Condition")
        .doc(c"_Condition(lock=None)\n--\n\nThe native part of Condition.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .methods([
            varargs!(
                c"notify",
                notify_method,
                c"($self, n=1)\nWakes n of those who wait; the lock must be held."
            ),
            varargs!(
                c"_notify",
                notify_private,
                c"($self, n)\nWakes n of those who wait."
            ),
            python_method!("Condition", notify_all(), notify_all, "Wakes all who wait."),
            noargs!(c"__getstate__", get_state, c"For copy and pickle."),
        ])
        .attributes([
            attribute!(c"locked", get_locked, set_locked, c"The lock's method."),
            attribute!(c"acquire", get_acquire, set_acquire, c"The lock's method."),
            attribute!(c"release", get_release, set_release, c"The lock's method."),
            attribute!(c"_lock", get_lock, set_lock, c"The lock."),
            attribute!(
                c"_waiters",
                get_waiters,
                set_waiters,
                c"The futures of those who wait."
            ),
        ])
        .build(None)?;
    function::add_methods(core.obj(), maker, &FUNCTIONS)?;
    Family::new(c"Condition", &[core.obj()], &METHODS)
}
