//! Reading, closing, and running the core's decisions.
//!
//! Duty: do the io, feed its outcome to the core, and run the actions of the step that comes back,
//! one after the other. May touch: the descriptor, the protocol, the registration. Invariants: the
//! core is borrowed for one question at a time and never across Python; chunks that were sent are
//! dropped after the borrow; a step is run to its end even if one of its callbacks fails, so that
//! no registration is left behind.
//!
//! *Source*: asyncio `selector_events._SelectorSocketTransport`.
#![forbid(unsafe_code)]

use std::io;

use aioxide_core::backend::Readiness;
use aioxide_core::backend::sys::{self, Shutdown};
use aioxide_core::buf::READ_MAX_BYTES;
use aioxide_core::stream::{Action, Rules, Step};

use super::PerLoop;
use super::base::{Fields, fields};
use super::report::{self, fatal, fatal_callback};
use super::sendfile;
use super::tls;
use super::write::{flush_later, settle, transmit, transmit_held};
use crate::event_loop::{self, LoopFields};
use crate::ffi::buffer::Buffer;
use crate::ffi::object::{none, none_ref};
use crate::ffi::shelf::LARGE_BYTES_MIN;
use crate::ffi::{Obj, R, Raised, Ref, builtin, bytes, context};
use crate::state::state;
use crate::streams;

const READ_FAILED: &str = "Fatal read error on socket transport";

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
    if readiness.wakes_writer() && this.with(|stream| stream.handle_writable_for_file()) {
        if let Some(sender) = this.seldom.make().sender.get() {
            let result = sendfile::handle_writable(sender.obj());
            result.or_else(|raised| report::report_escaped(transport, raised, "_write_ready"))?;
        }
    }
    Ok(())
}

/// The turn ends: held writes leave. *Errors*: only `SystemExit` and `KeyboardInterrupt`.
pub fn flush(transport: Obj<'_>) -> R<()> {
    let this = fields(transport);
    if !this.with(|stream| stream.handle_flush()) {
        return Ok(());
    }
    let result = transmit_held(transport, this, &this.read_context);
    result.or_else(|raised| report::report_escaped(transport, raised, "_write_ready"))
}

/// Runs `body` in `context`, or in the current one if there is none.
pub fn run_in(context: Option<Ref>, body: impl FnOnce() -> R<()>) -> R<()> {
    let Some(context) = context else {
        return body();
    };
    context::enter(context.obj())?;
    let result = body();
    let left = context::leave(context.obj());
    result.and(left)
}

// ---- reading ------------------------------------------------------------------------------------

/// One read, and its delivery.
fn read(transport: Obj<'_>, this: &Fields) -> R<()> {
    if this.is_tls.get() {
        return read_into_tls(transport, this);
    }
    let native = this.hold_loop()?;
    if this.is_buffered.get() {
        return native.telling(|| read_into_protocol(transport, this, &native));
    }
    native.telling(|| read_and_tell(transport, this, native.transports()))
}

/// One read for a `Protocol`.
#[inline]
fn read_and_tell(transport: Obj<'_>, this: &Fields, transports: &PerLoop) -> R<()> {
    if transports.expects_large() && this.rules == Rules::Socket {
        let protocol = this.protocol.get_or_none();
        if let Some(len) = streams::piece_len(protocol.obj()) {
            return read_pieces(transport, this, transports, len);
        }
    }
    match this.receive(transports)? {
        Ok(data) => hand_over(transport, this, transports, data),
        Err(error) => read_failed(transport, &error),
    }
}

/// One read for a reader who takes pieces of `len` bytes.
fn read_pieces(transport: Obj<'_>, this: &Fields, place: &PerLoop, len: usize) -> R<()> {
    let mut rest = Vec::new();
    let received = this
        .descriptor
        .with(&this.socket, |fd| {
            Ok(place.receive_pieces(fd, len, &mut rest))
        })
        .unwrap_or_else(|error| Ok(Err(error)));
    match received? {
        Ok(first) => hand_over(transport, this, place, first)?,
        Err(error) => return read_failed(transport, &error),
    }
    rest.into_iter()
        .try_for_each(|piece| hand_over(transport, this, place, piece))
}

/// Delivers what was received; nothing is the end.
#[inline]
fn hand_over(transport: Obj<'_>, this: &Fields, place: &PerLoop, data: Ref) -> R<()> {
    let len = bytes::slice(data.obj()).map_or(0, <[u8]>::len);
    if len == 0 {
        return read_eof(transport, this);
    }
    let protocol = this.protocol.get_or_none();
    match streams::deliver(protocol.obj(), data) {
        Ok(lent) => {
            match lent {
                Some(data) => place.keep(data),
                None => place.note_kept(len),
            }
            Ok(())
        }
        Err(raised) => fatal_callback(
            transport,
            raised,
            "Fatal error: protocol.data_received() call failed.",
        ),
    }
}

