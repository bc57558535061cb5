//! `sock_recv`, `sock_recv_into`, `sock_sendall`: sockets of the caller, tried at once, then waited
//! for.
//!
//! Duty: the plain case of these operations without a callback, a Handle or a system call that does
//! not move bytes. A socket that had to wait once stays registered, edge-triggered, and its
//! registration remembers whether there may be something to read. Everything that is not plain
//! (other classes than `socket.socket`, debug mode, descriptors that somebody else watches) is left
//! to the package's Python code: these functions then return None before anything has happened.
//!
//! Invariants: a registration belongs to one socket object, known by its weak reference, and its
//! number is used only while that object has it; "nothing to read" is believed only of TCP, where a
//! read that fell short has emptied the queue, and never after the peer's end, an error or urgent
//! data. *Source*: `epoll(7)`, questions and answers; asyncio `selector_events`.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use aioxide_core::backend::Readiness;
use aioxide_core::backend::sys;
use aioxide_core::buf::READ_MAX_BYTES;
use aioxide_core::slab::Token;

use super::{LoopFields, Registration, fields};
use crate::ffi::buffer::Buffer;
use crate::ffi::call::uint;
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, builtin, bytes, socket};
use crate::future;
use crate::state::state;

mod watched;

pub use watched::{INTEREST, Side, Watched};
use watched::{Operation, Waiting};

/// How an attempt ended that did not fail.
enum Attempt {
    Done(Ref),
    Blocked,
}

impl LoopFields {
    /// What is known of a socket: nothing yet, or its registration if that is ours.
    fn find_socket(&self, identity: &Ref, fd: RawFd) -> Found {
        let Some(token) = self.token_of(fd) else {
            return Found::Unknown;
        };
        match self.turn.borrow().registrations.get(token) {
            Some(Registration::Socket(watched)) if watched.identity.obj().is(identity.obj()) => {
                let maybe = watched.readable || watched.sticky || !watched.is_tcp;
                Found::Ours(token, maybe)
            }
            // Another object had this number before.
            Some(Registration::Socket(_)) | None => Found::Unknown,
            Some(_) => Found::Foreign,
        }
    }

    fn with_socket(&self, token: Token, body: impl FnOnce(&mut Watched)) {
        if let Some(Registration::Socket(watched)) =
            self.turn.borrow_mut().registrations.get_mut(token)
        {
            body(watched);
        }
    }

    /// Has `waiting` tried when the socket is ready; returns its future.
    fn wait_for(&self, plain: &Plain<'_>, operation: Operation, reads: bool) -> R<Ref> {
        let future = future::create(self.object(), self)?;
        let side = Side::Waiting(Waiting {
            future: future.clone(),
            operation,
        });
        let token = match self.find_socket(&plain.identity, plain.fd) {
            Found::Ours(token, _) => token,
            _ => self.insert_socket(plain)?,
        };
        let mut replaced = None;
        self.with_socket(token, |watched| {
            let place = if reads {
                watched.readable = false;
                &mut watched.reader
            } else {
                &mut watched.writer
            };
            replaced = place.replace(side);
        });
        drop(replaced);
        Ok(future)
    }

    fn insert_socket(&self, plain: &Plain<'_>) -> R<Token> {
        let ensure = state().names._ensure_fd_no_transport.obj();
        drop(self.object().call_method1(ensure, plain.socket)?);
        let is_tcp = sys::is_tcp(plain.borrow()?);
        self.replace_stale(plain.fd)?;
        self.insert(Registration::Socket(Box::new(Watched {
            fd: plain.fd,
            identity: plain.identity.clone(),
            is_tcp,
            readable: true,
            sticky: false,
            reader: None,
            writer: None,
        })))
    }

