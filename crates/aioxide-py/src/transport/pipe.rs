//! What ends of pipes do otherwise than sockets: opening, watching, the end of the stream.
//!
//! Duty: the read and the write transport of a pipe, FIFO, terminal or socket that a program hands
//! in as a file object. May touch: the fields, the loop's table of readers and writers. Invariants:
//! a pipe takes a place in that table, as `add_reader` and `add_writer` do, and no registration of
//! its own: one descriptor may serve a read transport and a write transport; a refused file is left
//! as it was.
//!
//! *Source*: asyncio `unix_events._UnixReadPipeTransport` and `_UnixWritePipeTransport`.
#![forbid(unsafe_code)]

use aioxide_core::backend::sys::{self, FileKind};
use aioxide_core::stream::Rules;

use super::base::{Fields, fields};
use super::open::{Opening, schedule_start};
use super::report::{self, fatal};
use super::stream::{force_close, run};
use super::write::transmit;
use crate::event_loop::{self, LoopFields};
use crate::ffi::call::{dict_set, tuple, tuple_item};
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, builtin, bytes};
use crate::handle::Callback;
use crate::state::state;
use crate::streams;

const READ_FAILED: &str = "Fatal read error on pipe transport";

/// Opens `transport` on a pipe object that owns its descriptor.
pub fn open(transport: Obj<'_>, pipe: Obj<'_>, opening: &Opening<'_>) -> R<()> {
    let this = fields(transport);
    let extra = this.begin(opening)?;
    dict_set(extra.obj(), state().names.pipe.obj(), pipe)?;
    this.descriptor.adopt_pipe(pipe, &this.socket)?;
    this.seldom.make().pipe.set(Some(pipe.to_ref()));
    this.set_protocol(opening.protocol)?;
    let kind = this
        .descriptor
        .with(&this.socket, sys::file_kind)
        .map_err(|error| Raised::os_error(&error))?;
    if kind == FileKind::Other {
        this.descriptor.release();
        return Err(Raised::value_error(match this.rules {
            Rules::WritePipe => "Pipe transport is only for pipes, sockets and character devices",
            _ => "Pipe transport is for pipes/sockets only.",
        }));
    }
    this.descriptor
        .with(&this.socket, sys::set_nonblocking)
        .map_err(|error| Raised::os_error(&error))?;
    // The writing end of a pipe or socket becomes readable when its reader goes.
    let reads = this.rules == Rules::ReadPipe || kind != FileKind::CharDevice;
    schedule_start(transport, this, opening, reads)
}

/// Brings reader and writer in line with the core's interest.
pub fn sync_watch(transport: Obj<'_>, this: &Fields) -> R<()> {
    let wanted = this.with(|stream| [stream.wants_read(), stream.wants_write()]);
    let names = &state().names;
    let fd = this.descriptor.number();
    for ((slot, wanted), name) in this
        .seldom
        .make()
        .handles
        .iter()
        .zip(wanted)
        .zip([&names._read_ready, &names._write_ready])
    {
        let reads = name.obj().is(names._read_ready.obj());
        if wanted && slot.is_empty() {
            let function = transport.getattr(name.obj())?;
            let callback = Callback {
                function: function.obj(),
                args: &[],
                context: None,
            };
            let handle = this.in_loop(|native| native.watch_for(fd, &callback, reads))??;
            slot.set(Some(handle));
        } else if !wanted {
            if let Some(handle) = slot.take() {
                this.in_loop(|native| native.unwatch_for(fd, handle.obj(), reads))??;
            }
        }
    }
    Ok(())
}

/// Watches the descriptor no more.
pub fn unwatch(this: &Fields) -> R<()> {
    let fd = this.descriptor.number();
    for (slot, reads) in this.seldom.make().handles.iter().zip([true, false]) {
        if let Some(handle) = slot.take() {
            this.in_loop(|native| match native.is_closed() {
                true => Ok(()),
                false => native.unwatch_for(fd, handle.obj(), reads).map(drop),
            })??;
        }
    }
    Ok(())
}

