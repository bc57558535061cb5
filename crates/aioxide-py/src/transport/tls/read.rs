//! Plaintext in: ciphertext to the engine a piece at a time, plaintext to the protocol at once.
//!
//! Duty: decrypt all that one read of the transport brought, then deliver it in one call, as
//! asyncio does. May touch: the engine, the loop's shared place for plaintext, the protocol above.
//! Invariants: all ciphertext at hand is in the engine before the protocol is called; the shared
//! place is taken out of the loop while it is used, so that a callback in the library may read too.
#![forbid(unsafe_code)]

use super::engine::{Engine, FEED_BYTES};
use super::fields::{Fields, Taker, fields};
use super::run::run;
use crate::event_loop;
use crate::ffi::buffer::Buffer;
use crate::ffi::call::uint;
use crate::ffi::{Obj, R, Raised, Ref, builtin, bytes};
use crate::state::state;
use crate::streams;

/// The shared place for plaintext: as much as one read of a transport can bring.
pub const PLAIN_BYTES: usize = 256 * 1024;

/// Most plaintext in one TLS record.
const RECORD_BYTES: usize = 16 * 1024;

/// What asyncio asks a session for at once: what a session of the user's own is asked for.
const CHUNK_BYTES: usize = 256 * 1024;

/// Ciphertext that came in and is not in the engine yet.
#[derive(Default)]
pub struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// Hands one piece over: false if nothing is left.
    pub fn feed_piece(&mut self, engine: &Engine) -> R<bool> {
        if self.0.is_empty() {
            return Ok(false);
        }
        let (piece, rest) = self.0.split_at(self.0.len().min(FEED_BYTES));
        self.0 = rest;
        engine.feed(piece).map(|()| true)
    }

    /// Hands everything over.
    pub fn feed_all(&mut self, engine: &Engine) -> R<()> {
        while self.feed_piece(engine)? {}
        Ok(())
    }
}

/// Ciphertext came in from the transport below.
pub fn receive(protocol: Obj<'_>, ciphertext: &[u8]) -> R<()> {
    let this = fields(protocol);
    let step = this.with(|tls| tls.handle_received());
    if let Some(wire) = this.engine.session().wire() {
        // Read where it lies.
        return wire.lend(ciphertext, || {
            run(protocol, this, step, &mut Input::default())
        });
    }
    let mut input = Input(ciphertext);
    let ran = run(protocol, this, step, &mut input).map_err(Raised::take);
    // Also when an exception leaves the loop: no byte of the stream may be missing when it runs on.
    let fed = input.feed_all(&this.engine);
    match ran {
        Ok(()) => fed,
        Err(exc) => {
            fed.unwrap_or_else(Raised::clear);
            Err(Raised::throw(exc))
        }
    }
}

/// Why a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing more can be decrypted.
    Drained,
    /// The protocol's buffer is full.
    Full,
    /// The peer's close notice came.
    Eof,
}

/// Decrypts and delivers.
pub fn deliver(this: &Fields, input: &mut Input<'_>) -> R<End> {
    input.feed_piece(&this.engine)?;
    if this.taker.get() == Taker::Buffer {
        return deliver_into(this, input);
    }
    let (data, is_eof) = if this.engine.is_direct() {
        decrypt(this, input)?
    } else {
        decrypt_foreign(this, input)?
    };
    input.feed_all(&this.engine)?;
    if let Some(data) = data {
        let app = this.app.get_or_none();
        if this.taker.get() == Taker::Tls {
            receive(app.obj(), bytes::slice(data.obj()).unwrap_or_default())?;
        } else {
            let lent = streams::deliver(app.obj(), data)?;
            let event_loop = this.event_loop.get_or_none();
            if let (Some(data), Some(native)) = (lent, event_loop::native(event_loop.obj())) {
                native.transports().keep(data);
            }
        }
    }
    Ok(if is_eof { End::Eof } else { End::Drained })
}

/// Decrypts in the shared place: the plaintext, and whether the close notice came.
fn decrypt(this: &Fields, input: &mut Input<'_>) -> R<(Option<Ref>, bool)> {
    let event_loop = this.event_loop.get_or_none();
    let native = event_loop::native(event_loop.obj());
    let place = match native {
        Some(native) => native.transports().take_plain(PLAIN_BYTES)?,
        None => bytes::new_array(PLAIN_BYTES)?,
    };
    let result = decrypt_in(&place, &this.engine, input, |content| match native {
        Some(native) => native.transports().copy(content),
        None => bytes::new(content),
    });
    if let Some(native) = native {
        native.transports().put_plain(place);
    }
    result
}

