//! The Python type `SSLTransport`: what the application writes to.
//!
//! May touch: the memory of these objects, and the protocol below. Invariants: as of `protocol`; a
//! transport that dies unclosed warns, as asyncio's does.

use std::ffi::c_int;
use std::mem::offset_of;

use aioxide_core::tls::{READ_HIGH_WATER_BYTES, WRITE_HIGH_WATER_BYTES};
use pyo3_ffi as c;

use super::fields::{AppFields, Fields, app_fields, fields, set_app_offset};
use super::limits::{self, Limits};
use super::read::Input;
use super::{protocol, run, write};
use crate::ffi::call::{interned, uint};
use crate::ffi::class::{Class, Visitor, attribute, noargs, onearg, varargs};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, Signature, Slot, builtin, error, layout};
use crate::state::{Asyncio, state};
use crate::transport::surface::only;

// ---- life cycle ---------------------------------------------------------------------------------

/// The transport of `protocol`.
pub fn create(event_loop: Obj<'_>, protocol: Obj<'_>) -> R<Ref> {
    let class = state().types.tls_transport.ptr().cast();
    // SAFETY: a ready type of ours; its memory comes zeroed, which is valid for every field.
    let made = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    let this = app_fields(made.obj());
    this.event_loop.set(Some(event_loop.to_ref()));
    this.protocol.set(Some(protocol.to_ref()));
    Ok(made)
}

/// `__del__`: warns about a transport that was not closed.
fn finalize(transport: Obj<'_>) -> R<()> {
    if !app_fields(transport).is_closed.replace(true) {
        error::resource_warning(transport, c"unclosed transport <SSLTransport object>");
    }
    Ok(())
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

impl AppFields {
    fn slots(&self) -> [&Slot; 2] {
        [&self.event_loop, &self.protocol]
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
    let this = app_fields(transport);
    for slot in this.slots() {
        visitor.slot(slot);
    }
    visitor.visit(this.dict.get());
    visitor.status()
}

unsafe extern "C" fn clear(transport: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = app_fields(unsafe { Obj::from_ptr(transport) });
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
        let place = std::ptr::from_ref(app_fields(Obj::from_ptr(transport))).cast_mut();
        place.drop_in_place();
        crate::future::free_instance(transport, class);
    }
}

// ---- methods ------------------------------------------------------------------------------------

/// Runs `body` on the protocol's fields; a transport that was closed twice has let go of it, and
/// nothing comes of anything.
fn with_below(transport: Obj<'_>, body: impl FnOnce(Obj<'_>, &Fields) -> R<Ref>) -> R<Ref> {
    match app_fields(transport).protocol.get() {
        Some(protocol) => body(protocol.obj(), fields(protocol.obj())),
        None => Ok(none_ref()),
    }
}

const GET_EXTRA_INFO: Signature = Signature {
    name: "get_extra_info",
    params: &["name", "default"],
    positional: 2,
    required: 1,
};

fn get_extra_info(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [name, default] = args.bind::<2>(&GET_EXTRA_INFO)?;
    let (name, default) = (name.unwrap_or(none()), default.unwrap_or(none()));
    match app_fields(transport).protocol.get() {
        Some(protocol) => protocol::extra_info(protocol.obj(), name, default),
        None => Ok(default.to_ref()),
    }
}

const SET_PROTOCOL: Signature = Signature {
    name: "set_protocol",
    params: &["protocol"],
    positional: 1,
    required: 1,
};

fn set_protocol(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let app = only(&args, &SET_PROTOCOL)?;
    with_below(transport, |_, this| this.set_app(app).map(|()| none_ref()))
}

fn get_protocol(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| Ok(this.app.get_or_none()))
}

fn is_closing(transport: Obj<'_>) -> R<Ref> {
    run::is_closing(transport).map(boolean)
}

fn close(transport: Obj<'_>) -> R<Ref> {
    let this = app_fields(transport);
    if this.is_closed.replace(true) {
        this.close_again();
        return Ok(none_ref());
    }
    with_below(transport, |protocol, _| run::start_shutdown(protocol))
}

fn abort(transport: Obj<'_>) -> R<Ref> {
    force_close(transport, none())
}

fn force_close(transport: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    app_fields(transport).is_closed.set(true);
    with_below(transport, |protocol, _| run::abort(protocol, exc))
}

fn is_reading(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| {
        Ok(boolean(!this.with(|tls| tls.is_reading_paused())))
    })
}

fn pause_reading(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| {
        this.with(|tls| tls.handle_pause_reading());
        Ok(none_ref())
    })
}

