//! `StreamReaderProtocol` as Python sees it.
//!
//! May touch: the type, at import.

use super::parts::{flag_attribute, slot_attribute};
use super::protocol::{self, Protocol};
use super::{connection, life};
use crate::ffi::class::{attribute, initializer, onearg};
use crate::ffi::function::Function;
use crate::ffi::python_method::{property, python_method};
use crate::ffi::{Obj, R, Ref};
use pyo3_ffi as c;

fn get_closed(object: Obj<'_>) -> R<Ref> {
    life::own::<Protocol>(object).closed()
}

fn set_closed(object: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    life::own::<Protocol>(object)
        .closed
        .set(value.map(Obj::to_ref));
    Ok(())
}

fn get_waiters(object: Obj<'_>) -> R<Ref> {
    life::own::<Protocol>(object).waiters()
}

fn set_waiters(object: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    life::own::<Protocol>(object)
        .drain_waiters
        .set(value.map(Obj::to_ref));
    Ok(())
}

fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        slot_attribute!(Protocol, c"_loop", event_loop, c"The loop."),
        slot_attribute!(
            Protocol,
            c"_stream_reader_wr",
            reader_wr,
            c"A weak reference."
        ),
        slot_attribute!(
            Protocol,
            c"_strong_reader",
            strong_reader,
            c"Held until connected."
        ),
        slot_attribute!(
            Protocol,
            c"_source_traceback",
            source_traceback,
            c"In debug mode."
        ),
        slot_attribute!(Protocol, c"_task", task, c"The handler's task."),
        slot_attribute!(Protocol, c"_transport", transport, c"The transport."),
        slot_attribute!(
            Protocol,
            c"_stream_writer",
            writer,
            c"The writer, before 3.13."
        ),
        slot_attribute!(
            Protocol,
            c"_client_connected_cb",
            client_connected_cb,
            c"The handler."
        ),
        flag_attribute!(
            Protocol,
            c"_reject_connection",
            reject_connection,
            c"To be aborted."
        ),
        flag_attribute!(Protocol, c"_over_ssl", over_ssl, c"The transport does TLS."),
        flag_attribute!(Protocol, c"_paused", paused, c"Writing is paused."),
        flag_attribute!(Protocol, c"_connection_lost", connection_lost, c"It is."),
        attribute!(
            c"_closed",
            get_closed,
            set_closed,
            c"Done when the connection is lost."
        ),
        attribute!(
            c"_drain_waiters",
            get_waiters,
            set_waiters,
            c"Who waits for room."
        ),
        property!(
            _stream_reader,
            protocol::stream_reader,
            c"The reader, or None."
        ),
    ]
}

fn methods() -> Vec<c::PyMethodDef> {
    vec![
        python_method!(
            "StreamReaderProtocol",
            connection_made(transport),
            connection::connection_made,
            "The connection is there: calls the handler, on a server."
        ),
        python_method!(
            "StreamReaderProtocol",
            connection_lost(exc),
            connection::connection_lost,
            "The connection is gone: reader and writers are told."
        ),
        python_method!(
            "StreamReaderProtocol",
            data_received(data),
            protocol::data_received,
            "Feeds the reader."
        ),
        python_method!(
            "StreamReaderProtocol",
            eof_received(),
            protocol::eof_received,
            "Tells the reader of the end; whether the transport stays open."
        ),
        python_method!(
            "FlowControlMixin",
            pause_writing(),
            protocol::pause_writing,
            "drain() waits."
        ),
        python_method!(
            "FlowControlMixin",
            resume_writing(),
            protocol::resume_writing,
            "drain() goes on."
        ),
        python_method!(
            "StreamReaderProtocol",
            _get_close_waiter(stream),
            protocol::get_close_waiter,
            "The future that is done when the connection is lost."
        ),
    ]
}

/// The done callback of a handler's task, bound to the transport.
pub fn task_done() -> Function {
    Function::new(onearg!(
        c"callback",
        connection::handler_done,
        c"The handler of a connection is done."
    ))
}

/// Builds the type under asyncio's.
pub fn build(stock: Obj<'_>, keeps_writer: bool) -> R<Ref> {
    let replace = if keeps_writer {
        python_method!(
            "StreamReaderProtocol",
            _replace_writer(writer),
            connection::replace_writer,
            "A writer has changed its transport."
        )
    } else {
        python_method!(
            "StreamReaderProtocol",
            _replace_transport(transport),
            connection::replace_transport,
            "The connection goes on over another transport."
        )
    };
    let class = life::base_class::<Protocol>(c"aioxide._StreamReaderProtocol")
        .slot(c::Py_tp_init, initializer!(protocol::init))
        .methods(methods())
        .methods([replace])
        .attributes(attributes());
    let base = life::with_finalizer::<Protocol>(class).build(None)?;
    life::public_class::<Protocol>(
        c"aioxide.StreamReaderProtocol",
        c"StreamReaderProtocol(stream_reader, client_connected_cb=None, loop=None)\n--\n\n\
          Between a transport and a stream reader. Source: asyncio.StreamReaderProtocol.",
        base.obj(),
        stock,
    )
}
