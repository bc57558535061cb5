//! What differs between versions of `TaskGroup`, read off asyncio's own code.
//!
//! Corrections reach several minor versions at once, in different releases: so the running one's
//! code is asked, by the names that it uses, and not its number. May touch: nothing.

#![forbid(unsafe_code)]

use std::ffi::CStr;

use crate::ffi::call::{interned, text, tuple_item, tuple_len};
use crate::ffi::{Obj, R};

/// How the running version's groups behave.
pub struct Rules {
    /// A coroutine that is refused is closed.
    pub closes_refused: bool,
    /// `create_task` takes any keyword and hands it on; before, `name` and `context`.
    pub passes_keywords: bool,
    /// The name goes to the loop's `create_task`; before, it was set afterwards.
    pub passes_name: bool,
    /// Tools are shown that the parent awaits the tasks.
    pub shows_edges: bool,
    /// A task that is done when it is made is not waited for.
    pub tells_at_once_if_done: bool,
    /// A task that is made while the group gives up is cancelled.
    pub cancels_late_comers: bool,
    /// Leaving takes the cancellation of the parent back first of all; later, after the tasks.
    pub uncancels_first: bool,
    /// Subclasses of CancelledError count as such.
    pub knows_subclasses: bool,
    /// A cancellation of the parent that is still counted is delivered again.
    pub cancels_again: bool,
    /// The last cancellation while leaving is kept for that.
    pub keeps_last_cancellation: bool,
    /// A lone GeneratorExit of the body is raised as it is.
    pub raises_lone_generator_exit: bool,
    /// Leaving forgets parent and errors.
    pub forgets: bool,
    /// There is `cancel()`, and leaving swallows what is left.
    pub can_be_cancelled: bool,
}

impl Rules {
    /// Reads the running version's class.
    pub fn read(class: Obj<'_>) -> R<Rules> {
        let has =
            |name: &CStr| -> R<bool> { Ok(class.getattr_opt(interned(name)?.obj())?.is_some()) };
        let forgets = has(c"_aexit")?;
        let can_be_cancelled = has(c"cancel")?;
        let exit = if forgets { c"_aexit" } else { c"__aexit__" };
        let leaving = names(class, exit, c"co_names")?;
        let locals = names(class, exit, c"co_varnames")?;
        let making = names(class, c"create_task", c"co_names")?;
        let parameters = names(class, c"create_task", c"co_varnames")?;
        let uses = |list: &[String], name: &str| list.iter().any(|item| item == name);
        let place = |name: &str| leaving.iter().position(|item| item == name);
        Ok(Rules {
            closes_refused: uses(&making, "close"),
            passes_keywords: uses(&parameters, "kwargs"),
            passes_name: !uses(&making, "_set_task_name"),
            shows_edges: uses(&making, "future_add_to_awaited_by"),
            tells_at_once_if_done: uses(&making, "done") && !uses(&making, "cancel"),
            cancels_late_comers: uses(&making, "cancel"),
            uncancels_first: place("uncancel") < place("_abort"),
            knows_subclasses: uses(&leaving, "issubclass"),
            cancels_again: uses(&leaving, "cancelling"),
            keeps_last_cancellation: uses(&locals, "pending_cancellation_error"),
            raises_lone_generator_exit: uses(&leaving, "GeneratorExit"),
            forgets,
            can_be_cancelled,
        })
    }
}

/// A tuple of names in the code of a method.
fn names(class: Obj<'_>, method: &CStr, list: &CStr) -> R<Vec<String>> {
    let method = class.getattr_str(method)?;
    let Some(code) = method.obj().getattr_opt(interned(c"__code__")?.obj())? else {
        return Ok(Vec::new());
    };
    let names = code.obj().getattr_str(list)?;
    (0..tuple_len(names.obj()))
        .map(|index| text(tuple_item(names.obj(), index)))
        .collect()
}
