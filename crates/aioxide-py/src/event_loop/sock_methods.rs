//! The methods `sock_recv` ... `sock_accept` of a loop: coroutines without a Python frame.
//!
//! Duty: what an operation is, from its arguments to its first try and its end; how it waits is
//! `sock`'s business. A plain socket (see there) is asked by the kernel's calls where that can make
//! no difference; any other by its own methods, under the checks that asyncio makes. *Source*:
//! asyncio `selector_events`.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;

use aioxide_core::backend::sys;
use aioxide_core::buf::READ_MAX_BYTES;
use aioxide_core::slab::Token;

use super::sock::{Tried, plain_bytes};
use super::watched::Attempt;
use super::{LoopFields, fields};
use crate::ffi::buffer::Buffer;
use crate::ffi::call::{int, tuple};
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, builtin, socket};
use crate::future::{self, Outcome};
use crate::state::state;
use crate::sync::coroutine::{self, Frame, Kind, Next, Resumed};
use crate::sync::function::{self, Call, Function};

// The slots of a frame.
const LOOP: usize = 0;
const SOCKET: usize = 1;
/// The arguments behind the socket.
const FIRST: usize = 2;
const SECOND: usize = 3;
/// What is waited for.
const FUTURE: usize = 4;

// The stages of a frame; zero is the start.
const WAITING: u8 = 1;
const RESOLVING: u8 = 2;

/// How the first try of an operation ended.
enum Begun {
    Done(Ref),
    /// This is to be tried when the socket is readable, or else writable.
    Blocked(Attempt, bool),
}

/// A coroutine that runs.
struct Running<'a> {
    frame: &'a Frame,
    event_loop: Ref,
    socket: Ref,
}

impl Running<'_> {
    fn of(frame: &Frame) -> Running<'_> {
        Running {
            frame,
            event_loop: frame.slots[LOOP].get_or_none(),
            socket: frame.slots[SOCKET].get_or_none(),
        }
    }

    fn native(&self) -> &LoopFields {
        fields(self.event_loop.obj())
    }

    fn argument(&self, slot: usize) -> Ref {
        self.frame.slots[slot].get_or_none()
    }

    /// Whether the kernel may be asked instead of the method `name`, which is `stock` by default.
    #[inline]
    fn is_plain(&self, name: &Ref, stock: &Ref) -> R<bool> {
        let native = self.native();
        if native.debug() || !native.is_direct() {
            return Ok(false);
        }
        if socket::plain_number(self.socket.obj()).is_none() {
            return Ok(false);
        }
        let method = self.socket.obj().type_obj().getattr(name.obj())?;
        Ok(method.obj().is(stock.obj()))
    }

    /// What asyncio checks before it asks a socket.
    fn check(&self) -> R<()> {
        let socket = self.socket.obj();
        if let Some(ssl) = &state().ssl {
            let class = ssl.module.obj().getattr_str(c"SSLSocket")?;
            if socket.isinstance(class.obj())? {
                return Err(Raised::type_error("Socket cannot be of type SSLSocket"));
            }
        }
        if self.native().debug() {
            let timeout = socket.call_method0(state().names.gettimeout.obj())?;
            if !timeout.obj().equals(int(0)?.obj())? {
                return Err(Raised::value_error("the socket must be non-blocking"));
            }
        }
        Ok(())
    }

    /// A call of one of the socket's own methods.
    fn method(name: &Ref, args: &[Obj<'_>]) -> R<Attempt> {
        Ok(Attempt::Method(name.clone(), tuple(args)?))
    }

    /// Tries for the first time.
    #[inline]
    fn begin(&self, attempt: Attempt, reads: bool) -> R<Begun> {
        match self.native().try_once(self.socket.obj(), &attempt)? {
            Tried::Done(result) => Ok(Begun::Done(result)),
            Tried::Blocked => Ok(Begun::Blocked(attempt, reads)),
        }
    }

    /// Returns, or begins to wait.
    #[inline]
    fn after(&self, begun: Begun) -> R<Next> {
        let (attempt, reads) = match begun {
            Begun::Done(result) => return Ok(Next::Return(result)),
            Begun::Blocked(attempt, reads) => (attempt, reads),
        };
        let (token, future) = self.native().wait(self.socket.obj(), attempt, reads)?;
        self.frame.number.set(token.to_u64() as i64);
        self.frame.slots[FUTURE].set(Some(future.clone()));
        self.frame.stage.set(WAITING);
        Ok(Next::Await(future))
    }

    /// Waits no more, because of an exception; what was waited for.
    fn give_up(&self) -> R<Ref> {
        let token = Token::from_u64(self.frame.number.get() as u64);
        let future = self.argument(FUTURE);
        self.native().give_up(token, future.obj())?;
        Ok(future)
    }
}

