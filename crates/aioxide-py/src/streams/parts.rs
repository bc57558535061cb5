//! What the stream types have in common: attributes that are fields, their loop, its futures.
//!
//! May touch: the fields that a macro names, the loop that is handed in.
#![forbid(unsafe_code)]

use crate::event_loop;
use crate::ffi::call::import;
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Raised, Ref, Slot};
use crate::future;
use crate::state::state;

/// Keeps a value in a field; `None` leaves it empty.
pub fn put(slot: &Slot, value: Obj<'_>) {
    slot.set((!value.is_none()).then(|| value.to_ref()));
}

/// An attribute that is a field: empty is None, and so is a deleted one.
macro_rules! slot_attribute {
    ($fields:ty, $name:literal, $field:ident, $doc:literal) => {{
        fn get(object: $crate::ffi::Obj<'_>) -> $crate::ffi::R<$crate::ffi::Ref> {
            let this: &$fields = $crate::streams::life::own(object);
            Ok(this.$field.get_or_none())
        }
        fn set(
            object: $crate::ffi::Obj<'_>,
            value: Option<$crate::ffi::Obj<'_>>,
        ) -> $crate::ffi::R<()> {
            let this: &$fields = $crate::streams::life::own(object);
            $crate::streams::parts::put(&this.$field, value.unwrap_or($crate::ffi::object::none()));
            Ok(())
        }
        $crate::ffi::class::attribute!($name, get, set, $doc)
    }};
}

/// An attribute that is a flag.
macro_rules! flag_attribute {
    ($fields:ty, $name:literal, $field:ident, $doc:literal) => {{
        fn get(object: $crate::ffi::Obj<'_>) -> $crate::ffi::R<$crate::ffi::Ref> {
            let this: &$fields = $crate::streams::life::own(object);
            Ok($crate::ffi::object::boolean(this.$field.get()))
        }
        fn set(
            object: $crate::ffi::Obj<'_>,
            value: Option<$crate::ffi::Obj<'_>>,
        ) -> $crate::ffi::R<()> {
            let this: &$fields = $crate::streams::life::own(object);
            let value = value.map_or(Ok(false), $crate::ffi::Obj::is_true)?;
            this.$field.set(value);
            Ok(())
        }
        $crate::ffi::class::attribute!($name, get, set, $doc)
    }};
}

pub(super) use {flag_attribute, slot_attribute};

/// The loop given, or the thread's.
pub fn loop_or_current(given: Option<Ref>) -> R<Ref> {
    if let Some(given) = given.filter(|given| !given.obj().is_none()) {
        return Ok(given);
    }
    let events = import(c"asyncio.events")?;
    if cfg!(not(Py_3_12)) {
        // Warns where no loop runs; the frame to blame is the one that calls us.
        let function = events.obj().getattr_str(c"_get_event_loop")?;
        let one = crate::ffi::call::int(2)?;
        return function.obj().call1(one.obj());
    }
    events.obj().getattr_str(c"get_event_loop")?.obj().call0()
}

/// `loop.create_future()`.
pub fn create_future(event_loop: Option<Ref>) -> R<Ref> {
    let Some(event_loop) = event_loop else {
        return Err(no_loop());
    };
    match event_loop::native(event_loop.obj()) {
        Some(native) if native.is_direct() => future::create(event_loop.obj(), native),
        _ => event_loop
            .obj()
            .call_method0(state().names.create_future.obj()),
    }
}

/// What an object says whose `__init__` did not run.
#[cold]
pub fn no_loop() -> Raised {
    Raised::new(
        crate::ffi::builtin::attribute_error(),
        "the stream object has no loop: its __init__ was not called",
    )
}

/// `if not waiter.cancelled(): waiter.set_result(None)`.
pub fn wake(waiter: Obj<'_>) -> R<()> {
    if future::is_native(waiter) {
        if future::fields(waiter).phase() == future::Phase::Cancelled {
            return Ok(());
        }
        return future::set_result(waiter, none_ref());
    }
    let names = &state().names;
    if waiter
        .call_method0(names.cancelled.obj())?
        .obj()
        .is_true()?
    {
        return Ok(());
    }
    waiter
        .call_method1(names.set_result.obj(), none_ref().obj())
        .map(drop)
}

/// `waiter.done()`.
pub fn is_done(waiter: Obj<'_>) -> R<bool> {
    if future::is_native(waiter) {
        return Ok(!future::fields(waiter).is_pending());
    }
    waiter
        .call_method0(state().names.done.obj())?
        .obj()
        .is_true()
}

/// `future.set_result(None)`, or `future.set_exception(exc)` where there is one.
pub fn settle(waiter: Obj<'_>, exc: Obj<'_>) -> R<()> {
    let names = &state().names;
    let (name, value) = if exc.is_none() {
        (&names.set_result, exc)
    } else {
        (&names.set_exception, exc)
    };
    waiter.call_method1(name.obj(), value).map(drop)
}
