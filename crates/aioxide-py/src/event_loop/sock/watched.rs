//! What a registered socket of the caller remembers.
//!
//! Duty: who waits for which direction, and whether there may be something to read. May touch:
//! nothing but itself; events and outcomes are told to it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use aioxide_core::backend::{Interest, Readiness};

use crate::ffi::Ref;
use crate::ffi::class::Visitor;
use crate::future;

/// What a waiting operation is to do.
pub enum Operation {
    /// Receive up to so many bytes.
    Recv(usize),
    /// Receive into a writable buffer.
    RecvInto(Ref),
    /// Send what is left of a memory view, from this byte on.
    Send(Ref, usize),
}

/// An operation that waits for readiness.
pub struct Waiting {
    /// What its caller awaits.
    pub future: Ref,
    /// What to try.
    pub operation: Operation,
}

/// Who waits for one direction of a socket.
pub enum Side {
    /// A reader or writer of `add_reader` and `add_writer`, beside an operation.
    Handle(Ref),
    /// An operation.
    Waiting(Waiting),
}

impl Side {
    /// Whether somebody still waits: a cancelled operation is noticed at the next event.
    pub fn is_live(&self) -> bool {
        match self {
            Side::Handle(_) => true,
            Side::Waiting(waiting) => future::fields(waiting.future.obj()).is_pending(),
        }
    }
}

/// A registered socket of the caller.
pub struct Watched {
    /// The descriptor's number.
    pub fd: RawFd,
    /// The weak reference to the socket object.
    pub identity: Ref,
    /// A read that falls short empties the queue.
    pub is_tcp: bool,
    /// There may be something to read.
    pub readable: bool,
    /// The end, an error or urgent data was seen: always try.
    pub sticky: bool,
    /// Who waits to read.
    pub reader: Option<Side>,
    /// Who waits to write.
    pub writer: Option<Side>,
}

/// What all registrations of this kind watch for.
pub const INTEREST: Interest = Interest::BOTH.with(Interest::EDGE);

impl Watched {
    /// Shows the collector what it holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.visit(self.identity.ptr());
        for side in [&self.reader, &self.writer].into_iter().flatten() {
            match side {
                Side::Handle(handle) => visitor.visit(handle.ptr()),
                Side::Waiting(waiting) => {
                    visitor.visit(waiting.future.ptr());
                    match &waiting.operation {
                        Operation::RecvInto(object) | Operation::Send(object, _) => {
                            visitor.visit(object.ptr());
                        }
                        Operation::Recv(_) => {}
                    }
                }
            }
        }
    }

    /// Whether an operation waits.
    pub fn is_waited_for(&self) -> bool {
        [&self.reader, &self.writer]
            .into_iter()
            .flatten()
            .any(|side| matches!(side, Side::Waiting(_)) && side.is_live())
    }

    /// What is waited for, and the handles among those who wait; `None` if nobody does.
    pub fn waited_for(&self) -> Option<(Interest, [Option<Ref>; 2])> {
        let mut interest = Interest::NONE;
        for (side, direction) in [
            (&self.reader, Interest::READABLE),
            (&self.writer, Interest::WRITABLE),
        ] {
            if side.as_ref().is_some_and(Side::is_live) {
                interest = interest.with(direction);
            }
        }
        let handles = [&self.reader, &self.writer].map(|side| match side {
            Some(Side::Handle(handle)) => Some(handle.clone()),
            _ => None,
        });
        (!interest.is_none()).then_some((interest, handles))
    }

    /// Takes in an event; whether an operation is to be tried.
    pub fn handle_event(&mut self, readiness: Readiness) -> bool {
        self.readable |= readiness.wakes_reader();
        self.sticky |= readiness.is_final();
        let waits = |side: &Option<Side>| matches!(side, Some(Side::Waiting(_)));
        (readiness.wakes_reader() && waits(&self.reader))
            || (readiness.wakes_writer() && waits(&self.writer))
    }

    /// The handles beside an operation that are to run.
    pub fn ready_handles(&self, readiness: Readiness) -> Vec<Ref> {
        [
            (&self.reader, readiness.wakes_reader()),
            (&self.writer, readiness.wakes_writer()),
        ]
        .into_iter()
        .filter_map(|(side, wakes)| match side {
            Some(Side::Handle(handle)) if wakes => Some(handle.clone()),
            _ => None,
        })
        .collect()
    }

    /// A read of at most `asked` bytes gave `len`.
    pub fn handle_read(&mut self, asked: usize, len: usize) {
        if self.is_tcp && len > 0 && len < asked {
            self.readable = false;
        }
    }
}
