//! Datagram transport without io: the stream's state over chunks that leave whole.
//!
//! Duty: what a transport of datagrams decides otherwise than a stream. Reading, pausing, closing,
//! losing, water marks and the end of a turn are the stream's ([`Stream`]); the methods here take
//! the place of its `handle_write` and of its reports about sends. A chunk is one datagram, and
//! counts a header beyond its bytes where asyncio does.
//!
//! What differs, because datagrams do not depend on each other:
//! - A send that fails loses its datagram and nothing else: the caller reports the error to the
//!   protocol and goes on ([`Stream::handle_datagram_failed`]).
//! - Ignored writes are counted only for a transport with a remote address; one without it sends
//!   until its descriptor is closed.
//! - There is no end of stream.
//!
//! Sending the queue, at a readiness or at the end of a turn:
//!
//! ```text
//!   while handle_drain() and the queue is not empty:
//!       send a batch ──► handle_datagrams_sent(n) | blocked: leave | handle_datagram_failed
//!   poll_action(handle_drained())
//! ```
//!
//! After a failed send of a *waiting* datagram asyncio leaves the rest for the next readiness and
//! finishes nothing now; datagrams that only waited for the end of the turn would have been sent
//! one by one, so the rest of them is sent. [`Stream::is_waiting`] tells the two apart.
//!
//! Invariants: those of the stream, but that write interest may outlive the queue for one
//! readiness, after a failed send.
//!
//! *Source*: asyncio `selector_events._SelectorDatagramTransport` of 3.15.
#![forbid(unsafe_code)]

use crate::buf::WriteQueue;
#[cfg(test)]
use crate::stream::Action;
use crate::stream::{Step, Stream, WritePlan};

#[cfg(test)]
mod driver;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

impl<C: AsRef<[u8]>> Stream<C> {
    /// A transport of datagrams, each of which counts `header_bytes` beyond its own.
    pub fn of_datagrams(header_bytes: usize) -> Self {
        Self::with_queue(WriteQueue::with_header(header_bytes))
    }

    /// `sendto()`: what to do with the datagram, [`WritePlan::SendNow`], `Queue` or `Lost`.
    ///
    /// `has_remote`: the transport was made with a remote address. `turn` numbers the loop's turn;
    /// `None`, outside of one, never defers. Report a datagram that was sent by
    /// `handle_sent_at_once`, one that would have blocked by
    /// [`Stream::handle_datagram_unsent`]; one that failed needs no report.
    pub fn handle_sendto(&mut self, has_remote: bool, turn: Option<u64>) -> WritePlan {
        if self.conn_lost() > 0 && !has_remote {
            return WritePlan::SendNow;
        }
        // While readiness is awaited, deferring would be waiting for it: see the invariants.
        let turn = turn.filter(|_| !self.wants_write());
        // A stream asks for the length only to ignore empty writes.
        self.handle_write(1, turn)
    }

    /// A [`WritePlan::SendNow`] would have blocked.
    ///
    /// # Errors
    /// Gives the datagram back if the connection is lost: nobody would ever send it.
    pub fn handle_datagram_unsent(&mut self, datagram: C) -> Result<Step, C> {
        if self.conn_lost() > 0 {
            return Err(datagram);
        }
        self.handle_unsent(datagram, 0)
    }

    /// The descriptor is writable, or a send goes on: whether there may be something to send.
    #[must_use]
    pub fn handle_drain(&self) -> bool {
        self.conn_lost() == 0
    }

    /// Whether the queue waits for readiness, not only for the end of the turn.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.wants_write()
    }

    /// A send took the first `count` datagrams.
    pub fn handle_datagrams_sent(&mut self, count: usize, spent: &mut impl Extend<C>) {
        self.queue_mut().advance_chunks(count, spent);
    }

    /// A send of the first datagram failed: gives it up. Tell the protocol afterwards.
    pub fn handle_datagram_failed(&mut self, spent: &mut impl Extend<C>) {
        self.queue_mut().advance_chunks(1, spent);
    }

    /// Sends have gone as far as they could, to the end of the queue or until one would have
    /// blocked.
    pub fn handle_drained(&mut self) -> Step {
        // As a send that took nothing more.
        self.handle_sent(0, &mut Vec::new())
    }
}