/// An operation from its start to its end.
#[inline]
fn run(frame: &Frame, resumed: Resumed, start: fn(&Running<'_>) -> R<Begun>) -> R<Next> {
    if frame.stage.get() == WAITING {
        return match resumed {
            Resumed::Value(result) => Ok(Next::Return(result)),
            Resumed::Raised(exception) => {
                drop(Running::of(frame).give_up()?);
                Err(Raised::throw(exception))
            }
        };
    }
    drop(resumed.value()?);
    let running = Running::of(frame);
    running.after(start(&running)?)
}

fn recv(running: &Running<'_>) -> R<Begun> {
    let (names, asyncio) = (&state().names, &state().asyncio);
    let size = running.argument(FIRST);
    let attempt = match receive_size(size.obj())? {
        Some(max) if running.is_plain(&names.recv, &asyncio.socket_recv)? => Attempt::Receive(max),
        _ => {
            running.check()?;
            Running::method(&names.recv, &[size.obj()])?
        }
    };
    running.begin(attempt, true)
}

/// How much to receive, if that is an ordinary number; the method says what is wrong with others.
#[inline]
fn receive_size(size: Obj<'_>) -> R<Option<usize>> {
    if !size.is_exact_int() {
        return Ok(None);
    }
    let size = usize::try_from(builtin::saturating_i64(size)?);
    Ok(size.ok().filter(|size| (1..=READ_MAX_BYTES).contains(size)))
}

fn recv_into(running: &Running<'_>) -> R<Begun> {
    let (names, asyncio) = (&state().names, &state().asyncio);
    let target = running.argument(FIRST);
    let attempt = if running.is_plain(&names.recv_into, &asyncio.socket_recv_into)? {
        Attempt::ReceiveInto(target)
    } else {
        running.check()?;
        Running::method(&names.recv_into, &[target.obj()])?
    };
    running.begin(attempt, true)
}

fn recvfrom(running: &Running<'_>) -> R<Begun> {
    running.check()?;
    let size = running.argument(FIRST);
    running.begin(
        Running::method(&state().names.recvfrom, &[size.obj()])?,
        true,
    )
}

fn recvfrom_into(running: &Running<'_>) -> R<Begun> {
    running.check()?;
    let (target, mut size) = (running.argument(FIRST), running.argument(SECOND));
    if !size.obj().is_true()? {
        size = int(builtin::len(target.obj())? as i64)?;
    }
    let args = [target.obj(), size.obj()];
    running.begin(Running::method(&state().names.recvfrom_into, &args)?, true)
}

fn sendall(running: &Running<'_>) -> R<Begun> {
    let (names, asyncio) = (&state().names, &state().asyncio);
    let data = running.argument(FIRST);
    if running.is_plain(&names.send, &asyncio.socket_send)? {
        if let Some(buffer) = plain_bytes(data.obj()) {
            return send_plain(running, data.obj(), buffer);
        }
    }
    running.check()?;
    let sent = match running
        .socket
        .obj()
        .call_method1(names.send.obj(), data.obj())
    {
        Ok(sent) => sent.obj().to_i64()?,
        Err(raised) if builtin::is_would_block(&raised) => {
            raised.clear();
            0
        }
        Err(raised) => return Err(raised),
    };
    let sent = usize::try_from(sent).unwrap_or_default();
    if sent == builtin::len(data.obj())? {
        return Ok(Begun::Done(none_ref()));
    }
    let view = builtin::memoryview(data.obj())?;
    let rest = Attempt::SendSlice(view, Cell::new(sent));
    Ok(Begun::Blocked(rest, false))
}

/// Sends once, also if there is nothing to send: that may be a datagram, or fail.
fn send_plain(running: &Running<'_>, data: Obj<'_>, buffer: Buffer) -> R<Begun> {
    let len = buffer.as_slice().len();
    running.native().poll_next_turn();
    let sent = socket::borrow(running.socket.obj()).and_then(|fd| sys::send(fd, buffer.as_slice()));
    drop(buffer);
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(Raised::os_error(&error)),
    };
    if sent == len {
        return Ok(Begun::Done(none_ref()));
    }
    let view = builtin::memoryview(data)?;
    Ok(Begun::Blocked(Attempt::Send(view, Cell::new(sent)), false))
}

