//! Waiting for the caller's sockets: the operations of `sock_*`, tried whenever one is ready.
//!
//! Duty: one try of each kind of operation, and the wait between two. Plain is an open, non-
//! blocking `socket.socket` itself, whose methods nobody replaced, on a loop that does not debug;
//! the rest goes through the socket's own methods.
//!
//! An operation stands in the place that `add_reader` and `add_writer` use, so that they replace
//! one another as in asyncio. It is tried once for each event. After one that read, a plain socket
//! stays registered (see `watched`). What makes that safe: readiness is level-triggered, so nothing
//! is lost by an event that is dropped; each operation tries first and waits then; the record
//! counts only for the socket object that made it, while that has the same number; whoever else
//! uses the number asks the kernel anew; and as soon as the loop has time, it asks for those who
//! wait. *Source*: asyncio `selector_events`; `epoll(7)`.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use aioxide_core::backend::sys;
use aioxide_core::slab::Token;

use super::LoopFields;
use super::watched::{Attempt, Operation, Watch, Watcher};
use crate::ffi::buffer::Buffer;
use crate::ffi::call::{int, string, text, tuple, uint};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, builtin, socket};
use crate::future;
use crate::state::state;

/// The standard streams may change their file at any time: `dup2` is what they are for.
const STANDARD_FD_MAX: RawFd = 2;

/// For how long a waiting operation may rely on what an earlier one asked of the kernel: a program
/// can put another file under the number meanwhile, by `dup2`, which nobody is told of.
const TRUST_MAX: Duration = Duration::from_millis(10);

/// The same in polls, for a loop that never rests.
const TRUSTING_POLLS_MAX: u32 = 256;

/// How one try ended that did not fail.
pub(super) enum Tried {
    /// It gave this.
    Done(Ref),
    /// Not yet.
    Blocked,
}

impl LoopFields {
    /// Has `attempt` tried when `object` is ready for it; returns where it waits, and the
    /// future of its outcome.
    pub(super) fn wait(&self, object: Obj<'_>, attempt: Attempt, reads: bool) -> R<(Token, Ref)> {
        self.check_open()?;
        let future = future::create(self.object(), self)?;
        let plain = socket::plain_number(object).filter(|fd| *fd > STANDARD_FD_MAX);
        let (fd, identity) = match plain {
            Some(fd) => (fd, Some(builtin::weakref(object)?)),
            None => {
                let number = object.call_method0(state().names.fileno.obj())?;
                (super::fd_of(number.obj())?, None)
            }
        };
        let is_armed = self.is_armed(fd, identity.as_ref(), reads);
        if !is_armed || self.native_object(fd).is_some() {
            let ensure = state().names._ensure_fd_no_transport.obj();
            drop(self.object().call_method1(ensure, int(fd.into())?.obj())?);
        }
        let operation = Rc::new(Operation {
            future: future.clone(),
            socket: object.to_ref(),
            attempt,
            reads,
            token: Cell::new(Token::RESERVED),
        });
        let token = self.begin_wait(fd, identity, operation)?;
        Ok((token, future))
    }

    /// Whether the kernel reports already what an operation on this socket waits for.
    #[inline]
    fn is_armed(&self, fd: RawFd, identity: Option<&Ref>, reads: bool) -> bool {
        let (Some(token), Some(identity)) = (self.token_of(fd), identity) else {
            return false;
        };
        self.with_watch(token, |watch| {
            watch.is_of(identity) && watch.is_armed(reads)
        })
        .unwrap_or(false)
    }

    fn begin_wait(&self, fd: RawFd, identity: Option<Ref>, operation: Rc<Operation>) -> R<Token> {
        let reads = operation.reads;
        let watcher = Watcher::Operation(operation.clone());
        if let Some(token) = self.token_of(fd) {
            if self.is_armed(fd, identity.as_ref(), reads) {
                operation.token.set(token);
                let replaced = self.with_watch(token, |watch| {
                    let was_trusted = std::mem::replace(&mut watch.is_trusted, true);
                    (was_trusted, watch.place(reads).replace(watcher))
                });
                if matches!(replaced, Some((false, _))) {
                    self.trusted.borrow_mut().push(token);
                }
                drop(replaced);
                return Ok(token);
            }
            let is_same = |watch: &mut Watch| identity.as_ref().is_some_and(|id| watch.is_of(id));
            let is_stale =
                self.with_watch(token, |watch| watch.wanted().is_none() && !is_same(watch));
            if is_stale != Some(true) {
                operation.token.set(token);
                let is_same = self.with_watch(token, is_same) == Some(true);
                let identity = identity.filter(|_| is_same);
                self.add_watcher(token, watcher, reads, identity)?;
                return Ok(token);
            }
            // Made for another socket, which is closed, or no longer waited for.
            self.forget(token);
        }
        let mut watch = Watch::new(fd);
        watch.identity = identity;
        let token = self.begin_watch(watch, watcher, reads)?;
        operation.token.set(token);
        Ok(token)
    }

