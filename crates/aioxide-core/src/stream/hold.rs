//! Which writes are held to the end of a turn, and how many bytes of them.
//!
//! Duty: decide, and remember what later decisions need. Touches the stream's state and nothing
//! else. Invariant: what is held is in the queue, and a flush is due.
//!
//! Whoever pours, and whose kernel has taken megabytes without refusing any, may hold more than
//! others, and more than high water: a kernel with so much more room would have taken it. The first
//! refusal ends it, so of a slow peer's bytes no more wait in memory than elsewhere.
#![forbid(unsafe_code)]

use super::{Moment, Stream};

/// Bytes that are held to the end of a turn: beyond, a send costs its bytes and not its call.
pub const HELD_BYTES_MAX: usize = 64 * 1024;

/// The same of a stream that pours, see [`STREAK_BYTES`]. Sends of this size cost two thirds of
/// what those of 64 KiB do, those of twice the size no less; beyond high water, it is what a kernel
/// with so much more room would have taken.
pub(super) const HELD_BYTES_MAX_IN_STREAK: usize = 512 * 1024;

/// Queued bytes that the kernel took, all that were offered each time, before more are held: a
/// peer who is slow never lets it come to that, so nothing more waits in memory for him.
pub(super) const STREAK_BYTES: u32 = 4 * 1024 * 1024;

/// An answer of at least this size leaves at once: to hold it would save little beside its bytes,
/// and what it was made of stays in memory until the turn's end, for each connection.
pub(super) const ANSWER_BYTES_MIN: usize = 16 * 1024;

impl<C: AsRef<[u8]>> Stream<C> {
    /// A write of `len` bytes happens: whether it is held to the end of the turn.
    pub(super) fn holds(&mut self, len: usize, moment: Option<Moment>) -> bool {
        let Some(moment) = moment else {
            return false;
        };
        let again = self.written_turn == moment.turn;
        let is_in_pieces = again || self.piecewise;
        let is_large_answer = moment.is_answer && len >= ANSWER_BYTES_MIN;
        let held = moment.is_busy || (is_in_pieces && !is_large_answer);
        self.written_turn = moment.turn;
        self.piecewise = again;
        // What waits for the kernel does not wait for the turn.
        held && !self.want_write
    }

    /// Data of a [`WritePlan::Queue`], the short way: true if it is held from now on and
    /// [`Action::FlushLater`] is all there is to do, false if nothing is.
    ///
    /// # Errors
    /// Gives the chunk back where there may be more to do: [`Stream::handle_queued`] tells.
    #[inline]
    pub fn handle_held(&mut self, chunk: C) -> Result<bool, C> {
        let size_bytes = self.queue.size_bytes() + chunk.as_ref().len();
        if self.want_write || self.is_too_much_to_hold(size_bytes) {
            return Err(chunk);
        }
        self.queue.push(chunk, 0)?;
        Ok(!std::mem::replace(&mut self.flush_due, true))
    }

    /// The turn ends, or somebody is about to look: whether to send the queue now.
    #[must_use]
    pub fn handle_flush(&mut self) -> bool {
        std::mem::take(&mut self.flush_due) && !self.lost && !self.queue.is_empty()
    }

    pub(super) fn is_too_much_to_hold(&self, size_bytes: usize) -> bool {
        if self.streak_bytes >= STREAK_BYTES && !self.flow.is_tight() {
            return size_bytes > HELD_BYTES_MAX_IN_STREAK;
        }
        size_bytes > HELD_BYTES_MAX || self.flow.is_over(size_bytes)
    }

    /// A send took `len` queued bytes.
    pub(super) fn note_streak(&mut self, len: usize) {
        self.streak_bytes = match self.queue.is_empty() {
            true => self
                .streak_bytes
                .saturating_add(u32::try_from(len).unwrap_or(u32::MAX)),
            false => 0,
        };
    }
}
