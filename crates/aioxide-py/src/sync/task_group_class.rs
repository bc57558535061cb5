//! The Python face of `TaskGroup`: constructor, methods, attributes.
//!
//! May touch: one group's fields. Invariant: what a subclass or the instance replaces of `METHODS`
//! is called wherever asyncio's code would call it.

use std::ffi::CStr;

use pyo3_ffi as c;

use super::bound::{self, Family};
use super::function::{self, Function};
use super::managed::{coroutine_method, no_arguments};
use super::task_group::{
    GroupFields, Rules, abort, cancel, create_task, exit, nothing, of, repr, task_done,
};
use crate::ffi::builtin::{is_exit, is_list};
use crate::ffi::call::{dict, dict_set, import, list_of, tuple};
use crate::ffi::class::{attribute, bind_tuple_python, initializer, varargs};
use crate::ffi::object::{boolean, none};
use crate::ffi::python_method::python_method;
use crate::ffi::set::{self, is_set};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature};
use crate::future::required;
use crate::state::state;

/// The methods that others call; the constants below are their bits.
const METHODS: [&CStr; 5] = [
    c"_on_task_done",
    c"_abort",
    c"_is_base_error",
    c"_aexit",
    c"cancel",
];
pub(super) const ON_TASK_DONE: u32 = 1;
pub(super) const ABORT: u32 = 1 << 1;
pub(super) const IS_BASE_ERROR: u32 = 1 << 2;
pub(super) const AEXIT: u32 = 1 << 3;
pub(super) const CANCEL: u32 = 1 << 4;

const INIT: Signature = no_arguments("TaskGroup.__init__");

fn init(group: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    bind_tuple_python::<0>(args, kwargs, &INIT)?;
    let this = of(group);
    bound::set_loop(group, None)?;
    for slot in [&this.parent, &this.base_error, &this.on_completed] {
        slot.clear();
    }
    for flag in [
        &this.entered,
        &this.exiting,
        &this.aborting,
        &this.parent_cancel_requested,
        &this.cancel_on_enter,
    ] {
        flag.set(false);
    }
    this.tasks.set(Some(set::new()?));
    this.errors.set(Some(list_of(Vec::new())?));
    Ok(())
}

const CREATE_TASK: Signature = Signature {
    name: "TaskGroup.create_task",
    params: &["coro", "name", "context"],
    positional: 1,
    required: 1,
};

/// The first argument of `create_task`.
#[inline]
pub(super) fn coroutine_of<'a>(args: &Args<'a>) -> R<Obj<'a>> {
    if let ([coro], false) = (args.positional(), args.has_named()) {
        return Ok(*coro);
    }
    if !state().sync.task_group_rules.passes_keywords {
        let [coro, _name, _context] = args.bind_python::<3>(&CREATE_TASK)?;
        return coro.ok_or_else(|| Raised::type_error("a coroutine was expected"));
    }
    let ([coro], _rest) = args.keyword(["coro"])?;
    match (args.positional(), coro) {
        ([coro], None) => Ok(*coro),
        ([], Some(coro)) => Ok(coro),
        ([_], Some(_)) => Err(Raised::type_error(
            "TaskGroup.create_task() got multiple values for argument 'coro'",
        )),
        ([], None) => Err(Raised::type_error(
            "TaskGroup.create_task() missing 1 required positional argument: 'coro'",
        )),
        (given, _) => Err(Raised::type_error(&format!(
            "TaskGroup.create_task() takes 2 positional arguments but {} were given",
            given.len() + 1
        ))),
    }
}

/// `loop.create_task(coro, ...)` with what the running version hands on.
pub(super) fn make_task(event_loop: Obj<'_>, coro: Obj<'_>, args: &Args<'_>) -> R<Ref> {
    let rules = &state().sync.task_group_rules;
    let names = &state().names;
    let options = dict()?;
    if rules.passes_keywords {
        let ([_coro], rest) = args.keyword(["coro"])?;
        for (name, value) in rest {
            dict_set(options.obj(), name, value)?;
        }
        return call_create_task(event_loop, coro, options.obj());
    }
    let ([_coro, name, context], _rest) = args.keyword(["coro", "name", "context"])?;
    if rules.passes_name {
        dict_set(options.obj(), names.name.obj(), name.unwrap_or(none()))?;
    }
    if let Some(context) = context.filter(|context| !context.is_none()) {
        dict_set(options.obj(), names.context.obj(), context)?;
    }
    let task = call_create_task(event_loop, coro, options.obj())?;
    if !rules.passes_name {
        let set_name = import(c"asyncio.tasks")?
            .obj()
            .getattr_str(c"_set_task_name")?;
        set_name.obj().call(&[task.obj(), name.unwrap_or(none())])?;
    }
    Ok(task)
}

fn call_create_task(event_loop: Obj<'_>, coro: Obj<'_>, options: Obj<'_>) -> R<Ref> {
    let method = event_loop.getattr(state().names.create_task.obj())?;
    method.obj().call_dict(tuple(&[coro])?.obj(), Some(options))
}

// ---- private methods and attributes -------------------------------------------------------------

fn abort_method(group: Obj<'_>) -> R<Ref> {
    nothing(abort(group))
}

fn cancel_method(group: Obj<'_>) -> R<Ref> {
    nothing(cancel(group))
}

