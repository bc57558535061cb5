//! OpenSSL, driven through Python's own objects, so that every setting of a context is obeyed.
//!
//! Duty: one `ssl.SSLObject` between two `ssl.MemoryBIO`s. May touch: those three, and the session
//! in them. The rest of the room sees plaintext, ciphertext and outcomes only. Invariants: an
//! `SSLObject` proper is driven by the methods of the C object in it; anything else (a subclass by
//! `SSLContext.sslobject_class`) by its own methods. Where the C object's session is found, data
//! goes through it directly, and handshake, shutdown and every end and error through the methods;
//! its ciphertext then goes over a wire of ours, until somebody asks for one of the `MemoryBIO`s.
//! Memory that is lent to a C method is not kept by it; foreign methods get memory of their own.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::mem::MaybeUninit;

use super::direct::{self, Direct};
use crate::ffi::buffer::{with_room, with_view};
use crate::ffi::call::{import, interned, tuple, uint};
use crate::ffi::object::boolean;
use crate::ffi::openssl::{Library, Outcome, Session};
use crate::ffi::{Obj, R, Raised, Ref, Slot, builtin, bytes};
use crate::state::state;

/// Ciphertext is handed over in pieces of this size: the library's buffers never shrink.
pub const FEED_BYTES: usize = 16 * 1024;

/// Up to here a copy costs less than a view.
const COPY_BYTES_MAX: usize = 2048;

/// What Python's `ssl` module has for this room, looked up once.
pub struct Ssl {
    pub object_class: Ref,
    pub memory_bio: Ref,
    pub want_read: Ref,
    pub syscall_error: Ref,
    pub error: Ref,
    pub certificate_error: Ref,
    /// The module itself, for what programs may replace in it.
    pub module: Ref,
    /// The names of `wrap_bio`'s last two arguments.
    pub kw_wrap_bio: Ref,
    /// Whether sessions are driven directly.
    pub direct: Direct,
}

impl Ssl {
    /// Looks the module up; `None` on a Python without it.
    pub fn find() -> R<Option<Ssl>> {
        let module = match import(c"ssl") {
            Ok(module) => module,
            Err(raised) if raised.matches(builtin::import_error().ptr()) => {
                raised.clear();
                return Ok(None);
            }
            Err(raised) => return Err(raised),
        };
        let get = |name: &std::ffi::CStr| module.obj().getattr_str(name);
        let names = [interned(c"server_side")?, interned(c"server_hostname")?];
        Ok(Some(Ssl {
            object_class: get(c"SSLObject")?,
            memory_bio: get(c"MemoryBIO")?,
            want_read: get(c"SSLWantReadError")?,
            syscall_error: get(c"SSLSyscallError")?,
            error: get(c"SSLError")?,
            certificate_error: get(c"CertificateError")?,
            kw_wrap_bio: tuple(&[names[0].obj(), names[1].obj()])?,
            direct: Direct::default(),
            module,
        }))
    }
}

/// One TLS session.
#[derive(Default)]
pub struct Engine {
    /// The `SSLObject`.
    object: Slot,
    /// What is called: the C object inside it, or itself.
    driven: Slot,
    /// `driven` is the C object.
    is_direct: Cell<bool>,
    incoming: Slot,
    outgoing: Slot,
    /// The ciphertext buffers are `MemoryBIO`s proper.
    has_own_buffers: Cell<bool>,
    /// The session of the C object, if data goes through it directly.
    session: Session,
}

/// The `ssl` module's objects; RuntimeError on a Python without it.
pub fn ssl() -> R<&'static Ssl> {
    let found = state().ssl.as_ref();
    found.ok_or_else(|| Raised::runtime("stdlib ssl module not available"))
}

/// What a call said: nothing if it needs more from the peer.
fn unless_again<T>(result: R<T>) -> R<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(raised) => {
            let ssl = ssl()?;
            if raised.matches(ssl.want_read.ptr()) || raised.matches(ssl.syscall_error.ptr()) {
                raised.clear();
                return Ok(None);
            }
            Err(raised)
        }
    }
}

fn size(number: &Ref) -> R<usize> {
    Ok(usize::try_from(number.obj().to_i64()?).unwrap_or(0))
}

/// The C object in an `SSLObject` proper.
fn c_object(ssl: &Ssl, object: Obj<'_>) -> R<Option<Ref>> {
    if object.type_obj().ptr() != ssl.object_class.ptr() {
        return Ok(None);
    }
    object.getattr_opt(state().names._sslobj.obj())
}

impl Engine {
    /// Begins a session of `context`.
    pub fn open(&self, context: Obj<'_>, is_server: bool, hostname: Obj<'_>) -> R<()> {
        let ssl = ssl()?;
        self.open_with(ssl, ssl.direct.library(ssl), context, is_server, hostname)
    }