fn sendto(running: &Running<'_>) -> R<Begun> {
    running.check()?;
    let name = &state().names.sendto;
    let (data, address) = (running.argument(FIRST), running.argument(SECOND));
    let first = Running::method(name, &[data.obj(), address.obj()])?;
    match running.begin(first, false)? {
        Begun::Done(sent) => Ok(Begun::Done(sent)),
        Begun::Blocked(..) => {
            let again = Running::method(name, &[data.obj(), int(0)?.obj(), address.obj()])?;
            Ok(Begun::Blocked(again, false))
        }
    }
}

fn connect(running: &Running<'_>) -> R<Begun> {
    let address = running.argument(FIRST);
    let attempt = Running::method(&state().names.connect, &[address.obj()])?;
    match running.begin(attempt, false)? {
        Begun::Done(_) => Ok(Begun::Done(none_ref())),
        // An interrupted connect() goes on in the background, as a blocked one does.
        Begun::Blocked(..) => Ok(Begun::Blocked(Attempt::Connect(address), false)),
    }
}

/// Resolves the address of an internet socket first.
fn connect_body(frame: &Frame, resumed: Resumed) -> R<Next> {
    match frame.stage.get() {
        WAITING => run(frame, resumed, connect),
        RESOLVING => {
            let infos = resumed.value()?;
            let info = builtin::item(infos.obj(), 0)?;
            frame.slots[FIRST].set(Some(builtin::item(info.obj(), 4)?));
            run(frame, Resumed::Value(none_ref()), connect)
        }
        _ => {
            let running = Running::of(frame);
            running.check()?;
            match resolve(&running)? {
                None => run(frame, resumed, connect),
                Some(resolving) => {
                    frame.stage.set(RESOLVING);
                    Ok(Next::Await(resolving))
                }
            }
        }
    }
}

/// The look-up of an internet socket's address; `None` for other families.
fn resolve(running: &Running<'_>) -> R<Option<Ref>> {
    let socket = running.socket.obj();
    let family = socket.getattr_str(c"family")?;
    let is_internet = family.obj().is_int()
        && [libc::AF_INET, libc::AF_INET6].contains(&(family.obj().to_i64()? as i32));
    if !is_internet {
        return Ok(None);
    }
    let (kind, proto) = (socket.getattr_str(c"type")?, socket.getattr_str(c"proto")?);
    let address = running.argument(FIRST);
    let event_loop = running.event_loop.obj();
    let args = [
        event_loop,
        address.obj(),
        family.obj(),
        kind.obj(),
        proto.obj(),
        event_loop,
    ];
    let state = state();
    let name = state.names._ensure_resolved.obj();
    event_loop
        .call_method_kw(name, &args, state.kw_resolve.obj())
        .map(Some)
}

fn accept(running: &Running<'_>) -> R<Begun> {
    running.check()?;
    running.begin(Attempt::Accept, true)
}

/// As the others; a connection that was accepted in vain is closed.
fn accept_body(frame: &Frame, resumed: Resumed) -> R<Next> {
    let exception = match resumed {
        Resumed::Raised(exception) if frame.stage.get() == WAITING => exception,
        resumed => return run(frame, resumed, accept),
    };
    let future = Running::of(frame).give_up()?;
    let accepted = future::fields(future.obj());
    if !accepted.is_pending() {
        if let Ok(Outcome::Value(pair)) = future::outcome(accepted) {
            let connection = builtin::item(pair.obj(), 0)?;
            drop(connection.obj().call_method0(state().names.close.obj())?);
        }
    }
    Err(Raised::throw(exception))
}

