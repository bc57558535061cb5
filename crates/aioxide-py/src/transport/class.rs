//! The Python type `StreamTransport`: life cycle and making. `surface` and `private` hold its
//! methods; `pipe_class` makes its sisters, which share the life cycle.
//!
//! May touch: the memory of transport objects. Invariants: the fields are written before anybody
//! sees the object and dropped once, in `tp_dealloc`; a transport that dies open warns, closes its
//! descriptor and leaves its server, as asyncio's does.

use std::ffi::{CStr, CString, c_int};
use std::mem::offset_of;

use pyo3_ffi as c;

use super::base::{self, Fields, fields};
use super::open::{self, Opening};
use super::{clients, private, sendfile, server, stream, surface, write};
use crate::ffi::call::{string, uint};
use crate::ffi::class::{Class, Visitor, bind_tuple, initializer, noargs, onearg, varargs};
use crate::ffi::object::boolean;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Signature, Slot, error, layout};
use crate::state::Asyncio;
use aioxide_core::stream::Rules;

// ---- life cycle ---------------------------------------------------------------------------------

/// A transport that is not open yet.
pub fn allocate(class: Obj<'_>, initial: Fields) -> R<Ref> {
    // SAFETY: a type of ours: `class` is `StreamTransport` or a sister; they have no subclasses.
    let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class.ptr().cast(), 0)) }?;
    let place = std::ptr::from_ref(fields(object.obj())).cast_mut();
    // SAFETY: fresh memory of the type's size, zeroed; nobody has seen the object, and nothing
    // that could start a collection happened since it was allocated.
    unsafe { place.write(initial) };
    Ok(object)
}

unsafe extern "C" fn new(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes the type.
    let class = unsafe { Obj::from_ptr(class.cast()) };
    error::guard(|| allocate(class, Fields::new(Rules::Socket)))
}

const INIT: Signature = Signature {
    name: "StreamTransport",
    params: &[
        "loop", "sock", "protocol", "waiter", "extra", "server", "context",
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
    let [Some(event_loop), Some(socket), Some(protocol), ..] = &bound else {
        return Err(Raised::type_error(
            "a transport needs loop, sock and protocol",
        ));
    };
    let opening = Opening {
        event_loop: event_loop.obj(),
        protocol: protocol.obj(),
        waiter: given(3),
        extra: given(4),
        server: given(5),
        context: given(6),
    };
    open::open_socket(transport, socket.obj(), &opening)
}

/// `__del__`: warns about a transport that was not closed, and closes it.
fn finalize(transport: Obj<'_>) -> R<()> {
    let this = fields(transport);
    if this.descriptor.is_closed() {
        return Ok(());
    }
    let text = format!("unclosed transport {}", surface::describe(transport)?);
    let text = CString::new(text).unwrap_or_default();
    error::resource_warning(transport, &text);
    this.close_descriptor()?;
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
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let own = self.datagrams.iter().flat_map(|own| own.slots());
        [
            &self.event_loop,
            &self.protocol,
            &self.server,
            &self.clients,
            &self.extra,
            &self.socket,
            &self.context,
            &self.read_context,
            &self.write_context,
        ]
        .into_iter()
        .chain(self.seldom.slots())
        .chain(own)
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
    clients::leave(this);
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
        // Before anything runs that could find it there.
        fields(Obj::from_ptr(transport)).forget(Obj::from_ptr(transport));
        clients::leave(fields(Obj::from_ptr(transport)));
        c::PyObject_ClearWeakRefs(transport);
        clear(transport);
        let place = std::ptr::from_ref(fields(Obj::from_ptr(transport))).cast_mut();
        place.drop_in_place();
        crate::future::free_instance(transport, class);
    }
}

unsafe extern "C" fn repr(transport: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let transport = unsafe { Obj::from_ptr(transport) };
    error::guard(|| string(&surface::describe(transport)?))
}

// ---- the type -----------------------------------------------------------------------------------

/// A class whose instances hold the fields behind those of the bases, with the life cycle of a
/// transport. All transports keep their fields at the same place.
pub fn with_fields(name: &'static CStr, asyncio: &Asyncio) -> Class {
    let offset = [&asyncio.transport_class, &asyncio.read_transport_class]
        .map(|base| layout::basic_size(base.obj()))
        .into_iter()
        .fold(0, usize::max)
        .next_multiple_of(align_of::<Fields>());
    base::set_offset(offset);
    Class::new(name, offset + size_of::<Fields>())
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_finalize, finalize_slot as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .slot(c::Py_tp_repr, repr as *mut _)
        .dict_and_weakrefs(
            offset + offset_of!(Fields, dict),
            offset + offset_of!(Fields, weakrefs),
        )
}

