//! A stream reader: what was received and not read yet, and the coroutine that waits for more.
//!
//! Duty: everything of `StreamReader` that is no coroutine. May touch: its fields, the future in
//! `waiter`, the transport's reading. Invariants: the received chunks are taken out of the fields
//! while they are worked on, so nothing is borrowed when Python runs; where Python code holds the
//! `bytearray` of `_buffer`, that one has the bytes and `chunks` is empty between two calls.
#![forbid(unsafe_code)]

use std::cell::Cell;

use aioxide_core::buf::READ_MAX_BYTES;
use aioxide_core::chunks::Chunks;

use super::about::is_intact;
use super::life::{self, has_attributes, own};
use super::parts::{create_future, loop_or_current, put, wake};
use crate::event_loop;
use crate::ffi::class::bind_tuple_python;
use crate::ffi::object::{none, none_ref};
use crate::ffi::shelf::LARGE_BYTES_MIN;
use crate::ffi::{Obj, R, Raised, Ref, Signature, Slot, builtin, bytes, raising};
use crate::state::state;

/// `asyncio.streams._DEFAULT_LIMIT`.
pub const LIMIT_BYTES: i64 = 1 << 16;

/// A received `bytes` object.
pub struct Bytes(pub Ref);

impl AsRef<[u8]> for Bytes {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        bytes::slice(self.0.obj()).unwrap_or_default()
    }
}

/// The fields of a reader.
#[derive(Default)]
pub struct Reader {
    chunks: Cell<Chunks<Bytes>>,
    /// How many bytes `chunks` has.
    len: Cell<usize>,
    /// The `bytearray` that Python code got as `_buffer`.
    array: Slot,
    /// What was given as `limit`, unless the default.
    pub limit: Slot,
    /// The same in bytes.
    pub limit_bytes: Cell<i64>,
    /// The most that the last `read(n)` asked for.
    pub asked: Cell<usize>,
    pub event_loop: Slot,
    pub waiter: Slot,
    pub exception: Slot,
    pub transport: Slot,
    pub source_traceback: Slot,
    pub eof: Cell<bool>,
    pub paused: Cell<bool>,
}

impl life::Fields for Reader {
    fn slots(&self) -> Vec<&Slot> {
        vec![
            &self.array,
            &self.limit,
            &self.event_loop,
            &self.waiter,
            &self.exception,
            &self.transport,
            &self.source_traceback,
        ]
    }
}

/// The fields, if `reader` is a native reader or derives from it.
pub fn native(reader: Obj<'_>) -> Option<&Reader> {
    let class = state().streams.reader.ptr().cast();
    reader.is_instance_of_type(class).then(|| own(reader))
}

/// Whether nothing of `reader` can be overridden: its parts may be used directly.
#[inline]
pub fn is_plain(reader: Obj<'_>) -> bool {
    reader.type_ptr() == state().streams.reader.ptr().cast()
        && is_intact()
        && !has_attributes::<Reader>(reader)
}

const INIT: Signature = Signature {
    name: "StreamReader.__init__",
    params: &["limit", "loop"],
    positional: 2,
    required: 0,
};

/// `__init__(limit=65536, loop=None)`.
pub fn init(reader: Obj<'_>, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<()> {
    let this: &Reader = own(reader);
    let [limit, event_loop] = bind_tuple_python::<2>(args, kwargs, &INIT)?;
    if let Some(limit) = &limit
        && limit.obj().is_at_most(crate::ffi::call::int(0)?.obj())?
    {
        return Err(Raised::value_error("Limit cannot be <= 0"));
    }
    this.set_limit(limit.as_ref().map(Ref::obj))?;
    let event_loop = loop_or_current(event_loop)?;
    this.event_loop.set(Some(event_loop.clone()));
    this.edit(|chunks| {
        chunks.clear(drop);
        Ok(())
    })?;
    this.array.clear();
    this.eof.set(false);
    this.paused.set(false);
    for slot in [&this.waiter, &this.exception, &this.transport] {
        slot.clear();
    }
    if event_loop::debug_of(event_loop.obj())? {
        let stack = state().asyncio.extract_stack.obj().call0()?;
        this.source_traceback.set(Some(stack));
    }
    Ok(())
}

impl Reader {
    /// Keeps the limit that was given, or the default.
    pub fn set_limit(&self, limit: Option<Obj<'_>>) -> R<()> {
        let in_bytes = limit.map_or(Ok(LIMIT_BYTES), builtin::saturating_i64)?;
        self.limit_bytes.set(in_bytes);
        self.limit.set(limit.map(Obj::to_ref));
        Ok(())
    }

    // ---- the buffer -----------------------------------------------------------------------------

