//! Writes that transports hold to the end of a turn, and when they leave.
//!
//! May touch: the list of transports that hold any. Invariants: whatever is held leaves before the
//! backend is asked, before a run ends, and no later than [`HELD_NS_MAX`] and one callback after it
//! was held; transports are flushed in the order in which they began to hold; nothing is held while
//! no entry runs, because nobody would flush it.

#![forbid(unsafe_code)]

use aioxide_core::stream::Moment;

use super::{Flush, LoopFields};
use crate::ffi::{R, Ref};

/// The longest that a write is held while others' callbacks run: beside it a send costs nothing.
const HELD_NS_MAX: u64 = 1_000_000;

/// For `LoopFields::behind`: no entry runs.
pub(super) const NO_ENTRY: usize = usize::MAX;

impl LoopFields {
    /// An entry is about to run, with `left` behind it. What a protocol answers to what it is just
    /// told leaves at once: there is little between two such answers that sends would disturb.
    #[inline]
    pub(super) fn begin_entry(&self, is_io: bool, left: usize) {
        self.behind.set(if is_io { 0 } else { left });
    }

    /// What a write has to know of the turn; `None` while no entry runs.
    #[inline]
    pub fn moment(&self) -> Option<Moment> {
        let behind = self.behind.get();
        (behind != NO_ENTRY).then(|| Moment {
            turn: self.turn_number.get(),
            is_busy: behind > 0 || self.held_since_ns.get() != 0,
            is_answer: self.is_read.get(),
        })
    }

    /// Runs `body`, in which a protocol is told what was received: what it writes is its answer.
    #[inline]
    pub fn telling<T>(&self, body: impl FnOnce() -> T) -> T {
        self.is_read.set(true);
        let result = body();
        self.is_read.set(false);
        result
    }

    /// Has `flush(transport)` called at the end of this turn, or earlier if that is far.
    pub fn flush_later(&self, transport: Ref, flush: Flush) {
        if self.held_since_ns.get() == 0 {
            self.held_since_ns.set(self.clock.now_ns().max(1));
        }
        self.unflushed.borrow_mut().push((transport, flush));
    }

    /// Sends what is held, if it has been for long.
    #[inline]
    pub(super) fn flush_overdue(&self) -> R<()> {
        let held_ns = self.clock.now_ns().saturating_sub(self.held_since_ns.get());
        if held_ns < HELD_NS_MAX {
            return Ok(());
        }
        self.flush()
    }

    /// Sends what is held. A transport that fails reports that itself.
    #[inline]
    pub(super) fn flush(&self) -> R<()> {
        self.behind.set(NO_ENTRY);
        if self.held_since_ns.get() != 0 {
            self.handles.leave_context()?;
        }
        while self.held_since_ns.replace(0) != 0 {
            self.flush_batch()?;
        }
        Ok(())
    }

    fn flush_batch(&self) -> R<()> {
        let mut batch = std::mem::take(&mut *self.unflushed.borrow_mut());
        let mut result = Ok(());
        let mut done = 0;
        for (transport, flush) in &batch {
            done += 1;
            result = flush(transport.obj());
            if result.is_err() {
                break;
            }
        }
        let mut rest = batch.split_off(done);
        // What they refer to is dropped while nothing is borrowed.
        batch.clear();
        let mut unflushed = self.unflushed.borrow_mut();
        if !rest.is_empty() {
            self.held_since_ns.set(1);
            rest.append(&mut unflushed);
            *unflushed = rest;
        } else if unflushed.is_empty() {
            *unflushed = batch;
        }
        result
    }
}
