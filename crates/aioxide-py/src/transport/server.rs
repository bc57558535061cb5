//! Accepting connections: the loop methods behind `asyncio.Server`.
//!
//! Duty: watch a listening socket, accept up to a backlog per wake-up (over TLS two), and open a
//! transport for each connection without a task; in debug mode TLS connections go on to the
//! package's `_accept_ssl`, which waits for the handshake to say why it failed. May touch:
//! the listener, the loop's readers and timers. Invariants: an accepted descriptor is owned by
//! somebody at every moment, so none is left open whatever raises; running out of descriptors
//! stops accepting for a second and never the server.
//!
//! *Source*: asyncio `BaseSelectorEventLoop._accept_connection`.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use aioxide_core::backend::sys::{self, SocketAddress};

use super::base::Fields;
use super::class;
use super::descriptor::{Descriptor, SocketKind};
use super::open::{self, Opening};
use super::tls::{self, Making};
use super::{address, report};
use crate::event_loop;
use crate::ffi::call::{import, int, interned};
use crate::ffi::exception::while_handling;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, Slot, context};
use crate::state::state;
use aioxide_core::stream::Rules;

/// Connections accepted per wake-up unless the caller says otherwise. *Source*: asyncio.
const BACKLOG_DEFAULT: i64 = 100;

/// TLS connections accepted per wake-up: a handshake costs as much as a hundred messages, and all
/// others wait for those that came in together. The kernel's queue keeps the order. With
/// one at a time a handshake costs 4 % more, for its code is out of the caches again.
const TLS_ACCEPTED_MAX: i64 = 2;

const PARAMS: usize = 8;

const SERVE: Signature = Signature {
    name: "_start_serving",
    params: &[
        "protocol_factory",
        "sock",
        "sslcontext",
        "server",
        "backlog",
        "ssl_handshake_timeout",
        "ssl_shutdown_timeout",
        "context",
    ],
    positional: PARAMS,
    required: 2,
};

/// What a listener was started with.
struct Serving<'a> {
    /// All arguments in order, as they are passed on.
    all: [Obj<'a>; PARAMS],
    factory: Obj<'a>,
    socket: Obj<'a>,
    /// `None` for plain connections.
    tls: Option<Obj<'a>>,
    server: Option<Obj<'a>>,
    /// The context whose copies connections run in (3.15).
    context: Option<Obj<'a>>,
}

impl<'a> Serving<'a> {
    /// Binds the arguments; `backlog` replaces a missing one.
    fn bind(args: &Args<'a>, backlog: &'a Ref) -> R<Serving<'a>> {
        let mut bound = args.bind::<PARAMS>(&SERVE)?;
        bound[4].get_or_insert(backlog.obj());
        let all = bound.map(|value| value.unwrap_or(none()));
        let given = |index: usize| Some(all[index]).filter(|value: &Obj<'_>| !value.is_none());
        let tls = match given(2) {
            Some(context) if context.is_true()? => Some(context),
            _ => None,
        };
        let (server, context) = (given(3), given(7));
        Ok(Serving {
            all,
            factory: all[0],
            socket: all[1],
            tls,
            server,
            context,
        })
    }
}

impl<'a> Serving<'a> {
    /// What the TLS of one connection is made of; nobody waits for its handshake.
    fn making(&self, opening: &Opening<'a>, context: Obj<'a>) -> Making<'a> {
        let given = |index: usize| Some(self.all[index]).filter(|value: &Obj<'_>| !value.is_none());
        Making {
            event_loop: opening.event_loop,
            app: opening.protocol,
            context,
            waiter: None,
            is_server: true,
            server_hostname: None,
            tells_made: true,
            handshake_seconds: given(5),
            shutdown_seconds: given(6),
        }
    }
}

fn fileno(socket: Obj<'_>) -> R<Ref> {
    socket.call_method0(state().names.fileno.obj())
}

/// `loop._start_serving(protocol_factory, sock, sslcontext=None, server=None, backlog=100, ...)`.
pub fn start_serving(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let backlog = int(BACKLOG_DEFAULT)?;
    let serving = Serving::bind(&args, &backlog)?;
    let fd = fileno(serving.socket)?;
    if fd.obj().to_i64()? < 0 {
        // The server was closed while it waited to try again.
        return Ok(none_ref());
    }
    let accept = event_loop.getattr_str(c"_accept_connection")?;
    let mut values = vec![fd.obj(), accept.obj()];
    values.extend(serving.all);
    event_loop
        .getattr_str(c"_add_reader")?
        .obj()
        .call(&values)
        .map(|_| none_ref())
}