    /// The same, directly by a library or not.
    pub fn open_with(
        &self,
        ssl: &Ssl,
        library: Option<&'static Library>,
        context: Obj<'_>,
        is_server: bool,
        hostname: Obj<'_>,
    ) -> R<()> {
        let (incoming, outgoing) = (ssl.memory_bio.obj().call0()?, ssl.memory_bio.obj().call0()?);
        let wrap = context.getattr(state().names.wrap_bio.obj())?;
        let server_side = boolean(is_server);
        let args = [incoming.obj(), outgoing.obj(), server_side.obj(), hostname];
        let make = || wrap.obj().call_kw(&args, ssl.kw_wrap_bio.obj());
        let object = match library.filter(|_| !self.session.is_used()) {
            Some(library) => self.session.find(library, make, |object| {
                let owner = c_object(ssl, object.obj())?;
                Ok(if direct::has_listener(context)? {
                    None
                } else {
                    owner
                })
            })?,
            None => make()?,
        };
        if self.session.is_found()
            && !(self.owns_buffers(incoming.obj(), outgoing.obj())? && self.session.attach())
        {
            self.session.forget();
        }
        self.incoming.set(Some(incoming));
        self.outgoing.set(Some(outgoing));
        self.has_own_buffers.set(true);
        self.take_object(Some(object))
    }

    /// Whether the session reads and writes these very buffers, which nobody used yet.
    fn owns_buffers(&self, incoming: Obj<'_>, outgoing: Obj<'_>) -> R<bool> {
        let names = &state().names;
        let pending = |buffer: Obj<'_>| size(&buffer.getattr(names.pending.obj())?);
        if pending(incoming)? + pending(outgoing)? > 0 {
            return Ok(false);
        }
        let put = |content: &[u8]| {
            let content = bytes::new(content)?;
            incoming.call_method1(names.write.obj(), content.obj())
        };
        let tried = self
            .session
            .try_buffers(|content| put(content).map(drop), || pending(outgoing))?;
        // What the session did not read is nobody's.
        if pending(incoming)? > 0 {
            incoming.call_method0(names.read.obj())?;
        }
        Ok(tried)
    }

    /// Replaces the `SSLObject`.
    pub fn set_object(&self, object: Option<Ref>) -> R<()> {
        self.session.forget();
        self.take_object(object)
    }

    fn take_object(&self, object: Option<Ref>) -> R<()> {
        let direct = match &object {
            Some(object) => c_object(ssl()?, object.obj())?,
            None => None,
        };
        self.is_direct.set(direct.is_some());
        self.driven.set(direct.or_else(|| object.clone()));
        self.object.set(object);
        Ok(())
    }

    /// Replaces a buffer of ciphertext.
    pub fn set_buffer(&self, is_incoming: bool, buffer: Option<Ref>) {
        self.has_own_buffers.set(false);
        self.session.forget();
        let slot = if is_incoming {
            &self.incoming
        } else {
            &self.outgoing
        };
        slot.set(buffer);
    }

    /// The `SSLObject`, or `None`.
    pub fn object(&self) -> Ref {
        self.object.get_or_none()
    }

    /// The buffer of ciphertext that the session reads, as from now on it does.
    pub fn incoming(&self) -> Ref {
        self.session.forget();
        self.incoming.get_or_none()
    }

    /// The buffer of ciphertext that the session wrote, and writes to from now on.
    pub fn outgoing(&self) -> Ref {
        self.session.forget();
        self.outgoing.get_or_none()
    }

    /// The fields, for the collector.
    pub fn slots(&self) -> [&Slot; 5] {
        let session = self.session.slot();
        [
            &self.object,
            &self.driven,
            &self.incoming,
            &self.outgoing,
            session,
        ]
    }

    /// What is called: the C object, or the object of the user's.
    pub fn driven(&self) -> Ref {
        self.driven.get_or_none()
    }

    /// The session; empty where data goes through Python's objects.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether data goes through the session directly.
    pub fn is_native(&self) -> bool {
        self.session.is_found()
    }

    /// Whether sizes and leftovers can be relied on: nothing is replaced by a class of the user's.
    pub fn is_direct(&self) -> bool {
        self.is_direct.get() && self.has_own_buffers.get()
    }

    // ---- ciphertext -----------------------------------------------------------------------------

    /// Hands all of `ciphertext` over.
    pub fn feed(&self, ciphertext: &[u8]) -> R<()> {
        if let Some(wire) = self.session.wire() {
            wire.keep(ciphertext);
            return Ok(());
        }
        let incoming = self.incoming.get_or_none();
        let name = state().names.write.obj();
        if ciphertext.len() <= COPY_BYTES_MAX || !self.has_own_buffers.get() {
            let copy = bytes::new(ciphertext)?;
            return incoming.obj().call_method1(name, copy.obj()).map(drop);
        }
        with_view(ciphertext, |view| {
            incoming.obj().call_method1(name, view).map(drop)
        })
    }

    /// Bytes that the session has not read.
    pub fn incoming_len(&self) -> R<usize> {
        if let Some(wire) = self.session.wire() {
            return Ok(wire.incoming_len());
        }
        let incoming = self.incoming.get_or_none();
        size(&incoming.obj().getattr(state().names.pending.obj())?)
    }

