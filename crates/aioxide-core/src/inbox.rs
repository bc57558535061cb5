//! What other threads send to the loop, and whether it must be woken for it.
//!
//! May touch: its own memory and its owner's [`Doze`]. It has no lock: whoever shares it between
//! threads has one that is held whenever it is touched. The binding's is the GIL. Nothing is
//! dropped and no foreign code runs in it.
//! Invariants: entries arrive in the order of their pushes; each accepted entry is taken once or
//! handed back by `close`; of all that push into one sleep, exactly one is told to wake the loop:
//! no wake-up is lost, none is doubled.
//!
//! ```text
//!            prepare_sleep (empty)                push -> Ok(true)
//!   awake  ------------------------->  asleep  ---------------------->  awake, wake-up under way
//!     ^                                  |
//!     +------------- awake --------------+
//! ```
//!
//! Who would rather wake the loop after it has let go of something (the GIL) leaves the entry with
//! `push_quietly` and calls the [`Doze`] that this returns: that, and `awake`, need no lock.
//! `interleavings.rs` explores every interleaving with loom.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
#[cfg(not(loom))]
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::Arc;

use crate::doze::Doze;
use crate::ready::IDLE_CAPACITY_MAX;

/// A queue into the loop from any thread that has the lock.
#[derive(Debug)]
pub struct Inbox<T> {
    entries: RefCell<Vec<T>>,
    /// Whether there are any, in a place of its own: it is asked all the time.
    pending: Cell<bool>,
    closed: Cell<bool>,
    /// How the owner waits.
    doze: Arc<Doze>,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Inbox<T> {
    /// An empty, open inbox whose owner is awake.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: RefCell::new(Vec::new()),
            pending: Cell::new(false),
            closed: Cell::new(false),
            doze: Arc::new(Doze::new()),
        }
    }

    /// Appends an entry. True: the caller must wake the loop, nobody else will.
    ///
    /// # Errors
    /// The entry comes back when the inbox is closed.
    pub fn push(&self, entry: T) -> Result<bool, T> {
        self.append(entry)?;
        Ok(self.doze.call())
    }

    /// Appends an entry. If the owner waits, the caller must call what this returns, as soon as it
    /// suits it, and wake the loop if that says so.
    ///
    /// # Errors
    /// The entry comes back when the inbox is closed.
    #[inline]
    pub fn push_quietly(&self, entry: T) -> Result<Option<Arc<Doze>>, T> {
        self.append(entry)?;
        Ok((!self.doze.is_awake()).then(|| Arc::clone(&self.doze)))
    }

    #[inline]
    fn append(&self, entry: T) -> Result<(), T> {
        if self.closed.get() {
            return Err(entry);
        }
        self.entries.borrow_mut().push(entry);
        self.pending.set(true);
        Ok(())
    }

    /// How much has arrived and was not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// True when nothing has arrived.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.pending.get()
    }

    /// Hands all entries over, in order; owner thread.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        self.pending.set(false);
        self.entries.take()
    }

    /// Gets memory for the next entries, empty; owner thread. That of a burst is not kept.
    pub fn give_back(&self, spare: Vec<T>) {
        debug_assert!(spare.is_empty());
        if spare.capacity() <= IDLE_CAPACITY_MAX && self.is_empty() {
            self.entries.replace(spare);
        }
    }

    /// Announces that the owner is about to sleep. True: it may, and the next push wakes it. False:
    /// something has arrived, look first.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.prepare(false).is_some()
    }

    /// As `prepare_sleep`; with `looks`, for an owner that looks at its [`Doze`] for a while before
    /// it falls asleep.
    #[must_use]
    pub fn prepare(&self, looks: bool) -> Option<&Doze> {
        if !self.is_empty() {
            return None;
        }
        // With the lock: a push comes before, and is seen above, or after, and sees this.
        self.doze.begin(looks);
        Some(&self.doze)
    }

    /// Announces that the owner is awake; owner thread, after each sleep.
    pub fn awake(&self) {
        self.doze.end();
    }

    /// Refuses every later push and hands back what has not been taken; any number of times.
    pub fn close(&self) -> Vec<T> {
        self.closed.set(true);
        self.doze.end();
        self.pending.set(false);
        self.entries.take()
    }
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(all(test, not(loom)))]
mod tests;
