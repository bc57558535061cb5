//! Reading, writing and closing: the core's decisions carried out.
//!
//! Duty: do the io, feed its outcome to the core, and run the actions of the step that comes back,
//! one after the other. May touch: the descriptor, the protocol, the registration. Invariants: the
//! core is borrowed for one question at a time and never across Python; chunks that were sent are
//! dropped after the borrow; a step is run to its end even if one of its callbacks fails, so that
//! no registration is left behind.
//!
//! *Source*: asyncio `selector_events._SelectorSocketTransport`.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};

use aioxide_core::backend::Readiness;
use aioxide_core::backend::sys::{self, Shutdown, VECTORED_MAX};
use aioxide_core::buf::ReadInto;
use aioxide_core::stream::{Action, Step, WritePlan};

use super::base::{Chunk, Fields, fields};
use super::report::{self, fatal, fatal_callback};
use crate::ffi::buffer::Buffer;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, builtin, bytes, context};
use crate::state::state;

/// Slices of one send that need no allocation: a response is rarely in more pieces.
const SLICES_INLINE: usize = 16;

const READ_FAILED: &str = "Fatal read error on socket transport";
const WRITE_FAILED: &str = "Fatal write error on socket transport";

// ---- events -------------------------------------------------------------------------------------

/// The loop reports readiness. *Errors*: only `SystemExit` and `KeyboardInterrupt`.
pub fn handle_ready(transport: Obj<'_>, readiness: Readiness) -> R<()> {
    let this = fields(transport);
    if readiness.wakes_reader() && this.with(|stream| stream.handle_readable()) {
        let result = run_in(this.read_context.get(), || read(transport, this));
        result.or_else(|raised| report::report_escaped(transport, raised, "_read_ready"))?;
    }
    if readiness.wakes_writer() && this.with(|stream| stream.handle_writable()) {
        let result = run_in(this.write_context.get(), || transmit(transport, this));
        result.or_else(|raised| report::report_escaped(transport, raised, "_write_ready"))?;
    }
    Ok(())
}

/// The turn ends: collected writes leave. *Errors*: only `SystemExit` and `KeyboardInterrupt`.
pub fn flush(transport: Obj<'_>) -> R<()> {
    let this = fields(transport);
    if !this.with(|stream| stream.handle_flush()) {
        return Ok(());
    }
    let result = run_in(this.read_context.get(), || transmit(transport, this));
    result.or_else(|raised| report::report_escaped(transport, raised, "_write_ready"))
}

/// Runs `body` in `context`, or in the current one if there is none.
fn run_in(context: Option<Ref>, body: impl FnOnce() -> R<()>) -> R<()> {
    let Some(context) = context else { return body() };
    context::enter(context.obj())?;
    let result = body();
    let left = context::leave(context.obj());
    result.and(left)
}

// ---- reading ------------------------------------------------------------------------------------

/// One read, and its delivery.
fn read(transport: Obj<'_>, this: &Fields) -> R<()> {
    if this.is_buffered.get() {
        return read_into_protocol(transport, this);
    }
    let received = match this.with(|stream| stream.read_into()) {
        ReadInto::Shared => this.receive(|fd| {
            this.in_loop(|native| native.transports().receive(fd)).and_then(|received| received)
        }),
        ReadInto::Final(len_max) => this.receive(|fd| bytes::receive(fd, len_max)),
    }?;
    let data = match received {
        Ok(data) => data,
        Err(error) => return read_failed(transport, &error),
    };
    let len = bytes::slice(data.obj()).map_or(0, <[u8]>::len);
    if len == 0 {
        return read_eof(transport, this);
    }
    this.with(|stream| stream.handle_received(len));
    let protocol = this.protocol.get_or_none();
    let name = state().names.data_received.obj();
    match protocol.obj().call_method1(name, data.obj()) {
        Ok(_) => Ok(()),
        Err(raised) => fatal_callback(
            transport,
            raised,
            "Fatal error: protocol.data_received() call failed.",
        ),
    }
}

