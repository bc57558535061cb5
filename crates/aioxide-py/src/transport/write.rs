//! Writing: what a write may send at once, what it queues, and how the queue leaves.
//!
//! Duty: turn what Python hands in into chunks, and send. May touch: the descriptor. Invariants: a
//! buffer that its owner may change is copied at `write()`, `bytes` are held; no buffer is borrowed
//! while Python runs.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use aioxide_core::backend::sys::{self, VECTORED_MAX};
use aioxide_core::buf::Spent;
use aioxide_core::stream::{Moment, Rules, Step, WritePlan};

use super::base::{Chunk, Fields, fields};
use super::report::{self, fatal};
use super::stream::{flush, run, run_in};
use crate::event_loop;
use crate::ffi::buffer::Buffer;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, Slot, builtin, bytes};

/// Slices of one send that need no allocation: a response is rarely in more pieces.
const SLICES_INLINE: usize = 16;

/// What a failed write is called, on a socket and on a pipe.
const WRITE_FAILED: [&str; 2] = [
    "Fatal write error on socket transport",
    "Fatal write error on pipe transport",
];

/// What became of data given to `write()`, as far as it goes without Python.
enum Offer {
    Done,
    AfterEof,
    Lost {
        warn: bool,
    },
    Failed(io::Error),
    /// Queue all of it.
    Queue,
    /// Queue what is behind the first so many bytes, which left.
    Unsent(usize),
}

/// What the loop is doing. Pipes take no part: each of their writes is one of the kernel's too, as
/// long as nothing waits, because a pipe may have other writers and a terminal or packet pipe shows
/// the bounds.
#[inline]
fn moment(this: &Fields) -> Option<Moment> {
    if this.is_pipe() {
        return None;
    }
    let event_loop = this.event_loop.get()?;
    event_loop::native(event_loop.obj())?.moment()
}

