//! How a native coroutine awaits: native futures directly, everything else as PEP 380 says.
//!
//! May touch: the coroutine's `awaited` and `waiting`, a native future's `blocking` mark.
//! Invariant: `awaited` is filled exactly while the coroutine is suspended in something.
//! *Source*: PEP 380's expansion of `yield from`; CPython's `_PyCoro_GetAwaitableIter`.

use pyo3_ffi as c;

use super::{Fields, Input, Resumed, Waiting};
use crate::ffi::builtin::{full_type_name, type_name};
use crate::ffi::error::given_matches;
use crate::ffi::object::{none, none_ref};
use crate::ffi::park::{calling, unwinding};
use crate::ffi::{Obj, R, Raised, Ref};
use crate::future;
use crate::state::state;

/// Where awaiting has come to.
pub(super) enum Step {
    /// It is over: the body goes on.
    Resumed(Resumed),
    /// It waits: this goes to whoever drives the coroutine.
    Yielded(Ref),
}

impl From<R<Ref>> for Resumed {
    #[inline]
    fn from(result: R<Ref>) -> Resumed {
        match result {
            Ok(value) => Resumed::Value(value),
            Err(raised) => Resumed::Raised(raised.take()),
        }
    }
}

/// Begins `await awaitable`.
#[inline]
pub(super) fn begin(this: &Fields, awaitable: Ref) -> Step {
    if future::is_native(awaitable.obj()) {
        return begin_future(this, awaitable);
    }
    match iterator_of(awaitable) {
        Ok(iterator) => {
            this.frame.waiting.set(Waiting::Iterator as u8);
            send(this, iterator, none())
        }
        Err(raised) => Step::Resumed(Resumed::Raised(raised.take())),
    }
}

#[inline]
fn begin_future(this: &Fields, awaited: Ref) -> Step {
    let future = future::fields(awaited.obj());
    if !future.is_pending() {
        return Step::Resumed(future::result(awaited.obj()).into());
    }
    if let Err(raised) = future::loop_of(awaited.obj()) {
        return Step::Resumed(Resumed::Raised(raised.take()));
    }
    if future.blocking.replace(true) {
        return Step::Resumed(not_used_with_await());
    }
    this.frame.waiting.set(Waiting::Future as u8);
    this.awaited.set(Some(awaited.clone()));
    Step::Yielded(awaited)
}

#[cold]
fn not_used_with_await() -> Resumed {
    Resumed::Raised(Raised::runtime("await wasn't used with future").take())
}

/// Goes on where the coroutine was suspended.
#[inline]
pub(super) fn go_on(this: &Fields, input: Input<'_>) -> Step {
    let awaited = this.awaited.take();
    match (this.waiting(), awaited, input) {
        (Waiting::Future, Some(awaited), Input::Send(_)) => outcome(this, awaited),
        (Waiting::Future, _, Input::Throw(exception)) => Step::Resumed(raised_by_future(exception)),
        (Waiting::Iterator, Some(iterator), Input::Send(value)) => send(this, iterator, value),
        (Waiting::Iterator, Some(iterator), Input::Throw(exception)) => {
            throw(this, iterator, exception)
        }
        (_, _, Input::Throw(exception)) => Step::Resumed(raised_by_yield(exception)),
        (_, _, Input::Send(_)) => Step::Resumed(Resumed::Value(none_ref())),
    }
}

#[inline]
fn outcome(this: &Fields, awaited: Ref) -> Step {
    if future::fields(awaited.obj()).is_pending() {
        // Woken too early: it waits on.
        return begin_future(this, awaited);
    }
    Step::Resumed(future::result(awaited.obj()).into())
}

/// What the iterator of a future makes of an exception thrown into it: it raises that, and a
/// StopIteration is the end of an iterator.
fn raised_by_future(exception: Ref) -> Resumed {
    // SAFETY: a static of the interpreter.
    if !given_matches(exception.obj(), unsafe { c::PyExc_StopIteration }) {
        return Resumed::Raised(exception);
    }
    exception.obj().getattr(state().names.value.obj()).into()
}

