//! The private names of a stream transport that asyncio's own code and libraries reach for.
//!
//! Duty: answer them as asyncio's transport would, from the core's state. May touch: what the
//! public methods touch, and the future that sendfile waits with.

use pyo3_ffi as c;

use super::base::fields;
use super::surface::{get_protocol, is_closing};
use super::{report, stream, write};
use crate::ffi::call::{int, list, uint};
use crate::ffi::class::{attribute, noargs, onearg, varargs};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature};

pub fn get_extra(transport: Obj<'_>) -> R<Ref> {
    fields(transport).full_extra()
}

pub fn set_extra(transport: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let this = fields(transport);
    drop(this.ends.take());
    this.extra.set(value.map(Obj::to_ref));
    Ok(())
}

pub fn set_protocol_attribute(transport: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(transport).set_protocol(value.unwrap_or(none()))
}

pub fn force_close(transport: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    write::settle(transport, this)?;
    stream::force_close(transport, this, exc).map(|()| none_ref())
}

const FATAL: Signature = Signature {
    name: "_fatal_error",
    params: &["exc", "message"],
    positional: 2,
    required: 1,
};

pub fn fatal_error(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [exc, message] = args.bind::<2>(&FATAL)?;
    let message = match message {
        Some(message) => crate::ffi::call::text(message)?,
        None => String::from("Fatal error on transport"),
    };
    report::fatal_handled(transport, exc.unwrap_or(none()), &message).map(|()| none_ref())
}

pub fn call_connection_lost(transport: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    fields(transport).lose(transport, exc).map(|()| none_ref())
}

fn make_empty_waiter(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if this.seldom.empty_waiter().is_some() {
        return Err(Raised::runtime("Empty waiter is already set"));
    }
    write::settle(transport, this)?;
    let event_loop = this.event_loop.get_or_none();
    let waiter = event_loop
        .obj()
        .getattr_str(c"create_future")?
        .obj()
        .call0()?;
    this.seldom.make().empty_waiter.set(Some(waiter.clone()));
    if this.with(|stream| stream.queue().is_empty()) {
        waiter
            .obj()
            .getattr_str(c"set_result")?
            .obj()
            .call1(none())?;
    } else {
        this.with(|stream| stream.watch_empty(true));
    }
    Ok(waiter)
}

fn reset_empty_waiter(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    this.with(|stream| stream.watch_empty(false));
    this.seldom.make().empty_waiter.clear();
    Ok(none_ref())
}

pub fn get_sock(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if this.descriptor.is_closed() {
        return Ok(none_ref());
    }
    write::settle(transport, this)?;
    this.descriptor.socket(&this.socket)
}

pub fn get_sock_fd(transport: Obj<'_>) -> R<Ref> {
    int(fields(transport).descriptor.number().into())
}

pub fn get_loop(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).event_loop.get_or_none())
}

fn get_server(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).server.get_or_none())
}

fn get_buffer(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    write::settle(transport, this)?;
    let chunks: Vec<Ref> = this.with(|stream| {
        stream
            .queue()
            .iter()
            .map(|chunk| chunk.data.clone())
            .collect()
    });
    list(&chunks)
}

pub fn get_conn_lost(transport: Obj<'_>) -> R<Ref> {
    uint(fields(transport).with(|stream| stream.conn_lost()).into())
}

pub fn get_paused(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(transport).with(|stream| stream.is_reading_paused()),
    ))
}

fn get_eof(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(transport).with(|stream| stream.is_eof_written()),
    ))
}

pub fn get_protocol_paused(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(transport).with(|stream| stream.is_protocol_paused()),
    ))
}

fn get_protocol_connected(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).is_connected.get()))
}

fn get_empty_waiter(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport)
        .seldom
        .empty_waiter()
        .unwrap_or_else(none_ref))
}

pub fn get_high_water(transport: Obj<'_>) -> R<Ref> {
    uint(fields(transport).with(|stream| stream.limits().1) as u64)
}

pub fn get_low_water(transport: Obj<'_>) -> R<Ref> {
    uint(fields(transport).with(|stream| stream.limits().0) as u64)
}

// ---- the tables ---------------------------------------------------------------------------------

/// The private methods.
pub fn methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"_start_reading",
            stream::start_reading,
            c"Begins to deliver data."
        ),
        onearg!(
            c"_force_close",
            force_close,
            c"As abort(), with an exception to tell."
        ),
        varargs!(
            c"_fatal_error",
            fatal_error,
            c"Reports an exception and gives the connection up."
        ),
        onearg!(
            c"_call_connection_lost",
            call_connection_lost,
            c"Tells the protocol, then closes."
        ),
        noargs!(
            c"_make_empty_waiter",
            make_empty_waiter,
            c"A future that awaits the empty queue."
        ),
        noargs!(
            c"_reset_empty_waiter",
            reset_empty_waiter,
            c"Forgets that future."
        ),
    ]
}

unsafe extern "C" fn get_dict(
    transport: *mut PyObject,
    closure: *mut std::ffi::c_void,
) -> *mut PyObject {
    // SAFETY: the interpreter's own getter for a type with a dict offset.
    unsafe { c::PyObject_GenericGetDict(transport, closure) }
}

/// `__dict__`.
pub fn dict_attribute() -> c::PyGetSetDef {
    c::PyGetSetDef {
        name: c"__dict__".as_ptr(),
        get: Some(get_dict),
        set: None,
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    }
}

/// The attributes that hold something.
pub fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        dict_attribute(),
        attribute!(
            c"_extra",
            get_extra,
            set_extra,
            c"The dict behind get_extra_info()."
        ),
        attribute!(
            c"_protocol",
            get_protocol,
            set_protocol_attribute,
            c"The protocol, or None."
        ),
        attribute!(
            c"_loop",
            get_loop,
            c"The loop; None once the connection is lost."
        ),
        attribute!(
            c"_server",
            get_server,
            c"The server that accepted the connection, or None."
        ),
        attribute!(
            c"_sock",
            get_sock,
            c"The socket; None once the connection is lost."
        ),
        attribute!(c"_sock_fd", get_sock_fd, c"The descriptor's number."),
        attribute!(
            c"_buffer",
            get_buffer,
            c"A list of the chunks that wait to be sent."
        ),
        attribute!(
            c"_conn_lost",
            get_conn_lost,
            c"0 while connected, then 1 + ignored writes."
        ),
    ]
}

/// The attributes that are flags and numbers.
pub fn flags() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(
            c"_closing",
            is_closing,
            c"Whether the transport is closing or closed."
        ),
        attribute!(
            c"_paused",
            get_paused,
            c"Whether pause_reading() is in force."
        ),
        attribute!(c"_eof", get_eof, c"Whether write_eof() was called."),
        attribute!(
            c"_protocol_paused",
            get_protocol_paused,
            c"Whether writing is paused."
        ),
        attribute!(
            c"_protocol_connected",
            get_protocol_connected,
            c"Whether a protocol was set."
        ),
        attribute!(
            c"_empty_waiter",
            get_empty_waiter,
            c"The future of _make_empty_waiter()."
        ),
        attribute!(c"_high_water", get_high_water, c"The high limit, in bytes."),
        attribute!(c"_low_water", get_low_water, c"The low limit, in bytes."),
    ]
}