/// Sends `content` at once if the core says so.
#[inline]
fn offer(this: &Fields, content: &[u8]) -> Offer {
    let moment = moment(this);
    match this.with(|stream| stream.handle_write(content.len(), moment)) {
        WritePlan::Nothing => Offer::Done,
        WritePlan::AfterEof => Offer::AfterEof,
        WritePlan::Lost { warn } => Offer::Lost { warn },
        WritePlan::Queue => Offer::Queue,
        WritePlan::SendNow => match send(this, content) {
            Ok(sent) if sent >= content.len() => Offer::Done,
            Ok(sent) => Offer::Unsent(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Offer::Unsent(0),
            Err(error) => Offer::Failed(error),
        },
    }
}

/// One send of a socket, or one write to a pipe.
#[inline]
fn send(this: &Fields, content: &[u8]) -> io::Result<usize> {
    let descriptor = &this.descriptor;
    descriptor.with(&this.socket, |fd| send_one(this, fd, content))
}

#[inline]
fn send_one(this: &Fields, fd: BorrowedFd<'_>, content: &[u8]) -> io::Result<usize> {
    this.poll_next_turn();
    match this.rules {
        Rules::Socket => sys::send(fd, content),
        Rules::ReadPipe | Rules::WritePipe => sys::write(fd, content),
    }
}

/// The same for several slices.
fn send_vectored(this: &Fields, fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    this.poll_next_turn();
    match this.rules {
        Rules::Socket => sys::send_vectored(fd, slices),
        Rules::ReadPipe | Rules::WritePipe => sys::write_vectored(fd, slices),
    }
}

/// `write(data)`.
pub fn write(transport: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    let immutable = bytes::slice(data);
    if immutable.is_none() && !builtin::is_mutable_bytes(data) {
        return Err(not_bytes(this, data));
    }
    if this.seldom.empty_waiter().is_some() {
        check_not_busy(this, "write")?;
    }
    if let Some(content) = immutable {
        let offer = offer(this, content);
        let skip = if let Offer::Unsent(sent) = offer {
            sent
        } else {
            0
        };
        return conclude(
            transport,
            this,
            offer,
            || Ok(Chunk::new(data.to_ref())),
            skip,
        );
    }
    let buffer = match Buffer::readable(data) {
        Ok(buffer) => buffer,
        Err(raised) => return write_unreadable(transport, this, raised),
    };
    let (offer, rest) = offer_copy(this, buffer.as_slice())?;
    drop(buffer);
    conclude_copy(transport, this, offer, rest)
}

/// `write()` of content that is no object's, and is copied if it cannot leave at once.
pub fn write_content(transport: Obj<'_>, content: &[u8]) -> R<()> {
    let this = fields(transport);
    if this.seldom.empty_waiter().is_some() {
        check_not_busy(this, "write")?;
    }
    let (offer, rest) = offer_copy(this, content)?;
    conclude_copy(transport, this, offer, rest).map(drop)
}

/// Offers `content`, and copies what is to be queued.
#[inline]
fn offer_copy(this: &Fields, content: &[u8]) -> R<(Offer, Option<Ref>)> {
    let offer = offer(this, content);
    let rest = match offer {
        Offer::Queue => Some(bytes::new(content)?),
        Offer::Unsent(sent) => Some(bytes::new(&content[sent..])?),
        _ => None,
    };
    Ok((offer, rest))
}

#[inline]
fn conclude_copy(transport: Obj<'_>, this: &Fields, offer: Offer, rest: Option<Ref>) -> R<Ref> {
    let chunk = || Ok(Chunk::new(rest.unwrap_or_else(none_ref)));
    conclude(transport, this, offer, chunk, 0)
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
        Offer::Lost { warn } => return lost_write(this, warn),
        Offer::Failed(error) => {
            let exc = Raised::os_error(&error).take();
            return write_failed(transport, this, exc.obj()).map(|()| none_ref());
        }
        Offer::Queue => {
            let chunk = chunk()?;
            match this.with(|stream| stream.handle_held(chunk)) {
                Ok(false) => return Ok(none_ref()),
                Ok(true) => return flush_later(transport, this).map(|()| none_ref()),
                Err(chunk) => this.with(|stream| stream.handle_queued(chunk)),
            }
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

/// Has what is held leave at the end of the turn.
#[inline]
pub fn flush_later(transport: Obj<'_>, this: &Fields) -> R<()> {
    this.in_loop(|native| native.flush_later(transport.to_ref(), flush))
}

/// A view that is not contiguous: asyncio finds out when it sends.
#[cold]
fn write_unreadable(transport: Obj<'_>, this: &Fields, raised: Raised) -> R<Ref> {
    let exc = raised.take();
    match this.with(|stream| stream.handle_write(1, None)) {
        WritePlan::AfterEof => Err(Raised::runtime("Cannot call write() after write_eof()")),
        WritePlan::Lost { warn } => lost_write(this, warn),
        _ => write_failed(transport, this, exc.obj()).map(|()| none_ref()),
    }
}

/// A write that could not be tried, or failed at once. Pipes count it.
#[cold]
fn write_failed(transport: Obj<'_>, this: &Fields, exc: Obj<'_>) -> R<()> {
    if this.is_pipe() {
        give_up(transport, this)?;
    }
    fatal(transport, exc, WRITE_FAILED[usize::from(this.is_pipe())])
}

fn give_up(transport: Obj<'_>, this: &Fields) -> R<()> {
    let mut spent = Vec::new();
    let step = this.with(|stream| stream.handle_send_failed(&mut spent));
    drop(spent);
    run(transport, this, step, none())
}

#[cold]
pub fn lost_write(this: &Fields, warn: bool) -> R<Ref> {
    if warn {
        report::log_warning(match this.rules {
            Rules::Socket => "socket.send() raised exception.",
            _ => "pipe closed by peer or os.write(pipe, data) raised exception.",
        })?;
    }
    Ok(none_ref())
}

#[cold]
fn not_bytes(this: &Fields, data: Obj<'_>) -> Raised {
    if this.is_pipe() {
        return match data.repr() {
            Ok(shown) => builtin::assertion(&shown),
            Err(raised) => raised,
        };
    }
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
    Err(Raised::runtime(&format!(
        "unable to {method}; sendfile is in progress"
    )))
}

/// `writelines(list_of_data)`.
pub fn writelines(transport: Obj<'_>, lines: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if cfg!(not(Py_3_12)) || this.is_pipe() {
        let joined = bytes::new(b"")?;
        let joined = joined.obj().getattr_str(c"join")?.obj().call1(lines)?;
        return write(transport, joined.obj());
    }
    if this.with(|stream| stream.is_eof_written()) {
        return Err(lines_after_eof());
    }
    if this.seldom.empty_waiter().is_some() {
        check_not_busy(this, "writelines")?;
    }
    if !lines.is_true()? {
        return Ok(none_ref());
    }
    if let WritePlan::Lost { warn } = this.with(|stream| stream.handle_writelines()) {
        return lost_write(this, warn);
    }
    let chunks = collect_lines(lines)?;
    // Asked again: iterating may have run anything.
    match this.with(|stream| stream.handle_writelines()) {
        WritePlan::Lost { warn } => return lost_write(this, warn),
        WritePlan::AfterEof => return Err(lines_after_eof()),
        _ => {}
    }
    let moment = moment(this);
    let mut empty = Vec::new();
    let step = this.with(|stream| {
        empty.extend(
            chunks
                .into_iter()
                .filter_map(|chunk| stream.handle_line(chunk).err()),
        );
        stream.handle_lines_end(moment)
    });
    drop(empty);
    run(transport, this, step, none()).map(|()| none_ref())
}

#[cold]
fn lines_after_eof() -> Raised {
    Raised::runtime("Cannot call writelines() after write_eof()")
}

/// The lines as chunks: `bytes` as they are, anything else as it is now. From 3.14 on, false ones
/// are left out, whatever they are; before, empty ones are simply not queued.
fn collect_lines(lines: Obj<'_>) -> R<Vec<Chunk>> {
    let iterator = builtin::iter(lines)?;
    let mut chunks = Vec::new();
    while let Some(line) = builtin::next(iterator.obj())? {
        if bytes::slice(line.obj()).is_some() {
            chunks.push(Chunk::new(line));
        } else if cfg!(not(Py_3_14)) || line.obj().is_true()? {
            let view = builtin::memoryview(line.obj())?;
            let buffer = Buffer::readable(view.obj())?;
            chunks.push(Chunk::new(bytes::new(buffer.as_slice())?));
        }
    }
    Ok(chunks)
}

/// Sends the queue once.
pub fn transmit(transport: Obj<'_>, this: &Fields) -> R<()> {
    match send_queue(this) {
        Ok(step) => run(transport, this, step, none()),
        Err(error) => transmit_failed(transport, this, &error),
    }
}

/// The end of the turn: sends what was held. Enters `context` only if anybody is to be told.
pub fn transmit_held(transport: Obj<'_>, this: &Fields, context: &Slot) -> R<()> {
    let sent = send_queue(this);
    if matches!(&sent, Ok(step) if this.with(|stream| stream.is_settled(step))) {
        return Ok(());
    }
    run_in(context.get(), || match sent {
        Ok(step) => run(transport, this, step, none()),
        Err(error) => transmit_failed(transport, this, &error),
    })
}

/// One send of the queue, and what comes of it.
fn send_queue(this: &Fields) -> io::Result<Step> {
    let sent = this.descriptor.with(&this.socket, |fd| {
        let stream = this.stream.borrow();
        if let Some(only) = stream.queue().only_slice() {
            return send_one(this, fd, only);
        }
        let mut inline = [IoSlice::new(&[]); SLICES_INLINE];
        let mut rest = stream.queue().slices().take(VECTORED_MAX);
        let mut len = 0;
        for (place, slice) in inline.iter_mut().zip(&mut rest) {
            *place = IoSlice::new(slice);
            len += 1;
        }
        match rest.next() {
            None => send_vectored(this, fd, &inline[..len]),
            Some(next) => {
                let mut all = inline.to_vec();
                all.push(IoSlice::new(next));
                all.extend(rest.map(IoSlice::new));
                send_vectored(this, fd, &all)
            }
        }
    });
    // Declared first: dropped when nothing is borrowed any more.
    let mut spent = Spent::default();
    match sent {
        Ok(len) => Ok(this.with(|stream| stream.handle_sent(len, &mut spent))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Ok(this.with(|stream| stream.handle_blocked()))
        }
        Err(error) => Err(error),
    }
}

#[cold]
fn transmit_failed(transport: Obj<'_>, this: &Fields, error: &io::Error) -> R<()> {
    let exc = Raised::os_error(error).take();
    give_up(transport, this)?;
    fatal(
        transport,
        exc.obj(),
        WRITE_FAILED[usize::from(this.is_pipe())],
    )?;
    match this.seldom.empty_waiter() {
        Some(waiter) => waiter
            .obj()
            .getattr_str(c"set_exception")?
            .obj()
            .call1(exc.obj())
            .map(drop),
        None => Ok(()),
    }
}

/// Sends what is held to the end of the turn, because somebody is about to look.
pub fn settle(transport: Obj<'_>, this: &Fields) -> R<()> {
    // A resumed protocol may have written again.
    while this.with(|stream| stream.handle_flush()) {
        transmit(transport, this)?;
    }
    Ok(())
}

/// `write_eof()`.
pub fn write_eof(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    settle(transport, this)?;
    let step = this.with(|stream| stream.handle_write_eof());
    run(transport, this, step, none()).map(|()| none_ref())
}