/// One read into the buffer of a `BufferedProtocol`.
fn read_into_protocol(transport: Obj<'_>, this: &Fields) -> R<()> {
    let names = &state().names;
    let protocol = this.protocol.get_or_none();
    let asked = ask_for_buffer(protocol.obj());
    let target = match asked {
        Ok(target) => target,
        Err(raised) => {
            let message = "Fatal error: protocol.get_buffer() call failed.";
            return fatal_callback(transport, raised, message);
        }
    };
    let received = match Buffer::writable(target.obj()) {
        Ok(mut buffer) => {
            this.descriptor.with(&this.socket, |fd| sys::recv(fd, buffer.as_room()))
        }
        Err(raised) => match receive_into_odd(this, target.obj(), raised) {
            Ok(len) => Ok(len),
            Err(raised) => return fatal_callback(transport, raised, READ_FAILED),
        },
    };
    let len = match received {
        Ok(0) => return read_eof(transport, this),
        Ok(len) => len,
        Err(error) => return read_failed(transport, &error),
    };
    this.with(|stream| stream.handle_received(len));
    let len = crate::ffi::call::uint(len as u64)?;
    match protocol.obj().call_method1(names.buffer_updated.obj(), len.obj()) {
        Ok(_) => Ok(()),
        Err(raised) => {
            let message = "Fatal error: protocol.buffer_updated() call failed.";
            fatal_callback(transport, raised, message)
        }
    }
}

/// A target that is no plain writable memory: the socket object says what it thinks of it.
#[cold]
fn receive_into_odd(this: &Fields, target: Obj<'_>, raised: Raised) -> R<usize> {
    drop(raised.take());
    let socket = this.descriptor.socket(&this.socket)?;
    let len = socket.obj().getattr_str(c"recv_into")?.obj().call1(target)?.obj().to_i64()?;
    Ok(usize::try_from(len).unwrap_or(0))
}

fn ask_for_buffer(protocol: Obj<'_>) -> R<Ref> {
    let any_size = crate::ffi::call::int(-1)?;
    let target = protocol.call_method1(state().names.get_buffer.obj(), any_size.obj())?;
    if builtin::len(target.obj())? == 0 {
        return Err(Raised::runtime("get_buffer() returned an empty buffer"));
    }
    Ok(target)
}

fn read_failed(transport: Obj<'_>, error: &io::Error) -> R<()> {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Ok(());
    }
    fatal(transport, Raised::os_error(error).take().obj(), READ_FAILED)
}

fn read_eof(transport: Obj<'_>, this: &Fields) -> R<()> {
    if this.debug() {
        report::log_debug("%r received EOF", &[transport])?;
    }
    let protocol = this.protocol.get_or_none();
    let answer = match protocol.obj().call_method0(state().names.eof_received.obj()) {
        Ok(answer) => answer,
        Err(raised) => {
            let message = "Fatal error: protocol.eof_received() call failed.";
            return fatal_callback(transport, raised, message);
        }
    };
    let keep_open = answer.obj().is_true()?;
    settle(transport, this)?;
    let step = this.with(|stream| stream.handle_eof_reply(keep_open));
    run(transport, this, step, none())
}

/// `_start_reading`: the protocol knows its transport now.
pub fn start_reading(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    let step = this.with(|stream| stream.handle_start());
    run(transport, this, step, none()).map(|()| none_ref())
}

/// `pause_reading()`.
pub fn pause_reading(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    let Some(step) = this.with(|stream| stream.handle_pause_reading()) else {
        return Ok(none_ref());
    };
    run(transport, this, step, none())?;
    if this.debug() {
        report::log_debug("%r pauses reading", &[transport])?;
    }
    Ok(none_ref())
}

/// `resume_reading()`.
pub fn resume_reading(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    let Some(step) = this.with(|stream| stream.handle_resume_reading()) else {
        return Ok(none_ref());
    };
    run(transport, this, step, none())?;
    if this.debug() {
        report::log_debug("%r resumes reading", &[transport])?;
    }
    Ok(none_ref())
}

// ---- writing ------------------------------------------------------------------------------------

/// What became of data given to `write()`, as far as it goes without Python.
enum Offer {
    Done,
    AfterEof,
    Lost { warn: bool },
    Failed(io::Error),
    /// Queue all of it.
    Queue,
    /// Queue what is behind the first so many bytes, which left.
    Unsent(usize),
}

