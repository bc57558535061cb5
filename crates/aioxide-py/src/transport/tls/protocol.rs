//! The Python type `TlsProtocol`: life cycle, the protocol's methods, and the private names that
//! asyncio's own code, its tests and libraries reach for.
//!
//! May touch: the memory of protocol objects. Invariants: the fields are written before anybody
//! sees the object and dropped once, in `tp_dealloc`.

use std::ffi::c_int;
use std::mem::offset_of;

use pyo3_ffi as c;

use super::fields::{self, Fields, Making, fields};
use super::{attributes, report, run, timers, write};
use crate::ffi::call::{interned, uint};
use crate::ffi::class::{Class, Visitor, bind_tuple, initializer, noargs, onearg, varargs};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Ref, Signature, builtin, bytes, error, layout};
use crate::state::{Asyncio, state};

/// What `get_buffer()` lends to a transport that is not one of ours.
const LENT_BYTES: usize = 64 * 1024;

// ---- life cycle ---------------------------------------------------------------------------------

/// A protocol that is not begun.
pub fn allocate(class: Obj<'_>) -> R<Ref> {
    // SAFETY: `class` is `TlsProtocol` or a subclass of it.
    let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class.ptr().cast(), 0)) }?;
    let place = std::ptr::from_ref(fields(object.obj())).cast_mut();
    // SAFETY: fresh memory of the type's size, zeroed; nobody has seen the object, and nothing
    // that could start a collection happened since it was allocated.
    unsafe { place.write(Fields::new()) };
    Ok(object)
}

/// Whether `object` is exactly a `TlsProtocol`.
#[inline]
pub fn is_native(object: Obj<'_>) -> bool {
    object.type_obj().ptr() == state().types.tls_protocol.ptr()
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
    name: "TlsProtocol",
    params: &[
        "loop",
        "app_protocol",
        "sslcontext",
        "waiter",
        "server_side",
        "server_hostname",
        "call_connection_made",
        "ssl_handshake_timeout",
        "ssl_shutdown_timeout",
    ],
    positional: 9,
    required: 4,
};

fn init(protocol: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let bound = bind_tuple::<9>(args, kwargs, &INIT)?;
    let given = |index: usize| {
        bound[index]
            .as_ref()
            .map(Ref::obj)
            .filter(|value: &Obj<'_>| !value.is_none())
    };
    let flag = |index: usize, default| match &bound[index] {
        Some(value) => value.obj().is_true(),
        None => Ok(default),
    };
    let making = Making {
        event_loop: given(0).unwrap_or(none()),
        app: given(1).unwrap_or(none()),
        context: given(2).unwrap_or(none()),
        waiter: given(3),
        is_server: flag(4, false)?,
        server_hostname: given(5),
        tells_made: flag(6, true)?,
        handshake_seconds: given(7),
        shutdown_seconds: given(8),
    };
    fields::begin(protocol, &making)
}

unsafe extern "C" fn traverse(
    protocol: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let protocol = unsafe { Obj::from_ptr(protocol) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(protocol.type_ptr().cast());
    let this = fields(protocol);
    for slot in this.slots().into_iter().chain(this.engine.slots()) {
        visitor.slot(slot);
    }
    visitor.visit(this.dict.get());
    visitor.status()
}

unsafe extern "C" fn clear(protocol: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = fields(unsafe { Obj::from_ptr(protocol) });
    for slot in this.slots().into_iter().chain(this.engine.slots()) {
        slot.clear();
    }
    // SAFETY: the instance dict is an owned reference or null, and taken out before it is dropped.
    drop(unsafe { Ref::steal_opt(this.dict.replace(std::ptr::null_mut())) });
    0
}

unsafe extern "C" fn dealloc(protocol: *mut PyObject) {
    // SAFETY: an instance whose last reference just went: untracked first, so that no collection
    // sees it half taken apart.
    unsafe {
        let class = c::Py_TYPE(protocol);
        c::PyObject_GC_UnTrack(protocol.cast());
        c::PyObject_ClearWeakRefs(protocol);
        clear(protocol);
        let place = std::ptr::from_ref(fields(Obj::from_ptr(protocol))).cast_mut();
        place.drop_in_place();
        crate::future::free_instance(protocol, class);
    }
}

// ---- the protocol -------------------------------------------------------------------------------

/// `get_buffer(sizehint)`: for transports that are not ours.
fn get_buffer(protocol: Obj<'_>, _hint: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let lent = match this.lent.get() {
        Some(lent) => lent,
        None => {
            let lent = bytes::new_array(LENT_BYTES)?;
            this.lent.set(Some(lent.clone()));
            lent
        }
    };
    builtin::memoryview(lent.obj())
}

/// `buffer_updated(nbytes)`: that much of the lent buffer is ciphertext.
fn buffer_updated(protocol: Obj<'_>, len: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let len = usize::try_from(len.to_i64()?).unwrap_or(0);
    if let Some(lent) = this.lent.get() {
        let content = bytes::array_slice(&lent, bytes::array_len(&lent).min(len));
        this.engine.feed(content)?;
    }
    super::receive(protocol, &[]).map(|()| none_ref())
}

const GET_EXTRA_INFO: Signature = Signature {
    name: "_get_extra_info",
    params: &["name", "default"],
    positional: 2,
    required: 1,
};

fn get_extra_info(protocol: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [name, default] = args.bind::<2>(&GET_EXTRA_INFO)?;
    extra_info(protocol, name.unwrap_or(none()), default.unwrap_or(none()))
}

/// `_get_extra_info(name, default)`.
pub fn extra_info(protocol: Obj<'_>, name: Obj<'_>, default: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    if let Some(extra) = this.extra.get() {
        if let Some(found) = builtin::dict_get(extra.obj(), name)? {
            return Ok(found);
        }
    }
    match this.transport.get() {
        Some(transport) => {
            let args = [transport.obj(), name, default];
            let method = state().names.get_extra_info.obj();
            transport.obj().call_method(method, &args)
        }
        None => Ok(default.to_ref()),
    }
}

fn set_app_protocol(protocol: Obj<'_>, app: Obj<'_>) -> R<Ref> {
    fields(protocol).set_app(app).map(|()| none_ref())
}

fn get_app_transport(protocol: Obj<'_>) -> R<Ref> {
    fields(protocol).app_transport(protocol)
}

const FATAL: Signature = Signature {
    name: "_fatal_error",
    params: &["exc", "message"],
    positional: 2,
    required: 1,
};

fn fatal_error(protocol: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [exc, message] = args.bind::<2>(&FATAL)?;
    let message = message.map(crate::ffi::call::text).transpose()?;
    let message = message.as_deref().unwrap_or(report::ON_TRANSPORT);
    report::fatal_handled(protocol, exc.unwrap_or(none()), message).map(|()| none_ref())
}

const WAKE: Signature = Signature {
    name: "_wakeup_waiter",
    params: &["exc"],
    positional: 1,
    required: 0,
};

fn wakeup_waiter(protocol: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [exc] = args.bind::<1>(&WAKE)?;
    let exc = exc.filter(|exc| !exc.is_none());
    run::wake(fields(protocol), exc).map(|()| none_ref())
}

fn is_transport_closing(protocol: Obj<'_>) -> R<Ref> {
    match fields(protocol).transport.get() {
        Some(transport) => {
            let closing = transport
                .obj()
                .call_method0(state().names.is_closing.obj())?;
            closing.obj().is_true().map(boolean)
        }
        None => Ok(boolean(false)),
    }
}

// ---- the type -----------------------------------------------------------------------------------

/// Creates `TlsProtocol`, a subclass of `asyncio.BufferedProtocol`.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    let parent = asyncio.buffered_protocol_class.obj();
    let offset = layout::basic_size(parent).next_multiple_of(align_of::<Fields>());
    fields::set_offset(offset);
    let class = Class::new(c"aioxide.TlsProtocol", offset + size_of::<Fields>())
        .doc(
            c"TlsProtocol(loop, app_protocol, sslcontext, waiter, server_side=False, \
              server_hostname=None, call_connection_made=True, ssl_handshake_timeout=None, \
              ssl_shutdown_timeout=None)\n--\n\n\
              TLS over any transport. Times are in seconds.",
        )
        .slot(c::Py_tp_new, new as *mut _)
        .slot(c::Py_tp_init, initializer!(init))
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .dict_and_weakrefs(
            offset + offset_of!(Fields, dict),
            offset + offset_of!(Fields, weakrefs),
        )
        .methods(protocol_methods())
        .methods(private_methods())
        .attributes(attributes::object_attributes())
        .attributes(attributes::session_attributes())
        .attributes(attributes::flag_attributes())
        .build(Some(parent))?;
    let max_size = uint(super::read::PLAIN_BYTES as u64)?;
    class
        .obj()
        .setattr(interned(c"max_size")?.obj(), max_size.obj())?;
    Ok(class)
}

