//! Plaintext out: what a write queues, and how the queue is encrypted and leaves.
//!
//! Duty: turn what Python hands in into chunks, encrypt them a piece at a time, pass the ciphertext
//! on. May touch: the engine and the transport below. Invariants: `bytes` are held and never
//! copied, anything else is copied at `write()`; no borrow is held while the library runs.
#![forbid(unsafe_code)]

use aioxide_core::tls::{PIECE_BYTES, Step, WritePlan};

use super::fields::{Chunk, Fields, app_fields, fields};
use super::read::Input;
use super::report;
use super::run::run;
use crate::event_loop;
use crate::ffi::buffer::Buffer;
use crate::ffi::object::none_ref;
use crate::ffi::openssl::Wire;
use crate::ffi::{Obj, R, Raised, Ref, builtin, bytes};
use crate::state::state;
use crate::transport::report::log_warning;
use crate::transport::write::write_content;

/// Ciphertext that gathers in the loop's place before it leaves: four full records, what a write of
/// 64 KiB comes to. One send instead of four, and nothing is copied for a queue.
const BATCH_BYTES: usize = 4 * (PIECE_BYTES + RECORD_EXTRA_BYTES);

/// What a record has beyond its plaintext, at most. *Source*: RFC 8446, section 5.2.
const RECORD_EXTRA_BYTES: usize = 5 + 256;

const FAILED: &str = "Fatal error on SSL protocol";

/// `SSLTransport.write(data)`.
pub fn write(transport: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let is_bytes = bytes::slice(data).is_some();
    if !is_bytes && !builtin::is_mutable_bytes(data) {
        let name = builtin::type_name(data)?;
        return Err(Raised::type_error(&format!(
            "data: expecting a bytes-like instance, got {name}"
        )));
    }
    if builtin::len(data)? == 0 {
        return Ok(none_ref());
    }
    let Some(protocol) = app_fields(transport).protocol.get() else {
        return Ok(none_ref());
    };
    let this = fields(protocol.obj());
    if let WritePlan::Lost { warn } = this.with(|tls| tls.handle_write()) {
        return lost_write(warn);
    }
    match chunk(data) {
        Ok(chunk) => queue(protocol.obj(), this, vec![chunk]),
        Err(raised) => failed(protocol.obj(), raised),
    }
}

/// `SSLTransport.writelines(list_of_data)`, and `_write_appdata`.
pub fn writelines(protocol: Obj<'_>, lines: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    if let WritePlan::Lost { warn } = this.with(|tls| tls.handle_write()) {
        return lost_write(warn);
    }
    let iterator = builtin::iter(lines)?;
    let (mut chunks, mut failure) = (Vec::new(), None);
    loop {
        // A line without a length is the caller's mistake, one without bytes the connection's end.
        let next = builtin::next(iterator.obj()).and_then(|line| {
            line.map(|line| builtin::len(line.obj()).map(|_| line))
                .transpose()
        });
        let line = match next {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(raised) => {
                // What came before stays queued, and leaves with the next write.
                let exc = raised.take();
                enqueue(this, chunks);
                return Err(Raised::throw(exc));
            }
        };
        match chunk(line.obj()) {
            Ok(chunk) => chunks.push(chunk),
            Err(raised) if failure.is_none() => failure = Some(raised.take()),
            Err(raised) => raised.clear(),
        }
    }
    if let Some(exc) = failure {
        return failed(protocol, Raised::throw(exc));
    }
    // Asked again: iterating may have run anything.
    if let WritePlan::Lost { warn } = this.with(|tls| tls.handle_write()) {
        return lost_write(warn);
    }
    queue(protocol, this, chunks)
}

fn failed(protocol: Obj<'_>, raised: Raised) -> R<Ref> {
    if !raised.is_ordinary() {
        return Err(raised);
    }
    let exc = raised.take();
    report::fatal(protocol, exc.obj(), FAILED).map(|()| none_ref())
}

#[cold]
fn lost_write(warn: bool) -> R<Ref> {
    if warn {
        log_warning("SSL connection is closed")?;
    }
    Ok(none_ref())
}

