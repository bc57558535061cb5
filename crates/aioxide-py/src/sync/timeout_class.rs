//! `Timeout` as Python sees it: fields, methods, life.
//!
//! May touch: the memory of one timeout. Invariant: all-zero memory is a timeout that was not
//! entered and is never due.

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use pyo3_ffi as c;

use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::function::{self, Call, Function};
use super::timeout::{self, State, Timeouts};
use crate::ffi::call::{import, int, interned};
use crate::ffi::class::{
    Class, Visitor, attribute, bind_tuple_python, dict_attribute, initializer, onearg, varargs,
};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::python_method::python_method;
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, Slot, layout, trash};
use crate::future::free_instance;
use crate::state::state;

/// The fields of a timeout.
#[repr(C)]
pub struct Fields {
    pub dict: Slot,
    weakrefs: Cell<*mut PyObject>,
    /// The handle of the loop that will call `_on_timeout`.
    pub handler: Slot,
    /// The task that entered.
    pub task: Slot,
    /// Loop time, as it was given; nothing for never.
    pub when: Slot,
    /// `task.cancelling()` when it entered.
    pub cancelling: Cell<i64>,
    state: Cell<u8>,
}

const OFFSET: usize = size_of::<PyObject>();

/// The fields of a timeout.
#[inline]
pub fn fields(this: Obj<'_>) -> &Fields {
    // SAFETY: methods get instances from their own descriptors, everyone else made the object.
    unsafe { layout::fields(this.ptr(), OFFSET) }
}

impl Fields {
    /// Where it stands.
    #[inline]
    pub fn state(&self) -> State {
        match self.state.get() {
            0 => State::Created,
            1 => State::Entered,
            2 => State::Expiring,
            3 => State::Expired,
            _ => State::Exited,
        }
    }

    /// Moves on.
    #[inline]
    pub fn set_state(&self, state: State) {
        self.state.set(state as u8);
    }

    fn slots(&self) -> [&Slot; 4] {
        [&self.dict, &self.handler, &self.task, &self.when]
    }
}

/// A timeout of our own class, due at `when`.
#[inline]
pub fn new(when: Option<Ref>) -> R<Ref> {
    let class = state().timeouts.leaf.ptr().cast();
    // SAFETY: a ready type of ours; zeroed memory is a valid timeout.
    let made = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    fields(made.obj()).when.set(when);
    Ok(made)
}

const INIT: Signature = Signature {
    name: "Timeout.__init__",
    params: &["when"],
    positional: 1,
    required: 1,
};

fn init(this: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [when] = bind_tuple_python::<1>(args, kwargs, &INIT)?;
    let fields = fields(this);
    fields.set_state(State::Created);
    fields.handler.clear();
    fields.task.clear();
    fields.when.set(when);
    Ok(())
}

unsafe extern "C" fn allocate(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: a ready type of ours or a subclass of one; zeroed memory is a valid timeout.
    unsafe { c::PyType_GenericAlloc(class, 0) }
}

fn when(this: Obj<'_>) -> R<Ref> {
    Ok(fields(this).when.get_or_none())
}

fn set_when(this: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(this).when.set(value.map(Obj::to_ref));
    Ok(())
}

fn expired(this: Obj<'_>) -> R<Ref> {
    let state = fields(this).state();
    Ok(boolean(matches!(state, State::Expiring | State::Expired)))
}

fn reschedule(this: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [when] = args.bind_python::<1>(&RESCHEDULE)?;
    timeout::reschedule(this, when.unwrap_or(crate::ffi::object::none()))?;
    Ok(none_ref())
}

const RESCHEDULE: Signature = Signature {
    name: "Timeout.reschedule",
    params: &["when"],
    positional: 1,
    required: 1,
};

fn on_timeout(this: Obj<'_>) -> R<Ref> {
    timeout::expire(this).map(|()| none_ref())
}

fn insert_timeout_error(_this: Obj<'_>, exception: Obj<'_>) -> R<Ref> {
    timeout::insert_timeout_error(exception).map(|()| none_ref())
}

fn get_state(this: Obj<'_>) -> R<Ref> {
    Ok(state().timeouts.states[fields(this).state() as usize].clone())
}

