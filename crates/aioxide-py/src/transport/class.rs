//! The Python type `StreamTransport`: life cycle, attributes, table of methods.
//!
//! May touch: the memory of transport objects. Invariants: the fields are written before anybody
//! sees the object and dropped once, in `tp_dealloc`; a transport that dies open warns, closes its
//! descriptor and leaves its server, as asyncio's does.

use std::ffi::{CString, c_int};
use std::mem::offset_of;

use pyo3_ffi as c;

use super::base::{self, Fields, Opening, fields};
use super::{report, server, stream};
use crate::ffi::call::{int, list, string, tuple, uint};
use crate::ffi::class::{Class, Visitor, attribute, bind_tuple, initializer, noargs, onearg, varargs};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{
    Args, Obj, PyObject, R, Raised, Ref, Signature, Slot, builtin, error, layout,
};
use crate::state::{Asyncio, state};

// ---- life cycle ---------------------------------------------------------------------------------

/// A transport that is not open yet.
pub fn allocate(class: Obj<'_>) -> R<Ref> {
    // SAFETY: a type of ours: `class` is `StreamTransport`, which has no subclasses.
    let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class.ptr().cast(), 0)) }?;
    let place = std::ptr::from_ref(fields(object.obj())).cast_mut();
    // SAFETY: fresh memory of the type's size, zeroed; nobody has seen the object, and nothing
    // that could start a collection happened since it was allocated.
    unsafe { place.write(Fields::new()) };
    Ok(object)
}

unsafe extern "C" fn new(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes the type.
    error::guard(|| allocate(unsafe { Obj::from_ptr(class.cast()) }))
}

const INIT: Signature = Signature {
    name: "StreamTransport",
    params: &["loop", "sock", "protocol", "waiter", "extra", "server", "context"],
    positional: 6,
    required: 3,
};

fn init(transport: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let bound = bind_tuple::<7>(args, kwargs, &INIT)?;
    let given = |index: usize| {
        bound[index].as_ref().map(Ref::obj).filter(|value: &Obj<'_>| !value.is_none())
    };
    let [Some(event_loop), Some(socket), Some(protocol), ..] = &bound else {
        return Err(Raised::type_error("a transport needs loop, sock and protocol"));
    };
    let opening = Opening {
        event_loop: event_loop.obj(),
        protocol: protocol.obj(),
        waiter: given(3),
        extra: given(4),
        server: given(5),
        context: given(6),
    };
    base::open_socket(transport, socket.obj(), &opening)
}

/// `__del__`: warns about a transport that was not closed, and closes it.
fn finalize(transport: Obj<'_>) -> R<()> {
    let this = fields(transport);
    if this.descriptor.is_closed() {
        return Ok(());
    }
    let text = format!("unclosed transport {}", describe(transport)?);
    let text = CString::new(text).unwrap_or_default();
    error::resource_warning(transport, &text);
    this.descriptor.close(&this.socket)?;
    this.detach_from_server(transport)
}

unsafe extern "C" fn finalize_slot(transport: *mut PyObject) {
    let saved = error::SavedError::save();
    // SAFETY: the interpreter passes a live instance.
    let transport = unsafe { Obj::from_ptr(transport) };
    if error::guard_status(|| finalize(transport)) < 0 {
        Raised::from_indicator().write_unraisable(transport);
    }
    saved.restore();
}

impl Fields {
    fn slots(&self) -> [&Slot; 9] {
        [
            &self.event_loop,
            &self.protocol,
            &self.server,
            &self.extra,
            &self.socket,
            &self.context,
            &self.read_context,
            &self.write_context,
            &self.empty_waiter,
        ]
    }
}

unsafe extern "C" fn traverse(
    transport: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let transport = unsafe { Obj::from_ptr(transport) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(transport.type_ptr().cast());
    let this = fields(transport);
    for slot in this.slots() {
        visitor.slot(slot);
    }
    visitor.visit(this.dict.get());
    visitor.status()
}

unsafe extern "C" fn clear(transport: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let transport = unsafe { Obj::from_ptr(transport) };
    let this = fields(transport);
    this.forget(transport);
    for slot in this.slots() {
        slot.clear();
    }
    // SAFETY: the instance dict is an owned reference or null, and taken out before it is dropped.
    drop(unsafe { Ref::steal_opt(this.dict.replace(std::ptr::null_mut())) });
    0
}

unsafe extern "C" fn dealloc(transport: *mut PyObject) {
    // SAFETY: an instance whose last reference just went; resurrection ends the deallocation.
    if unsafe { c::PyObject_CallFinalizerFromDealloc(transport) } < 0 {
        return;
    }
    // SAFETY: dead for good: untracked first, so that no collection sees it half taken apart.
    unsafe {
        let class = c::Py_TYPE(transport);
        c::PyObject_GC_UnTrack(transport.cast());
        c::PyObject_ClearWeakRefs(transport);
        clear(transport);
        let place = std::ptr::from_ref(fields(Obj::from_ptr(transport))).cast_mut();
        place.drop_in_place();
        crate::future::free_instance(transport, class);
    }
}

// ---- what it says about itself ------------------------------------------------------------------

/// `<StreamTransport fd=7 read=polling write=<idle, bufsize=0>>`
fn describe(transport: Obj<'_>) -> R<String> {
    let this = fields(transport);
    let fd = this.descriptor.number();
    let mut words = vec![String::from("StreamTransport")];
    let (closing, reads, writes, size) = this.with(|stream| {
        let size = stream.queue().size_bytes();
        (stream.is_closing(), stream.wants_read(), stream.wants_write(), size)
    });
    if this.descriptor.is_closed() {
        words.push("closed".into());
    } else if closing {
        words.push("closing".into());
    }
    words.push(format!("fd={fd}"));
    let is_open = this.in_loop(|native| !native.is_closed());
    if is_open.or_else(|raised| { drop(raised.take()); R::Ok(false) })? {
        let state = |polls| if polls { "polling" } else { "idle" };
        words.push(format!("read={}", state(reads)));
        words.push(format!("write=<{}, bufsize={size}>", state(writes)));
    }
    Ok(format!("<{}>", words.join(" ")))
}

unsafe extern "C" fn repr(transport: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let transport = unsafe { Obj::from_ptr(transport) };
    error::guard(|| string(&describe(transport)?))
}

const GET_EXTRA_INFO: Signature = Signature {
    name: "get_extra_info",
    params: &["name", "default"],
    positional: 2,
    required: 1,
};

fn get_extra_info(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [name, default] = args.bind::<2>(&GET_EXTRA_INFO)?;
    let name = name.unwrap_or(none());
    let this = fields(transport);
    if let Some(extra) = this.extra.get() {
        if let Some(found) = builtin::dict_get(extra.obj(), name)? {
            return Ok(found);
        }
    }
    if name.equals(state().names.socket.obj())? {
        if let Some(found) = builtin::dict_get(this.full_extra()?.obj(), name)? {
            return Ok(found);
        }
    }
    Ok(default.unwrap_or(none()).to_ref())
}

fn get_extra(transport: Obj<'_>) -> R<Ref> {
    fields(transport).full_extra()
}

fn set_extra(transport: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(transport).extra.set(value.map(Obj::to_ref));
    Ok(())
}

const SET_PROTOCOL: Signature =
    Signature { name: "set_protocol", params: &["protocol"], positional: 1, required: 1 };

fn set_protocol(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    fields(transport).set_protocol(only(&args, &SET_PROTOCOL)?).map(|()| none_ref())
}

fn set_protocol_attribute(transport: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    fields(transport).set_protocol(value.unwrap_or(none()))
}

fn get_protocol(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).protocol.get_or_none())
}

