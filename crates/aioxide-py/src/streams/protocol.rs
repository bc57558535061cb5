//! The protocol between a transport and a stream reader: what comes in, and flow control.
//!
//! Duty: `StreamReaderProtocol` and `FlowControlMixin`, but for how a connection begins and ends.
//! May touch: its fields, the reader. The reader is held weakly, except on a server until the
//! handler has it. The futures `_closed` and `_drain_waiters` are made when somebody asks.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::about::is_intact;
use super::life::{self, has_attributes, own};
use super::parts::{create_future, is_done, loop_or_current, settle};
use super::reader;
use crate::event_loop;
use crate::ffi::call::import;
use crate::ffi::class::bind_tuple_python;
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, Signature, Slot, builtin, raising, weak};
use crate::future;
use crate::state::state;
use crate::transport;

/// The fields of a protocol.
#[derive(Default)]
pub struct Protocol {
    pub event_loop: Slot,
    /// A weak reference to the reader.
    pub reader_wr: Slot,
    /// The reader, until a connection is there.
    pub strong_reader: Slot,
    pub source_traceback: Slot,
    pub task: Slot,
    pub transport: Slot,
    /// Before 3.13: the writer that was made.
    pub writer: Slot,
    pub client_connected_cb: Slot,
    /// Done when the connection is lost; empty until somebody asks.
    pub closed: Slot,
    /// What the connection was lost by, while nobody has asked for `closed`.
    pub lost_by: Slot,
    /// A `deque` of futures; empty until somebody waits.
    pub drain_waiters: Slot,
    pub reject_connection: Cell<bool>,
    pub over_ssl: Cell<bool>,
    pub paused: Cell<bool>,
    pub connection_lost: Cell<bool>,
    /// The connection was lost: `closed` is to be done.
    pub is_closed: Cell<bool>,
}

impl life::Fields for Protocol {
    fn slots(&self) -> Vec<&Slot> {
        vec![
            &self.event_loop,
            &self.reader_wr,
            &self.strong_reader,
            &self.source_traceback,
            &self.task,
            &self.transport,
            &self.writer,
            &self.client_connected_cb,
            &self.closed,
            &self.lost_by,
            &self.drain_waiters,
        ]
    }

    /// Nobody needs to be told of an exception that nobody asked for.
    fn finalize(protocol: Obj<'_>) -> R<()> {
        let Some(closed) = own::<Protocol>(protocol).closed.get() else {
            return Ok(());
        };
        let names = &state().names;
        if future::is_native(closed.obj()) {
            let closed = future::fields(closed.obj());
            if !closed.is_pending() {
                closed.log_traceback.set(false);
            }
        } else if is_done(closed.obj())? {
            let cancelled = closed.obj().call_method0(names.cancelled.obj())?;
            if !cancelled.obj().is_true()? {
                closed.obj().call_method0(names.exception.obj())?;
            }
        }
        Ok(())
    }
}

/// Whether nothing of `protocol` can be overridden: its parts may be used directly.
#[inline]
pub fn is_plain(protocol: Obj<'_>) -> bool {
    protocol.type_ptr() == state().streams.protocol.ptr().cast()
        && is_intact()
        && !has_attributes::<Protocol>(protocol)
}

const INIT: Signature = Signature {
    name: "StreamReaderProtocol.__init__",
    params: &["stream_reader", "client_connected_cb", "loop"],
    positional: 3,
    required: 1,
};

/// `__init__(stream_reader, client_connected_cb=None, loop=None)`.
pub fn init(protocol: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let [reader, callback, event_loop] = bind_tuple_python::<3>(args, kwargs, &INIT)?;
    let event_loop = loop_or_current(event_loop)?;
    let given = |value: &Option<Ref>| value.clone().filter(|value| !value.obj().is_none());
    let this: &Protocol = own(protocol);
    this.begin(&event_loop, given(&reader), given(&callback))
}

