//! The Python face of the queues.
//!
//! May touch: one queue's fields. Invariant: where a subclass, a class or an instance replaces a
//! method that asyncio's code would call, asyncio's code runs, on the native type's attributes.

use pyo3_ffi as c;

use super::bound::{self, Family, Fields};
use super::coroutine::{self, Kind};
use super::function::{self, Function};
use super::managed::{check_none, coroutine_method, no_arguments, only};
use super::queue::{
    BY_FULL, BY_GET, BY_GET_NOWAIT, BY_PUT, BY_PUT_NOWAIT, EMPTY, GET, INIT, ITEM, METHODS,
    QueueFields, SELF, finished, get, get_nowait, is_full, is_native, join, of, put, put_nowait,
    set_finished, wake_all,
};
use super::queue_items::Order;
use crate::ffi::builtin::{Comparison, type_name};
use crate::ffi::call::{int, string, uint};
use crate::ffi::class::{
    Class, Visitor, attribute, bind_tuple_python, initializer, noargs, varargs,
};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::python_method::{property, python_method};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature};
use crate::future::required;
use crate::state::state;

/// What asyncio's `Queue` does under that name.
fn as_stock(name: &Ref, args: &[Obj<'_>]) -> R<Ref> {
    state().sync.queue.as_stock(name, args)
}

const INIT_ARGUMENTS: Signature = Signature {
    name: "Queue.__init__",
    params: &["maxsize"],
    positional: 1,
    required: 0,
};

fn init(queue: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [maxsize] = bind_tuple_python::<1>(args, kwargs, &INIT_ARGUMENTS)?;
    let maxsize = maxsize.map_or_else(|| int(0), Ok)?;
    let this = of(queue);
    this.maxsize.set(maxsize.obj());
    this.getters.reset();
    this.putters.reset();
    this.unfinished.set(int(0)?.obj());
    this.finished.clear();
    this.all_done.set(true);
    if is_native(queue, INIT)? {
        this.items.init()?;
    } else {
        let name = state().names._init.obj();
        drop(queue.call_method1(name, maxsize.obj())?);
    }
    this.shut_down.set(false);
    Ok(())
}

fn init_private(queue: Obj<'_>, _maxsize: Obj<'_>) -> R<Ref> {
    of(queue).items.init().map(|()| none_ref())
}

fn put_private(queue: Obj<'_>, item: Obj<'_>) -> R<Ref> {
    of(queue).items.put(queue, item).map(|()| none_ref())
}

fn get_private(queue: Obj<'_>) -> R<Ref> {
    of(queue).items.get(queue)
}

fn put_nowait_method(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let item = only(&args, &PUT_NOWAIT_ARGUMENTS)?;
    if !is_native(queue, BY_PUT_NOWAIT)? {
        return as_stock(&state().names.put_nowait, &[queue, item]);
    }
    put_nowait(queue, item).map(|()| none_ref())
}

fn get_nowait_method(queue: Obj<'_>) -> R<Ref> {
    if !is_native(queue, BY_GET_NOWAIT)? {
        return as_stock(&state().names.get_nowait, &[queue]);
    }
    get_nowait(queue)
}

fn qsize(queue: Obj<'_>) -> R<Ref> {
    uint(of(queue).items.len(queue)? as u64)
}

fn empty(queue: Obj<'_>) -> R<Ref> {
    of(queue).items.is_empty(queue).map(boolean)
}

fn full(queue: Obj<'_>) -> R<Ref> {
    if !is_native(queue, BY_FULL)? {
        return as_stock(&state().names.full, &[queue]);
    }
    is_full(queue).map(boolean)
}

fn task_done(queue: Obj<'_>) -> R<Ref> {
    let this = of(queue);
    if this.unfinished.is(Comparison::AtMost, 0)? {
        return Err(Raised::value_error("task_done() called too many times"));
    }
    this.unfinished.add(-1)?;
    if this.unfinished.is(Comparison::Equal, 0)? {
        set_finished(this, true)?;
    }
    Ok(none_ref())
}

const SHUTDOWN_ARGUMENTS: Signature = Signature {
    name: "Queue.shutdown",
    params: &["immediate"],
    positional: 1,
    required: 0,
};

fn shutdown(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [immediate] = args.bind_python::<1>(&SHUTDOWN_ARGUMENTS)?;
    let immediate = immediate.map_or(Ok(false), Obj::is_true)?;
    if !is_native(queue, EMPTY | GET)? {
        let immediate = boolean(immediate);
        return as_stock(&state().names.shutdown, &[queue, immediate.obj()]);
    }
    let this = of(queue);
    this.shut_down.set(true);
    if immediate {
        while !this.items.is_empty(queue)? {
            drop(this.items.get(queue)?);
            if this.unfinished.is(Comparison::Greater, 0)? {
                this.unfinished.add(-1)?;
            }
        }
        if this.unfinished.is(Comparison::Equal, 0)? {
            set_finished(this, true)?;
        }
    }
    wake_all(&this.getters)?;
    wake_all(&this.putters)?;
    Ok(none_ref())
}

fn format_private(queue: Obj<'_>) -> R<Ref> {
    let this = of(queue);
    let mut described = format!("maxsize={}", this.maxsize.get()?.obj().repr()?);
    if let Some(items) = this.items.listed()? {
        described.push_str(&format!(" _queue={}", items.obj().repr()?));
    }
    for (name, line) in [("_getters", &this.getters), ("_putters", &this.putters)] {
        if !line.is_empty()? {
            described.push_str(&format!(" {name}[{}]", line.len()?));
        }
    }
    let unfinished = this.unfinished.get()?;
    if unfinished.obj().is_true()? {
        let count = crate::ffi::call::text(unfinished.obj().str()?.obj())?;
        described.push_str(&format!(" tasks={count}"));
    }
    if this.shut_down.get() {
        described.push_str(" shutdown");
    }
    string(&described)
}

unsafe extern "C" fn repr(queue: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let queue = unsafe { Obj::from_ptr(queue) };
    crate::ffi::error::guard(|| {
        let described = queue.call_method0(state().names._format.obj())?;
        let described = crate::ffi::call::text(described.obj().str()?.obj())?;
        let name = type_name(queue)?;
        string(&format!("<{name} at {:p} {described}>", queue.ptr()))
    })
}

// ---- attributes ---------------------------------------------------------------------------------

fn get_maxsize(queue: Obj<'_>) -> R<Ref> {
    of(queue).maxsize.get()
}

fn set_maxsize(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(queue).maxsize.set(required(value)?);
    Ok(())
}

fn get_items(queue: Obj<'_>) -> R<Ref> {
    of(queue).items.show(queue)
}

fn set_items(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    match value {
        Some(value) => of(queue).items.assign(value),
        None => of(queue).items.clear(),
    }
    Ok(())
}

fn get_getters(queue: Obj<'_>) -> R<Ref> {
    of(queue).getters.show()
}

fn set_getters(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(queue).getters.assign(required(value)?);
    Ok(())
}

fn get_putters(queue: Obj<'_>) -> R<Ref> {
    of(queue).putters.show()
}

fn set_putters(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(queue).putters.assign(required(value)?);
    Ok(())
}

fn get_unfinished(queue: Obj<'_>) -> R<Ref> {
    of(queue).unfinished.get()
}

fn set_unfinished(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(queue).unfinished.set(required(value)?);
    Ok(())
}

fn get_finished(queue: Obj<'_>) -> R<Ref> {
    finished(of(queue))
}

fn set_finished_event(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(queue).finished.set(Some(required(value)?.to_ref()));
    Ok(())
}

fn get_shut_down(queue: Obj<'_>) -> R<Ref> {
    Ok(boolean(of(queue).shut_down.get()))
}

fn set_shut_down(queue: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    of(queue).shut_down.set(required(value)?.is_true()?);
    Ok(())
}

fn get_state(queue: Obj<'_>) -> R<Ref> {
    let names = [
        c"_maxsize",
        c"_getters",
        c"_putters",
        c"_unfinished_tasks",
        c"_finished",
        c"_queue",
        c"_is_shutdown",
    ];
    let known = if cfg!(Py_3_13) { 7 } else { 6 };
    bound::get_state(queue, &names[..known])
}

// ---- coroutine methods --------------------------------------------------------------------------

static PUTTING: Kind = Kind {
    name: "put",
    qualname: "Queue.put",
    body: put,
    quick: Some(super::queue::put_quickly),
};
static GETTING: Kind = Kind {
    name: "get",
    qualname: "Queue.get",
    body: get,
    quick: Some(super::queue::get_quickly),
};
static JOINING: Kind = Kind {
    name: "join",
    qualname: "Queue.join",
    body: join,
    quick: None,
};

const PUT_ARGUMENTS: Signature = Signature {
    name: "Queue.put",
    params: &["item"],
    positional: 1,
    required: 1,
};
const PUT_NOWAIT_ARGUMENTS: Signature = Signature {
    name: "Queue.put_nowait",
    ..PUT_ARGUMENTS
};
const GET_ARGUMENTS: Signature = no_arguments("Queue.get");
const JOIN_ARGUMENTS: Signature = no_arguments("Queue.join");

fn put_method(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let item = only(&args, &PUT_ARGUMENTS)?;
    if !is_native(queue, BY_PUT)? {
        return as_stock(&state().names.put, &[queue, item]);
    }
    const { assert!(SELF == 0 && ITEM == 2) };
    coroutine::create(&PUTTING, [Some(queue.to_ref()), None, Some(item.to_ref())])
}

fn get_method(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &GET_ARGUMENTS)?;
    if !is_native(queue, BY_GET)? {
        return as_stock(&state().names.get, &[queue]);
    }
    coroutine::create(&GETTING, [Some(queue.to_ref())])
}