    /// Bytes that the session wrote and nobody took.
    pub fn outgoing_len(&self) -> R<usize> {
        if let Some(wire) = self.session.wire() {
            return Ok(wire.outgoing_len());
        }
        let outgoing = self.outgoing.get_or_none();
        size(&outgoing.obj().getattr(state().names.pending.obj())?)
    }

    /// Takes all that the session wrote.
    pub fn take_outgoing(&self) -> R<Ref> {
        if let Some(wire) = self.session.wire() {
            return bytes::new(&wire.take_outgoing());
        }
        let outgoing = self.outgoing.get_or_none();
        outgoing.obj().call_method0(state().names.read.obj())
    }

    // ---- the session ----------------------------------------------------------------------------

    /// Continues the handshake: whether it is done.
    pub fn handshake(&self) -> R<bool> {
        let driven = self.driven.get_or_none();
        let result = driven.obj().call_method0(state().names.do_handshake.obj());
        let is_done = unless_again(result)?.is_some();
        if is_done {
            self.session.note_established();
        }
        Ok(is_done)
    }

    /// Sends the close notice, and awaits the peer's: whether both are there.
    pub fn shutdown(&self) -> R<bool> {
        let names = &state().names;
        let name = if self.is_direct.get() {
            names.shutdown.obj()
        } else {
            names.unwrap.obj()
        };
        let driven = self.driven.get_or_none();
        Ok(unless_again(driven.obj().call_method0(name))?.is_some())
    }

    /// Encrypts `plaintext`, which is a part of `whole` or all of it: how much of it.
    pub fn write(&self, whole: Obj<'_>, plaintext: &[u8]) -> R<Option<usize>> {
        match self.session.write(plaintext) {
            Outcome::Done(len) => return Ok(Some(len)),
            Outcome::Again => return Ok(None),
            Outcome::Ask => {}
        }
        let name = state().names.write.obj();
        let driven = self.driven.get_or_none();
        let all = bytes::slice(whole).map(<[u8]>::len) == Some(plaintext.len());
        let result = if all {
            driven.obj().call_method1(name, whole)
        } else if self.is_direct.get() {
            with_view(plaintext, |view| driven.obj().call_method1(name, view))
        } else {
            let copy = bytes::new(plaintext)?;
            driven.obj().call_method1(name, copy.obj())
        };
        unless_again(result)?.as_ref().map(size).transpose()
    }

    /// Decrypts into the writable `target`, at most `len` bytes: how many. Zero is the peer's close
    /// notice.
    pub fn read_into(&self, target: Obj<'_>, len: usize) -> R<Option<usize>> {
        let driven = self.driven.get_or_none();
        let len = uint(len as u64)?;
        let args = [driven.obj(), len.obj(), target];
        let result = driven.obj().call_method(state().names.read.obj(), &args);
        unless_again(result)?.as_ref().map(size).transpose()
    }

    /// The same into `room`, by a direct engine.
    pub fn read_direct(&self, room: &mut [MaybeUninit<u8>]) -> R<Option<usize>> {
        match self.session.read(room) {
            Outcome::Done(len) => return Ok(Some(len)),
            Outcome::Again => return Ok(None),
            Outcome::Ask => {}
        }
        let len = room.len();
        with_room(room, |view| self.read_into(view, len))
    }

    /// Decrypts at most `len` bytes into a new `bytes`; an empty one is the peer's close notice.
    pub fn read(&self, len: usize) -> R<Option<Ref>> {
        let driven = self.driven.get_or_none();
        let len = uint(len as u64)?;
        let result = driven
            .obj()
            .call_method1(state().names.read.obj(), len.obj());
        unless_again(result)
    }

    /// Whether a direct engine can say nothing new without more ciphertext.
    ///
    /// The library reads record by record: what it holds of an unfinished one yields nothing, and
    /// notices and tickets lie in the buffer until somebody reads past them.
    pub fn is_drained(&self) -> R<bool> {
        if let Some(is_drained) = self.session.is_drained() {
            return Ok(is_drained);
        }
        if self.incoming_len()? > 0 {
            return Ok(false);
        }
        let driven = self.driven.get_or_none();
        let held = driven.obj().call_method0(state().names.pending.obj())?;
        Ok(size(&held)? == 0)
    }

    /// What the handshake found out: certificate, cipher, compression.
    pub fn findings(&self) -> R<[Ref; 3]> {
        let names = &state().names;
        // The methods of an `SSLObject` proper only pass the question on.
        let slot = if self.is_direct.get() {
            &self.driven
        } else {
            &self.object
        };
        let object = slot.get_or_none();
        let ask = |name: &Ref| object.obj().call_method0(name.obj());
        Ok([
            ask(&names.getpeercert)?,
            ask(&names.cipher)?,
            ask(&names.compression)?,
        ])
    }
}