impl Protocol {
    /// What `__init__` does with its arguments.
    pub fn begin(&self, event_loop: &Ref, reader: Option<Ref>, callback: Option<Ref>) -> R<()> {
        self.event_loop.set(Some(event_loop.clone()));
        self.reader_wr.clear();
        if let Some(reader) = &reader {
            let weak = weak::weak_reference(reader.obj())?;
            self.reader_wr.set(Some(weak));
            let name = state().names._source_traceback.obj();
            let traceback = match reader::native(reader.obj()) {
                Some(native) => native.source_traceback.get(),
                None => Some(reader.obj().getattr(name)?),
            };
            self.source_traceback
                .set(traceback.filter(|traceback| !traceback.obj().is_none()));
        }
        if callback.is_some() {
            // Made by a server: nobody else holds the reader until the handler does.
            self.strong_reader.set(reader);
        }
        self.client_connected_cb.set(callback);
        for slot in [
            &self.task,
            &self.transport,
            &self.closed,
            &self.lost_by,
            &self.drain_waiters,
        ] {
            slot.clear();
        }
        for flag in [
            &self.reject_connection,
            &self.over_ssl,
            &self.paused,
            &self.connection_lost,
            &self.is_closed,
        ] {
            flag.set(false);
        }
        Ok(())
    }

    /// The reader, if it is alive.
    #[inline]
    fn weak_reader(&self) -> Option<Ref> {
        let weak = self.reader_wr.get()?;
        weak::dereference(weak.obj())
    }

    /// `_closed`: done when the connection is lost.
    pub fn closed(&self) -> R<Ref> {
        if let Some(closed) = self.closed.get() {
            return Ok(closed);
        }
        let closed = create_future(self.event_loop.get())?;
        if self.is_closed.get() {
            settle(closed.obj(), self.lost_by.get_or_none().obj())?;
        }
        self.closed.set(Some(closed.clone()));
        Ok(closed)
    }

    /// The connection is lost: whoever asks, or has asked, for `_closed` is told.
    pub fn close(&self, exc: Obj<'_>) -> R<()> {
        let Some(closed) = self.closed.get() else {
            if !self.is_closed.replace(true) {
                super::parts::put(&self.lost_by, exc);
            }
            return Ok(());
        };
        if is_done(closed.obj())? {
            return Ok(());
        }
        settle(closed.obj(), exc)
    }

    /// `_drain_waiters`.
    pub fn waiters(&self) -> R<Ref> {
        if let Some(waiters) = self.drain_waiters.get() {
            return Ok(waiters);
        }
        let class = import(c"collections")?.obj().getattr_str(c"deque")?;
        let waiters = class.obj().call0()?;
        self.drain_waiters.set(Some(waiters.clone()));
        Ok(waiters)
    }
}

/// `_stream_reader`: the reader or None.
pub fn stream_reader(protocol: Obj<'_>) -> R<Ref> {
    Ok(own::<Protocol>(protocol)
        .weak_reader()
        .unwrap_or_else(none_ref))
}

/// The reader as asyncio looks it up.
pub fn reader_of(protocol: Obj<'_>) -> R<Option<Ref>> {
    if is_plain(protocol) {
        return Ok(own::<Protocol>(protocol).weak_reader());
    }
    let reader = protocol.getattr(state().names._stream_reader.obj())?;
    Ok(Some(reader).filter(|reader| !reader.obj().is_none()))
}

// ---- what comes in ------------------------------------------------------------------------------

/// `protocol.data_received(data)`, from a transport of ours. Returns what was only lent.
#[inline]
pub fn deliver(protocol: Obj<'_>, data: Ref) -> R<Option<Ref>> {
    if !is_plain(protocol) {
        let name = state().names.data_received.obj();
        let answer = protocol.call_method1(name, data.obj())?;
        drop(answer);
        return Ok(Some(data));
    }
    match own::<Protocol>(protocol).weak_reader() {
        Some(reader) => pass_on(reader.obj(), data).map(|()| None),
        None => Ok(None),
    }
}

/// The size of the pieces in which large data is best delivered, if any is: that of the reads of a
/// native reader who has nothing left.
pub fn piece_len(protocol: Obj<'_>) -> Option<usize> {
    if !is_plain(protocol) {
        return None;
    }
    let reader = own::<Protocol>(protocol).weak_reader()?;
    reader::native(reader.obj()).and_then(|this| this.piece_len(reader.obj()))
}