/// Sends `content` at once if the core says so.
#[inline]
fn offer(this: &Fields, content: &[u8]) -> Offer {
    let turn = this.turn();
    match this.with(|stream| stream.handle_write(content.len(), turn)) {
        WritePlan::Nothing => Offer::Done,
        WritePlan::AfterEof => Offer::AfterEof,
        WritePlan::Lost { warn } => Offer::Lost { warn },
        WritePlan::Queue => Offer::Queue,
        WritePlan::SendNow => {
            match this.descriptor.with(&this.socket, |fd| sys::send(fd, content)) {
                Ok(sent) if sent >= content.len() => {
                    this.with(|stream| stream.handle_sent_at_once(turn));
                    Offer::Done
                }
                Ok(sent) => Offer::Unsent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Offer::Unsent(0),
                Err(error) => Offer::Failed(error),
            }
        }
    }
}

/// `write(data)`.
pub fn write(transport: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    let immutable = bytes::slice(data);
    if immutable.is_none() && !builtin::is_mutable_bytes(data) {
        return Err(not_bytes(data));
    }
    if !this.empty_waiter.is_empty() {
        check_not_busy(this, "write")?;
    }
    if let Some(content) = immutable {
        let offer = offer(this, content);
        let skip = if let Offer::Unsent(sent) = offer { sent } else { 0 };
        return conclude(transport, this, offer, || Ok(Chunk(data.to_ref())), skip);
    }
    let buffer = match Buffer::readable(data) {
        Ok(buffer) => buffer,
        Err(raised) => return write_unreadable(transport, this, raised),
    };
    let offer = offer(this, buffer.as_slice());
    let rest = match offer {
        Offer::Queue => Some(bytes::new(buffer.as_slice())?),
        Offer::Unsent(sent) => Some(bytes::new(&buffer.as_slice()[sent..])?),
        _ => None,
    };
    drop(buffer);
    conclude(transport, this, offer, || Ok(Chunk(rest.unwrap_or_else(none_ref))), 0)
}

/// Does what an offer left to do; `chunk` makes what is to be queued, `skip` of it sent already.
#[inline]
fn conclude(
    transport: Obj<'_>,
    this: &Fields,
    offer: Offer,
    chunk: impl FnOnce() -> R<Chunk>,
    skip: usize,
) -> R<Ref> {
    let queued = match offer {
        Offer::Done => return Ok(none_ref()),
        Offer::AfterEof => return Err(Raised::runtime("Cannot call write() after write_eof()")),
        Offer::Lost { warn } => return lost_write(warn),
        Offer::Failed(error) => {
            let exc = Raised::os_error(&error).take();
            return fatal(transport, exc.obj(), WRITE_FAILED).map(|()| none_ref());
        }
        Offer::Queue => {
            let chunk = chunk()?;
            this.with(|stream| stream.handle_queued(chunk))
        }
        Offer::Unsent(_) => {
            let chunk = chunk()?;
            this.with(|stream| stream.handle_unsent(chunk, skip))
        }
    };
    match queued {
        Ok(step) => run(transport, this, step, none())?,
        Err(empty) => drop(empty),
    }
    Ok(none_ref())
}

/// A view that is not contiguous: asyncio finds out when it sends.
#[cold]
fn write_unreadable(transport: Obj<'_>, this: &Fields, raised: Raised) -> R<Ref> {
    let exc = raised.take();
    match this.with(|stream| stream.handle_write(1, None)) {
        WritePlan::AfterEof => Err(Raised::runtime("Cannot call write() after write_eof()")),
        WritePlan::Lost { warn } => lost_write(warn),
        _ => fatal(transport, exc.obj(), WRITE_FAILED).map(|()| none_ref()),
    }
}

#[cold]
fn lost_write(warn: bool) -> R<Ref> {
    if warn {
        report::log_warning("socket.send() raised exception.")?;
    }
    Ok(none_ref())
}

