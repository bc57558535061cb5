//! `StopIteration(value)`: how an iterator returns something to `await`, from 3.12 on.
//!
//! Each `await` of a native object that gives a value raises one, so it is made without a call of
//! its class where that is known to be the same. May touch: a new exception, before anyone sees it.
//! Invariant: whether the fields lie where they are written was found by looking, at import.

use pyo3_ffi as c;

use super::error::{R, Raised};
use super::object::{Obj, Ref};

fn class<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_StopIteration) }
}

/// Whether a `StopIteration` made by its class has its parts where `raise` would put them, and
/// nothing else that is not zero.
pub fn is_as_known() -> R<bool> {
    let value = super::call::interned(c"a probe")?;
    let made = class().call1(value.obj())?;
    let known = size_of::<c::PyStopIterationObject>() == super::layout::basic_size(class());
    if !known {
        return Ok(false);
    }
    // SAFETY: an instance of exactly that size.
    let parts = unsafe { &*made.ptr().cast::<c::PyStopIterationObject>() };
    // SAFETY: a tuple or anything else, alive; only compared.
    let args = unsafe { Obj::from_nullable(parts.args) };
    let has_args = args.and_then(super::call::exact_tuple::<1>);
    let others = [
        parts.dict,
        parts.notes,
        parts.traceback,
        parts.context,
        parts.cause,
    ];
    Ok(parts.value == value.ptr()
        && has_args.is_some_and(|[only]| only.is(value.obj()))
        && others.iter().all(|part| part.is_null()))
}

/// Raises `StopIteration(value)`, also for values that are tuples or exceptions; `known` is what
/// `is_as_known` found.
pub fn raise(value: Obj<'_>, known: bool) -> Raised {
    // `StopIteration(None)` would carry an argument; the interpreter makes it without one.
    let made = if value.is_none() {
        class().call0()
    } else if known {
        make(value)
    } else {
        class().call1(value)
    };
    match made {
        Ok(exception) => Raised::throw(exception),
        Err(raised) => raised,
    }
}

fn make(value: Obj<'_>) -> R<Ref> {
    let args = super::call::tuple(&[value])?;
    // SAFETY: the class is a static, ready type; its memory comes zeroed, as `__new__` leaves it.
    let made = unsafe { Ref::steal(c::PyType_GenericAlloc(class().ptr().cast(), 0)) }?;
    // SAFETY: a new instance nobody has seen; both fields take over a reference.
    unsafe {
        let parts = made.ptr().cast::<c::PyStopIterationObject>();
        (*parts).args = args.into_ptr();
        (*parts).value = value.to_ref().into_ptr();
    }
    Ok(made)
}