fn send(this: &Fields, iterator: Ref, value: Obj<'_>) -> Step {
    let mut result = std::ptr::null_mut();
    let status = match recursion() {
        Ok(_bound) => calling(|| {
            // SAFETY: alive; the result is owned unless the status says that an error is set.
            unsafe { unwinding::PyIter_Send(iterator.ptr(), value.ptr(), &mut result) }
        }),
        Err(raised) => return Step::Resumed(Resumed::Raised(raised.take())),
    };
    // SAFETY: as above.
    match unsafe { Ref::steal(result) } {
        Ok(value) if status == c::PySendResult::PYGEN_NEXT => {
            this.awaited.set(Some(iterator));
            Step::Yielded(value)
        }
        result => Step::Resumed(result.into()),
    }
}

fn throw(this: &Fields, iterator: Ref, exception: Ref) -> Step {
    match try_throw(iterator.obj(), exception) {
        Ok(Thrown::Yielded(value)) => {
            this.awaited.set(Some(iterator));
            Step::Yielded(value)
        }
        Ok(Thrown::Returned(value)) => Step::Resumed(Resumed::Value(value)),
        Ok(Thrown::Here(exception)) => Step::Resumed(Resumed::Raised(exception)),
        Err(raised) => Step::Resumed(Resumed::Raised(raised.take())),
    }
}

enum Thrown {
    Yielded(Ref),
    Returned(Ref),
    /// The iterator cannot take it: it is raised where the coroutine awaits.
    Here(Ref),
}

fn try_throw(iterator: Obj<'_>, exception: Ref) -> R<Thrown> {
    let _bound = recursion()?;
    let names = &state().names;
    // SAFETY: a static of the interpreter.
    if given_matches(exception.obj(), unsafe { c::PyExc_GeneratorExit }) {
        if let Some(close) = iterator.getattr_opt(names.close.obj())? {
            drop(close.obj().call0()?);
        }
        return Ok(Thrown::Here(exception));
    }
    let Some(throw) = iterator.getattr_opt(names.throw.obj())? else {
        // Since then what is raised at an `await` ends it, if it is a StopIteration.
        // SAFETY: a static of the interpreter.
        if cfg!(Py_3_12) && given_matches(exception.obj(), unsafe { c::PyExc_StopIteration }) {
            let value = exception.obj().getattr(names.value.obj());
            return value.map(Thrown::Returned);
        }
        return Ok(Thrown::Here(exception));
    };
    match throw.obj().call1(exception.obj()) {
        Ok(value) => Ok(Thrown::Yielded(value)),
        // SAFETY: a static of the interpreter.
        Err(raised) if raised.matches(unsafe { c::PyExc_StopIteration }) => {
            let stop = raised.take();
            stop.obj().getattr(names.value.obj()).map(Thrown::Returned)
        }
        Err(raised) => Err(raised),
    }
}

/// What `await` would iterate: coroutines themselves, otherwise what `__await__` returns.
fn iterator_of(awaitable: Ref) -> R<Ref> {
    let object = awaitable.obj();
    // SAFETY: alive.
    if unsafe { c::PyCoro_CheckExact(object.ptr()) } != 0 {
        let awaited = object.getattr(state().names.cr_await.obj())?;
        if !awaited.obj().is_none() {
            return Err(Raised::runtime("coroutine is being awaited already"));
        }
        return Ok(awaitable);
    }
    if is_generator_coroutine(object)? {
        return Ok(awaitable);
    }
    // SAFETY: a type, alive; the slot of that number is a `unaryfunc` or null.
    let method = unsafe {
        let slot = c::PyType_GetSlot(object.type_ptr(), c::Py_am_await);
        std::mem::transmute::<*mut std::ffi::c_void, Option<c::unaryfunc>>(slot)
    };
    let Some(method) = method else {
        let (before, after) = if cfg!(Py_3_14) {
            ("'", "' object can't be awaited")
        } else {
            ("object ", " can't be used in 'await' expression")
        };
        return Err(type_error(before, object, after));
    };
    // SAFETY: the type's own slot on an instance of it.
    let iterator = unsafe { Ref::steal(method(object.ptr())) }?;
    let made = iterator.obj();
    // SAFETY: alive.
    if unsafe { c::PyCoro_CheckExact(made.ptr()) } != 0 || is_generator_coroutine(made)? {
        return Err(no_iterator(
            object,
            "coroutine",
            "__await__() returned a coroutine",
        ));
    }
    // SAFETY: alive.
    if unsafe { c::PyIter_Check(made.ptr()) } == 0 {
        let got = type_name(made)?;
        let message = format!("__await__() returned non-iterator of type '{got}'");
        return Err(no_iterator(object, &full_type_name(made)?, &message));
    }
    Ok(iterator)
}