fn set_state(this: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let states = &state().timeouts.states;
    let known = [
        State::Created,
        State::Entered,
        State::Expiring,
        State::Expired,
        State::Exited,
    ];
    for number in known {
        if value.is_some_and(|value| value.is(states[number as usize].obj())) {
            fields(this).set_state(number);
            return Ok(());
        }
    }
    Err(Raised::type_error(
        "an asyncio.timeouts._State was expected",
    ))
}

fn get_task(this: Obj<'_>) -> R<Ref> {
    Ok(fields(this).task.get_or_none())
}

fn set_task(this: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(this).task.set(value.map(Obj::to_ref));
    Ok(())
}

fn get_handler(this: Obj<'_>) -> R<Ref> {
    Ok(fields(this).handler.get_or_none())
}

fn set_handler(this: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = value.filter(|value| !value.is_none());
    fields(this).handler.set(value.map(Obj::to_ref));
    Ok(())
}

fn get_cancelling(this: Obj<'_>) -> R<Ref> {
    int(fields(this).cancelling.get())
}

fn set_cancelling(this: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = value.map_or(Ok(0), Obj::to_i64)?;
    fields(this).cancelling.set(value);
    Ok(())
}

unsafe extern "C" fn repr(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let this = unsafe { Obj::from_ptr(this) };
    crate::ffi::error::guard(|| timeout::repr(this))
}

unsafe extern "C" fn traverse(this: *mut PyObject, visit: c::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = unsafe { Obj::from_ptr(this) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(this.type_ptr().cast());
    for slot in fields(this).slots() {
        visitor.slot(slot);
    }
    visitor.status()
}

unsafe extern "C" fn clear(this: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = unsafe { Obj::from_ptr(this) };
    for slot in fields(this).slots() {
        slot.clear();
    }
    0
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(this, free) }
}

unsafe fn free(this: *mut PyObject) {
    // SAFETY: an instance of ours with no references left: ours to take apart, once.
    unsafe {
        let class = c::Py_TYPE(this);
        c::PyObject_GC_UnTrack(this.cast());
        c::PyObject_ClearWeakRefs(this);
        clear(this);
        free_instance(this, class);
    }
}

// ---- async with ---------------------------------------------------------------------------------

/// `Timeout.__aenter__`.
static ENTER: Function = Function {
    name: "__aenter__",
    qualname: "Timeout.__aenter__",
    signature: "(self)",
    doc: "Begins the time.",
    call: Call::Method(enter),
};

static ENTER_KIND: Kind = Kind {
    name: "__aenter__",
    qualname: "Timeout.__aenter__",
    body: enter_body,
    quick: None,
};

const ENTER_SIGNATURE: Signature = Signature {
    name: "Timeout.__aenter__",
    params: &[],
    positional: 0,
    required: 0,
};

fn enter(this: Obj<'_>, args: Args<'_>) -> R<Ref> {
    args.bind_python::<0>(&ENTER_SIGNATURE)?;
    coroutine::create(&ENTER_KIND, [Some(this.to_ref())])
}

fn enter_body(frame: &Frame, _resumed: Resumed) -> R<Next> {
    let this = frame.slots[0].get_or_none();
    timeout::enter(this.obj())?;
    Ok(Next::Return(this))
}

/// `Timeout.__aexit__`.
static EXIT: Function = Function {
    name: "__aexit__",
    qualname: "Timeout.__aexit__",
    signature: "(self, exc_type, exc_val, exc_tb)",
    doc: "Ends the time; a cancellation that was the timeout's becomes TimeoutError.",
    call: Call::Method(exit),
};

static EXIT_KIND: Kind = Kind {
    name: "__aexit__",
    qualname: "Timeout.__aexit__",
    body: exit_body,
    quick: None,
};

const EXIT_SIGNATURE: Signature = Signature {
    name: "Timeout.__aexit__",
    params: &["exc_type", "exc_val", "exc_tb"],
    positional: 3,
    required: 3,
};

fn exit(this: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [class, value, _traceback] = args.bind_python::<3>(&EXIT_SIGNATURE)?;
    let class = class.filter(|class| !class.is_none());
    coroutine::create(
        &EXIT_KIND,
        [
            Some(this.to_ref()),
            class.map(Obj::to_ref),
            value.map(Obj::to_ref),
        ],
    )
}