fn resume_reading(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |protocol, this| {
        if this.with(|tls| tls.handle_resume_reading()) {
            let resumed = protocol.getattr(state().names._resumed.obj())?;
            this.call_soon(resumed.obj(), &[])?;
        }
        Ok(none_ref())
    })
}

const WRITE_LIMITS: Signature = Signature {
    name: "set_write_buffer_limits",
    params: &["high", "low"],
    positional: 2,
    required: 0,
};

fn set_write_buffer_limits(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    with_below(transport, |protocol, this| {
        let limits = Limits::of(args.bind::<2>(&WRITE_LIMITS)?, WRITE_HIGH_WATER_BYTES)?;
        this.write_limits.set(limits.shown()?);
        let (high, low) = limits.bytes()?;
        let step = this.with(|tls| tls.handle_write_limits(Some(high), Some(low)));
        let step = step.map_err(|_| limits.refused())?;
        run::run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
    })
}

const READ_LIMITS: Signature = Signature {
    name: "set_read_buffer_limits",
    ..WRITE_LIMITS
};

fn set_read_buffer_limits(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    with_below(transport, |protocol, this| {
        let limits = Limits::of(args.bind::<2>(&READ_LIMITS)?, READ_HIGH_WATER_BYTES)?;
        this.read_limits.set(limits.shown()?);
        let (high, low) = limits.bytes()?;
        let step = this.with(|tls| tls.handle_read_limits(Some(high), Some(low)));
        let step = step.map_err(|_| limits.refused())?;
        run::run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
    })
}

fn get_write_buffer_limits(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| match this.write_limits.get() {
        Some(shown) => Ok(shown),
        None => limits::pair(this.with(|tls| tls.write_limits())),
    })
}

fn get_read_buffer_limits(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| match this.read_limits.get() {
        Some(shown) => Ok(shown),
        None => limits::pair(this.with(|tls| tls.read_limits())),
    })
}

fn get_write_buffer_size(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| {
        let outgoing = this.engine.outgoing_len()?;
        uint((outgoing + this.with(|tls| tls.backlog().size_bytes())) as u64)
    })
}

fn get_read_buffer_size(transport: Obj<'_>) -> R<Ref> {
    with_below(
        transport,
        |_, this| uint(this.engine.incoming_len()? as u64),
    )
}

const WRITE: Signature = Signature {
    name: "write",
    params: &["data"],
    positional: 1,
    required: 1,
};

fn write_data(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    write::write(transport, only(&args, &WRITE)?)
}

const WRITELINES: Signature = Signature {
    name: "writelines",
    params: &["list_of_data"],
    ..WRITE
};

fn writelines(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let lines = only(&args, &WRITELINES)?;
    with_below(transport, |protocol, _| write::writelines(protocol, lines))
}

fn write_eof(_transport: Obj<'_>) -> R<Ref> {
    Err(builtin::not_implemented())
}

fn can_write_eof(_transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(false))
}

fn append_backlog(transport: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    with_below(transport, |protocol, _| {
        write::append_backlog(protocol, data)
    })
}

// ---- attributes ---------------------------------------------------------------------------------

fn get_loop(transport: Obj<'_>) -> R<Ref> {
    Ok(app_fields(transport).event_loop.get_or_none())
}

fn get_ssl_protocol(transport: Obj<'_>) -> R<Ref> {
    Ok(app_fields(transport).protocol.get_or_none())
}

fn get_closed(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(app_fields(transport).is_closed.get()))
}

fn set_closed(transport: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let closed = value.map_or(Ok(false), Obj::is_true)?;
    app_fields(transport).is_closed.set(closed);
    Ok(())
}

fn get_protocol_paused(transport: Obj<'_>) -> R<Ref> {
    with_below(transport, |_, this| {
        Ok(boolean(this.with(|tls| tls.is_protocol_paused())))
    })
}

unsafe extern "C" fn get_dict(
    transport: *mut PyObject,
    closure: *mut std::ffi::c_void,
) -> *mut PyObject {
    // SAFETY: the interpreter's own getter for a type with a dict offset.
    unsafe { c::PyObject_GenericGetDict(transport, closure) }
}

// ---- the type -----------------------------------------------------------------------------------

