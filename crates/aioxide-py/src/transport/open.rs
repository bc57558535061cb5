//! How a stream transport opens: what it takes over, learns of its ends and has scheduled.
//!
//! May touch: the fields, the loop, the descriptor. Invariants: the order of the scheduled calls is
//! asyncio's; a transport whose opening failed was seen by nobody.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use super::address;
use super::base::{Fields, fields};
use super::descriptor::SocketKind;
use crate::event_loop::{self, LoopFields};
use crate::ffi::call::dict_set;
use crate::ffi::object::none;
use crate::ffi::{Obj, R, Ref, builtin, error};
use crate::state::state;
use aioxide_core::backend::sys::{self, SocketAddress};

/// What a transport is opened with.
pub struct Opening<'a> {
    pub event_loop: Obj<'a>,
    pub protocol: Obj<'a>,
    /// A future that is done once the protocol knows its transport.
    pub waiter: Option<Obj<'a>>,
    /// The dict that becomes the transport's extra info.
    pub extra: Option<Obj<'a>>,
    pub server: Option<Obj<'a>>,
    /// The context that everything runs in; each registration's own copy if absent.
    pub context: Option<Obj<'a>>,
}

/// Opens `transport` on a socket object that owns its descriptor.
pub fn open_socket(transport: Obj<'_>, socket: Obj<'_>, opening: &Opening<'_>) -> R<()> {
    let this = fields(transport);
    let extra = this.begin(opening)?;
    let names = &state().names;
    let sockname = ask(socket, names.getsockname.obj())?;
    dict_set(extra.obj(), names.sockname.obj(), sockname.obj())?;
    if builtin::dict_get(extra.obj(), names.peername.obj())?.is_none() {
        let peername = ask(socket, names.getpeername.obj())?;
        dict_set(extra.obj(), names.peername.obj(), peername.obj())?;
    }
    this.descriptor.adopt(socket, &this.socket)?;
    connect(transport, this, opening)
}

/// Opens `transport` on a descriptor that the loop accepted, and takes it over.
pub fn open_accepted(
    transport: Obj<'_>,
    fd: OwnedFd,
    kind: SocketKind,
    peer: &SocketAddress,
    opening: &Opening<'_>,
) -> R<()> {
    let this = fields(transport);
    this.descriptor.own(fd, kind);
    let local = this.descriptor.with(&this.socket, sys::local_address).ok();
    if let (None, Some(local)) = (opening.extra, &local) {
        let places = event_loop::native(opening.event_loop).map(LoopFields::transports);
        if let Some(ends) = places.map_or(Ok(None), |places| places.ends(local, peer))? {
            this.begin_bare(opening)?;
            drop(this.ends.replace(Some(ends)));
            return connect(transport, this, opening);
        }
    }
    let extra = this.begin(opening)?;
    let names = &state().names;
    for (name, asked, known) in [
        (&names.sockname, &names.getsockname, local.as_ref()),
        (&names.peername, &names.getpeername, Some(peer)),
    ] {
        let value = match known.map(address::to_python).transpose()?.flatten() {
            Some(value) => value,
            None => ask(this.descriptor.socket(&this.socket)?.obj(), asked.obj())?,
        };
        dict_set(extra.obj(), name.obj(), value.obj())?;
    }
    connect(transport, this, opening)
}

/// `socket.name()`, or `None` where that is an `OSError`.
fn ask(socket: Obj<'_>, name: Obj<'_>) -> R<Ref> {
    match socket.call_method0(name) {
        Err(raised) if raised.matches(builtin::os_error().ptr()) => {
            drop(raised.take());
            Ok(none().to_ref())
        }
        result => result,
    }
}

/// What both ways of opening a socket end with.
fn connect(transport: Obj<'_>, this: &Fields, opening: &Opening<'_>) -> R<()> {
    this.set_protocol(opening.protocol)?;
    if let Some(server) = opening.server {
        this.attach_to(transport, server)?;
    }
    let number = this.descriptor.number();
    this.in_loop(|native| native.transports().attach(number, transport))?;
    this.descriptor.set_nodelay(&this.socket)?;
    schedule_start(transport, this, opening, true)
}

/// Has the protocol told; the order of the scheduled calls is asyncio's.
pub fn schedule_start(
    transport: Obj<'_>,
    this: &Fields,
    opening: &Opening<'_>,
    reads: bool,
) -> R<()> {
    let state = state();
    let made = opening
        .protocol
        .getattr(state.names.connection_made.obj())?;
    this.call_soon(made.obj(), &[transport])?;
    if reads {
        // Only start reading when connection_made() has been called.
        let start = transport.getattr(state.names._start_reading.obj())?;
        this.call_soon(start.obj(), &[])?;
    }
    if let Some(waiter) = opening.waiter {
        // Only wake the waiter when connection_made() has been called.
        let wake = state.asyncio.set_result_unless_cancelled.obj();
        this.call_soon(wake, &[waiter, none()])?;
    }
    Ok(())
}

/// Takes a transport apart whose opening failed: nobody has seen it, so it dies without a word.
/// The error indicator stays as it is.
pub fn discard(transport: Obj<'_>) {
    let saved = error::SavedError::save();
    let this = fields(transport);
    if let Err(raised) = this.descriptor.close(&this.socket) {
        raised.write_unraisable(transport);
    }
    if let Err(raised) = this.detach_from_server(transport) {
        raised.write_unraisable(transport);
    }
    saved.restore();
}