/// `loop._stop_serving(sock)`.
pub fn stop_serving(event_loop: Obj<'_>, socket: Obj<'_>) -> R<Ref> {
    let fd = fileno(socket)?;
    event_loop
        .getattr_str(c"_remove_reader")?
        .obj()
        .call1(fd.obj())?;
    socket.call_method0(state().names.close.obj())?;
    Ok(none_ref())
}

/// `loop._accept_connection(...)`, called when the listening socket is readable.
pub fn accept_connection(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let backlog = int(BACKLOG_DEFAULT)?;
    let serving = Serving::bind(&args, &backlog)?;
    let mut count = serving.all[4].to_i64()?;
    if cfg!(Py_3_14) {
        count = count.saturating_add(1);
    }
    let (listener, slot) = (Descriptor::default(), Slot::empty());
    listener.adopt(serving.socket, &slot)?;
    let has_room = || listener.with(&slot, |fd| Ok(has_room(sys::waiting(fd))));
    if serving.tls.is_some() && has_room().unwrap_or(false) {
        count = count.min(TLS_ACCEPTED_MAX);
    }
    let kind = SocketKind::of(serving.socket)?;
    for _ in 0..count.max(0) {
        match listener.with(&slot, sys::accept) {
            Ok((fd, peer)) => connection(event_loop, &serving, fd, kind, &peer)?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                if cfg!(not(Py_3_14)) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_exhausted(&error) => {
                pause(event_loop, &serving, &error)?;
                break;
            }
            Err(error) => return Err(Raised::os_error(&error)),
        }
    }
    Ok(none_ref())
}

/// Whether the kernel's queue can take as many again: a client that it has no room for tries again
/// after a second.
fn has_room(waiting: Option<(u32, u32)>) -> bool {
    waiting.is_some_and(|(count, count_max)| count <= count_max / 2)
}

/// The process or the machine is out of descriptors or memory.
fn is_exhausted(error: &io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]
        .iter()
        .any(|&number| error.raw_os_error() == Some(number))
}

/// Reports the shortage and stops accepting for a while: the kernel would keep reporting the
/// listener as readable.
#[cold]
fn pause(event_loop: Obj<'_>, serving: &Serving<'_>, error: &io::Error) -> R<()> {
    let names = &state().names;
    let exc = Raised::os_error(error).take();
    let wrapped = state()
        .asyncio
        .transport_socket
        .obj()
        .call1(serving.socket)?;
    let items = [
        (names.exception.obj(), exc.obj()),
        (names.socket.obj(), wrapped.obj()),
    ];
    let message = "socket.accept() out of system resource";
    while_handling(exc.obj(), || {
        report::call_handler(event_loop, message, &items)
    })?;
    let fd = fileno(serving.socket)?;
    event_loop
        .getattr_str(c"_remove_reader")?
        .obj()
        .call1(fd.obj())?;
    // Asked each time: programs and tests change it.
    let delay = import(c"asyncio.constants")?
        .obj()
        .getattr_str(c"ACCEPT_RETRY_DELAY")?;
    let again = event_loop.getattr_str(c"_start_serving")?;
    let mut values = vec![delay.obj(), again.obj()];
    values.extend(serving.all);
    event_loop
        .getattr_str(c"call_later")?
        .obj()
        .call(&values)
        .map(drop)
}

