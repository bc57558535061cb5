//! The Python types `ReadPipeTransport` and `WritePipeTransport`.
//!
//! May touch: what their sister in `class` touches. Invariant: each has the public methods and the
//! private names that asyncio's has, and no others that a program could take for a capability.

use pyo3_ffi as c;

use super::base::{Fields, fields};
use super::class::{
    allocate, flow_methods, info_methods, reading_methods, with_fields, writing_methods,
};
use super::open::Opening;
use super::surface::{get_protocol, is_closing};
use super::{pipe, private, stream};
use crate::ffi::call::{int, uint};
use crate::ffi::class::{attribute, bind_tuple, initializer, noargs, varargs};
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, builtin, bytes, error};
use crate::state::Asyncio;
use aioxide_core::stream::Rules;

// ---- making -------------------------------------------------------------------------------------

unsafe extern "C" fn new_read(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes the type.
    let class = unsafe { Obj::from_ptr(class.cast()) };
    error::guard(|| allocate(class, Fields::new(Rules::ReadPipe)))
}

unsafe extern "C" fn new_write(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes the type.
    let class = unsafe { Obj::from_ptr(class.cast()) };
    error::guard(|| allocate(class, Fields::new(Rules::WritePipe)))
}

const INIT: Signature = Signature {
    name: "PipeTransport",
    params: &["loop", "pipe", "protocol", "waiter", "extra"],
    positional: 5,
    required: 3,
};

fn init(transport: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let bound = bind_tuple::<5>(args, kwargs, &INIT)?;
    let given = |index: usize| {
        bound[index]
            .as_ref()
            .map(Ref::obj)
            .filter(|value: &Obj<'_>| !value.is_none())
    };
    let [Some(event_loop), Some(pipe), Some(protocol), ..] = &bound else {
        return Err(Raised::type_error(
            "a pipe transport needs loop, pipe and protocol",
        ));
    };
    let opening = Opening {
        event_loop: event_loop.obj(),
        protocol: protocol.obj(),
        waiter: given(3),
        extra: given(4),
        server: None,
        context: None,
    };
    pipe::open(transport, pipe.obj(), &opening)
}

/// Creates `ReadPipeTransport`, a subclass of `asyncio.ReadTransport`.
pub fn build_read_pipe_type(asyncio: &Asyncio) -> R<Ref> {
    let class = with_fields(c"aioxide.ReadPipeTransport", asyncio)
        .doc(
            c"ReadPipeTransport(loop, pipe, protocol, waiter=None, extra=None)\n--\n\n\
              The reading end of a pipe, FIFO, terminal or socket. Owns pipe.",
        )
        .slot(c::Py_tp_new, new_read as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .methods(reading_methods())
        .methods(info_methods())
        .methods(private_methods())
        .methods([varargs!(
            c"_serve_process",
            pipe::serve_process,
            c"Leads data to the protocol of a process."
        )])
        .attributes(attributes())
        .attributes([attribute!(
            c"_paused",
            private::get_paused,
            c"Whether pause_reading() is in force."
        )])
        .build(Some(asyncio.read_transport_class.obj()))?;
    class.obj().setattr(
        crate::ffi::call::interned(c"max_size")?.obj(),
        uint(aioxide_core::buf::READ_MAX_BYTES as u64)?.obj(),
    )?;
    Ok(class)
}

/// Creates `WritePipeTransport`, a subclass of `asyncio.Transport` as asyncio's is.
pub fn build_write_pipe_type(asyncio: &Asyncio) -> R<Ref> {
    with_fields(c"aioxide.WritePipeTransport", asyncio)
        .doc(
            c"WritePipeTransport(loop, pipe, protocol, waiter=None, extra=None)\n--\n\n\
              The writing end of a pipe, FIFO, terminal or socket. Owns pipe.",
        )
        .slot(c::Py_tp_new, new_write as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .methods(writing_methods())
        .methods(flow_methods())
        .methods(info_methods())
        .methods(private_methods())
        .methods([noargs!(
            c"_write_ready",
            pipe::write_ready,
            c"Sends what waits."
        )])
        .attributes(attributes())
        .attributes(writing_attributes())
        .build(Some(asyncio.transport_class.obj()))
}

// ---- private names ------------------------------------------------------------------------------

const CLOSE: Signature = Signature {
    name: "_close",
    params: &["exc"],
    positional: 1,
    required: 0,
};

fn close_with(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [exc] = args.bind::<1>(&CLOSE)?;
    stream::force_close(transport, fields(transport), exc.unwrap_or(none())).map(|()| none_ref())
}

fn get_pipe(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if this.descriptor.is_closed() {
        return Ok(none_ref());
    }
    Ok(this.seldom.make().pipe.get_or_none())
}

/// `transport._pipe = None`: the pipe is taken away, unclosed, and the transport does no more.
fn set_pipe(transport: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    if value.is_some_and(|value| !value.is_none()) {
        return Err(Raised::type_error(
            "a transport's pipe can only be taken away",
        ));
    }
    let this = fields(transport);
    pipe::unwatch(this)?;
    this.forget(transport);
    this.descriptor.release();
    this.seldom.make().pipe.clear();
    Ok(())
}

fn get_fileno(transport: Obj<'_>) -> R<Ref> {
    int(fields(transport).descriptor.number().into())
}

/// The unsent bytes, in a new bytearray.
fn get_buffer(transport: Obj<'_>) -> R<Ref> {
    let unsent = fields(transport).with(|stream| {
        let slices: Vec<&[u8]> = stream.queue().slices().collect();
        slices.concat()
    });
    builtin::bytearray(bytes::new(&unsent)?.obj())
}

fn private_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"_start_reading",
            stream::start_reading,
            c"Begins to watch the pipe."
        ),
        noargs!(
            c"_read_ready",
            pipe::read_ready,
            c"Reads once, or notices that the reader has gone."
        ),
        varargs!(
            c"_close",
            close_with,
            c"Closes now, with an exception to tell."
        ),
        varargs!(
            c"_fatal_error",
            private::fatal_error,
            c"Reports an exception and closes."
        ),
        crate::ffi::class::onearg!(
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
            c"The loop; None once the connection is lost."
        ),
        attribute!(
            c"_pipe",
            get_pipe,
            set_pipe,
            c"The pipe; None once the connection is lost or it was taken away."
        ),
        attribute!(c"_fileno", get_fileno, c"The descriptor's number."),
        attribute!(
            c"_closing",
            is_closing,
            c"Whether the transport is closing or closed."
        ),
    ]
}

fn writing_attributes() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(c"_buffer", get_buffer, c"A copy of the bytes that wait."),
        attribute!(
            c"_conn_lost",
            private::get_conn_lost,
            c"The number of failed and ignored writes."
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