    /// Ends the wait for this future under this token, if it still goes on.
    pub(super) fn give_up(&self, token: Token, future: Obj<'_>) -> R<()> {
        let found = self.with_watch(token, |watch| watch.operation_of(future));
        match found.flatten() {
            Some(operation) => self.end_wait(&operation),
            None => Ok(()),
        }
    }

    /// An event came for an operation.
    pub(super) fn attempt(&self, operation: &Rc<Operation>) -> R<()> {
        let token = operation.token.get();
        let is_waiting = self.with_watch(token, |watch| watch.is_waiting(operation));
        if is_waiting != Some(true) {
            // Replaced or removed meanwhile.
            return Ok(());
        }
        let future = operation.future.obj();
        if !future::fields(future).is_pending() {
            return self.end_wait(operation);
        }
        let tried = self.try_once(operation.socket.obj(), &operation.attempt);
        if matches!(tried, Ok(Tried::Blocked)) {
            return Ok(());
        }
        if let Err(raised) = tried {
            if raised.is_exit() {
                return Err(raised);
            }
            let error = raised.take();
            self.end_wait(operation)?;
            return match future::fields(future).is_pending() {
                true => future::set_exception(future, error.obj()),
                false => Ok(()),
            };
        }
        self.end_wait(operation)?;
        match tried {
            Ok(Tried::Done(result)) if future::fields(future).is_pending() => {
                future::set_result(future, result)
            }
            _ => Ok(()),
        }
    }

    /// Takes an operation out of its place, if it stands there. Reading stays armed for the next.
    fn end_wait(&self, operation: &Rc<Operation>) -> R<()> {
        let token = operation.token.get();
        let ended = self.with_watch(token, |watch| {
            if !watch.is_waiting(operation) {
                return None;
            }
            let taken = watch.place(operation.reads).take();
            let (armed, left) = (watch.armed, watch.worth_arming());
            watch.armed = left;
            Some((taken, watch.fd, armed, left))
        });
        let Some(Some((taken, fd, armed, left))) = ended else {
            return Ok(());
        };
        drop(taken);
        if armed == left {
            return Ok(());
        }
        self.rearm(token, fd, left)
    }

    /// How long a sleep may be for now: not long as long as a socket is trusted.
    #[inline]
    pub(super) fn trusting_sleep(&self, timeout: Option<Duration>) -> Option<Duration> {
        if self.trusted.borrow().is_empty() {
            return timeout;
        }
        Some(timeout.map_or(TRUST_MAX, |timeout| timeout.min(TRUST_MAX)))
    }

    /// After a poll: asks the kernel about the sockets that are trusted, if there is time, or if
    /// there was none for long.
    #[inline]
    pub(super) fn after_poll(&self, is_idle: bool) -> R<()> {
        if self.trusted.borrow().is_empty() {
            return Ok(());
        }
        let polls = self.trusting_polls.get() + 1;
        self.trusting_polls.set(polls);
        if is_idle || polls >= TRUSTING_POLLS_MAX {
            return self.confirm_all();
        }
        Ok(())
    }

    fn confirm_all(&self) -> R<()> {
        self.trusting_polls.set(0);
        let backend = self.backend()?;
        let mut is_gone = false;
        let trusted = std::mem::take(&mut *self.trusted.borrow_mut());
        for token in trusted {
            let waited_for = self.with_watch(token, |watch| {
                watch.is_trusted = false;
                (!watch.wanted().is_none()).then_some((watch.fd, watch.armed))
            });
            if let Some(Some((fd, armed))) = waited_for {
                let confirmed = backend.confirm(fd, token, armed);
                is_gone |= matches!(confirmed, Err(error) if sys::is_gone(&error));
            }
        }
        if is_gone {
            self.renew_backend()
        } else {
            Ok(())
        }
    }

