//! The private attributes of a TLS protocol that asyncio's own code, its tests and libraries read.
//!
//! Duty: answer them as asyncio's protocol would, from the core's state. May touch: the fields.

use pyo3_ffi as c;

use super::fields::fields;
use super::run;
use crate::ffi::call::{list, uint};
use crate::ffi::class::attribute;
use crate::ffi::object::boolean;
use crate::ffi::{Obj, PyObject, R, Ref};

macro_rules! slot_getters {
    ($($name:ident: $slot:ident),* $(,)?) => {
        $(fn $name(protocol: Obj<'_>) -> R<Ref> {
            Ok(fields(protocol).$slot.get_or_none())
        })*
    };
}

slot_getters! {
    get_loop: event_loop, get_transport: transport, get_app: app, get_above: app_transport,
    get_waiter: waiter, get_extra: extra, get_context: context, get_hostname: server_hostname,
    get_handshake_seconds: handshake_seconds, get_shutdown_seconds: shutdown_seconds,
    get_handshake_timer: handshake_timer, get_shutdown_timer: shutdown_timer,
}

fn set_transport(protocol: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let this = fields(protocol);
    this.is_over_stream.set(false);
    this.transport
        .set(value.filter(|value| !value.is_none()).map(Obj::to_ref));
    Ok(())
}

fn get_sslobj(protocol: Obj<'_>) -> R<Ref> {
    Ok(fields(protocol).engine.object())
}

fn set_sslobj(protocol: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(protocol).engine.set_object(value.map(Obj::to_ref))
}

fn get_incoming(protocol: Obj<'_>) -> R<Ref> {
    Ok(fields(protocol).engine.incoming())
}

fn set_incoming(protocol: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(protocol)
        .engine
        .set_buffer(true, value.map(Obj::to_ref));
    Ok(())
}

fn get_outgoing(protocol: Obj<'_>) -> R<Ref> {
    Ok(fields(protocol).engine.outgoing())
}

fn set_outgoing(protocol: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(protocol)
        .engine
        .set_buffer(false, value.map(Obj::to_ref));
    Ok(())
}

fn get_server_side(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(protocol).is_server.get()))
}

/// The state as a member of asyncio's enumeration.
fn get_state(protocol: Obj<'_>) -> R<Ref> {
    let state = fields(protocol).with(|tls| tls.state());
    let name = run::state_name(state).trim_start_matches("SSLProtocolState.");
    let module = crate::ffi::call::import(c"asyncio.sslproto")?;
    let kind = module.obj().getattr_str(c"SSLProtocolState")?;
    kind.obj().getattr(crate::ffi::call::string(name)?.obj())
}

fn get_backlog(protocol: Obj<'_>) -> R<Ref> {
    let chunks: Vec<Ref> =
        fields(protocol).with(|tls| tls.backlog().iter().map(|chunk| chunk.0.clone()).collect());
    list(&chunks)
}

fn get_is_direct(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(protocol).engine.is_native()))
}

fn get_backlog_size(protocol: Obj<'_>) -> R<Ref> {
    uint(fields(protocol).with(|tls| tls.backlog().size_bytes()) as u64)
}

fn get_conn_lost(protocol: Obj<'_>) -> R<Ref> {
    uint(fields(protocol).with(|tls| tls.conn_lost()).into())
}

fn get_eof(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(protocol).with(|tls| tls.is_eof())))
}

fn get_reading_paused(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(protocol).with(|tls| tls.is_reading_paused()),
    ))
}

fn get_writing_paused(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(protocol).with(|tls| tls.is_protocol_paused()),
    ))
}

fn get_below_reading_paused(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(protocol).with(|tls| tls.is_transport_reading_paused()),
    ))
}

fn get_below_writing_paused(protocol: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(protocol).with(|tls| tls.is_transport_paused()),
    ))
}

// ---- the tables -------------------------------------------------------------------------------

unsafe extern "C" fn get_dict(
    protocol: *mut PyObject,
    closure: *mut std::ffi::c_void,
) -> *mut PyObject {
    // SAFETY: the interpreter's own getter for a type with a dict offset.
    unsafe { c::PyObject_GenericGetDict(protocol, closure) }
}

/// The attributes that hold objects around the session.
pub fn object_attributes() -> Vec<c::PyGetSetDef> {
    vec![
        c::PyGetSetDef {
            name: c"__dict__".as_ptr(),
            get: Some(get_dict),
            set: None,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        },
        attribute!(c"_loop", get_loop, c"The loop."),
        attribute!(
            c"_transport",
            get_transport,
            set_transport,
            c"The transport below."
        ),
        attribute!(c"_app_protocol", get_app, c"The protocol above."),
        attribute!(c"_app_transport", get_above, c"The transport above."),
        attribute!(c"_waiter", get_waiter, c"The future of the handshake."),
        attribute!(c"_extra", get_extra, c"The dict behind get_extra_info()."),
        attribute!(c"_sslcontext", get_context, c"The SSLContext."),
        attribute!(
            c"_server_hostname",
            get_hostname,
            c"The name that a client expects."
        ),
        attribute!(
            c"_server_side",
            get_server_side,
            c"Whether this is the server's side."
        ),
    ]
}

/// The attributes that hold the session and what belongs to it.
pub fn session_attributes() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(c"_sslobj", get_sslobj, set_sslobj, c"The SSLObject."),
        attribute!(
            c"_incoming",
            get_incoming,
            set_incoming,
            c"Ciphertext to be read."
        ),
        attribute!(
            c"_outgoing",
            get_outgoing,
            set_outgoing,
            c"Ciphertext to be sent."
        ),
        attribute!(
            c"_ssl_handshake_timeout",
            get_handshake_seconds,
            c"In seconds."
        ),
        attribute!(
            c"_ssl_shutdown_timeout",
            get_shutdown_seconds,
            c"In seconds."
        ),
        attribute!(
            c"_handshake_timeout_handle",
            get_handshake_timer,
            c"The timer, or None."
        ),
        attribute!(
            c"_shutdown_timeout_handle",
            get_shutdown_timer,
            c"The timer, or None."
        ),
        attribute!(
            c"_state",
            get_state,
            c"The state, as asyncio's enumeration."
        ),
        attribute!(
            c"_write_backlog",
            get_backlog,
            c"A list of what waits to be encrypted."
        ),
    ]
}

/// The attributes that are flags and numbers.
pub fn flag_attributes() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(
            c"_write_buffer_size",
            get_backlog_size,
            c"Bytes that wait to be encrypted."
        ),
        attribute!(
            c"_is_direct",
            get_is_direct,
            c"Whether data goes through OpenSSL's session without Python's objects."
        ),
        attribute!(
            c"_conn_lost",
            get_conn_lost,
            c"1 once lost, plus ignored writes."
        ),
        attribute!(
            c"_eof_received",
            get_eof,
            c"Whether the stream below ended."
        ),
        attribute!(
            c"_app_reading_paused",
            get_reading_paused,
            c"Whether reading is paused."
        ),
        attribute!(
            c"_app_writing_paused",
            get_writing_paused,
            c"Whether writing is paused."
        ),
        attribute!(
            c"_ssl_reading_paused",
            get_below_reading_paused,
            c"Whether the transport below was told not to read."
        ),
        attribute!(
            c"_ssl_writing_paused",
            get_below_writing_paused,
            c"Whether the transport below takes no more."
        ),
    ]
}
