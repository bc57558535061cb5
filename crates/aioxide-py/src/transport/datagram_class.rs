//! The Python type `DatagramTransport`.
//!
//! May touch: what its sister in `class` touches. Invariant: it has the public methods and the
//! private names that asyncio's has, and no others that a program could take for a capability.

use pyo3_ffi as c;

use super::base::{Fields, fields};
use super::class::{allocate, flow_methods, info_methods, reading_methods, with_fields};
use super::open::Opening;
use super::surface::{get_protocol, get_write_buffer_size, is_closing};
use super::{datagram, datagram_send, private, stream};
use crate::ffi::call::{list, tuple, uint};
use crate::ffi::class::{attribute, bind_tuple, initializer, noargs, onearg, varargs};
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Signature, error};
use crate::state::Asyncio;

// ---- making -------------------------------------------------------------------------------------

unsafe extern "C" fn new(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes the type.
    let class = unsafe { Obj::from_ptr(class.cast()) };
    error::guard(|| allocate(class, Fields::of_datagrams()))
}

const INIT: Signature = Signature {
    name: "DatagramTransport",
    params: &[
        "loop", "sock", "protocol", "address", "waiter", "extra", "context",
    ],
    positional: 6,
    required: 3,
};

fn init(transport: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let bound = bind_tuple::<7>(args, kwargs, &INIT)?;
    let given = |index: usize| {
        bound[index]
            .as_ref()
            .map(Ref::obj)
            .filter(|value: &Obj<'_>| !value.is_none())
    };
    let [Some(event_loop), Some(sock), Some(protocol), ..] = &bound else {
        return Err(Raised::type_error(
            "a transport needs loop, sock and protocol",
        ));
    };
    let opening = Opening {
        event_loop: event_loop.obj(),
        protocol: protocol.obj(),
        waiter: given(4),
        extra: given(5),
        server: None,
        context: given(6),
    };
    let remote = datagram::or_none(given(3));
    datagram::open(transport, sock.obj(), remote, &opening)
}

/// Creates `DatagramTransport`, a subclass of `asyncio.Transport` and `asyncio.DatagramTransport`,
/// as asyncio's is.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    let parents = [
        asyncio.transport_class.obj(),
        asyncio.datagram_transport_class.obj(),
    ];
    let class = with_fields(c"aioxide.DatagramTransport", asyncio)
        .doc(
            c"DatagramTransport(loop, sock, protocol, address=None, waiter=None, extra=None, *, \
              context=None)\n--\n\n\
              Datagrams over a UDP, Unix or other socket. Owns sock.",
        )
        .slot(c::Py_tp_new, new as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .methods(reading_methods())
        .methods(info_methods())
        .methods(flow_methods())
        .methods([varargs!(
            c"sendto",
            datagram_send::sendto,
            c"sendto($self, /, data, addr=None)\n--\n\nSends a datagram; never blocks."
        )])
        .methods(private_methods())
        .attributes(attributes())
        .attributes(flags())
        .build_under(&parents)?;
    for (name, value) in [
        (c"max_size", aioxide_core::buf::READ_MAX_BYTES),
        (c"_header_size", datagram::HEADER_BYTES as usize),
    ] {
        let name = crate::ffi::call::interned(name)?;
        class.obj().setattr(name.obj(), uint(value as u64)?.obj())?;
    }
    Ok(class)
}

// ---- private names ------------------------------------------------------------------------------

fn read_ready(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if this.with(|stream| stream.conn_lost()) == 0 {
        datagram::read_ready(transport, this)?;
    }
    Ok(none_ref())
}

fn sendto_ready(transport: Obj<'_>) -> R<Ref> {
    datagram_send::transmit(transport, fields(transport)).map(|()| none_ref())
}

fn get_address(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).datagrams()?.remote.get_or_none())
}

/// `_buffer`: a list of `(data, address)`.
fn get_buffer(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    let remote = this.datagrams()?.remote.get_or_none();
    let waiting: Vec<(Ref, Ref)> = this.with(|stream| {
        let address = |target: &datagram::Target| target.object.clone();
        let chunks = stream.queue().iter();
        chunks
            .map(|chunk| {
                let object = chunk.target.as_deref().map(address);
                (chunk.data.clone(), object.unwrap_or_else(|| remote.clone()))
            })
            .collect()
    });
    let pairs: R<Vec<Ref>> = waiting
        .iter()
        .map(|(data, object)| tuple(&[data.obj(), object.obj()]))
        .collect();
    list(&pairs?)
}

// ---- the tables ---------------------------------------------------------------------------------

fn private_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"_start_reading",
            stream::start_reading,
            c"Begins to deliver datagrams."
        ),
        noargs!(c"_read_ready", read_ready, c"Receives, and delivers."),
        noargs!(c"_sendto_ready", sendto_ready, c"Sends what waits."),
        onearg!(
            c"_force_close",
            private::force_close,
            c"As abort(), with an exception to tell."
        ),
        varargs!(
            c"_fatal_error",
            private::fatal_error,
            c"Reports an exception and gives the transport up."
        ),
        onearg!(
            c"_call_connection_lost",
            private::call_connection_lost,
            c"Tells the protocol, then closes."
        ),
    ]
}

fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        private::dict_attribute(),
        attribute!(
            c"_extra",
            private::get_extra,
            private::set_extra,
            c"The dict behind get_extra_info()."
        ),
        attribute!(
            c"_protocol",
            get_protocol,
            private::set_protocol_attribute,
            c"The protocol, or None."
        ),
        attribute!(
            c"_loop",
            private::get_loop,
            c"The loop; None once the transport is lost."
        ),
        attribute!(
            c"_sock",
            private::get_sock,
            c"The socket; None once the transport is lost."
        ),
        attribute!(
            c"_sock_fd",
            private::get_sock_fd,
            c"The descriptor's number."
        ),
        attribute!(c"_address", get_address, c"The remote address, or None."),
        attribute!(
            c"_buffer",
            get_buffer,
            c"A list of the (data, address) that wait to be sent."
        ),
        attribute!(
            c"_buffer_size",
            get_write_buffer_size,
            c"What waits to be sent, in bytes."
        ),
    ]
}

fn flags() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(
            c"_conn_lost",
            private::get_conn_lost,
            c"0 while open, then 1 + ignored sends."
        ),
        attribute!(
            c"_closing",
            is_closing,
            c"Whether the transport is closing or closed."
        ),
        attribute!(
            c"_paused",
            private::get_paused,
            c"Whether pause_reading() is in force."
        ),
        attribute!(
            c"_protocol_paused",
            private::get_protocol_paused,
            c"Whether writing is paused."
        ),
        attribute!(
            c"_high_water",
            private::get_high_water,
            c"The high limit, in bytes."
        ),
        attribute!(
            c"_low_water",
            private::get_low_water,
            c"The low limit, in bytes."
        ),
    ]
}