/// Creates `SSLTransport` (named so because programs look for "ssl" in a transport's class),
/// a subclass of `asyncio.Transport` that only a `TlsProtocol` can make.
pub fn build_type(asyncio: &Asyncio) -> R<Ref> {
    let parent = asyncio.transport_class.obj();
    let offset = layout::basic_size(parent).next_multiple_of(align_of::<AppFields>());
    set_app_offset(offset);
    let class = Class::new(c"aioxide.SSLTransport", offset + size_of::<AppFields>())
        .doc(c"A TLS connection as its protocol sees it. Made by TlsProtocol.")
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_finalize, finalize_slot as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .dict_and_weakrefs(
            offset + offset_of!(AppFields, dict),
            offset + offset_of!(AppFields, weakrefs),
        )
        .methods(stream_methods())
        .methods(info_methods())
        .attributes(attributes())
        .build(Some(parent))?;
    let set = |name, value: Obj<'_>| class.obj().setattr(interned(name)?.obj(), value);
    set(c"_start_tls_compatible", boolean(true).obj())?;
    let constants = crate::ffi::call::import(c"asyncio.constants")?;
    let modes = constants.obj().getattr_str(c"_SendfileMode")?;
    let fallback = modes.obj().getattr_str(c"FALLBACK")?;
    set(c"_sendfile_compatible", fallback.obj())?;
    Ok(class)
}

/// The methods that read, write and close.
fn stream_methods() -> Vec<c::PyMethodDef> {
    vec![
        varargs!(
            c"write",
            write_data,
            c"write($self, /, data)\n--\n\nEncrypts and writes bytes; never blocks."
        ),
        varargs!(
            c"writelines",
            writelines,
            c"writelines($self, /, list_of_data)\n--\n\nEncrypts and writes an iterable of bytes."
        ),
        noargs!(
            c"write_eof",
            write_eof,
            c"write_eof($self, /)\n--\n\nRaises NotImplementedError: TLS closes as a whole."
        ),
        noargs!(
            c"can_write_eof",
            can_write_eof,
            c"can_write_eof($self, /)\n--\n\nFalse: TLS closes as a whole."
        ),
        noargs!(
            c"close",
            close,
            c"close($self, /)\n--\n\nCloses once all is written and the peer agrees."
        ),
        noargs!(
            c"abort",
            abort,
            c"abort($self, /)\n--\n\nCloses now; what is not written yet is lost."
        ),
        onearg!(
            c"_force_close",
            force_close,
            c"As abort(), with an exception to tell."
        ),
        noargs!(
            c"pause_reading",
            pause_reading,
            c"pause_reading($self, /)\n--\n\nDelivers no data until resumed."
        ),
        noargs!(
            c"resume_reading",
            resume_reading,
            c"resume_reading($self, /)\n--\n\nDelivers data again."
        ),
        onearg!(
            c"_test__append_write_backlog",
            append_backlog,
            c"Queues data unencrypted."
        ),
    ]
}

/// The methods that ask and set.
fn info_methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(
            c"is_closing",
            is_closing,
            c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed."
        ),
        noargs!(
            c"is_reading",
            is_reading,
            c"is_reading($self, /)\n--\n\nWhether data is being delivered."
        ),
        varargs!(
            c"get_extra_info",
            get_extra_info,
            c"get_extra_info($self, /, name, default=None)\n--\n\nWhat is known under a name."
        ),
        varargs!(
            c"set_protocol",
            set_protocol,
            c"set_protocol($self, /, protocol)\n--\n\nReplaces the protocol."
        ),
        noargs!(
            c"get_protocol",
            get_protocol,
            c"get_protocol($self, /)\n--\n\nThe protocol; None once the connection is lost."
        ),
        varargs!(
            c"set_write_buffer_limits",
            set_write_buffer_limits,
            c"set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n\
              Sets the sizes in bytes at which the protocol is paused and resumed."
        ),
        noargs!(
            c"get_write_buffer_limits",
            get_write_buffer_limits,
            c"get_write_buffer_limits($self, /)\n--\n\n(low, high), in bytes."
        ),
        noargs!(
            c"get_write_buffer_size",
            get_write_buffer_size,
            c"get_write_buffer_size($self, /)\n--\n\nBytes not passed on to the transport below."
        ),
        varargs!(
            c"set_read_buffer_limits",
            set_read_buffer_limits,
            c"set_read_buffer_limits($self, /, high=None, low=None)\n--\n\n\
              Sets the sizes in bytes at which the transport below is paused and resumed."
        ),
        noargs!(
            c"get_read_buffer_limits",
            get_read_buffer_limits,
            c"get_read_buffer_limits($self, /)\n--\n\n(low, high), in bytes."
        ),
        noargs!(
            c"get_read_buffer_size",
            get_read_buffer_size,
            c"get_read_buffer_size($self, /)\n--\n\nBytes that wait to be decrypted."
        ),
    ]
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
        attribute!(c"_loop", get_loop, c"The loop."),
        attribute!(c"_ssl_protocol", get_ssl_protocol, c"The protocol below."),
        attribute!(
            c"_closed",
            get_closed,
            set_closed,
            c"Whether it is closing or lost."
        ),
        attribute!(
            c"_protocol_paused",
            get_protocol_paused,
            c"Whether writing is paused."
        ),
    ]
}