#[cold]
fn not_bytes(data: Obj<'_>) -> Raised {
    let wanted = if cfg!(Py_3_14) {
        "a bytes, bytearray, or memoryview object"
    } else {
        "a bytes-like object"
    };
    match builtin::type_name(data) {
        Ok(name) => Raised::type_error(&format!("data argument must be {wanted}, not '{name}'")),
        Err(raised) => raised,
    }
}

/// RuntimeError while a file is being sent.
#[cold]
fn check_not_busy(this: &Fields, method: &str) -> R<()> {
    if this.with(|stream| stream.is_eof_written()) {
        return Ok(());
    }
    Err(Raised::runtime(&format!("unable to {method}; sendfile is in progress")))
}

/// `writelines(list_of_data)`.
pub fn writelines(transport: Obj<'_>, lines: Obj<'_>) -> R<Ref> {
    if cfg!(not(Py_3_12)) {
        let joined = bytes::new(b"")?;
        let joined = joined.obj().getattr_str(c"join")?.obj().call1(lines)?;
        return write(transport, joined.obj());
    }
    let this = fields(transport);
    if this.with(|stream| stream.is_eof_written()) {
        return Err(Raised::runtime("Cannot call writelines() after write_eof()"));
    }
    if !this.empty_waiter.is_empty() {
        check_not_busy(this, "writelines")?;
    }
    if !lines.is_true()? {
        return Ok(none_ref());
    }
    let chunks = collect_lines(lines)?;
    match this.with(|stream| stream.handle_writelines()) {
        WritePlan::Lost { warn } => return lost_write(warn),
        WritePlan::Queue => {}
        _ => return Err(Raised::runtime("Cannot call writelines() after write_eof()")),
    }
    let turn = this.turn();
    let mut empty = Vec::new();
    let step = this.with(|stream| {
        empty.extend(chunks.into_iter().filter_map(|chunk| stream.handle_line(chunk).err()));
        stream.handle_lines_end(turn)
    });
    drop(empty);
    run(transport, this, step, none()).map(|()| none_ref())
}

fn collect_lines(lines: Obj<'_>) -> R<Vec<Chunk>> {
    let iterator = builtin::iter(lines)?;
    let mut chunks = Vec::new();
    while let Some(line) = builtin::next(iterator.obj())? {
        if bytes::slice(line.obj()).is_some() {
            chunks.push(Chunk(line));
        } else {
            let view = builtin::memoryview(line.obj())?;
            let buffer = Buffer::readable(view.obj())?;
            chunks.push(Chunk(bytes::new(buffer.as_slice())?));
        }
    }
    Ok(chunks)
}

/// Sends the queue once.
fn transmit(transport: Obj<'_>, this: &Fields) -> R<()> {
    let sent = this.descriptor.with(&this.socket, |fd| {
        let stream = this.stream.borrow();
        let mut inline = [IoSlice::new(&[]); SLICES_INLINE];
        let mut rest = stream.queue().slices().take(VECTORED_MAX);
        let mut len = 0;
        for (place, slice) in inline.iter_mut().zip(&mut rest) {
            *place = IoSlice::new(slice);
            len += 1;
        }
        match rest.next() {
            None => sys::send_vectored(fd, &inline[..len]),
            Some(next) => {
                let mut all = inline.to_vec();
                all.push(IoSlice::new(next));
                all.extend(rest.map(IoSlice::new));
                sys::send_vectored(fd, &all)
            }
        }
    });
    let mut spent = Vec::new();
    let step = match sent {
        Ok(len) => this.with(|stream| stream.handle_sent(len, &mut spent)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            this.with(|stream| stream.handle_blocked())
        }
        Err(error) => return transmit_failed(transport, this, &error),
    };
    drop(spent);
    run(transport, this, step, none())
}

#[cold]
fn transmit_failed(transport: Obj<'_>, this: &Fields, error: &io::Error) -> R<()> {
    let exc = Raised::os_error(error).take();
    let mut spent = Vec::new();
    let step = this.with(|stream| stream.handle_send_failed(&mut spent));
    drop(spent);
    run(transport, this, step, none())?;
    fatal(transport, exc.obj(), WRITE_FAILED)?;
    match this.empty_waiter.get() {
        Some(waiter) => {
            waiter.obj().getattr_str(c"set_exception")?.obj().call1(exc.obj()).map(drop)
        }
        None => Ok(()),
    }
}