fn is_closing(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).with(|stream| stream.is_closing())))
}

fn is_reading(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).with(|stream| stream.is_reading())))
}

fn can_write_eof(_transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(true))
}

const WRITE: Signature =
    Signature { name: "write", params: &["data"], positional: 1, required: 1 };

fn write(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    stream::write(transport, only(&args, &WRITE)?)
}

const WRITELINES: Signature =
    Signature { name: "writelines", params: &["list_of_data"], positional: 1, required: 1 };

fn writelines(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    stream::writelines(transport, only(&args, &WRITELINES)?)
}

/// The one argument of a method that has one, by position or name.
#[inline]
fn only<'a>(args: &Args<'a>, signature: &Signature) -> R<Obj<'a>> {
    if let ([value], false) = (args.positional(), args.has_named()) {
        return Ok(*value);
    }
    args.bind::<1>(signature).map(|[value]| value.unwrap_or(none()))
}

// ---- flow control -------------------------------------------------------------------------------

fn get_write_buffer_size(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    stream::settle(transport, this)?;
    uint(this.with(|stream| stream.queue().size_bytes()) as u64)
}

fn get_write_buffer_limits(transport: Obj<'_>) -> R<Ref> {
    let (low, high) = fields(transport).with(|stream| stream.limits());
    tuple(&[uint(low as u64)?.obj(), uint(high as u64)?.obj()])
}

const LIMITS: Signature = Signature {
    name: "set_write_buffer_limits",
    params: &["high", "low"],
    positional: 2,
    required: 0,
};