fn exit_body(frame: &Frame, _resumed: Resumed) -> R<Next> {
    let [this, class, value] = [0, 1, 2].map(|index| frame.slots[index].get());
    let this = this.unwrap_or_else(none_ref);
    let value = value.unwrap_or_else(none_ref);
    let exception = class.as_ref().map(|class| (class.obj(), value.obj()));
    timeout::exit(this.obj(), exception)?;
    Ok(Next::Return(none_ref()))
}

// ---- types --------------------------------------------------------------------------------------

fn core() -> Class {
    Class::new(c"aioxide.Timeout", OFFSET + size_of::<Fields>())
        .flags(c::Py_TPFLAGS_BASETYPE)
        .doc(
            c"Timeout(when)\n--\n\nAsynchronous context manager for cancelling overdue coroutines.",
        )
        .slot(c::Py_tp_new, allocate as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .dict_and_weakrefs(
            OFFSET + std::mem::offset_of!(Fields, dict),
            OFFSET + std::mem::offset_of!(Fields, weakrefs),
        )
        .methods([
            python_method!("Timeout", when(), when, "Return the current deadline."),
            python_method!(
                "Timeout",
                expired(),
                expired,
                "Is timeout expired during execution?"
            ),
            varargs!(
                c"reschedule",
                reschedule,
                c"($self, when)\nReschedule the timeout."
            ),
            python_method!(
                "Timeout",
                _on_timeout(),
                on_timeout,
                "Cancels the task: it is time."
            ),
            onearg!(
                c"_insert_timeout_error",
                insert_timeout_error,
                c"Shows a TimeoutError where the chain of contexts has the cancellation."
            ),
        ])
        .attributes([
            dict_attribute(),
            attribute!(
                c"_state",
                get_state,
                set_state,
                c"asyncio's word for the state."
            ),
            attribute!(c"_task", get_task, set_task, c"The task that entered."),
            attribute!(
                c"_timeout_handler",
                get_handler,
                set_handler,
                c"The handle of the timer, or None."
            ),
            attribute!(c"_when", when, set_when, c"The deadline."),
            attribute!(
                c"_cancelling",
                get_cancelling,
                set_cancelling,
                c"How often the task had been told to cancel when it entered."
            ),
        ])
}

/// Creates the types; `maker` is the type of coroutine functions.
pub fn build(maker: Obj<'_>) -> R<Timeouts> {
    let module = import(c"asyncio.timeouts")?;
    let stock = module.obj().getattr_str(c"Timeout")?;
    let core = core().build(None)?;
    function::add_methods(core.obj(), maker, &[&ENTER, &EXIT])?;
    let leaf = Class::new(c"aioxide.Timeout", OFFSET + size_of::<Fields>())
        .flags(c::Py_TPFLAGS_BASETYPE)
        .doc(
            c"Timeout(when)\n--\n\nAsynchronous context manager for cancelling overdue coroutines.",
        )
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .build_under(&[core.obj(), stock.obj()])?;
    let names = module.obj().getattr_str(c"_State")?;
    let named = |name| names.obj().getattr_str(name);
    let inserts = interned(c"_insert_timeout_error")?;
    let on_timeout = core.obj().getattr_str(c"_on_timeout")?;
    Ok(Timeouts {
        version: Cell::default(),
        on_timeout,
        states: [
            named(c"CREATED")?,
            named(c"ENTERED")?,
            named(c"EXPIRING")?,
            named(c"EXPIRED")?,
            named(c"EXITED")?,
        ],
        inserts_error: stock.obj().getattr_opt(inserts.obj())?.is_some(),
        leaf,
    })
}

/// The functions of this room that return no coroutine.
pub fn methods() -> [c::PyMethodDef; 2] {
    [
        varargs!(
            c"timeout",
            timeout::timeout,
            c"($module, /, delay)\nTimeout async context manager: delay in seconds, or None."
        ),
        varargs!(
            c"timeout_at",
            timeout::timeout_at,
            c"($module, /, when)\nSchedule the timeout at absolute time by the loop, or None."
        ),
    ]
}