    /// Runs `body` on what was received. `body` runs no Python code.
    pub fn edit<T>(&self, body: impl FnOnce(&mut Chunks<Bytes>) -> R<T>) -> R<T> {
        let mut chunks = self.chunks.take();
        if !self.array.is_empty() {
            self.take_array(&mut chunks)?;
        }
        let result = body(&mut chunks);
        if let Some(array) = self.array.get() {
            let written = bytes::array_assign(&array, chunks.contiguous(drop));
            return written.and(result);
        }
        self.len.set(chunks.len());
        self.chunks.set(chunks);
        result
    }

    /// Copies out of the `bytearray`, and forgets it where nobody else has it any more.
    #[cold]
    fn take_array(&self, chunks: &mut Chunks<Bytes>) -> R<()> {
        let Some(array) = self.array.take() else {
            return Ok(());
        };
        let content = bytes::new(bytes::array_slice(&array, usize::MAX))?;
        drop(chunks.push(Bytes(content)));
        if !(bytes::is_unshared(&array) && bytes::is_exact_array(array.obj())) {
            self.array.set(Some(array));
        }
        Ok(())
    }

    /// How many bytes can be read.
    pub fn len(&self) -> usize {
        match self.array.get() {
            Some(array) => bytes::array_len(&array),
            None => self.len.get(),
        }
    }

    /// See [`super::protocol::piece_len`].
    pub fn piece_len(&self, reader: Obj<'_>) -> Option<usize> {
        let is_apt = (LARGE_BYTES_MIN..=READ_MAX_BYTES).contains(&self.asked.get());
        (is_apt && self.len() == 0 && is_plain(reader)).then(|| self.asked.get())
    }

    /// Up to `len` bytes, out of the buffer.
    pub fn take(&self, len: usize) -> R<Ref> {
        self.edit(|chunks| {
            if let Some(whole) = chunks.take_whole(len) {
                return Ok(whole.0);
            }
            let len = len.min(chunks.len());
            let taken = bytes::concat(len, chunks.slices())?;
            chunks.consume(len, drop);
            Ok(taken)
        })
    }

    /// `_buffer`.
    pub fn buffer(&self) -> R<Ref> {
        if let Some(array) = self.array.get() {
            return Ok(array);
        }
        let array = self.edit(|chunks| bytes::array_of(chunks.contiguous(drop)))?;
        self.set_buffer(array.clone());
        Ok(array)
    }

    /// `_buffer = array`, a `bytearray`.
    pub fn set_buffer(&self, array: Ref) {
        self.array.set(Some(array));
        drop(self.chunks.take());
        self.len.set(0);
    }
}

// ---- what comes in ------------------------------------------------------------------------------

/// `feed_data(data)`.
pub fn feed_data(reader: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let this: &Reader = own(reader);
    if this.eof.get() {
        return Err(builtin::assertion("feed_data after feed_eof"));
    }
    if !data.is_true()? {
        return Ok(none_ref());
    }
    let data = if data.is_exact_bytes() {
        data.to_ref()
    } else {
        // A bytearray takes what it takes: buffers, and iterables of numbers.
        let collected = bytes::array_of(b"")?;
        collected.obj().getattr_str(c"extend")?.obj().call1(data)?;
        bytes::new(bytes::array_slice(&collected, usize::MAX))?
    };
    feed(reader, this, data).map(|()| none_ref())
}

/// The same with `bytes`.
pub fn feed(reader: Obj<'_>, this: &Reader, data: Ref) -> R<()> {
    if this.eof.get() {
        return Err(builtin::assertion("feed_data after feed_eof"));
    }
    let len = this.edit(|chunks| {
        drop(chunks.push(Bytes(data)));
        Ok(chunks.len())
    })?;
    wakeup(reader, this)?;
    let high = this.limit_bytes.get().saturating_mul(2);
    if this.paused.get() || this.transport.is_empty() || len as u64 <= high as u64 {
        return Ok(());
    }
    pause(this)
}

/// Too much waits to be read: the transport stops reading.
#[cold]
fn pause(this: &Reader) -> R<()> {
    let Some(transport) = this.transport.get() else {
        return Ok(());
    };
    let name = state().names.pause_reading.obj();
    match transport.obj().call_method0(name) {
        Ok(_) => this.paused.set(true),
        Err(raised) if raised.matches(raising::not_implemented_error().ptr()) => {
            // It cannot: all data will have to be held, and it need not be asked again.
            raised.clear();
            this.transport.clear();
        }
        Err(raised) => return Err(raised),
    }
    Ok(())
}

/// `feed_eof()`.
pub fn feed_eof(reader: Obj<'_>) -> R<Ref> {
    let this: &Reader = own(reader);
    this.eof.set(true);
    wakeup(reader, this).map(|()| none_ref())
}

/// `set_exception(exc)`.
pub fn set_exception(reader: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    let this: &Reader = own(reader);
    put(&this.exception, exc);
    let Some(waiter) = this.waiter.take() else {
        return Ok(none_ref());
    };
    let names = &state().names;
    let waiter = waiter.obj();
    if !waiter
        .call_method0(names.cancelled.obj())?
        .obj()
        .is_true()?
    {
        waiter.call_method1(names.set_exception.obj(), exc)?;
    }
    Ok(none_ref())
}