    /// Tries once what an operation is to do.
    pub(super) fn try_once(&self, object: Obj<'_>, attempt: &Attempt) -> R<Tried> {
        if !matches!(attempt, Attempt::Receive(_) | Attempt::ReceiveInto(_)) {
            self.poll_next_turn();
        }
        let received = match attempt {
            Attempt::Receive(max) => {
                let fd = socket::borrow(object).map_err(|error| Raised::os_error(&error))?;
                self.transports().receive_some(fd, *max)?
            }
            Attempt::ReceiveInto(target) => {
                let mut buffer = match Buffer::writable(target.obj()) {
                    Ok(buffer) => buffer,
                    Err(raised) => {
                        // The socket's own method says what is wrong, in its words.
                        raised.clear();
                        let name = state().names.recv_into.obj();
                        return object.call_method1(name, target.obj()).map(Tried::Done);
                    }
                };
                let received = match buffer.as_room() {
                    [] => Ok(0),
                    room => socket::borrow(object).and_then(|fd| sys::recv(fd, room)),
                };
                drop(buffer);
                match received {
                    Ok(len) => Ok(uint(len as u64)?),
                    Err(error) => Err(error),
                }
            }
            Attempt::Send(view, sent) => {
                let buffer = Buffer::readable(view.obj())?;
                let rest = buffer.as_slice().get(sent.get()..).unwrap_or_default();
                match socket::borrow(object).and_then(|fd| sys::send(fd, rest)) {
                    Ok(len) if len < rest.len() => {
                        sent.set(sent.get() + len);
                        return Ok(Tried::Blocked);
                    }
                    other => other.map(|_| none_ref()),
                }
            }
            Attempt::Method(name, args) => {
                let method = object.getattr(name.obj());
                return tried(method.and_then(|method| method.obj().call_dict(args.obj(), None)));
            }
            Attempt::SendSlice(view, sent) => return tried_slice(object, view.obj(), sent),
            Attempt::Connect(address) => return connected(object, address.obj()).map(Tried::Done),
            Attempt::Accept => return tried(accepted(object)),
        };
        match received {
            Ok(result) => Ok(Tried::Done(result)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Tried::Blocked),
            Err(error) => Err(Raised::os_error(&error)),
        }
    }
}

/// What a method of a socket said.
fn tried(result: R<Ref>) -> R<Tried> {
    match result {
        Ok(result) => Ok(Tried::Done(result)),
        Err(raised) if builtin::is_would_block(&raised) => {
            raised.clear();
            Ok(Tried::Blocked)
        }
        Err(raised) => Err(raised),
    }
}

/// Sends what is left of a view by the socket's own method, and counts in items.
fn tried_slice(object: Obj<'_>, view: Obj<'_>, sent: &Cell<usize>) -> R<Tried> {
    let rest = builtin::slice_from(view, sent.get())?;
    let send = state().names.send.obj();
    let Tried::Done(count) = tried(object.call_method1(send, rest.obj()))? else {
        return Ok(Tried::Blocked);
    };
    let count = usize::try_from(count.obj().to_i64()?).unwrap_or_default();
    sent.set(sent.get() + count);
    if sent.get() == builtin::len(view)? {
        return Ok(Tried::Done(none_ref()));
    }
    Ok(Tried::Blocked)
}

/// How the connection attempt of a socket ended.
fn connected(object: Obj<'_>, address: Obj<'_>) -> R<Ref> {
    let (level, option) = (int(libc::SOL_SOCKET.into())?, int(libc::SO_ERROR.into())?);
    let name = state().names.getsockopt.obj();
    let code = object.call_method(name, &[object, level.obj(), option.obj()])?;
    if !code.obj().is_true()? {
        return Ok(none_ref());
    }
    let message = string(&format!(
        "Connect call failed {}",
        text(address.str()?.obj())?
    ))?;
    let error = builtin::os_error().call(&[code.obj(), message.obj()])?;
    Err(Raised::throw(error))
}

/// A connection, non-blocking, and its peer's address.
fn accepted(object: Obj<'_>) -> R<Ref> {
    let names = &state().names;
    let pair = object.call_method0(names.accept.obj())?;
    let (connection, address) = (builtin::item(pair.obj(), 0)?, builtin::item(pair.obj(), 1)?);
    let blocking = boolean(false);
    drop(
        connection
            .obj()
            .call_method1(names.setblocking.obj(), blocking.obj())?,
    );
    tuple(&[connection.obj(), address.obj()])
}

/// The bytes of one of the stock classes, if each of its items is one.
pub(super) fn plain_bytes(data: Obj<'_>) -> Option<Buffer> {
    if !builtin::is_stock_bytes(data) {
        return None;
    }
    let found = Buffer::readable(data).and_then(|buffer| Ok((builtin::len(data)?, buffer)));
    match found {
        Ok((len, buffer)) => (len == buffer.as_slice().len()).then_some(buffer),
        Err(raised) => {
            // The socket's own method says what is wrong.
            raised.clear();
            None
        }
    }
}