    /// Receives once, as an operation wants it.
    fn try_read(
        &self,
        plain: &Plain<'_>,
        operation: &Operation,
        known: Option<Token>,
    ) -> R<Attempt> {
        let (asked, received) = match operation {
            Operation::Recv(asked) => {
                let received = self.transports().receive_some(plain.borrow()?, *asked)?;
                (
                    *asked,
                    received.map(|data| (bytes::slice(data.obj()).map_or(0, <[u8]>::len), data)),
                )
            }
            Operation::RecvInto(target) => {
                let mut buffer = Buffer::writable(target.obj())?;
                let room = buffer.as_room();
                let asked = room.len();
                let received = sys::recv_now(plain.borrow()?, room);
                drop(buffer);
                let received = match received {
                    Ok(len) => Ok((len, uint(len as u64)?)),
                    Err(error) => Err(error),
                };
                (asked, received)
            }
            Operation::Send(..) => return Ok(Attempt::Blocked),
        };
        match received {
            Ok((len, result)) => {
                if let Some(token) = known {
                    self.with_socket(token, |watched| watched.handle_read(asked, len));
                }
                Ok(Attempt::Done(result))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Attempt::Blocked),
            Err(error) => Err(Raised::os_error(&error)),
        }
    }

    /// An event came for an operation that waits.
    pub fn socket_ready(&self, token: Token, readiness: Readiness) -> R<()> {
        for (reads, wakes) in [
            (true, readiness.wakes_reader()),
            (false, readiness.wakes_writer()),
        ] {
            if wakes {
                self.side_ready(token, reads)?;
            }
        }
        Ok(())
    }

    fn side_ready(&self, token: Token, reads: bool) -> R<()> {
        let mut taken = None;
        let mut whose = None;
        self.with_socket(token, |watched| {
            let side = if reads {
                &mut watched.reader
            } else {
                &mut watched.writer
            };
            match side.take() {
                Some(Side::Waiting(waiting)) => {
                    taken = Some(waiting);
                    whose = Some((watched.identity.clone(), watched.fd));
                }
                other => *side = other,
            }
        });
        let (Some(mut waiting), Some((identity, fd))) = (taken, whose) else {
            return Ok(());
        };
        if !future::fields(waiting.future.obj()).is_pending() {
            return Ok(());
        }
        let socket = identity.obj().call0()?;
        let plain = Plain {
            socket: socket.obj(),
            identity,
            fd,
        };
        let attempt = match &mut waiting.operation {
            Operation::Send(view, sent) => try_send(&plain, view, sent),
            operation => self.try_read(&plain, operation, Some(token)),
        };
        match attempt {
            Ok(Attempt::Done(result)) => future::set_result(waiting.future.obj(), result),
            Ok(Attempt::Blocked) => {
                let mut unused = Some(waiting);
                self.with_socket(token, |watched| {
                    let side = if reads {
                        &mut watched.reader
                    } else {
                        &mut watched.writer
                    };
                    if side.is_none() {
                        *side = unused.take().map(Side::Waiting);
                    }
                });
                drop(unused);
                Ok(())
            }
            Err(raised) if raised.is_exit() => Err(raised),
            Err(raised) => {
                let error = raised.take();
                future::set_exception(waiting.future.obj(), error.obj())
            }
        }
    }
}

enum Found {
    /// No registration, or one of a socket that is gone.
    Unknown,
    /// Ours; and whether there may be something to read.
    Ours(Token, bool),
    /// Somebody else watches the descriptor.
    Foreign,
}

/// A socket of the plain kind.
struct Plain<'a> {
    socket: Obj<'a>,
    identity: Ref,
    fd: RawFd,
}

impl<'a> Plain<'a> {
    /// `socket.socket` itself, open, on a loop that does not debug.
    fn of(native: &LoopFields, object: Obj<'a>) -> R<Option<Plain<'a>>> {
        let class = state().asyncio.socket_class.ptr().cast();
        if object.type_ptr() != class || native.debug() || !native.is_direct() {
            return Ok(None);
        }
        let Some(fd) = socket::number(object) else {
            return Ok(None);
        };
        let identity = builtin::weakref(object)?;
        Ok(Some(Plain {
            socket: object,
            identity,
            fd,
        }))
    }

    fn borrow(&self) -> R<BorrowedFd<'_>> {
        socket::borrow(self.socket, self.fd).map_err(|error| Raised::os_error(&error))
    }
}