fn protocol_methods() -> Vec<c::PyMethodDef> {
    vec![
        onearg!(
            c"connection_made",
            run::connection_made,
            c"($self, transport)\nBegins the handshake over a transport."
        ),
        onearg!(
            c"connection_lost",
            run::connection_lost,
            c"($self, exc)\nTells the protocol above and lets everything go."
        ),
        onearg!(
            c"get_buffer",
            get_buffer,
            c"($self, sizehint)\nMemory for ciphertext."
        ),
        onearg!(
            c"buffer_updated",
            buffer_updated,
            c"($self, nbytes)\nThat much ciphertext is in the memory lent."
        ),
        noargs!(
            c"eof_received",
            run::eof_received,
            c"The transport below reached the end of its stream."
        ),
        noargs!(
            c"pause_writing",
            run::pause_writing,
            c"The transport below takes no more."
        ),
        noargs!(
            c"resume_writing",
            run::resume_writing,
            c"The transport below takes more again."
        ),
    ]
}

fn private_methods() -> Vec<c::PyMethodDef> {
    vec![
        onearg!(
            c"_set_app_protocol",
            set_app_protocol,
            c"Replaces the protocol above."
        ),
        noargs!(
            c"_get_app_transport",
            get_app_transport,
            c"The transport above."
        ),
        varargs!(
            c"_get_extra_info",
            get_extra_info,
            c"What is known under a name."
        ),
        varargs!(
            c"_fatal_error",
            fatal_error,
            c"Reports and gives the connection up."
        ),
        varargs!(
            c"_wakeup_waiter",
            wakeup_waiter,
            c"Ends the wait for the handshake."
        ),
        noargs!(
            c"_is_transport_closing",
            is_transport_closing,
            c"Whether the transport below is closing."
        ),
        noargs!(c"_start_shutdown", run::start_shutdown, c"Begins to close."),
        onearg!(c"_abort", run::abort, c"Forces the transport below closed."),
        onearg!(
            c"_write_appdata",
            write::writelines,
            c"Writes an iterable of bytes."
        ),
        noargs!(
            c"_do_read",
            run::read_on,
            c"Delivers what can be decrypted."
        ),
        noargs!(
            c"_resumed",
            run::resumed,
            c"Goes on after a pause of reading."
        ),
        noargs!(
            c"_check_handshake_timeout",
            timers::check_handshake_timeout,
            c"Gives a handshake up."
        ),
        noargs!(
            c"_check_shutdown_timeout",
            timers::check_shutdown_timeout,
            c"Gives a shutdown up."
        ),
    ]
}