fn join_method(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    check_none(&args, &JOIN_ARGUMENTS)?;
    coroutine::create(&JOINING, [Some(queue.to_ref())])
}

static FUNCTIONS: [&Function; 3] = [
    &coroutine_method!(
        "put",
        "Queue.put",
        "(self, item)",
        "Puts an item in, once there is room.",
        put_method
    ),
    &coroutine_method!(
        "get",
        "Queue.get",
        "(self)",
        "Takes an item out, once there is one.",
        get_method
    ),
    &coroutine_method!(
        "join",
        "Queue.join",
        "(self)",
        "Waits until every item that was put in is done.",
        join_method
    ),
];

fn methods() -> Vec<c::PyMethodDef> {
    let mut methods = vec![
        varargs!(
            c"put_nowait",
            put_nowait_method,
            c"($self, item)\nPuts an item in; QueueFull if there is no room."
        ),
        python_method!(
            "Queue",
            get_nowait(),
            get_nowait_method,
            "Takes an item out; QueueEmpty if there is none."
        ),
        python_method!("Queue", qsize(), qsize, "How many items are in the queue."),
        python_method!("Queue", empty(), empty, "Whether there are none."),
        python_method!("Queue", full(), full, "Whether there is no room."),
        python_method!("Queue", task_done(), task_done, "An item is done."),
        python_method!(
            "Queue",
            _format(),
            format_private,
            "The state, for the repr."
        ),
        noargs!(c"__getstate__", get_state, c"For copy and pickle."),
    ];
    if cfg!(Py_3_13) {
        methods.push(varargs!(
            c"shutdown",
            shutdown,
            c"($self, immediate=False)\nEnds the queue: at once, or when it is empty."
        ));
    }
    methods
}

