//! A stream writer: the transport's writing side, and `drain()`.
//!
//! May touch: its fields, transport, reader and protocol. Where these are plain natives they are
//! used directly, otherwise by name.
#![forbid(unsafe_code)]

use super::about::is_intact;
use super::life::{self, has_attributes, own};
use super::parts::{create_future, put, settle};
use super::protocol::{self, Protocol};
use super::reader::{self, Reader};
use crate::event_loop;
use crate::ffi::call::text;
use crate::ffi::class::bind_tuple_python;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Ref, Signature, Slot, raising};
use crate::state::state;
use crate::sync::coroutine::{self, Frame, Kind, Next, Resumed};
use crate::sync::function::{Call, Function};
use crate::transport;

/// The fields of a writer.
#[derive(Default)]
pub struct Writer {
    pub transport: Slot,
    pub protocol: Slot,
    pub reader: Slot,
    pub event_loop: Slot,
    /// A future that is done; empty until somebody asks.
    pub complete: Slot,
}

impl life::Fields for Writer {
    fn slots(&self) -> Vec<&Slot> {
        vec![
            &self.transport,
            &self.protocol,
            &self.reader,
            &self.event_loop,
            &self.complete,
        ]
    }

    /// Closes a forgotten transport, and warns.
    fn finalize(writer: Obj<'_>) -> R<()> {
        let this: &Writer = own(writer);
        if this.transport.is_empty() || is_closing(writer)?.obj().is_true()? {
            return Ok(());
        }
        let event_loop = this.event_loop.get_or_none();
        let closed = match event_loop::native(event_loop.obj()) {
            Some(native) => native.is_closed(),
            None => event_loop
                .obj()
                .getattr_str(c"is_closed")?
                .obj()
                .call0()?
                .obj()
                .is_true()?,
        };
        if closed {
            return raising::warn_resource(c"loop is closed");
        }
        writer.call_method0(state().names.close.obj())?;
        let message = format!("unclosed {}", writer.repr()?);
        raising::warn_resource(&std::ffi::CString::new(message).unwrap_or_default())
    }
}

/// Whether nothing of `writer` can be overridden.
pub fn is_plain(writer: Obj<'_>) -> bool {
    writer.type_ptr() == state().streams.writer.ptr().cast()
        && is_intact()
        && !has_attributes::<Writer>(writer)
}

const INIT: Signature = Signature {
    name: "StreamWriter.__init__",
    params: &["transport", "protocol", "reader", "loop"],
    positional: 4,
    required: 4,
};

/// `__init__(transport, protocol, reader, loop)`.
pub fn init(writer: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let bound = bind_tuple_python::<4>(args, kwargs, &INIT)?;
    let [transport, protocol, reader, event_loop] =
        bound.map(|value| value.unwrap_or_else(none_ref));
    let this: &Writer = own(writer);
    put(&this.transport, transport.obj());
    put(&this.protocol, protocol.obj());
    // drain() expects that the reader has an exception() method.
    let class = state().streams.reader_class.obj();
    if !reader.obj().is_none() && !reader.obj().isinstance(class)? {
        return Err(raising::bare_assertion());
    }
    put(&this.reader, reader.obj());
    put(&this.event_loop, event_loop.obj());
    this.complete.clear();
    Ok(())
}

/// A writer of exactly the native type, for a new connection.
pub fn create(
    transport: Obj<'_>,
    protocol: Obj<'_>,
    reader: Obj<'_>,
    event_loop: Obj<'_>,
) -> R<Ref> {
    let writer = life::allocate::<Writer>(state().streams.writer.obj())?;
    let this: &Writer = own(writer.obj());
    put(&this.transport, transport);
    put(&this.protocol, protocol);
    put(&this.reader, reader);
    put(&this.event_loop, event_loop);
    Ok(writer)
}

/// `repr(writer)`.
pub fn describe(writer: Obj<'_>) -> R<String> {
    let this: &Writer = own(writer);
    let name = writer.type_obj().getattr_str(c"__name__")?;
    let mut words = vec![text(name.obj())?];
    words.push(format!(
        "transport={}",
        this.transport.get_or_none().obj().repr()?
    ));
    if let Some(reader) = this.reader.get() {
        words.push(format!("reader={}", reader.obj().repr()?));
    }
    Ok(format!("<{}>", words.join(" ")))
}

