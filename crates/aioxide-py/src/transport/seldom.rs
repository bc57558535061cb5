//! What few transports need: ends of pipes, and whoever sends a file.
//!
//! Duty: keep it out of the others, which may be a hundred thousand idle connections: for them it
//! is one word. May touch: its own memory. Invariant: once made, it stays where it is.
#![forbid(unsafe_code)]

use std::cell::OnceCell;

use crate::ffi::{Ref, Slot};

/// The fields themselves.
#[derive(Default)]
pub struct Fields {
    /// The pipe object, which is what gets closed.
    pub pipe: Slot,
    /// Where data of a process's output goes: `(process transport, fd)`.
    pub process: Slot,
    /// The handle that runs when a pipe is readable, and the one for writable.
    pub handles: [Slot; 2],
    /// The future that waits for the empty queue, during sendfile.
    pub empty_waiter: Slot,
    /// What sends a file and waits for room meanwhile.
    pub sender: Slot,
}

/// The fields, or nothing yet.
#[derive(Default)]
pub struct Seldom(OnceCell<Box<Fields>>);

impl Seldom {
    /// The fields, made now if need be.
    pub fn make(&self) -> &Fields {
        self.0.get_or_init(Box::default)
    }

    /// The fields, if they were made.
    #[inline]
    pub fn known(&self) -> Option<&Fields> {
        self.0.get().map(Box::as_ref)
    }

    /// The future that waits for the empty queue, if there is one.
    #[inline]
    pub fn empty_waiter(&self) -> Option<Ref> {
        self.known()?.empty_waiter.get()
    }

    /// All that refers to objects.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.known().into_iter().flat_map(|known| {
            let Fields {
                pipe,
                process,
                handles: [reading, writing],
                empty_waiter,
                sender,
            } = known;
            [pipe, process, reading, writing, empty_waiter, sender]
        })
    }
}
