//! `shield`. *Source*: `asyncio.shield`.
//!
//! ```text
//! whoever awaits ──> outer <── result, error, cancellation ── inner
//! ```
//! May touch: both futures. Invariant: a cancelled outer future no longer listens to the inner one.

use super::{Listener, cell, child};
use crate::ffi::class::{Definition, onearg};
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Ref, Signature};
use crate::state::state;
use crate::task;

const SIGNATURE: Signature = Signature {
    name: "shield",
    params: &["arg"],
    positional: 1,
    required: 1,
};

/// Slots of the cell.
const INNER: usize = 0;
const OUTER: usize = 1;
/// The task that called, for the tools of 3.14.
const CALLER: usize = 2;

/// `shield(arg)`.
pub fn shield(_module: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [given] = args.bind_python::<1>(&SIGNATURE)?;
    let inner = child::ensure_future(given.unwrap_or(crate::ffi::object::none()), None)?;
    if child::is_done(inner.obj())? {
        return Ok(inner);
    }
    let event_loop = state().asyncio.futures_get_loop.obj().call1(inner.obj())?;
    let outer = event_loop
        .obj()
        .call_method0(state().names.create_future.obj())?;
    let caller = if cfg!(Py_3_14) {
        child::current_task(event_loop.obj())?
    } else {
        None
    };
    child::add_edge(inner.obj(), caller.as_ref())?;
    let has_caller = caller.is_some();
    let cell = cell::create([Some(inner.clone()), Some(outer.clone()), caller])?;
    if has_caller {
        child::listen(inner.obj(), cell.obj(), Listener::ShieldEdge)?;
    }
    child::listen(inner.obj(), cell.obj(), Listener::ShieldInner)?;
    child::listen(outer.obj(), cell.obj(), Listener::ShieldOuter)?;
    Ok(outer)
}

fn get(cell: Obj<'_>, slot: usize) -> Ref {
    cell::fields(cell).slots[slot].get_or_none()
}

/// The inner future is done: nobody is shown to await it any more.
pub fn clear_edge(cell: Obj<'_>, inner: Obj<'_>) -> R<()> {
    child::discard_edge(inner, cell::fields(cell).slots[CALLER].get().as_ref())
}

/// The inner future is done: so becomes the outer one.
pub fn inner_done(cell: Obj<'_>, inner: Obj<'_>) -> R<()> {
    let outer = get(cell, OUTER);
    if child::is_cancelled(outer.obj())? {
        if !cfg!(Py_3_14) && !child::is_cancelled(inner)? {
            // Marks it as retrieved.
            drop(child::exception(inner)?);
        }
        return Ok(());
    }
    if child::is_cancelled(inner)? {
        return task::cancel_any(outer.obj()).map(drop);
    }
    match child::exception(inner)? {
        Some(exception) => child::set_exception(outer.obj(), exception.obj()),
        None => child::set_result(outer.obj(), child::result(inner)?),
    }
}

/// The outer future is done: if it was cancelled, the inner one goes on by itself.
pub fn outer_done(cell: Obj<'_>) -> R<()> {
    let inner = get(cell, INNER);
    if child::is_done(inner.obj())? {
        return Ok(());
    }
    child::unlisten(inner.obj(), cell, Listener::ShieldInner)?;
    let caller = cell::fields(cell).slots[CALLER].get();
    if caller.is_some() {
        child::unlisten(inner.obj(), cell, Listener::ShieldEdge)?;
        child::discard_edge(inner.obj(), caller.as_ref())?;
    }
    if let Some(report) = &state().waiting.log_on_exception {
        let names = &state().names;
        let inner = inner.obj();
        inner.call_method1(names.remove_done_callback.obj(), report.obj())?;
        inner.call_method1(names.add_done_callback.obj(), report.obj())?;
    }
    Ok(())
}

fn clear_edge_method(cell: Obj<'_>, inner: Obj<'_>) -> R<Ref> {
    clear_edge(cell, inner).map(|()| none_ref())
}

fn inner_done_method(cell: Obj<'_>, inner: Obj<'_>) -> R<Ref> {
    inner_done(cell, inner).map(|()| none_ref())
}

fn outer_done_method(cell: Obj<'_>, _outer: Obj<'_>) -> R<Ref> {
    outer_done(cell).map(|()| none_ref())
}

/// The callables that tell a cell, on loops that are not native.
pub static CLEAR_EDGE: Definition = Definition::new(onearg!(
    c"_clear_awaited_by_callback",
    clear_edge_method,
    c"Nobody awaits the inner future any more."
));
/// See `inner_done`.
pub static INNER_DONE: Definition = Definition::new(onearg!(
    c"_inner_done_callback",
    inner_done_method,
    c"Completes the outer future."
));
/// See `outer_done`.
pub static OUTER_DONE: Definition = Definition::new(onearg!(
    c"_outer_done_callback",
    outer_done_method,
    c"Lets go of the inner future."
));