fn set_write_buffer_limits(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let this = fields(transport);
    let [high, low] = args.bind::<2>(&LIMITS)?.map(|limit| limit.filter(|limit| !limit.is_none()));
    let number = |limit: Option<Obj<'_>>| limit.map(builtin::saturating_i64).transpose();
    let (high_bytes, low_bytes) = (number(high)?, number(low)?);
    let step = match this.with(|stream| stream.handle_limits(high_bytes, low_bytes)) {
        Ok(step) => step,
        Err(error) => {
            let shown = |given: Option<Obj<'_>>, derived: i64| {
                given.map_or_else(|| Ok(derived.to_string()), Obj::repr)
            };
            let high = shown(high, error.high_bytes)?;
            let low = shown(low, error.low_bytes)?;
            return Err(Raised::value_error(&format!(
                "high ({high}) must be >= low ({low}) must be >= 0"
            )));
        }
    };
    stream::run(transport, this, step, none()).map(|()| none_ref())
}

// ---- what asyncio's own code and libraries reach for --------------------------------------------

fn force_close(transport: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    stream::settle(transport, this)?;
    stream::force_close(transport, this, exc).map(|()| none_ref())
}

const FATAL: Signature =
    Signature { name: "_fatal_error", params: &["exc", "message"], positional: 2, required: 1 };

fn fatal_error(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [exc, message] = args.bind::<2>(&FATAL)?;
    let message = match message {
        Some(message) => crate::ffi::call::text(message)?,
        None => String::from("Fatal error on transport"),
    };
    report::fatal(transport, exc.unwrap_or(none()), &message).map(|()| none_ref())
}

fn call_connection_lost(transport: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    fields(transport).lose(transport, exc).map(|()| none_ref())
}

fn make_empty_waiter(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if !this.empty_waiter.is_empty() {
        return Err(Raised::runtime("Empty waiter is already set"));
    }
    stream::settle(transport, this)?;
    let event_loop = this.event_loop.get_or_none();
    let waiter = event_loop.obj().getattr_str(c"create_future")?.obj().call0()?;
    this.empty_waiter.set(Some(waiter.clone()));
    if this.with(|stream| stream.queue().is_empty()) {
        waiter.obj().getattr_str(c"set_result")?.obj().call1(none())?;
    } else {
        this.with(|stream| stream.watch_empty(true));
    }
    Ok(waiter)
}

fn reset_empty_waiter(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    this.with(|stream| stream.watch_empty(false));
    this.empty_waiter.clear();
    Ok(none_ref())
}

fn get_sock(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if this.descriptor.is_closed() {
        return Ok(none_ref());
    }
    this.descriptor.socket(&this.socket)
}

fn get_sock_fd(transport: Obj<'_>) -> R<Ref> {
    int(fields(transport).descriptor.number().into())
}

fn get_loop(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).event_loop.get_or_none())
}

fn get_server(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).server.get_or_none())
}

fn get_buffer(transport: Obj<'_>) -> R<Ref> {
    let chunks: Vec<Ref> =
        fields(transport).with(|stream| stream.queue().iter().map(|chunk| chunk.0.clone()).collect());
    list(&chunks)
}

fn get_conn_lost(transport: Obj<'_>) -> R<Ref> {
    uint(fields(transport).with(|stream| stream.conn_lost()).into())
}

fn get_paused(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).with(|stream| stream.is_reading_paused())))
}

fn get_eof(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).with(|stream| stream.is_eof_written())))
}

fn get_protocol_paused(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).with(|stream| stream.is_protocol_paused())))
}

fn get_protocol_connected(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(transport).is_connected.get()))
}

fn get_empty_waiter(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).empty_waiter.get_or_none())
}

fn get_high_water(transport: Obj<'_>) -> R<Ref> {
    uint(fields(transport).with(|stream| stream.limits().1) as u64)
}

fn get_low_water(transport: Obj<'_>) -> R<Ref> {
    uint(fields(transport).with(|stream| stream.limits().0) as u64)
}

// ---- the type -----------------------------------------------------------------------------------

/// Creates `StreamTransport`, a subclass of `asyncio.Transport`.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    let parent = asyncio.transport_class.obj();
    let offset = layout::basic_size(parent).next_multiple_of(align_of::<Fields>());
    base::set_offset(offset);
    let class = Class::new(c"aioxide.StreamTransport", offset + size_of::<Fields>())
        .doc(
            c"StreamTransport(loop, sock, protocol, waiter=None, extra=None, server=None, *, \
              context=None)\n--\n\n\
              A connection over a TCP or Unix stream socket. Owns sock.",
        )
        .slot(c::Py_tp_new, new as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_finalize, finalize_slot as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .slot(c::Py_tp_repr, repr as *mut _)
        .dict_and_weakrefs(
            offset + offset_of!(Fields, dict),
            offset + offset_of!(Fields, weakrefs),
        )
        .methods(methods())
        .methods(private_methods())
        .attributes(attributes())
        .build(Some(parent))?;
    let set = |name, value: Obj<'_>| {
        class.obj().setattr(crate::ffi::call::interned(name)?.obj(), value)
    };
    set(c"max_size", uint(aioxide_core::buf::READ_MAX_BYTES as u64)?.obj())?;
    set(c"_start_tls_compatible", boolean(true).obj())?;
    let modes = crate::ffi::call::import(c"asyncio.constants")?.obj().getattr_str(c"_SendfileMode")?;
    set(c"_sendfile_compatible", modes.obj().getattr_str(c"TRY_NATIVE")?.obj())?;
    Ok(class)
}

