//! `Event`.
//!
//! May touch: one event's fields, the futures of those who wait. *Source*: `asyncio.locks.Event`.

use std::cell::Cell;
use std::ffi::CStr;

use pyo3_ffi as c;

use super::bound::{self, Bound, Family, Fields, create_future, fields, replaced, repr_with};
use super::coroutine::{self, Frame, Kind, Next, Quickly, Resumed};
use super::function::{self, Function};
use super::line::{Line, is_done, resolve};
use super::managed::{check_none, coroutine_method, no_arguments};
use crate::ffi::class::{Visitor, attribute, bind_tuple_python, initializer, noargs};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::python_method::python_method;
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature};
use crate::future::required;
use crate::state::state;

/// The fields of an event.
#[repr(C)]
pub struct EventFields {
    bound: Bound,
    waiters: Line,
    value: Cell<bool>,
}

impl Fields for EventFields {
    fn fresh() -> EventFields {
        EventFields {
            bound: Bound::fresh(),
            waiters: Line::empty(),
            value: Cell::new(false),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.waiters.visit(visitor);
    }

    fn clear(&self) {
        self.waiters.clear();
    }
}

fn of(event: Obj<'_>) -> &EventFields {
    fields(event)
}

/// The methods that others call.
const METHODS: [&CStr; 3] = [c"_get_loop", c"set", c"clear"];

const GET_LOOP: u32 = 1;

/// `event.set()` or `event.clear()`, whatever the event is.
pub fn assign(event: Obj<'_>, value: bool) -> R<()> {
    let sync = &state().sync;
    let names = &state().names;
    let native = sync.event.is_core_of(event) && replaced(event, &sync.event)? == 0;
    match (native, value) {
        (true, true) => set(event),
        (true, false) => clear(event),
        (false, true) => event.call_method0(names.set.obj()),
        (false, false) => event.call_method0(names.clear.obj()),
    }
    .map(drop)
}

/// A new event, set or not.
pub fn create(value: bool) -> R<Ref> {
    let event = state().sync.event.leaf.obj().call0()?;
    of(event.obj()).value.set(value);
    Ok(event)
}

fn set(event: Obj<'_>) -> R<Ref> {
    let this = of(event);
    if !this.value.replace(true) {
        this.waiters.find(|waiter| {
            if !is_done(waiter)? {
                resolve(waiter, boolean(true))?;
            }
            Ok(None::<()>)
        })?;
    }
    Ok(none_ref())
}

fn clear(event: Obj<'_>) -> R<Ref> {
    of(event).value.set(false);
    Ok(none_ref())
}

fn is_set(event: Obj<'_>) -> R<Ref> {
    Ok(boolean(of(event).value.get()))
}

/// Where coroutines keep the event and the future.
const SELF: usize = 0;
const WAITER: usize = 1;

fn wait(frame: &Frame, resumed: Resumed) -> R<Next> {
    let event = frame.slots[SELF].get_or_none();
    if let Some(future) = frame.slots[WAITER].take() {
        of(event.obj()).waiters.remove(future.obj())?;
    }
    match resumed {
        Resumed::Value(_) => Ok(Next::Return(boolean(true))),
        Resumed::Raised(exception) => Err(Raised::throw(exception)),
    }
}

/// The part of `wait()` before it waits.
fn wait_quickly(event: Obj<'_>, frame: &Frame) -> R<Quickly> {
    let this = of(event);
    if this.value.get() {
        return Ok(Quickly::Return(boolean(true)));
    }
    let future = create_future(event)?;
    this.waiters.push(&future)?;
    frame.slots[WAITER].set(Some(future.clone()));
    Ok(Quickly::Await(future))
}

// ---- the Python face ----------------------------------------------------------------------------

fn set_value(event: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(event).value.set(required(value)?.is_true()?);
    Ok(())
}

fn get_waiters(event: Obj<'_>) -> R<Ref> {
    of(event).waiters.show()
}

fn set_waiters(event: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(event).waiters.assign(required(value)?);
    Ok(())
}

fn repr_text(event: Obj<'_>) -> R<Ref> {
    let this = of(event);
    let state = if this.value.get() { "set" } else { "unset" };
    repr_with(event, state, this.waiters.len()?)
}

unsafe extern "C" fn repr(event: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let event = unsafe { Obj::from_ptr(event) };
    crate::ffi::error::guard(|| repr_text(event))
}

const INIT: Signature = Signature {
    name: "Event.__init__",
    params: &[],
    positional: 0,
    required: 0,
};

fn init(event: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    bind_tuple_python::<0>(args, kwargs, &INIT)?;
    of(event).waiters.reset();
    of(event).value.set(false);
    Ok(())
}

fn get_state(event: Obj<'_>) -> R<Ref> {
    bound::get_state(event, &[c"_waiters", c"_value"])
}

static WAITING: Kind = Kind {
    name: "wait",
    qualname: "Event.wait",
    body: wait,
    quick: Some(wait_quickly),
};

const ARGUMENTS: Signature = no_arguments("Event.wait");

fn wait_method(event: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &ARGUMENTS)?;
    let family = &state().sync.event;
    if replaced(event, family)? & GET_LOOP != 0 {
        return family.as_stock(&state().names.wait, &[event]);
    }
    coroutine::create(&WAITING, [Some(event.to_ref())])
}

static FUNCTIONS: [&Function; 1] = [&coroutine_method!(
    "wait",
    "Event.wait",
    "(self)",
    "Waits until the event is set, and returns True.",
    wait_method
)];

/// Creates the type.
pub fn build(maker: Obj<'_>) -> R<Family> {
    let core = bound::core::<EventFields>(c"aioxide._Event")
        .doc(c"_Event()\n--\n\nThe native part of Event.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .methods([
            python_method!(
                "Event",
                set(),
                set,
                "Wakes all who wait; nobody waits any more."
            ),
            python_method!("Event", clear(), clear, "Lets wait() wait again."),
            python_method!("Event", is_set(), is_set, "Whether the event is set."),
            noargs!(c"__getstate__", get_state, c"For copy and pickle."),
        ])
        .attributes([
            attribute!(c"_value", is_set, set_value, c"Whether the event is set."),
            attribute!(
                c"_waiters",
                get_waiters,
                set_waiters,
                c"The futures of those who wait."
            ),
        ])
        .build(None)?;
    function::add_methods(core.obj(), maker, &FUNCTIONS)?;
    Family::new(c"Event", &[core.obj()], &METHODS)
}