#[inline]
fn pass_on(reader: Obj<'_>, data: Ref) -> R<()> {
    if reader::is_plain(reader) && data.obj().is_exact_bytes() {
        return reader::feed(reader, own(reader), data);
    }
    reader
        .call_method1(state().names.feed_data.obj(), data.obj())
        .map(drop)
}

/// `data_received(data)`.
pub fn data_received(protocol: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    if let Some(reader) = reader_of(protocol)? {
        let is_empty = crate::ffi::bytes::slice(data).is_none_or(<[u8]>::is_empty);
        if is_empty {
            let name = state().names.feed_data.obj();
            reader.obj().call_method1(name, data)?;
        } else {
            pass_on(reader.obj(), data.to_ref())?;
        }
    }
    Ok(none_ref())
}

/// `eof_received()`: whether the transport stays open for writing.
pub fn eof_received(protocol: Obj<'_>) -> R<Ref> {
    if let Some(reader) = reader_of(protocol)? {
        if reader::is_plain(reader.obj()) {
            reader::feed_eof(reader.obj())?;
        } else {
            reader.obj().call_method0(state().names.feed_eof.obj())?;
        }
    }
    // Over TLS it cannot, and a true answer would be warned of.
    Ok(boolean(!own::<Protocol>(protocol).over_ssl.get()))
}

// ---- flow control -------------------------------------------------------------------------------

fn log_debug(protocol: Obj<'_>, format: &str) -> R<()> {
    let event_loop = own::<Protocol>(protocol).event_loop.get_or_none();
    if event_loop::debug_of(event_loop.obj())? {
        transport::log_debug(format, &[protocol])?;
    }
    Ok(())
}

/// `pause_writing()`.
pub fn pause_writing(protocol: Obj<'_>) -> R<Ref> {
    if own::<Protocol>(protocol).paused.replace(true) {
        return Err(raising::bare_assertion());
    }
    log_debug(protocol, "%r pauses writing").map(|()| none_ref())
}

/// `resume_writing()`.
pub fn resume_writing(protocol: Obj<'_>) -> R<Ref> {
    let this: &Protocol = own(protocol);
    if !this.paused.replace(false) {
        return Err(raising::bare_assertion());
    }
    log_debug(protocol, "%r resumes writing")?;
    this.tell_waiters(none()).map(|()| none_ref())
}

impl Protocol {
    /// Ends every wait for room.
    fn tell_waiters(&self, exc: Obj<'_>) -> R<()> {
        let Some(waiters) = self.drain_waiters.get() else {
            return Ok(());
        };
        let waiters = builtin::iter(waiters.obj())?;
        while let Some(waiter) = builtin::next(waiters.obj())? {
            if !is_done(waiter.obj())? {
                settle(waiter.obj(), exc)?;
            }
        }
        Ok(())
    }

    /// `FlowControlMixin.connection_lost(exc)`.
    pub fn lose(&self, exc: Obj<'_>) -> R<()> {
        self.connection_lost.set(true);
        if self.paused.get() {
            self.tell_waiters(exc)?;
        }
        Ok(())
    }

    /// Begins to wait for room: what is to be awaited, or nothing. `end_draining` follows.
    pub fn begin_draining(&self) -> R<Option<Ref>> {
        if self.connection_lost.get() {
            return Err(Raised::new(
                builtin::connection_reset_error(),
                "Connection lost",
            ));
        }
        if !self.paused.get() {
            return Ok(None);
        }
        let waiter = create_future(self.event_loop.get())?;
        let append = self.waiters()?.obj().getattr_str(c"append")?;
        append.obj().call1(waiter.obj())?;
        Ok(Some(waiter))
    }

    /// The wait is over, one way or the other.
    pub fn end_draining(&self, waiter: Obj<'_>) -> R<()> {
        let remove = self.waiters()?.obj().getattr_str(c"remove")?;
        remove.obj().call1(waiter).map(drop)
    }
}

/// `_get_close_waiter(stream)`.
pub fn get_close_waiter(protocol: Obj<'_>, _stream: Obj<'_>) -> R<Ref> {
    own::<Protocol>(protocol).closed()
}
