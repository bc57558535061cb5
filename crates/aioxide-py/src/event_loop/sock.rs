//! `sock_*`: operations on the caller's sockets, tried at once, then whenever the socket is ready.
//!
//! Duty: the plain case of receiving and sending without a call into Python, and waiting for all
//! operations. Plain is an open, non-blocking `socket.socket` itself, whose methods nobody
//! replaced, on a loop that does not debug; the rest goes through the socket's own methods.
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
use aioxide_core::buf::READ_MAX_BYTES;
use aioxide_core::slab::Token;

use super::watched::{Attempt, Operation, Watch, Watcher};
use super::{LoopFields, fields};
use crate::ffi::buffer::Buffer;
use crate::ffi::call::{int, uint};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, builtin, socket};
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
enum Tried {
    Done(Ref),
    Blocked,
}

impl LoopFields {
    /// The descriptor of a plain socket whose method `name` is the stock one.
    #[inline]
    fn plain(&self, object: Obj<'_>, name: &Ref, stock: &Ref) -> R<Option<RawFd>> {
        if self.debug() || !self.is_direct() {
            return Ok(None);
        }
        let Some(fd) = socket::plain_number(object) else {
            return Ok(None);
        };
        let method = object.type_obj().getattr(name.obj())?;
        Ok(Some(fd).filter(|_| method.obj().is(stock.obj())))
    }

    /// Tries at once, and has it tried again when the socket is ready; the result, or its future.
    fn begin(&self, object: Obj<'_>, attempt: Attempt) -> R<Ref> {
        match self.try_once(object, &attempt)? {
            Tried::Done(result) => Ok(result),
            Tried::Blocked => self.wait(object, attempt, true),
        }
    }

    /// Has `attempt` tried when `object` is ready for it; returns the future of its outcome.
    fn wait(&self, object: Obj<'_>, attempt: Attempt, reads: bool) -> R<Ref> {
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
        self.begin_wait(fd, identity, operation)?;
        Ok(future)
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

    fn begin_wait(&self, fd: RawFd, identity: Option<Ref>, operation: Rc<Operation>) -> R<()> {
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
                return Ok(());
            }
            let is_same = |watch: &mut Watch| identity.as_ref().is_some_and(|id| watch.is_of(id));
            let is_stale =
                self.with_watch(token, |watch| watch.wanted().is_none() && !is_same(watch));
            if is_stale != Some(true) {
                operation.token.set(token);
                let is_same = self.with_watch(token, is_same) == Some(true);
                let identity = identity.filter(|_| is_same);
                return self.add_watcher(token, watcher, reads, identity);
            }
            // Made for another socket, which is closed, or no longer waited for.
            self.forget(token);
        }
        let mut watch = Watch::new(fd);
        watch.identity = identity;
        let token = self.begin_watch(watch, watcher, reads)?;
        operation.token.set(token);
        Ok(())
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
            return self.confirm(token);
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

    /// An event that found nothing: perhaps it was another file's, which had this number before and
    /// lives on under another, and the number's present file was never watched.
    fn confirm(&self, token: Token) -> R<()> {
        let known = self.with_watch(token, |watch| {
            let is_known = watch.identity.is_some() && watch.is_armed(true);
            is_known.then_some((watch.fd, watch.armed))
        });
        let Some(Some((fd, armed))) = known else {
            return Ok(());
        };
        match self.backend()?.confirm(fd, token, armed) {
            Err(error) if sys::is_gone(&error) => self.renew_backend(),
            _ => Ok(()),
        }
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
    fn try_once(&self, object: Obj<'_>, attempt: &Attempt) -> R<Tried> {
        let tried = match attempt {
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
            Attempt::Call(function) => {
                return match function.obj().call0() {
                    Ok(result) => Ok(Tried::Done(result)),
                    Err(raised) if builtin::is_would_block(&raised) => {
                        raised.clear();
                        Ok(Tried::Blocked)
                    }
                    Err(raised) => Err(raised),
                };
            }
        };
        match tried {
            Ok(result) => Ok(Tried::Done(result)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Tried::Blocked),
            Err(error) => Err(Raised::os_error(&error)),
        }
    }
}

/// `loop._sock_recv(sock, nbytes)`: the bytes, a future of them, or None: not a plain case.
pub fn sock_recv(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, size] = args.positional() else {
        return Err(Raised::type_error("_sock_recv() takes 2 arguments"));
    };
    let (this, state) = (fields(event_loop), state());
    let stock = &state.asyncio.socket_recv;
    if !size.is_exact_int() || this.plain(*object, &state.names.recv, stock)?.is_none() {
        return Ok(none_ref());
    }
    match usize::try_from(builtin::saturating_i64(*size)?) {
        Ok(max) if (1..=READ_MAX_BYTES).contains(&max) => {
            this.begin(*object, Attempt::Receive(max))
        }
        _ => Ok(none_ref()),
    }
}

/// `loop._sock_recv_into(sock, buf)`: the number of bytes, a future of it, or None.
pub fn sock_recv_into(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, target] = args.positional() else {
        return Err(Raised::type_error("_sock_recv_into() takes 2 arguments"));
    };
    let (this, state) = (fields(event_loop), state());
    let stock = &state.asyncio.socket_recv_into;
    if this
        .plain(*object, &state.names.recv_into, stock)?
        .is_none()
    {
        return Ok(none_ref());
    }
    this.begin(*object, Attempt::ReceiveInto(target.to_ref()))
}

/// `loop._sock_sendall(sock, data)`: True if all is sent, a future of that, or None.
pub fn sock_sendall(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, data] = args.positional() else {
        return Err(Raised::type_error("_sock_sendall() takes 2 arguments"));
    };
    let (this, state) = (fields(event_loop), state());
    let stock = &state.asyncio.socket_send;
    if this.plain(*object, &state.names.send, stock)?.is_none() {
        return Ok(none_ref());
    }
    let Some(buffer) = plain_bytes(*data) else {
        return Ok(none_ref());
    };
    let len = buffer.as_slice().len();
    let sent = socket::borrow(*object).and_then(|fd| sys::send(fd, buffer.as_slice()));
    drop(buffer);
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(Raised::os_error(&error)),
    };
    if sent == len {
        return Ok(boolean(true));
    }
    let view = builtin::memoryview(*data)?;
    this.wait(*object, Attempt::Send(view, Cell::new(sent)), false)
}

/// The bytes of one of the stock classes, if each of its items is one.
fn plain_bytes(data: Obj<'_>) -> Option<Buffer> {
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

/// `loop._sock_wait(sock, function, reads)`: a future of `function()`, called whenever the socket
/// is readable, or writable, until it does not raise BlockingIOError.
pub fn sock_wait(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [object, function, reads] = args.positional() else {
        return Err(Raised::type_error("_sock_wait() takes 3 arguments"));
    };
    let attempt = Attempt::Call(function.to_ref());
    fields(event_loop).wait(*object, attempt, reads.is_true()?)
}

/// `loop._sock_forget(fd, future)`: the operation behind `future`, if it still waits, is over.
pub fn sock_forget(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [fd, future] = args.positional() else {
        return Err(Raised::type_error("_sock_forget() takes 2 arguments"));
    };
    let this = fields(event_loop);
    let token = RawFd::try_from(fd.to_i64()?).map_or(None, |fd| this.token_of(fd));
    let found = token.and_then(|token| this.with_watch(token, |watch| watch.operation_of(*future)));
    if let Some(operation) = found.flatten() {
        this.end_wait(&operation)?;
    }
    Ok(none_ref())
}
