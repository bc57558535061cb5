//! `StreamWriter` as Python sees it.
//!
//! May touch: the type, at import.

use pyo3_ffi as c;

use super::about::Quirks;
use super::life;
use super::parts::slot_attribute;
use super::start_tls;
use super::writer::{self, Writer};
use crate::ffi::call::string;
use crate::ffi::class::{attribute, initializer, noargs, onearg, unary, varargs};
use crate::ffi::{Obj, R, Raised, Ref, builtin};
use crate::sync::function::Function;

fn describe(object: Obj<'_>) -> R<Ref> {
    string(&writer::describe(object)?)
}

fn get_transport(object: Obj<'_>) -> R<Ref> {
    Ok(life::own::<Writer>(object).transport.get_or_none())
}

fn set_transport(_object: Obj<'_>, _value: Option<Obj<'_>>) -> R<()> {
    Err(Raised::new(
        builtin::attribute_error(),
        "property 'transport' of 'StreamWriter' object has no setter",
    ))
}

fn set_complete(object: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    life::own::<Writer>(object)
        .complete
        .set(value.map(Obj::to_ref));
    Ok(())
}

fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        slot_attribute!(Writer, c"_transport", transport, c"The transport."),
        slot_attribute!(Writer, c"_protocol", protocol, c"The protocol."),
        slot_attribute!(Writer, c"_reader", reader, c"The reader, or None."),
        slot_attribute!(Writer, c"_loop", event_loop, c"The loop."),
        attribute!(c"_complete_fut", writer::complete, set_complete, c"Done."),
        attribute!(
            c"transport",
            get_transport,
            set_transport,
            c"The transport."
        ),
    ]
}

fn methods() -> Vec<c::PyMethodDef> {
    vec![
        onearg!(
            c"write",
            writer::write,
            c"($self, data)\nWrites bytes; queues what does not leave at once."
        ),
        onearg!(
            c"writelines",
            writer::writelines,
            c"($self, data)\nWrites an iterable of bytes."
        ),
        noargs!(
            c"write_eof",
            writer::write_eof,
            c"Closes the writing side once all is written."
        ),
        noargs!(
            c"can_write_eof",
            writer::can_write_eof,
            c"Whether the writing side can be closed alone."
        ),
        noargs!(c"close", writer::close, c"Closes the transport."),
        noargs!(
            c"is_closing",
            writer::is_closing,
            c"Whether the transport is closing or closed."
        ),
        varargs!(
            c"get_extra_info",
            writer::get_extra_info,
            c"($self, name, default=None)\nWhat the transport knows under a name."
        ),
    ]
}

/// The coroutine methods.
pub fn coroutines(quirks: &Quirks) -> [&'static Function; 3] {
    let start_tls = if quirks.tls_takes_shutdown_timeout {
        &start_tls::START_TLS
    } else {
        &start_tls::START_TLS_BEFORE
    };
    [&writer::DRAIN, &writer::WAIT_CLOSED, start_tls]
}

/// Builds the type under asyncio's.
pub fn build(stock: Obj<'_>, quirks: &Quirks) -> R<Ref> {
    let mut class = life::base_class::<Writer>(c"aioxide._StreamWriter")
        .slot(c::Py_tp_init, initializer!(writer::init))
        .slot(c::Py_tp_repr, unary!(describe))
        .methods(methods())
        .attributes(attributes());
    if quirks.writer_warns {
        class = life::with_finalizer::<Writer>(class);
    }
    let base = class.build(None)?;
    life::public_class::<Writer>(
        c"aioxide.StreamWriter",
        c"StreamWriter(transport, protocol, reader, loop)\n--\n\n\
          The writing side of a stream. Source: asyncio.StreamWriter.",
        base.obj(),
        stock,
    )
}