/// What decides about the order; every kind of queue has them, so that each has its own.
macro_rules! ordering {
    ($class:literal) => {
        [
            python_method!(
                $class,
                _init(maxsize),
                init_private,
                "Makes the queue empty."
            ),
            python_method!($class, _put(item), put_private, "Puts an item in."),
            python_method!($class, _get(), get_private, "Takes an item out."),
        ]
    };
}

fn attributes() -> Vec<c::PyGetSetDef> {
    let mut attributes = vec![
        property!(maxsize, get_maxsize, c"How many items have room."),
        attribute!(c"_maxsize", get_maxsize, set_maxsize, c"As maxsize."),
        attribute!(c"_queue", get_items, set_items, c"The items."),
        attribute!(
            c"_getters",
            get_getters,
            set_getters,
            c"Who waits in get()."
        ),
        attribute!(
            c"_putters",
            get_putters,
            set_putters,
            c"Who waits in put()."
        ),
        attribute!(
            c"_unfinished_tasks",
            get_unfinished,
            set_unfinished,
            c"How many items are not done."
        ),
        attribute!(
            c"_finished",
            get_finished,
            set_finished_event,
            c"The event that is set while all items are done."
        ),
    ];
    if cfg!(Py_3_13) {
        attributes.push(attribute!(
            c"_is_shutdown",
            get_shut_down,
            set_shut_down,
            c"Whether shutdown() was called."
        ));
    }
    attributes
}

/// Creates `Queue`.
pub fn build(maker: Obj<'_>) -> R<Family> {
    let core = bound::core::<QueueFields>(c"aioxide._Queue")
        .doc(c"_Queue(maxsize=0)\n--\n\nThe native part of Queue.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr as *mut _)
        .methods(methods())
        .methods(ordering!("Queue"))
        .attributes(attributes())
        .build(None)?;
    function::add_methods(core.obj(), maker, &FUNCTIONS)?;
    Family::new(c"Queue", &[core.obj()], &METHODS)
}

/// The fields of a queue that gives its last item first.
#[repr(transparent)]
struct Lifo(QueueFields);

/// The fields of a queue that gives its least item first.
#[repr(transparent)]
struct Priority(QueueFields);

impl Fields for Lifo {
    fn fresh() -> Lifo {
        Lifo(QueueFields::with_order(Order::Last))
    }
    fn visit(&self, visitor: &mut Visitor) {
        self.0.visit(visitor);
    }
    fn clear(&self) {
        self.0.clear();
    }
}

impl Fields for Priority {
    fn fresh() -> Priority {
        Priority(QueueFields::with_order(Order::Least))
    }
    fn visit(&self, visitor: &mut Visitor) {
        self.0.visit(visitor);
    }
    fn clear(&self) {
        self.0.clear();
    }
}

fn under(queue: &Family, core: Class, name: &std::ffi::CStr) -> R<Family> {
    let core = core.build(Some(queue.core.obj()))?;
    Family::new(name, &[core.obj(), queue.leaf.obj()], &METHODS)
}

/// Creates `LifoQueue` under `Queue`.
pub fn build_lifo(queue: &Family) -> R<Family> {
    let core = bound::core::<Lifo>(c"aioxide._LifoQueue")
        .doc(c"_LifoQueue(maxsize=0)\n--\n\nThe native part of LifoQueue.")
        .methods(ordering!("LifoQueue"));
    under(queue, core, c"LifoQueue")
}

/// Creates `PriorityQueue` under `Queue`.
pub fn build_priority(queue: &Family) -> R<Family> {
    let core = bound::core::<Priority>(c"aioxide._PriorityQueue")
        .doc(c"_PriorityQueue(maxsize=0)\n--\n\nThe native part of PriorityQueue.")
        .methods(ordering!("PriorityQueue"));
    under(queue, core, c"PriorityQueue")
}