/// `_read_ready()`: one read and its delivery, or, of a write pipe, the end of its reader.
///
/// *Errors*: what `data_received` raises: the handle that runs this reports it; reading goes on.
pub fn read_ready(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if !this.with(|stream| stream.handle_readable()) {
        return Ok(none_ref());
    }
    if this.rules == Rules::WritePipe {
        return reader_gone(transport, this).map(|()| none_ref());
    }
    let native = this.hold_loop()?;
    let data = match this.receive(native.transports())? {
        Ok(data) => data,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(none_ref()),
        Err(error) => {
            let exc = Raised::os_error(&error).take();
            return fatal(transport, exc.obj(), READ_FAILED).map(|()| none_ref());
        }
    };
    if bytes::slice(data.obj()).is_none_or(<[u8]>::is_empty) {
        return read_eof(transport, this).map(|()| none_ref());
    }
    if let Some(process) = this.seldom.make().process.get() {
        return deliver_later(this, process.obj(), data.obj()).map(|()| none_ref());
    }
    let protocol = this.protocol.get_or_none();
    if let Some(data) = streams::deliver(protocol.obj(), data)? {
        native.transports().keep(data);
    }
    Ok(none_ref())
}

/// `loop.call_soon(process._protocol.pipe_data_received, fd, data)`: what the pipe's protocol in
/// `process_transport.py` does as long as the process's protocol has no connection.
fn deliver_later(this: &Fields, process: Obj<'_>, data: Obj<'_>) -> R<()> {
    let names = &state().names;
    let protocol = tuple_item(process, 0).getattr(names._protocol.obj())?;
    let received = protocol.obj().getattr(names.pipe_data_received.obj())?;
    this.call_soon(received.obj(), &[tuple_item(process, 1), data])
}

/// `_serve_process(transport, fd)`: data goes to the process's protocol from here on, without a
/// stop at the pipe's, until that is replaced.
pub fn serve_process(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [process, fd] = args.bind::<2>(&SERVE_PROCESS)?;
    let pair = tuple(&[process.unwrap_or(none()), fd.unwrap_or(none())])?;
    fields(transport).seldom.make().process.set(Some(pair));
    Ok(none_ref())
}

const SERVE_PROCESS: Signature = Signature {
    name: "_serve_process",
    params: &["transport", "fd"],
    positional: 2,
    required: 2,
};

/// The end of the stream: the protocol hears of it in the next turn, and then of the loss.
fn read_eof(transport: Obj<'_>, this: &Fields) -> R<()> {
    if this.debug() {
        report::log_peer_closed(transport)?;
    }
    let protocol = this.protocol.get_or_none();
    let told = protocol
        .obj()
        .getattr(state().names.eof_received.obj())
        .and_then(|received| this.call_soon(received.obj(), &[]));
    // Also where that failed: nothing more will come.
    let told = told.map_err(Raised::take);
    let step = this.with(|stream| stream.handle_close());
    let closed = run(transport, this, step, none());
    told.map_err(Raised::throw).and(closed)
}

/// Nobody reads what a write pipe writes any more.
fn reader_gone(transport: Obj<'_>, this: &Fields) -> R<()> {
    if this.debug() {
        report::log_peer_closed(transport)?;
    }
    if this.with(|stream| stream.queue().is_empty()) {
        return force_close(transport, this, none());
    }
    let exc = builtin::broken_pipe()?;
    force_close(transport, this, exc.obj())
}

/// `_write_ready()`: the queue is sent, once.
pub fn write_ready(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    if this.with(|stream| stream.handle_writable()) {
        transmit(transport, this)?;
    }
    Ok(none_ref())
}

/// `<ReadPipeTransport fd=7 polling>`, `<WritePipeTransport closing fd=7 idle bufsize=0>`
pub fn describe(this: &Fields) -> String {
    let is_writer = this.rules == Rules::WritePipe;
    let mut words = vec![String::from(if is_writer {
        "WritePipeTransport"
    } else {
        "ReadPipeTransport"
    })];
    let (closing, reads, writes, size) = this.with(|stream| {
        (
            stream.is_closing(),
            stream.wants_read(),
            stream.wants_write(),
            stream.queue().size_bytes(),
        )
    });
    let is_closed = this.descriptor.is_closed();
    if is_closed {
        words.push("closed".into());
    } else if closing {
        words.push("closing".into());
    }
    words.push(format!("fd={}", this.descriptor.number()));
    let event_loop = this.event_loop.get();
    let native = event_loop
        .as_ref()
        .and_then(|event_loop| event_loop::native(event_loop.obj()));
    if is_closed {
        words.push("closed".into());
    } else if native.is_none_or(LoopFields::is_closed) {
        words.push("open".into());
    } else {
        let polls = if is_writer { writes } else { reads };
        words.push(if polls { "polling" } else { "idle" }.into());
        if is_writer {
            words.push(format!("bufsize={size}"));
        }
    }
    format!("<{}>", words.join(" "))
}