/// A coroutine of `kind` with the arguments as its locals.
fn open<const N: usize>(
    kind: &'static Kind,
    signature: &Signature,
    event_loop: Obj<'_>,
    args: &Args<'_>,
) -> R<Ref> {
    let bound = args
        .bind_python::<N>(signature)?
        .map(|arg| arg.map(Obj::to_ref));
    let mut locals = [const { None }; 4];
    locals[LOOP] = Some(event_loop.to_ref());
    for (local, arg) in locals[SOCKET..].iter_mut().zip(bound) {
        *local = arg;
    }
    coroutine::create(kind, locals)
}

macro_rules! method {
    ($constant:ident, $name:literal, $params:expr, $required:literal, $signature:literal,
     $body:expr, $doc:literal) => {
        static $constant: Function = Function {
            name: $name,
            qualname: concat!("Loop.", $name),
            signature: $signature,
            doc: $doc,
            call: Call::Method(|event_loop, args| {
                static KIND: Kind = Kind {
                    name: $name,
                    qualname: concat!("Loop.", $name),
                    body: $body,
                    quick: None,
                };
                const SIGNATURE: Signature = Signature {
                    name: concat!("Loop.", $name),
                    params: &$params,
                    positional: $params.len(),
                    required: $required,
                };
                open::<{ $params.len() }>(&KIND, &SIGNATURE, event_loop, &args)
            }),
        };
    };
}

method!(
    RECV,
    "sock_recv",
    ["sock", "n"],
    2,
    "(self, sock, n)",
    |frame, resumed| run(frame, resumed, recv),
    "Receive up to n bytes; b\"\" is the end of the stream."
);
method!(
    RECV_INTO,
    "sock_recv_into",
    ["sock", "buf"],
    2,
    "(self, sock, buf)",
    |frame, resumed| run(frame, resumed, recv_into),
    "Receive into the writable buffer buf; return the number of bytes received."
);
method!(
    RECVFROM,
    "sock_recvfrom",
    ["sock", "bufsize"],
    2,
    "(self, sock, bufsize)",
    |frame, resumed| run(frame, resumed, recvfrom),
    "Receive a datagram of up to bufsize bytes; return it and its sender's address."
);
method!(
    RECVFROM_INTO,
    "sock_recvfrom_into",
    ["sock", "buf", "nbytes"],
    2,
    "(self, sock, buf, nbytes=0)",
    |frame, resumed| run(frame, resumed, recvfrom_into),
    "Receive a datagram into buf, up to nbytes unless that is 0; return its size and its \
     sender's address."
);
method!(
    SENDALL,
    "sock_sendall",
    ["sock", "data"],
    2,
    "(self, sock, data)",
    |frame, resumed| run(frame, resumed, sendall),
    "Send all of data. After an error or a cancellation some of it may have been sent."
);
method!(
    SENDTO,
    "sock_sendto",
    ["sock", "data", "address"],
    3,
    "(self, sock, data, address)",
    |frame, resumed| run(frame, resumed, sendto),
    "Send data as one datagram to address; return the number of bytes sent."
);
method!(
    CONNECT,
    "sock_connect",
    ["sock", "address"],
    2,
    "(self, sock, address)",
    connect_body,
    "Connect sock to address; a host name of an internet address is resolved first."
);
method!(
    ACCEPT,
    "sock_accept",
    ["sock"],
    1,
    "(self, sock)",
    accept_body,
    "Accept a connection on the listening sock; return its socket and the peer's address."
);

/// Gives the loop's type these methods.
pub fn export() -> R<()> {
    let types = &state().types;
    let methods = [
        &RECV,
        &RECV_INTO,
        &RECVFROM,
        &RECVFROM_INTO,
        &SENDALL,
        &SENDTO,
        &CONNECT,
        &ACCEPT,
    ];
    function::add_methods(
        types.event_loop.obj(),
        types.coroutine_function.obj(),
        &methods,
    )
}