fn methods() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(c"write", write, c"Writes bytes; never blocks, queues what does not leave."),
        varargs!(c"writelines", writelines, c"Writes an iterable of bytes."),
        noargs!(c"write_eof", stream::write_eof, c"Closes the writing side once all is written."),
        noargs!(c"can_write_eof", can_write_eof, c"True: the writing side can be closed alone."),
        noargs!(c"close", stream::close, c"Closes once all is written; reads no more."),
        noargs!(c"abort", stream::abort, c"Closes now; what is not written yet is lost."),
        noargs!(c"is_closing", is_closing, c"Whether the transport is closing or closed."),
        noargs!(c"is_reading", is_reading, c"Whether data is being received."),
        noargs!(c"pause_reading", stream::pause_reading, c"Delivers no data until resumed."),
        noargs!(c"resume_reading", stream::resume_reading, c"Delivers data again."),
        varargs!(c"get_extra_info", get_extra_info, c"What is known under a name, or default."),
        varargs!(c"set_protocol", set_protocol, c"Replaces the protocol."),
        noargs!(c"get_protocol", get_protocol, c"The protocol; None once the connection is lost."),
        varargs!(
            c"set_write_buffer_limits",
            set_write_buffer_limits,
            c"Sets the sizes in bytes at which the protocol is paused and resumed."
        ),
        noargs!(c"get_write_buffer_limits", get_write_buffer_limits, c"(low, high), in bytes."),
        noargs!(c"get_write_buffer_size", get_write_buffer_size, c"Bytes that wait to be sent."),
    ]
}

fn private_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(c"_start_reading", stream::start_reading, c"Begins to deliver data."),
        onearg!(c"_force_close", force_close, c"As abort(), with an exception to tell."),
        varargs!(c"_fatal_error", fatal_error, c"Reports an exception and gives the connection up."),
        onearg!(c"_call_connection_lost", call_connection_lost, c"Tells the protocol, then closes."),
        noargs!(c"_make_empty_waiter", make_empty_waiter, c"A future that awaits the empty queue."),
        noargs!(c"_reset_empty_waiter", reset_empty_waiter, c"Forgets that future."),
    ]
}

unsafe extern "C" fn get_dict(
    transport: *mut PyObject,
    closure: *mut std::ffi::c_void,
) -> *mut PyObject {
    // SAFETY: the interpreter's own getter for a type with a dict offset.
    unsafe { c::PyObject_GenericGetDict(transport, closure) }
}

fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        c::PyGetSetDef {
            name: c"__dict__".as_ptr(),
            get: Some(get_dict),
            set: None,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        },
        attribute!(c"_extra", get_extra, set_extra, c"The dict behind get_extra_info()."),
        attribute!(c"_protocol", get_protocol, set_protocol_attribute, c"The protocol, or None."),
        attribute!(c"_loop", get_loop, c"The loop; None once the connection is lost."),
        attribute!(c"_server", get_server, c"The server that accepted the connection, or None."),
        attribute!(c"_sock", get_sock, c"The socket; None once the connection is lost."),
        attribute!(c"_sock_fd", get_sock_fd, c"The descriptor's number."),
        attribute!(c"_buffer", get_buffer, c"A list of the chunks that wait to be sent."),
        attribute!(c"_conn_lost", get_conn_lost, c"0 while connected, then 1 + ignored writes."),
        attribute!(c"_closing", is_closing, c"Whether the transport is closing or closed."),
        attribute!(c"_paused", get_paused, c"Whether pause_reading() is in force."),
        attribute!(c"_eof", get_eof, c"Whether write_eof() was called."),
        attribute!(c"_protocol_paused", get_protocol_paused, c"Whether writing is paused."),
        attribute!(c"_protocol_connected", get_protocol_connected, c"Whether a protocol was set."),
        attribute!(c"_empty_waiter", get_empty_waiter, c"The future of _make_empty_waiter()."),
        attribute!(c"_high_water", get_high_water, c"The high limit, in bytes."),
        attribute!(c"_low_water", get_low_water, c"The low limit, in bytes."),
    ]
}

/// The methods that the loop's type gets from here.
pub fn loop_methods() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(c"_start_serving", server::start_serving, c"Accepts connections on a listening socket."),
        onearg!(c"_stop_serving", server::stop_serving, c"Stops accepting and closes the socket."),
        varargs!(c"_accept_connection", server::accept_connection, c"Accepts what waits at a socket."),
    ]
}