/// Sends what waits for the end of the turn, because somebody is about to look.
pub fn settle(transport: Obj<'_>, this: &Fields) -> R<()> {
    if this.with(|stream| stream.handle_flush()) { transmit(transport, this) } else { Ok(()) }
}

/// `write_eof()`.
pub fn write_eof(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    settle(transport, this)?;
    let step = this.with(|stream| stream.handle_write_eof());
    run(transport, this, step, none()).map(|()| none_ref())
}

// ---- closing ------------------------------------------------------------------------------------

/// `close()`.
pub fn close(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    settle(transport, this)?;
    let step = this.with(|stream| stream.handle_close());
    run(transport, this, step, none()).map(|()| none_ref())
}

/// `abort()`.
pub fn abort(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    settle(transport, this)?;
    force_close(transport, this, none()).map(|()| none_ref())
}

/// `_force_close(exc)`: unsent bytes are given up, `connection_lost(exc)` is scheduled.
pub fn force_close(transport: Obj<'_>, this: &Fields, exc: Obj<'_>) -> R<()> {
    let mut spent = Vec::new();
    let step = this.with(|stream| stream.handle_fatal(&mut spent));
    drop(spent);
    run(transport, this, step, exc)
}

// ---- actions ------------------------------------------------------------------------------------

/// Carries out a step to its end. The first failure comes out when all is done. `exc` is what
/// `connection_lost` is to be told.
#[inline]
pub fn run(transport: Obj<'_>, this: &Fields, mut step: Step, exc: Obj<'_>) -> R<()> {
    let mut first: Option<Ref> = None;
    while let Some(action) = this.with(|stream| stream.poll_action(&mut step)) {
        if let Err(raised) = act(transport, this, action, exc) {
            let raised = raised.take();
            first.get_or_insert(raised);
        }
    }
    first.map_or(Ok(()), |exc| Err(Raised::throw(exc)))
}

fn act(transport: Obj<'_>, this: &Fields, action: Action, exc: Obj<'_>) -> R<()> {
    let names = &state().names;
    match action {
        Action::Interest => this.sync_interest(transport),
        Action::FlushLater => this.in_loop(|native| native.flush_later(transport.to_ref(), flush)),
        Action::Send => transmit(transport, this),
        Action::PauseProtocol => {
            tell(transport, this, names.pause_writing.obj(), "protocol.pause_writing() failed")
        }
        Action::ResumeProtocol => {
            tell(transport, this, names.resume_writing.obj(), "protocol.resume_writing() failed")
        }
        Action::Emptied => match this.empty_waiter.get() {
            Some(waiter) => {
                waiter.obj().getattr_str(c"set_result")?.obj().call1(none()).map(drop)
            }
            None => Ok(()),
        },
        Action::ShutdownWrite => this
            .descriptor
            .with(&this.socket, |fd| sys::shutdown(fd, Shutdown::Write))
            .map_err(|error| Raised::os_error(&error)),
        Action::ScheduleLost => {
            let lose = transport.getattr(names._call_connection_lost.obj())?;
            this.call_soon(lose.obj(), &[exc])
        }
        Action::LoseNow => this.lose(transport, none()),
    }
}

fn tell(transport: Obj<'_>, this: &Fields, name: Obj<'_>, message: &str) -> R<()> {
    let protocol = this.protocol.get_or_none();
    match protocol.obj().call_method0(name) {
        Ok(_) => Ok(()),
        Err(raised) => report::report_callback(transport, raised, message),
    }
}

impl Fields {
    /// Runs a read that makes Python bytes. The outer error is Python's, the inner the kernel's.
    #[inline]
    fn receive(
        &self,
        read: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> R<io::Result<Ref>>,
    ) -> R<io::Result<Ref>> {
        match self.descriptor.with(&self.socket, |fd| Ok(read(fd))) {
            Ok(received) => received,
            Err(error) => Ok(Err(error)),
        }
    }
}