/// Creates `StreamTransport`, a subclass of `asyncio.Transport`.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    let class = with_fields(c"aioxide.StreamTransport", asyncio)
        .doc(
            c"StreamTransport(loop, sock, protocol, waiter=None, extra=None, server=None, *, \
              context=None)\n--\n\n\
              A connection over a TCP or Unix stream socket. Owns sock.",
        )
        .slot(c::Py_tp_new, new as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .methods(reading_methods())
        .methods(writing_methods())
        .methods(flow_methods())
        .methods(info_methods())
        .methods(private::methods())
        .attributes(private::attributes())
        .attributes(private::flags())
        .build(Some(asyncio.transport_class.obj()))?;
    let set = |name, value: Obj<'_>| {
        class
            .obj()
            .setattr(crate::ffi::call::interned(name)?.obj(), value)
    };
    set(
        c"max_size",
        uint(aioxide_core::buf::READ_MAX_BYTES as u64)?.obj(),
    )?;
    set(c"_start_tls_compatible", boolean(true).obj())?;
    let modes = crate::ffi::call::import(c"asyncio.constants")?
        .obj()
        .getattr_str(c"_SendfileMode")?;
    set(
        c"_sendfile_compatible",
        modes.obj().getattr_str(c"TRY_NATIVE")?.obj(),
    )?;
    Ok(class)
}

/// The methods that the loop's type gets from here.
pub fn loop_methods() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(
            c"_start_serving",
            server::start_serving,
            c"Accepts connections on a listening socket."
        ),
        onearg!(
            c"_stop_serving",
            server::stop_serving,
            c"Stops accepting and closes the socket."
        ),
        varargs!(
            c"_accept_connection",
            server::accept_connection,
            c"Accepts what waits at a socket."
        ),
        varargs!(
            c"_send_file",
            sendfile::send_file,
            c"Sends a file to a socket or a transport."
        ),
    ]
}

/// The public methods that write and close.
pub fn writing_methods() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(
            c"write",
            surface::write,
            c"write($self, /, data)\n--\n\nWrites bytes; never blocks, queues what does not leave."
        ),
        varargs!(
            c"writelines",
            surface::writelines,
            c"writelines($self, /, list_of_data)\n--\n\nWrites an iterable of bytes."
        ),
        noargs!(
            c"write_eof",
            write::write_eof,
            c"write_eof($self, /)\n--\n\nCloses the writing side once all is written."
        ),
        noargs!(
            c"can_write_eof",
            surface::can_write_eof,
            c"can_write_eof($self, /)\n--\n\nTrue: the writing side can be closed alone."
        ),
    ]
}

/// The public methods of what sends: aborting, and flow control.
pub fn flow_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"abort",
            stream::abort,
            c"abort($self, /)\n--\n\nCloses now; what is not written yet is lost."
        ),
        varargs!(
            c"set_write_buffer_limits",
            surface::set_write_buffer_limits,
            c"set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n\
              Sets the sizes in bytes at which the protocol is paused and resumed."
        ),
        noargs!(
            c"get_write_buffer_limits",
            surface::get_write_buffer_limits,
            c"get_write_buffer_limits($self, /)\n--\n\n(low, high), in bytes."
        ),
        noargs!(
            c"get_write_buffer_size",
            surface::get_write_buffer_size,
            c"get_write_buffer_size($self, /)\n--\n\nBytes that wait to be sent."
        ),
    ]
}

/// The public methods that read.
pub fn reading_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"is_reading",
            surface::is_reading,
            c"is_reading($self, /)\n--\n\nWhether data is being received."
        ),
        noargs!(
            c"pause_reading",
            stream::pause_reading,
            c"pause_reading($self, /)\n--\n\nDelivers no data until resumed."
        ),
        noargs!(
            c"resume_reading",
            stream::resume_reading,
            c"resume_reading($self, /)\n--\n\nDelivers data again."
        ),
    ]
}

/// The public methods of every transport.
pub fn info_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"close",
            stream::close,
            c"close($self, /)\n--\n\nCloses once all is written; reads no more."
        ),
        noargs!(
            c"is_closing",
            surface::is_closing,
            c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed."
        ),
        varargs!(
            c"get_extra_info",
            surface::get_extra_info,
            c"get_extra_info($self, /, name, default=None)\n--\n\nWhat is known under a name."
        ),
        varargs!(
            c"set_protocol",
            surface::set_protocol,
            c"set_protocol($self, /, protocol)\n--\n\nReplaces the protocol."
        ),
        noargs!(
            c"get_protocol",
            surface::get_protocol,
            c"get_protocol($self, /)\n--\n\nThe protocol; None once the connection is lost."
        ),
    ]
}
