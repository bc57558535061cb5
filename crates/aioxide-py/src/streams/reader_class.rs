//! `StreamReader` as Python sees it.
//!
//! May touch: the type, at import.

use pyo3_ffi as c;

use super::life;
use super::parts::{flag_attribute, slot_attribute};
use super::reader::{self, LIMIT_BYTES, Reader};
use super::until;
use crate::ffi::call::{int, string};
use crate::ffi::class::{attribute, initializer, unary};
use crate::ffi::python_method::python_method;
use crate::ffi::{Obj, R, Raised, Ref, bytes};

fn get_buffer(object: Obj<'_>) -> R<Ref> {
    life::own::<Reader>(object).buffer()
}

fn set_buffer(object: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    match value {
        Some(array) if bytes::is_array(array) => {
            life::own::<Reader>(object).set_buffer(array.to_ref());
            Ok(())
        }
        _ => Err(Raised::type_error("_buffer must be a bytearray")),
    }
}

fn get_limit(object: Obj<'_>) -> R<Ref> {
    let this: &Reader = life::own(object);
    this.limit.get().map_or_else(|| int(LIMIT_BYTES), Ok)
}

fn set_limit(object: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    life::own::<Reader>(object).set_limit(value)
}

fn describe(object: Obj<'_>) -> R<Ref> {
    string(&reader::describe(object)?)
}

fn iterate(object: Obj<'_>) -> R<Ref> {
    Ok(object.to_ref())
}

fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        slot_attribute!(Reader, c"_loop", event_loop, c"The loop."),
        slot_attribute!(
            Reader,
            c"_waiter",
            waiter,
            c"The future of who waits for data."
        ),
        slot_attribute!(
            Reader,
            c"_exception",
            exception,
            c"What set_exception() set."
        ),
        slot_attribute!(Reader, c"_transport", transport, c"The transport."),
        slot_attribute!(
            Reader,
            c"_source_traceback",
            source_traceback,
            c"Where the reader was made, in debug mode."
        ),
        flag_attribute!(Reader, c"_eof", eof, c"The end has come."),
        flag_attribute!(Reader, c"_paused", paused, c"The transport does not read."),
        attribute!(
            c"_buffer",
            get_buffer,
            set_buffer,
            c"What was not read yet."
        ),
        attribute!(
            c"_limit",
            get_limit,
            set_limit,
            c"Half of what may wait to be read."
        ),
    ]
}

fn methods() -> Vec<c::PyMethodDef> {
    vec![
        python_method!(
            "StreamReader",
            exception(),
            reader::exception,
            "The exception that was set, or None."
        ),
        python_method!(
            "StreamReader",
            set_exception(exc),
            reader::set_exception,
            "Makes reads raise exc."
        ),
        python_method!(
            "StreamReader",
            _wakeup_waiter(),
            reader::wakeup_waiter,
            "Wakes who waits for data."
        ),
        python_method!(
            "StreamReader",
            set_transport(transport),
            reader::set_transport,
            "Sets the transport to pause and resume."
        ),
        python_method!(
            "StreamReader",
            _replace_transport(transport),
            reader::replace_transport,
            "The connection goes on over another transport."
        ),
        python_method!(
            "StreamReader",
            _maybe_resume_transport(),
            reader::maybe_resume_transport,
            "Lets a paused transport read if enough was read."
        ),
        python_method!(
            "StreamReader",
            feed_eof(),
            reader::feed_eof,
            "The end has come."
        ),
        python_method!(
            "StreamReader",
            at_eof(),
            reader::at_eof,
            "Return True if the buffer is empty and 'feed_eof' was called."
        ),
        python_method!(
            "StreamReader",
            feed_data(data),
            reader::feed_data,
            "Adds what was received, and wakes who waits for it."
        ),
    ]
}

/// Builds the type under asyncio's.
pub fn build(stock: Obj<'_>) -> R<Ref> {
    let base = life::base_class::<Reader>(c"aioxide._StreamReader")
        .slot(c::Py_tp_init, initializer!(reader::init))
        .slot(c::Py_tp_repr, unary!(describe))
        .slot(c::Py_am_aiter, unary!(iterate))
        .slot(c::Py_am_anext, unary!(until::next))
        .methods(methods())
        .attributes(attributes())
        .build(None)?;
    life::public_class::<Reader>(
        c"aioxide.StreamReader",
        c"StreamReader(limit=65536, loop=None)\n--\n\n\
          Received bytes, to be read. Source: asyncio.StreamReader.",
        base.obj(),
        stock,
    )
}