fn try_send(plain: &Plain<'_>, view: &Ref, sent: &mut usize) -> R<Attempt> {
    let buffer = Buffer::readable(view.obj())?;
    loop {
        let rest = buffer.as_slice().get(*sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Attempt::Done(none_ref()));
        }
        match sys::send_now(plain.borrow()?, rest) {
            Ok(len) => *sent += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Attempt::Blocked),
            Err(error) => return Err(Raised::os_error(&error)),
        }
    }
}

fn read(event_loop: Obj<'_>, object: Obj<'_>, operation: Operation) -> R<Ref> {
    let this = fields(event_loop);
    let Some(plain) = Plain::of(this, object)? else {
        return Ok(none_ref());
    };
    let known = match this.find_socket(&plain.identity, plain.fd) {
        Found::Foreign => return Ok(none_ref()),
        Found::Ours(_, false) => return this.wait_for(&plain, operation, true),
        Found::Ours(token, true) => Some(token),
        Found::Unknown => None,
    };
    match this.try_read(&plain, &operation, known)? {
        Attempt::Done(result) => Ok(result),
        Attempt::Blocked => this.wait_for(&plain, operation, true),
    }
}

/// `loop._sock_recv(sock, nbytes)`: the bytes, a future of them, or None: not a plain case.
pub fn sock_recv(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, size] = args.positional() else {
        return Err(Raised::type_error("_sock_recv() takes 2 arguments"));
    };
    if !size.is_int() {
        return Ok(none_ref());
    }
    match usize::try_from(builtin::saturating_i64(*size)?) {
        Ok(size) if (1..=READ_MAX_BYTES).contains(&size) => {
            read(event_loop, *object, Operation::Recv(size))
        }
        _ => Ok(none_ref()),
    }
}

/// `loop._sock_recv_into(sock, buf)`: the number of bytes, a future of it, or None.
pub fn sock_recv_into(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, target] = args.positional() else {
        return Err(Raised::type_error("_sock_recv_into() takes 2 arguments"));
    };
    match Buffer::writable(*target) {
        Ok(buffer) if !buffer.as_slice().is_empty() => {}
        Ok(_) => return Ok(none_ref()),
        Err(raised) => {
            drop(raised.take());
            return Ok(none_ref());
        }
    }
    read(event_loop, *object, Operation::RecvInto(target.to_ref()))
}

/// `loop._sock_sendall(sock, data)`: True if all is sent, a future of that, or None.
pub fn sock_sendall(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, data] = args.positional() else {
        return Err(Raised::type_error("_sock_sendall() takes 2 arguments"));
    };
    let this = fields(event_loop);
    let is_plain_data = bytes::slice(*data).is_some() || builtin::is_mutable_bytes(*data);
    let plain = match Plain::of(this, *object)? {
        Some(plain) if is_plain_data => plain,
        _ => return Ok(none_ref()),
    };
    if matches!(this.find_socket(&plain.identity, plain.fd), Found::Foreign) {
        return Ok(none_ref());
    }
    let view = builtin::memoryview(*data)?;
    let mut sent = 0;
    match try_send(&plain, &view, &mut sent)? {
        Attempt::Done(_) => Ok(boolean(true)),
        Attempt::Blocked => this.wait_for(&plain, Operation::Send(view, sent), false),
    }
}

/// `loop._sock_forget(sock, future)`: the operation behind `future`, if it still waits, is over.
pub fn sock_forget(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, future] = args.positional() else {
        return Err(Raised::type_error("_sock_forget() takes 2 arguments"));
    };
    let this = fields(event_loop);
    let Some(fd) = socket::number(*object) else {
        return Ok(none_ref());
    };
    let identity = builtin::weakref(*object)?;
    let mut forgotten = None;
    if let Found::Ours(token, _) = this.find_socket(&identity, fd) {
        this.with_socket(token, |watched| {
            for side in [&mut watched.reader, &mut watched.writer] {
                if matches!(side, Some(Side::Waiting(waiting)) if waiting.future.obj().is(*future))
                {
                    forgotten = side.take();
                }
            }
        });
    }
    drop(forgotten);
    Ok(none_ref())
}