fn task_done_method(group: Obj<'_>, task: Obj<'_>) -> R<Ref> {
    nothing(task_done(group, task))
}

fn is_base_error_method(_group: Obj<'_>, exception: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    if unsafe { c::PyExceptionInstance_Check(exception.ptr()) } == 0 {
        return Err(crate::ffi::builtin::assertion(""));
    }
    Ok(boolean(is_exit(exception)))
}

unsafe extern "C" fn repr_slot(group: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let group = unsafe { Obj::from_ptr(group) };
    crate::ffi::error::guard(|| repr(group))
}

/// An attribute that is a field holding an object; `None` is an empty field.
macro_rules! object_attribute {
    ($name:literal, $field:ident, $is_right:path, $doc:literal) => {{
        fn get(group: Obj<'_>) -> R<Ref> {
            Ok(of(group).$field.get_or_none())
        }
        fn set(group: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
            let value = required(value)?;
            let given = (!value.is_none()).then_some(value);
            if given.is_some_and(|value| !$is_right(value)) {
                return Err(Raised::type_error(
                    "an attribute of another type was expected",
                ));
            }
            of(group).$field.set(given.map(Obj::to_ref));
            Ok(())
        }
        attribute!($name, get, set, $doc)
    }};
}

/// An attribute that is a flag.
macro_rules! flag_attribute {
    ($name:literal, $field:ident, $doc:literal) => {{
        fn get(group: Obj<'_>) -> R<Ref> {
            Ok(boolean(of(group).$field.get()))
        }
        fn set(group: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
            let value = required(value)?.is_true()?;
            of(group).$field.set(value);
            Ok(())
        }
        attribute!($name, get, set, $doc)
    }};
}

fn anything(_value: Obj<'_>) -> bool {
    true
}

fn attributes() -> [c::PyGetSetDef; 9] {
    [
        object_attribute!(c"_parent_task", parent, anything, c"Who entered the group."),
        object_attribute!(c"_tasks", tasks, is_set, c"The tasks that are not done."),
        object_attribute!(c"_errors", errors, is_list, c"The exceptions of tasks."),
        object_attribute!(c"_base_error", base_error, anything, c"The exit that wins."),
        object_attribute!(
            c"_on_completed_fut",
            on_completed,
            anything,
            c"What leaving waits for."
        ),
        flag_attribute!(c"_entered", entered, c"Whether the group was entered."),
        flag_attribute!(c"_exiting", exiting, c"Whether it is being left."),
        flag_attribute!(c"_aborting", aborting, c"Whether it gave up."),
        flag_attribute!(
            c"_parent_cancel_requested",
            parent_cancel_requested,
            c"Whether the group cancelled its parent."
        ),
    ]
}

static ENTER: Function = coroutine_method!(
    "__aenter__",
    "TaskGroup.__aenter__",
    "(self)",
    "Enters the group.",
    exit::enter_method
);

static LEAVE: Function = coroutine_method!(
    "__aexit__",
    "TaskGroup.__aexit__",
    "(self, et, exc, tb)",
    "Waits for all tasks.",
    exit::leave_method
);

static FINISH: Function = coroutine_method!(
    "_aexit",
    "TaskGroup._aexit",
    "(self, et, exc)",
    "Waits for all tasks.",
    exit::finish_method
);

fn create_task_definition(rules: &Rules) -> c::PyMethodDef {
    if rules.passes_keywords {
        return varargs!(
            c"create_task",
            create_task,
            c"($self, coro, **kwargs)\nCreates a task in this group and returns it."
        );
    }
    varargs!(
        c"create_task",
        create_task,
        c"($self, coro, *, name=None, context=None)\nCreates a task in this group and returns it."
    )
}

/// Creates the types.
pub fn build(maker: Obj<'_>, rules: &Rules) -> R<Family> {
    let mut core = bound::core::<GroupFields>(c"aioxide._TaskGroup")
        .doc(c"_TaskGroup()\n--\n\nThe native part of TaskGroup.")
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_repr, repr_slot as *mut _)
        .methods([
            create_task_definition(rules),
            python_method!("TaskGroup", _abort(), abort_method, "Cancels every task."),
            python_method!(
                "TaskGroup",
                _on_task_done(task),
                task_done_method,
                "Notes the end of a task."
            ),
            python_method!(
                "TaskGroup",
                _is_base_error(exc),
                is_base_error_method,
                "Whether the exception wins over all others."
            ),
        ])
        .attributes(attributes());
    if rules.can_be_cancelled {
        core = core
            .methods([python_method!(
                "TaskGroup",
                cancel(),
                cancel_method,
                "Cancels every task and the body; leaving raises nothing for it."
            )])
            .attributes([flag_attribute!(
                c"_cancel_on_enter",
                cancel_on_enter,
                c"Whether entering cancels."
            )]);
    }
    let core = core.build(None)?;
    function::add_methods(core.obj(), maker, &[&ENTER, &LEAVE])?;
    if rules.forgets {
        function::add_methods(core.obj(), maker, &[&FINISH])?;
    }
    let known = METHODS.iter().filter(|name| {
        (rules.forgets || **name != c"_aexit") && (rules.can_be_cancelled || **name != c"cancel")
    });
    let known: Vec<&CStr> = known.copied().collect();
    Family::new(c"TaskGroup", &[core.obj()], &known)
}