/// The `__await__` of `object` returned something else, `got`.
#[cold]
fn no_iterator(object: Obj<'_>, got: &str, before_3_15: &str) -> Raised {
    if !cfg!(Py_3_15) {
        return Raised::type_error(before_3_15);
    }
    match full_type_name(object) {
        Ok(class) => Raised::type_error(&format!(
            "{class}.__await__() must return an iterator, not {got}"
        )),
        Err(raised) => raised,
    }
}

/// Whether the object is a generator made by a function under `types.coroutine`.
fn is_generator_coroutine(object: Obj<'_>) -> R<bool> {
    // SAFETY: alive.
    if unsafe { c::PyGen_CheckExact(object.ptr()) } == 0 {
        return Ok(false);
    }
    let code = object.getattr(state().names.gi_code.obj())?;
    is_iterable_coroutine(code.obj())
}

/// Whether this is the code of a generator function under `types.coroutine`.
pub(super) fn is_iterable_coroutine(code: Obj<'_>) -> R<bool> {
    /// `inspect.CO_ITERABLE_COROUTINE`.
    const ITERABLE_COROUTINE: i64 = 0x100;
    let flags = code.getattr(state().names.co_flags.obj())?;
    Ok(flags.obj().to_i64()? & ITERABLE_COROUTINE != 0)
}

#[cold]
fn type_error(before: &str, object: Obj<'_>, after: &str) -> Raised {
    match type_name(object) {
        Ok(name) => Raised::type_error(&format!("{before}{name}{after}")),
        Err(raised) => raised,
    }
}

/// A level of recursion, given back on drop.
struct Bound;

impl Drop for Bound {
    fn drop(&mut self) {
        // SAFETY: pairs with the call that made `self`.
        unsafe { c::Py_LeaveRecursiveCall() }
    }
}

/// Counts one more native frame between two awaits; RecursionError past the interpreter's limit.
fn recursion() -> R<Bound> {
    // SAFETY: NUL-terminated.
    let status = unsafe { c::Py_EnterRecursiveCall(c" while awaiting".as_ptr()) };
    crate::ffi::error::check(-status.abs()).map(|()| Bound)
}

/// Raises `exception`; a StopIteration would look like a return and becomes a RuntimeError.
pub(super) fn without_stop_iteration(exception: Ref) -> Raised {
    // SAFETY: a static of the interpreter.
    if !given_matches(exception.obj(), unsafe { c::PyExc_StopIteration }) {
        return Raised::throw(exception);
    }
    Raised::throw(in_its_place("coroutine raised StopIteration", exception))
}

/// What asyncio's generator with the bare `yield` makes of an exception thrown into it.
fn raised_by_yield(exception: Ref) -> Resumed {
    // SAFETY: a static of the interpreter.
    if !given_matches(exception.obj(), unsafe { c::PyExc_StopIteration }) {
        return Resumed::Raised(exception);
    }
    Resumed::Raised(in_its_place("generator raised StopIteration", exception))
}

/// The RuntimeError in the place of a StopIteration.
#[cold]
fn in_its_place(message: &str, exception: Ref) -> Ref {
    let error = Raised::runtime(message).take();
    // SAFETY: both are exceptions; each call takes over a reference.
    unsafe {
        c::PyException_SetCause(error.ptr(), exception.clone().into_ptr());
        c::PyException_SetContext(error.ptr(), exception.into_ptr());
    }
    error
}