/// Wakes who waits, by `_wakeup_waiter` where that may be overridden.
fn wakeup(reader: Obj<'_>, this: &Reader) -> R<()> {
    if this.waiter.is_empty() && is_plain(reader) {
        return Ok(());
    }
    if is_plain(reader) {
        return wake_waiter(this);
    }
    reader
        .call_method0(state().names._wakeup_waiter.obj())
        .map(drop)
}

fn wake_waiter(this: &Reader) -> R<()> {
    match this.waiter.take() {
        Some(waiter) => wake(waiter.obj()),
        None => Ok(()),
    }
}

/// `_wakeup_waiter()`.
pub fn wakeup_waiter(reader: Obj<'_>) -> R<Ref> {
    wake_waiter(own(reader)).map(|()| none_ref())
}

// ---- who reads ----------------------------------------------------------------------------------

/// Begins to wait for data, directly: what is to be awaited. `ended_waiting` follows.
pub fn begin_waiting(this: &Reader, method: &str) -> R<Ref> {
    if !this.waiter.is_empty() {
        return Err(Raised::runtime(&format!(
            "{method}() called while another coroutine is already waiting for incoming data"
        )));
    }
    if this.eof.get() {
        return Err(builtin::assertion("_wait_for_data after EOF"));
    }
    // Waiting while paused would be waiting for ever.
    if this.paused.replace(false) {
        resume(this)?;
    }
    let waiter = create_future(this.event_loop.get())?;
    this.waiter.set(Some(waiter.clone()));
    Ok(waiter)
}

fn resume(this: &Reader) -> R<()> {
    let transport = this.transport.get_or_none();
    transport
        .obj()
        .call_method0(state().names.resume_reading.obj())
        .map(drop)
}

/// Lets the transport read again if that much was read.
pub fn resume_if_read(reader: Obj<'_>, this: &Reader) -> R<()> {
    if is_plain(reader) {
        if !this.paused.get() {
            return Ok(());
        }
        return resume_transport(this);
    }
    reader
        .call_method0(state().names._maybe_resume_transport.obj())
        .map(drop)
}

fn resume_transport(this: &Reader) -> R<()> {
    if this.paused.get() && this.len() as u64 <= this.limit_bytes.get() as u64 {
        this.paused.set(false);
        resume(this)?;
    }
    Ok(())
}

/// `_maybe_resume_transport()`.
pub fn maybe_resume_transport(reader: Obj<'_>) -> R<Ref> {
    resume_transport(own(reader)).map(|()| none_ref())
}

/// The exception that was set, as an error.
pub fn check_exception(this: &Reader) -> R<()> {
    match this.exception.get() {
        Some(exc) => Err(raising::raise(exc.obj())),
        None => Ok(()),
    }
}

/// `exception()`.
pub fn exception(reader: Obj<'_>) -> R<Ref> {
    Ok(own::<Reader>(reader).exception.get_or_none())
}

/// `set_transport(transport)`.
pub fn set_transport(reader: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    let this: &Reader = own(reader);
    if !this.transport.is_empty() {
        return Err(builtin::assertion("Transport already set"));
    }
    put(&this.transport, transport);
    Ok(none_ref())
}

/// `_replace_transport(transport)`.
pub fn replace_transport(reader: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    let this: &Reader = own(reader);
    if this.transport.is_empty() {
        return Err(builtin::assertion("Transport not set"));
    }
    put(&this.transport, transport);
    Ok(none_ref())
}

/// `at_eof()`.
pub fn at_eof(reader: Obj<'_>) -> R<Ref> {
    let this: &Reader = own(reader);
    Ok(crate::ffi::object::boolean(
        this.eof.get() && this.len() == 0,
    ))
}

/// `repr(reader)`.
pub fn describe(reader: Obj<'_>) -> R<String> {
    let this: &Reader = own(reader);
    let mut words = vec![String::from("StreamReader")];
    let len = this.len();
    if len > 0 {
        words.push(format!("{len} bytes"));
    }
    if this.eof.get() {
        words.push("eof".into());
    }
    if let Some(limit) = this.limit.get()
        && this.limit_bytes.get() != LIMIT_BYTES
    {
        let shown = crate::ffi::call::text(limit.obj().str()?.obj())?;
        words.push(format!("limit={shown}"));
    }
    for (name, slot) in [
        ("waiter", &this.waiter),
        ("exception", &this.exception),
        ("transport", &this.transport),
    ] {
        let value = slot.get().unwrap_or_else(|| none().to_ref());
        if value.obj().is_true()? {
            words.push(format!("{name}={}", value.obj().repr()?));
        }
    }
    if this.paused.get() {
        words.push("paused".into());
    }
    Ok(format!("<{}>", words.join(" ")))
}
