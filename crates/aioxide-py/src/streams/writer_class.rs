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
use crate::ffi::class::{attribute, initializer, unary, varargs};
use crate::ffi::python_method::{property, python_method};
use crate::ffi::{Obj, R, Ref};
use crate::sync::function::Function;

fn describe(object: Obj<'_>) -> R<Ref> {
    string(&writer::describe(object)?)
}

fn get_transport(object: Obj<'_>) -> R<Ref> {
    Ok(life::own::<Writer>(object).transport.get_or_none())
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
        property!(transport, get_transport, c"The transport."),
    ]
}

fn methods() -> Vec<c::PyMethodDef> {
    vec![
        python_method!(
            "StreamWriter",
            write(data),
            writer::write,
            "Writes bytes; queues what does not leave at once."
        ),
        python_method!(
            "StreamWriter",
            writelines(data),
            writer::writelines,
            "Writes an iterable of bytes."
        ),
        python_method!(
            "StreamWriter",
            write_eof(),
            writer::write_eof,
            "Closes the writing side once all is written."
        ),
        python_method!(
            "StreamWriter",
            can_write_eof(),
            writer::can_write_eof,
            "Whether the writing side can be closed alone."
        ),
        python_method!(
            "StreamWriter",
            close(),
            writer::close,
            "Closes the transport."
        ),
        python_method!(
            "StreamWriter",
            is_closing(),
            writer::is_closing,
            "Whether the transport is closing or closed."
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