/// Reads into the buffer of a `BufferedProtocol`: once, and again while all of a large buffer was
/// filled and nothing was scheduled, until as much came as any other read may bring.
fn read_into_protocol(transport: Obj<'_>, this: &Fields, native: &LoopFields) -> R<()> {
    let mut left = READ_MAX_BYTES;
    loop {
        let before = native.scheduled();
        let filled = read_buffer(transport, this)?;
        left = left.saturating_sub(filled);
        let is_more = filled >= LARGE_BYTES_MIN && left > 0;
        let is_same = this.is_buffered.get() && !this.is_tls.get();
        let goes_on = is_more && is_same && native.scheduled() == before;
        if !goes_on || !this.with(|stream| stream.handle_readable()) {
            return Ok(());
        }
    }
}

/// One read into the buffer of a `BufferedProtocol`: how much came, if that filled it.
fn read_buffer(transport: Obj<'_>, this: &Fields) -> R<usize> {
    let names = &state().names;
    let protocol = this.protocol.get_or_none();
    let asked = ask_for_buffer(protocol.obj());
    let target = match asked {
        Ok(target) => target,
        Err(raised) => {
            let message = "Fatal error: protocol.get_buffer() call failed.";
            return fatal_callback(transport, raised, message).map(|()| 0);
        }
    };
    let mut room = 0;
    let received = match Buffer::writable(target.obj()) {
        Ok(mut buffer) => {
            let target = buffer.as_room();
            room = target.len();
            this.descriptor
                .with(&this.socket, |fd| sys::recv(fd, target))
        }
        Err(raised) => match receive_into_odd(this, target.obj(), raised) {
            Ok(len) => Ok(len),
            Err(raised) => {
                return fatal_callback(transport, raised, READ_FAILED).map(|()| 0);
            }
        },
    };
    let len = match received {
        Ok(0) => return read_eof(transport, this).map(|()| 0),
        Ok(len) => len,
        Err(error) => return read_failed(transport, &error).map(|()| 0),
    };
    let filled = if len == room { len } else { 0 };
    let len = crate::ffi::call::uint(len as u64)?;
    // Looked up again, as asyncio does: `get_buffer()` may have put another one in place.
    let protocol = this.protocol.get_or_none();
    match protocol
        .obj()
        .call_method1(names.buffer_updated.obj(), len.obj())
    {
        Ok(_) => Ok(filled),
        Err(raised) => {
            let message = "Fatal error: protocol.buffer_updated() call failed.";
            fatal_callback(transport, raised, message).map(|()| 0)
        }
    }
}

/// One read for our own TLS protocol, from the loop's receive buffer into the session.
fn read_into_tls(transport: Obj<'_>, this: &Fields) -> R<()> {
    let protocol = this.protocol.get_or_none();
    let event_loop = this.event_loop.get_or_none();
    let Some(native) = event_loop::native(event_loop.obj()) else {
        return Err(Raised::runtime("the transport has no event loop"));
    };
    // Out of the loop meanwhile: what is decrypted is delivered, and may read elsewhere.
    let mut place = native.transports().take_receive();
    let received = this.descriptor.with(&this.socket, |fd| place.receive(fd));
    let result = match received {
        Ok([]) => read_eof(transport, this),
        Ok(ciphertext) => tls::receive(protocol.obj(), ciphertext).or_else(|raised| {
            let message = "Fatal error: protocol.buffer_updated() call failed.";
            fatal_callback(transport, raised, message)
        }),
        Err(error) => read_failed(transport, &error),
    };
    native.transports().put_receive(place);
    result
}

/// A target that is no plain writable memory: the socket object says what it thinks of it.
#[cold]
fn receive_into_odd(this: &Fields, target: Obj<'_>, raised: Raised) -> R<usize> {
    drop(raised.take());
    let socket = this.descriptor.socket(&this.socket)?;
    let len = socket
        .obj()
        .getattr_str(c"recv_into")?
        .obj()
        .call1(target)?
        .obj()
        .to_i64()?;
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
    let answer = match protocol
        .obj()
        .call_method0(state().names.eof_received.obj())
    {
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
        Action::FlushLater => flush_later(transport, this),
        Action::Send => transmit(transport, this),
        Action::PauseProtocol => tell(
            transport,
            this,
            names.pause_writing.obj(),
            "protocol.pause_writing() failed",
        ),
        Action::ResumeProtocol => tell(
            transport,
            this,
            names.resume_writing.obj(),
            "protocol.resume_writing() failed",
        ),
        Action::Emptied => match this.seldom.empty_waiter() {
            Some(waiter) => waiter
                .obj()
                .getattr_str(c"set_result")?
                .obj()
                .call1(none())
                .map(drop),
            None => Ok(()),
        },
        Action::ShutdownWrite => {
            this.poll_next_turn();
            this.descriptor
                .with(&this.socket, |fd| sys::shutdown(fd, Shutdown::Write))
                .map_err(|error| Raised::os_error(&error))
        }
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
    /// Receives once. The outer error is Python's, the inner one the kernel's.
    #[inline]
    pub fn receive(&self, place: &PerLoop) -> R<io::Result<Ref>> {
        self.descriptor
            .with(&self.socket, |fd| Ok(place.receive(fd, self.rules)))
            .unwrap_or_else(|error| Ok(Err(error)))
    }
}