/// `_complete_fut`.
pub fn complete(writer: Obj<'_>) -> R<Ref> {
    let this: &Writer = own(writer);
    if let Some(complete) = this.complete.get() {
        return Ok(complete);
    }
    let complete = create_future(this.event_loop.get())?;
    settle(complete.obj(), none())?;
    this.complete.set(Some(complete.clone()));
    Ok(complete)
}

// ---- what goes to the transport -----------------------------------------------------------------

/// `write(data)`.
pub fn write(writer: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let transport = own::<Writer>(writer).transport.get_or_none();
    if transport::is_plain_stream(transport.obj()) {
        return transport::write_stream(transport.obj(), data).map(|_| none_ref());
    }
    let name = state().names.write.obj();
    transport.obj().call_method1(name, data).map(|_| none_ref())
}

/// `writelines(data)`.
pub fn writelines(writer: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let transport = own::<Writer>(writer).transport.get_or_none();
    let name = state().names.writelines.obj();
    transport.obj().call_method1(name, data).map(|_| none_ref())
}

/// `write_eof()`.
pub fn write_eof(writer: Obj<'_>) -> R<Ref> {
    let transport = own::<Writer>(writer).transport.get_or_none();
    transport.obj().call_method0(state().names.write_eof.obj())
}

/// `can_write_eof()`.
pub fn can_write_eof(writer: Obj<'_>) -> R<Ref> {
    let transport = own::<Writer>(writer).transport.get_or_none();
    let name = state().names.can_write_eof.obj();
    transport.obj().call_method0(name)
}

/// `close()`.
pub fn close(writer: Obj<'_>) -> R<Ref> {
    let transport = own::<Writer>(writer).transport.get_or_none();
    transport.obj().call_method0(state().names.close.obj())
}

/// `is_closing()`.
pub fn is_closing(writer: Obj<'_>) -> R<Ref> {
    let transport = own::<Writer>(writer).transport.get_or_none();
    transport.obj().call_method0(state().names.is_closing.obj())
}

/// Whether the transport is closing.
fn transport_is_closing(this: &Writer) -> R<bool> {
    let transport = this.transport.get_or_none();
    if transport::is_plain_stream(transport.obj()) {
        return Ok(transport::is_stream_closing(transport.obj()));
    }
    let name = state().names.is_closing.obj();
    transport.obj().call_method0(name)?.obj().is_true()
}

const GET_EXTRA_INFO: Signature = Signature {
    name: "StreamWriter.get_extra_info",
    params: &["name", "default"],
    positional: 2,
    required: 1,
};

/// `get_extra_info(name, default=None)`.
pub fn get_extra_info(writer: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [name, default] = args.bind_python::<2>(&GET_EXTRA_INFO)?;
    let transport = own::<Writer>(writer).transport.get_or_none();
    let method = state().names.get_extra_info.obj();
    let args = [
        transport.obj(),
        name.unwrap_or(none()),
        default.unwrap_or(none()),
    ];
    transport.obj().call_method(method, &args)
}

// ---- coroutines ---------------------------------------------------------------------------------

/// Every coroutine's first slot: the writer, or the protocol.
pub const OWNER: usize = 0;
/// The future in which a coroutine waits for room, and the protocol that will complete it.
const WAITER: usize = 1;
const PROTOCOL: usize = 2;

/// The stage at the start.
pub const BEGIN: u8 = 0;
/// A closing transport had a turn to tell of its loss.
const YIELDED: u8 = 1;
/// Waits for room in the protocol's own deque.
const DRAINS: u8 = 2;
/// Waits in something else.
const CALLED: u8 = 3;

/// `drain()`.
pub static DRAIN: Function = Function {
    name: "drain",
    qualname: "StreamWriter.drain",
    signature: "(self)",
    doc: "Waits until the transport has room: `writer.write(data); await writer.drain()`.",
    call: Call::Method(|writer, args| {
        const SIGNATURE: Signature = no_arguments("StreamWriter.drain");
        let [] = args.bind_python::<0>(&SIGNATURE)?;
        coroutine::create(&KIND_DRAIN, [Some(writer.to_ref())])
    }),
};

const fn no_arguments(name: &'static str) -> Signature {
    Signature {
        name,
        params: &[],
        positional: 0,
        required: 0,
    }
}

/// `drain()`.
pub static KIND_DRAIN: Kind = Kind {
    name: "drain",
    qualname: "StreamWriter.drain",
    body: drain,
    quick: None,
};