/// One accepted connection. *Errors*: only `SystemExit` and `KeyboardInterrupt`.
fn connection(
    event_loop: Obj<'_>,
    serving: &Serving<'_>,
    fd: OwnedFd,
    kind: SocketKind,
    peer: &SocketAddress,
) -> R<()> {
    let is_debug = event_loop::debug_of(event_loop)?;
    // Every connection runs in a context of its own, as the task would that asyncio makes for it.
    let own = match serving.context {
        Some(context) => context::copy(context)?,
        None => context::copy_current()?,
    };
    if is_debug {
        return connection_by_socket(event_loop, serving, fd, kind, peer, &own);
    }
    let opened = within(own.obj(), || {
        let protocol = serving.factory.call0()?;
        let opening = opening(event_loop, serving, protocol.obj(), Some(own.obj()));
        if let Some(tls_context) = serving.tls {
            let making = serving.making(&opening, tls_context);
            return tls::accept(fd, kind, peer, &making, &opening);
        }
        let transport = class::allocate(
            state().types.stream_transport.obj(),
            Fields::new(Rules::Socket),
        )?;
        open::open_accepted(transport.obj(), fd, kind, peer, &opening)
            .inspect_err(|_| open::discard(transport.obj()))
    });
    match opened {
        Err(raised) if raised.is_exit() => Err(raised),
        // Reported in debug mode only, as with asyncio; the descriptor is closed by its owner.
        Err(raised) => {
            drop(raised.take());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn opening<'a>(
    event_loop: Obj<'a>,
    serving: &Serving<'a>,
    protocol: Obj<'a>,
    context: Option<Obj<'a>>,
) -> Opening<'a> {
    Opening {
        event_loop,
        protocol,
        waiter: None,
        extra: None,
        server: serving.server,
        context,
    }
}

/// Runs `body` in `context`.
fn within<T>(context: Obj<'_>, body: impl FnOnce() -> R<T>) -> R<T> {
    context::enter(context)?;
    let result = body();
    let left = context::leave(context);
    let value = result?;
    left.map(|()| value)
}

/// An accepted connection as a socket object: for debug mode's log.
fn connection_by_socket(
    event_loop: Obj<'_>,
    serving: &Serving<'_>,
    fd: OwnedFd,
    kind: SocketKind,
    peer: &SocketAddress,
    own: &Ref,
) -> R<()> {
    let (owner, slot) = (Descriptor::default(), Slot::empty());
    owner.own(fd, kind);
    let socket = owner.socket(&slot)?;
    if event_loop::debug_of(event_loop)? {
        let server = serving.server.unwrap_or(none());
        let peer = address::to_python(peer)?.unwrap_or_else(none_ref);
        let args = [server, peer.obj(), socket.obj()];
        report::log_debug("%r got a new connection from %r: %r", &args)?;
    }
    let mut made: [Option<Ref>; 2] = [None, None];
    let opened = within(own.obj(), || {
        if serving.tls.is_some() {
            return accept_tls(event_loop, serving, socket.obj(), own);
        }
        let [made_protocol, made_transport] = &mut made;
        let protocol = made_protocol.insert(serving.factory.call0()?);
        let opening = opening(event_loop, serving, protocol.obj(), Some(own.obj()));
        let transport = class::allocate(
            state().types.stream_transport.obj(),
            Fields::new(Rules::Socket),
        )?;
        open::open_socket(transport.obj(), socket.obj(), &opening)
            .inspect_err(|_| open::discard(transport.obj()))?;
        *made_transport = Some(transport);
        Ok(())
    });
    match opened {
        Ok(()) => Ok(()),
        Err(raised) => {
            let exc = raised.take();
            socket.obj().call_method0(state().names.close.obj())?;
            connection_failed(event_loop, exc, &made)
        }
    }
}

/// Debug mode says why a connection was dropped.
#[cold]
fn connection_failed(event_loop: Obj<'_>, exc: Ref, made: &[Option<Ref>; 2]) -> R<()> {
    let raised = Raised::throw(exc);
    if raised.is_exit() {
        return Err(raised);
    }
    let exc = raised.take();
    if !event_loop::debug_of(event_loop)? {
        return Ok(());
    }
    let names = &state().names;
    let mut items = vec![(names.exception.obj(), exc.obj())];
    for (name, value) in [&names.protocol, &names.transport].into_iter().zip(made) {
        if let Some(value) = value.as_ref().filter(|value| !value.obj().is_none()) {
            items.push((name.obj(), value.obj()));
        }
    }
    let message = "Error on transport creation for incoming connection";
    while_handling(exc.obj(), || {
        report::call_handler(event_loop, message, &items)
    })
}

/// `loop._accept_ssl(...)`, which takes the socket over.
fn accept_tls(event_loop: Obj<'_>, serving: &Serving<'_>, socket: Obj<'_>, own: &Ref) -> R<()> {
    let [
        factory,
        _,
        tls,
        server,
        _,
        handshake_timeout,
        shutdown_timeout,
        _,
    ] = serving.all;
    let accept = event_loop.getattr(state().names._accept_ssl.obj())?;
    let args = [
        socket,
        factory,
        tls,
        server,
        handshake_timeout,
        shutdown_timeout,
    ];
    match serving.context {
        None => accept.obj().call(&args).map(drop),
        Some(_) => {
            let mut values = args.to_vec();
            values.push(own.obj());
            let name = interned(c"context")?;
            let kwnames = crate::ffi::call::tuple(&[name.obj()])?;
            accept.obj().call_kw(&values, kwnames.obj()).map(drop)
        }
    }
}
