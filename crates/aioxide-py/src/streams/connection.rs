//! How a stream's connection begins and ends: `connection_made`, `connection_lost`, `start_tls`.
//!
//! Duty: hand the transport to the reader, make the writer, call the handler, watch its task. May
//! touch: a protocol's fields, its reader, transport and loop.
#![forbid(unsafe_code)]

use super::life::own;
use super::parts::put;
use super::protocol::{Protocol, reader_of};
use super::{reader, writer};
use crate::ffi::call::{dict, dict_set, string};
use crate::ffi::exception::while_handling;
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Ref};
use crate::state::state;
use crate::transport;

/// What the exception handler is told of a handler that fails.
pub const CALLBACK_FAILED: &str = "Unhandled exception in client_connected_cb";

const REJECTED: &str = "An open stream was garbage collected prior to establishing network \
                        connection; call \"stream.close()\" explicitly.";

/// `connection_made(transport)`.
pub fn connection_made(protocol: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    let this: &Protocol = own(protocol);
    if this.reject_connection.get() {
        return reject(this, transport);
    }
    put(&this.transport, transport);
    let reader = reader_of(protocol)?;
    if let Some(reader) = &reader {
        if reader::is_plain(reader.obj()) {
            reader::set_transport(reader.obj(), transport)?;
        } else {
            let name = state().names.set_transport.obj();
            reader.obj().call_method1(name, transport)?;
        }
    }
    this.over_ssl.set(is_over_ssl(transport)?);
    let Some(callback) = this.client_connected_cb.get() else {
        return Ok(none_ref());
    };
    let reader = reader.unwrap_or_else(none_ref);
    let event_loop = this.event_loop.get_or_none();
    let writer = writer::create(transport, protocol, reader.obj(), event_loop.obj())?;
    if state().streams.quirks.keeps_writer {
        this.writer.set(Some(writer.clone()));
    }
    let answer = match callback.obj().call(&[reader.obj(), writer.obj()]) {
        Ok(answer) => answer,
        Err(raised) if state().streams.quirks.reports_callback && raised.is_ordinary() => {
            let exc = raised.take();
            while_handling(exc.obj(), || {
                report(event_loop.obj(), transport, exc.obj())?;
                transport.call_method0(state().names.close.obj())
            })?;
            this.strong_reader.clear();
            return Ok(none_ref());
        }
        Err(raised) => return Err(raised),
    };
    let is_coroutine = state().asyncio.iscoroutine.obj().call1(answer.obj())?;
    if is_coroutine.obj().is_true()? {
        watch(this, event_loop.obj(), transport, answer.obj())?;
    }
    this.strong_reader.clear();
    Ok(none_ref())
}

fn is_over_ssl(transport: Obj<'_>) -> R<bool> {
    let names = &state().names;
    let context = transport.call_method1(names.get_extra_info.obj(), names.sslcontext.obj())?;
    Ok(!context.obj().is_none())
}

#[cold]
fn reject(this: &Protocol, transport: Obj<'_>) -> R<Ref> {
    let names = &state().names;
    let context = dict()?;
    dict_set(context.obj(), names.message.obj(), string(REJECTED)?.obj())?;
    if let Some(traceback) = this.source_traceback.get() {
        dict_set(context.obj(), names.source_traceback.obj(), traceback.obj())?;
    }
    let event_loop = this.event_loop.get_or_none();
    let handler = names.call_exception_handler.obj();
    event_loop.obj().call_method1(handler, context.obj())?;
    transport
        .call_method0(names.abort.obj())
        .map(|_| none_ref())
}

fn report(event_loop: Obj<'_>, transport: Obj<'_>, exc: Obj<'_>) -> R<()> {
    let names = &state().names;
    let items = [
        (names.exception.obj(), exc),
        (names.transport.obj(), transport),
    ];
    transport::call_handler(event_loop, CALLBACK_FAILED, &items)
}

/// Makes the handler's coroutine a task, whose failure is reported.
fn watch(this: &Protocol, event_loop: Obj<'_>, transport: Obj<'_>, coro: Obj<'_>) -> R<()> {
    let names = &state().names;
    let task = event_loop.call_method1(names.create_task.obj(), coro)?;
    this.task.set(Some(task.clone()));
    let callback = state().streams.task_done.bind(transport)?;
    task.obj()
        .call_method1(names.add_done_callback.obj(), callback.obj())
        .map(drop)
}

/// The done callback of a handler's task, bound to the transport.
pub fn handler_done(transport: Obj<'_>, task: Obj<'_>) -> R<Ref> {
    let names = &state().names;
    if state().streams.quirks.closes_cancelled
        && task.call_method0(names.cancelled.obj())?.obj().is_true()?
    {
        transport.call_method0(names.close.obj())?;
        return Ok(none_ref());
    }
    let exc = task.call_method0(names.exception.obj())?;
    if !exc.obj().is_none() {
        let event_loop = task.call_method0(names.get_loop.obj())?;
        report(event_loop.obj(), transport, exc.obj())?;
        transport.call_method0(names.close.obj())?;
    }
    Ok(none_ref())
}

/// `connection_lost(exc)`.
pub fn connection_lost(protocol: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    let this: &Protocol = own(protocol);
    if let Some(reader) = reader_of(protocol)? {
        tell_reader(reader.obj(), exc)?;
    }
    this.close(exc)?;
    this.lose(exc)?;
    for slot in [&this.reader_wr, &this.writer, &this.task, &this.transport] {
        slot.clear();
    }
    Ok(none_ref())
}

fn tell_reader(reader: Obj<'_>, exc: Obj<'_>) -> R<()> {
    let names = &state().names;
    match (exc.is_none(), reader::is_plain(reader)) {
        (true, true) => reader::feed_eof(reader),
        (true, false) => reader.call_method0(names.feed_eof.obj()),
        (false, true) => reader::set_exception(reader, exc),
        (false, false) => reader.call_method1(names.set_exception.obj(), exc),
    }
    .map(drop)
}

/// `_replace_transport(transport)`, from 3.13 on.
pub fn replace_transport(protocol: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    let this: &Protocol = own(protocol);
    put(&this.transport, transport);
    this.over_ssl.set(is_over_ssl(transport)?);
    if state().streams.quirks.reader_changes_transport
        && let Some(reader) = reader_of(protocol)?
    {
        let name = state().names._replace_transport.obj();
        reader.obj().call_method1(name, transport)?;
    }
    Ok(none_ref())
}

/// `_replace_writer(writer)`, before 3.13.
pub fn replace_writer(protocol: Obj<'_>, writer: Obj<'_>) -> R<Ref> {
    let this: &Protocol = own(protocol);
    let transport = writer.getattr(state().names.transport.obj())?;
    this.writer.set(Some(writer.to_ref()));
    put(&this.transport, transport.obj());
    this.over_ssl.set(is_over_ssl(transport.obj())?);
    Ok(none_ref())
}