fn drain(frame: &Frame, resumed: Resumed) -> R<Next> {
    let writer = frame.slots[OWNER].get_or_none();
    let this: &Writer = own(writer.obj());
    match frame.stage.get() {
        BEGIN => {
            check_reader(this)?;
            if transport_is_closing(this)? {
                // A turn for connection_lost(): a loop of write() and drain() must come to see it.
                frame.stage.set(YIELDED);
                return Ok(Next::Yield);
            }
        }
        YIELDED => drop(resumed.value()?),
        DRAINS => return drained(frame, resumed),
        _ => return resumed.value().map(|_| Next::Return(none_ref())),
    }
    let protocol = this.protocol.get_or_none();
    if protocol::is_plain(protocol.obj()) {
        return begin_draining(frame, protocol.obj());
    }
    frame.stage.set(CALLED);
    let helper = protocol
        .obj()
        .call_method0(state().names._drain_helper.obj())?;
    Ok(Next::Await(helper))
}

/// Raises the exception that was set on the reader.
fn check_reader(this: &Writer) -> R<()> {
    let Some(reader) = this.reader.get() else {
        return Ok(());
    };
    if reader::is_plain(reader.obj()) {
        return reader::check_exception(own::<Reader>(reader.obj()));
    }
    let exc = reader.obj().call_method0(state().names.exception.obj())?;
    if exc.obj().is_none() {
        return Ok(());
    }
    Err(raising::raise(exc.obj()))
}

fn begin_draining(frame: &Frame, protocol: Obj<'_>) -> R<Next> {
    let Some(waiter) = own::<Protocol>(protocol).begin_draining()? else {
        return Ok(Next::Return(none_ref()));
    };
    frame.slots[WAITER].set(Some(waiter.clone()));
    frame.slots[PROTOCOL].set(Some(protocol.to_ref()));
    frame.stage.set(DRAINS);
    Ok(Next::Await(waiter))
}

fn drained(frame: &Frame, resumed: Resumed) -> R<Next> {
    let [waiter, protocol] = [WAITER, PROTOCOL].map(|slot| frame.slots[slot].get_or_none());
    own::<Protocol>(protocol.obj()).end_draining(waiter.obj())?;
    resumed.value().map(|_| Next::Return(none_ref()))
}

/// `_drain_helper()` of a protocol.
pub static DRAIN_HELPER: Function = Function {
    name: "_drain_helper",
    qualname: "FlowControlMixin._drain_helper",
    signature: "(self)",
    doc: "Waits until writing is not paused; ConnectionResetError once the connection is lost.",
    call: Call::Method(|protocol, args| {
        const SIGNATURE: Signature = no_arguments("FlowControlMixin._drain_helper");
        let [] = args.bind_python::<0>(&SIGNATURE)?;
        coroutine::create(&KIND_DRAIN_HELPER, [Some(protocol.to_ref())])
    }),
};

static KIND_DRAIN_HELPER: Kind = Kind {
    name: "_drain_helper",
    qualname: "FlowControlMixin._drain_helper",
    body: |frame, resumed| {
        let protocol = frame.slots[OWNER].get_or_none();
        match frame.stage.get() {
            BEGIN => begin_draining(frame, protocol.obj()),
            _ => drained(frame, resumed),
        }
    },
    quick: None,
};

/// `wait_closed()`.
pub static WAIT_CLOSED: Function = Function {
    name: "wait_closed",
    qualname: "StreamWriter.wait_closed",
    signature: "(self)",
    doc: "Waits until the connection is closed.",
    call: Call::Method(|writer, args| {
        const SIGNATURE: Signature = no_arguments("StreamWriter.wait_closed");
        let [] = args.bind_python::<0>(&SIGNATURE)?;
        coroutine::create(&KIND_WAIT_CLOSED, [Some(writer.to_ref())])
    }),
};

static KIND_WAIT_CLOSED: Kind = Kind {
    name: "wait_closed",
    qualname: "StreamWriter.wait_closed",
    body: |frame, resumed| {
        if frame.stage.get() != BEGIN {
            return resumed.value().map(|_| Next::Return(none_ref()));
        }
        let writer = frame.slots[OWNER].get_or_none();
        let protocol = own::<Writer>(writer.obj()).protocol.get_or_none();
        let name = state().names._get_close_waiter.obj();
        let waiter = protocol.obj().call_method1(name, writer.obj())?;
        frame.stage.set(CALLED);
        Ok(Next::Await(waiter))
    },
    quick: None,
};