/// The bytes of `data`, held or copied.
fn chunk(data: Obj<'_>) -> R<Chunk> {
    if bytes::slice(data).is_some() {
        return Ok(Chunk(data.to_ref()));
    }
    let buffer = Buffer::readable(data)?;
    bytes::new(buffer.as_slice()).map(Chunk)
}

fn enqueue(this: &Fields, chunks: Vec<Chunk>) {
    let empty: Vec<Chunk> = this.with(|tls| {
        let queued = chunks.into_iter().map(|chunk| tls.handle_queued(chunk));
        queued.filter_map(Result::err).collect()
    });
    drop(empty);
}

fn queue(protocol: Obj<'_>, this: &Fields, chunks: Vec<Chunk>) -> R<Ref> {
    enqueue(this, chunks);
    let step = this.with(|tls| tls.handle_write_end());
    run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
}

/// Queues `data` and encrypts nothing: what CPython's tests fill the backlog with.
pub fn append_backlog(protocol: Obj<'_>, data: Obj<'_>) -> R<Ref> {
    let chunk = chunk(data)?;
    let refused = fields(protocol).with(|tls| tls.handle_queued(chunk).err());
    drop(refused);
    Ok(none_ref())
}

/// Encrypts a piece of the front of the backlog.
pub fn encrypt(this: &Fields, step: &mut Step) -> R<()> {
    let front = this.with(|tls| {
        let backlog = tls.backlog();
        let unsent = backlog.slices().next().map_or(0, <[u8]>::len);
        backlog.iter().next().map(|chunk| (chunk.0.clone(), unsent))
    });
    let Some((chunk, unsent)) = front else {
        return Ok(());
    };
    let all = bytes::slice(chunk.obj()).unwrap_or_default();
    let piece = &all[all.len() - unsent..];
    let piece = &piece[..piece.len().min(PIECE_BYTES)];
    prepare(this);
    let Some(len) = this.engine.write(chunk.obj(), piece)? else {
        this.with(|tls| tls.handle_encrypt_blocked(step));
        return Ok(());
    };
    let wire = this.engine.session().wire();
    let has_room = wire.is_some_and(|wire| wire.outgoing_len() + PIECE_BYTES <= BATCH_BYTES);
    let mut spent = Vec::new();
    this.with(|tls| tls.handle_encrypted(step, len, has_room, &mut spent));
    drop(spent);
    Ok(())
}

/// Gives the session the loop's place for the ciphertext that it is about to write.
pub fn prepare(this: &Fields) {
    let event_loop = this.event_loop.get_or_none();
    let (Some(wire), Some(native)) = (
        this.engine.session().wire(),
        event_loop::native(event_loop.obj()),
    ) else {
        return;
    };
    if let Some(place) = wire.give_place(native.transports().take_cipher()) {
        native.transports().put_cipher(place);
    }
}

/// Moves all ciphertext to the transport below.
pub fn send(this: &Fields) -> R<()> {
    let Some(transport) = this.transport.get() else {
        return Ok(());
    };
    if let Some(wire) = this
        .engine
        .session()
        .wire()
        .filter(|_| this.is_over_stream.get())
    {
        return send_native(this, wire, transport.obj());
    }
    let data = this.engine.take_outgoing()?;
    this.with(|tls| tls.handle_outgoing(0));
    if builtin::len(data.obj())? == 0 {
        return Ok(());
    }
    if this.is_over_stream.get() {
        return crate::transport::write::write(transport.obj(), data.obj()).map(drop);
    }
    let name = state().names.write.obj();
    transport.obj().call_method1(name, data.obj()).map(drop)
}

/// The same from a wire to a native stream: no object in between.
fn send_native(this: &Fields, wire: &Wire, transport: Obj<'_>) -> R<()> {
    let place = wire.take_outgoing();
    this.with(|tls| tls.handle_outgoing(0));
    let result = if place.is_empty() {
        Ok(())
    } else {
        write_content(transport, &place)
    };
    let event_loop = this.event_loop.get_or_none();
    if let Some(native) = event_loop::native(event_loop.obj()) {
        native.transports().put_cipher(place);
    }
    result
}
