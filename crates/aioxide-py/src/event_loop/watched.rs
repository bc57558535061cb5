//! What is known of a watched descriptor: who waits for it, and what the kernel was asked for.
//!
//! Duty: the record behind `add_reader`, `add_writer` and the waiting operations of `sock_*`.
//!
//! An operation that waited to read leaves its descriptor registered when it is over: `armed` then
//! says more than `wanted()`. The next operation on the same socket needs no system call to wait.
//! Readiness is level-triggered, so whatever is reported while nobody wants it can be dropped: the
//! loop asks the kernel for less then, and asks again when somebody waits.
//!
//! Invariants: `armed` covers `wanted()`; more than that only of a socket that `identity` names;
//! nothing here calls Python.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;

use aioxide_core::backend::{Interest, Readiness};
use aioxide_core::slab::Token;

use crate::ffi::class::Visitor;
use crate::ffi::{Obj, Ref};

/// What a waiting operation is to do when the descriptor is ready.
pub enum Attempt {
    /// Receive up to so many bytes.
    Receive(usize),
    /// Receive into a writable buffer.
    ReceiveInto(Ref),
    /// Send what is left of a memory view, from this byte on.
    Send(Ref, Cell<usize>),
    /// Call the socket's method of this name with these arguments; BlockingIOError and
    /// InterruptedError say "not yet".
    Method(Ref, Ref),
    /// Send what is left of a memory view, from this item on, by the socket's own method.
    SendSlice(Ref, Cell<usize>),
    /// See whether the connection to this address stands.
    Connect(Ref),
    /// Accept a connection, by the socket's own method.
    Accept,
}

/// An operation that waits for readiness.
pub struct Operation {
    /// What its caller awaits.
    pub future: Ref,
    /// The socket, kept alive meanwhile.
    pub socket: Ref,
    /// What to try.
    pub attempt: Attempt,
    /// Whether it waits to read, or else to write.
    pub reads: bool,
    /// Under which token it waits.
    pub token: Cell<Token>,
}

/// Who is to be told that a descriptor is ready.
#[derive(Clone)]
pub enum Watcher {
    /// `add_reader`, `add_writer`.
    Handle(Ref),
    /// An operation of `sock_*`.
    Operation(Rc<Operation>),
}

impl Watcher {
    /// What there is to see of it: the handle, or the future of the operation.
    pub fn object(&self) -> Obj<'_> {
        match self {
            Watcher::Handle(handle) => handle.obj(),
            Watcher::Operation(operation) => operation.future.obj(),
        }
    }
}

/// A watched descriptor.
pub struct Watch {
    /// Its number.
    pub fd: RawFd,
    /// The object it was taken from, by which it can be removed even when that is closed.
    pub file: Option<Ref>,
    /// What the kernel was asked to report.
    pub armed: Interest,
    /// The weak reference to the socket of which `armed` is true, as long as operations alone use
    /// the descriptor. Without one the kernel is asked at each change.
    pub identity: Option<Ref>,
    /// Whether an operation waits, or waited, by `armed` alone since the kernel was last asked.
    pub is_trusted: bool,
    /// Who waits to read.
    pub reader: Option<Watcher>,
    /// Who waits to write.
    pub writer: Option<Watcher>,
}

impl Watch {
    /// A record of a descriptor that nobody watches yet.
    pub fn new(fd: RawFd) -> Watch {
        Watch {
            fd,
            file: None,
            armed: Interest::NONE,
            identity: None,
            is_trusted: false,
            reader: None,
            writer: None,
        }
    }

    /// What somebody waits for.
    #[inline]
    pub fn wanted(&self) -> Interest {
        let mut wanted = Interest::NONE;
        if self.reader.is_some() {
            wanted = wanted.with(Interest::READABLE);
        }
        if self.writer.is_some() {
            wanted = wanted.with(Interest::WRITABLE);
        }
        wanted
    }

    /// Whether the socket behind `weak` is the one of which `armed` is true.
    #[inline]
    pub fn is_of(&self, weak: &Ref) -> bool {
        self.identity
            .as_ref()
            .is_some_and(|identity| identity.obj().is(weak.obj()))
    }

    /// The place of the reader or of the writer.
    #[inline]
    pub fn place(&mut self, reads: bool) -> &mut Option<Watcher> {
        if reads {
            &mut self.reader
        } else {
            &mut self.writer
        }
    }

    /// Whether the kernel reports this direction.
    #[inline]
    pub fn is_armed(&self, reads: bool) -> bool {
        if reads {
            self.armed.is_readable()
        } else {
            self.armed.is_writable()
        }
    }

    /// What the kernel is to report when an operation is over: reading as before, if the descriptor
    /// is used by operations alone; a socket that has room for writing would report it for ever.
    #[inline]
    pub fn worth_arming(&self) -> Interest {
        let wanted = self.wanted();
        if self.identity.is_some() && self.armed.is_readable() {
            wanted.with(Interest::READABLE)
        } else {
            wanted
        }
    }

    /// Whether this operation stands in its place.
    #[inline]
    pub fn is_waiting(&mut self, operation: &Rc<Operation>) -> bool {
        let place = self.place(operation.reads);
        matches!(place, Some(Watcher::Operation(found)) if Rc::ptr_eq(found, operation))
    }

    /// The operation that completes this future.
    pub fn operation_of(&self, future: Obj<'_>) -> Option<Rc<Operation>> {
        [&self.reader, &self.writer]
            .into_iter()
            .flatten()
            .find_map(|watcher| match watcher {
                Watcher::Operation(operation) if operation.future.obj().is(future) => {
                    Some(operation.clone())
                }
                _ => None,
            })
    }

    /// Who waits, if `readiness` concerns them: the reader, then the writer.
    #[inline]
    pub fn woken(&self, readiness: Readiness) -> [Option<&Watcher>; 2] {
        [
            self.reader.as_ref().filter(|_| readiness.wakes_reader()),
            self.writer.as_ref().filter(|_| readiness.wakes_writer()),
        ]
    }

    /// Whether `readiness` tells of something that the kernel need not report: nobody waits for it.
    #[inline]
    pub fn is_unwanted(&self, readiness: Readiness) -> bool {
        self.armed != self.wanted()
            && ((readiness.wakes_reader() && self.reader.is_none() && self.armed.is_readable())
                || (readiness.wakes_writer() && self.writer.is_none() && self.armed.is_writable()))
    }

    /// Shows the collector what it holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        for held in [&self.file, &self.identity].into_iter().flatten() {
            visitor.visit(held.ptr());
        }
        for watcher in [&self.reader, &self.writer].into_iter().flatten() {
            match watcher {
                Watcher::Handle(handle) => visitor.visit(handle.ptr()),
                Watcher::Operation(operation) => {
                    visitor.visit(operation.future.ptr());
                    visitor.visit(operation.socket.ptr());
                    match &operation.attempt {
                        Attempt::ReceiveInto(object)
                        | Attempt::Send(object, _)
                        | Attempt::SendSlice(object, _)
                        | Attempt::Connect(object)
                        // The name is a string.
                        | Attempt::Method(_, object) => visitor.visit(object.ptr()),
                        Attempt::Receive(_) | Attempt::Accept => {}
                    }
                }
            }
        }
    }
}