fn decrypt_in(
    place: &Ref,
    engine: &Engine,
    input: &mut Input<'_>,
    copy: impl Fn(&[u8]) -> R<Ref>,
) -> R<(Option<Ref>, bool)> {
    let (mut filled, mut spilt) = (0, Vec::new());
    let is_eof = loop {
        // Nothing at hand, nothing to ask: a refusal would cost an exception.
        if engine.is_drained()? {
            if input.feed_piece(engine)? {
                continue;
            }
            break false;
        }
        let count = if filled == 0 && !engine.is_native() {
            engine.read_into(place.obj(), RECORD_BYTES)?
        } else {
            let room = bytes::array_room(place, filled, RECORD_BYTES);
            engine.read_direct(room)?
        };
        match count {
            Some(0) => break true,
            Some(count) => filled += count,
            None if input.feed_piece(engine)? => {}
            None => break false,
        }
        if filled > PLAIN_BYTES - RECORD_BYTES {
            spilt.extend_from_slice(bytes::array_slice(place, filled));
            filled = 0;
        }
    };
    let rest = bytes::array_slice(place, filled);
    let data = if spilt.is_empty() {
        (filled > 0).then(|| copy(rest)).transpose()?
    } else {
        spilt.extend_from_slice(rest);
        Some(copy(&spilt)?)
    };
    Ok((data, is_eof))
}

/// The same by the methods of a session of the user's own: read until it refuses.
#[cold]
fn decrypt_foreign(this: &Fields, input: &mut Input<'_>) -> R<(Option<Ref>, bool)> {
    let mut chunks: Vec<Ref> = Vec::new();
    let is_eof = loop {
        match this.engine.read(CHUNK_BYTES)? {
            Some(chunk) if builtin::len(chunk.obj())? == 0 => break true,
            Some(chunk) => chunks.push(chunk),
            None if input.feed_piece(&this.engine)? => {}
            None => break false,
        }
    };
    let data = if chunks.len() > 1 {
        let all = crate::ffi::call::list(&chunks)?;
        let empty = bytes::new(b"")?;
        Some(empty.obj().getattr_str(c"join")?.obj().call1(all.obj())?)
    } else {
        chunks.pop()
    };
    Ok((data, is_eof))
}

/// Decrypts into the buffer of a `BufferedProtocol`.
fn deliver_into(this: &Fields, input: &mut Input<'_>) -> R<End> {
    let names = &state().names;
    let app = this.app.get_or_none();
    let hint = uint((this.engine.incoming_len()? + input.0.len()) as u64)?;
    let target = app.obj().call_method1(names.get_buffer.obj(), hint.obj())?;
    let (filled, end) = decrypt_into(this, target.obj(), input)?;
    input.feed_all(&this.engine)?;
    if filled > 0 {
        let app = this.app.get_or_none();
        let filled = uint(filled as u64)?;
        app.obj()
            .call_method1(names.buffer_updated.obj(), filled.obj())?;
    }
    Ok(end)
}

/// How much was decrypted into `target`, and why it was not more.
fn decrypt_into(this: &Fields, target: Obj<'_>, input: &mut Input<'_>) -> R<(usize, End)> {
    let engine = &this.engine;
    let is_direct = engine.is_direct();
    let mut buffer = match Buffer::writable(target) {
        Ok(buffer) => buffer,
        Err(raised) => {
            // The session says what it thinks of it.
            raised.clear();
            engine.read_into(target, builtin::len(target)?)?;
            return Ok((0, End::Drained));
        }
    };
    let wants = buffer.as_room().len();
    let mut filled = 0;
    loop {
        if filled > 0 && filled == wants {
            return Ok((filled, End::Full));
        }
        if is_direct && wants > 0 && engine.is_drained()? {
            if input.feed_piece(engine)? {
                continue;
            }
            return Ok((filled, End::Drained));
        }
        let count = if filled == 0 && !engine.is_native() {
            engine.read_into(target, wants)?
        } else if is_direct {
            engine.read_direct(&mut buffer.as_room()[filled..])?
        } else {
            let view = builtin::memoryview(target)?;
            let rest = builtin::slice_from(view.obj(), filled)?;
            engine.read_into(rest.obj(), wants - filled)?
        };
        match count {
            Some(0) => return Ok((filled, End::Eof)),
            Some(count) => filled += count,
            None if input.feed_piece(engine)? => {}
            None => return Ok((filled, End::Drained)),
        }
    }
}
