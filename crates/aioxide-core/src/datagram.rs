//! Datagram transport without io: the stream's state over chunks that leave whole.
//!
//! Duty: what a transport of datagrams decides otherwise than a stream. Reading, pausing, closing,
//! losing, water marks and the end of a turn are the stream's ([`Stream`]); the methods here take
//! the place of its `handle_write` and of its reports about sends. A chunk is one datagram, and
//! counts a header beyond its bytes where asyncio does.
//!
//! What differs, because datagrams do not depend on each other:
//! - A datagram is tried at once unless others wait; nothing is collected for the end of the turn.
//! - A send that fails loses its datagram and nothing else: the caller reports the error to the
//!   protocol, and the rest of the queue waits for the next readiness.
//! - Ignored writes are counted only for a transport with a remote address; one without it sends
//!   until its descriptor is closed.
//! - There is no end of stream.
//!
//! Sending the queue, at readiness:
//!
//! ```text
//!   while handle_drain() and the queue is not empty:
//!       send a batch ──► sent:    handle_datagrams_sent(count)
//!                    ──► blocked: break
//!                    ──► failed:  handle_datagrams_sent(1), tell the protocol, return
//!   poll_action(handle_drained())
//! ```
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
    pub fn of_datagrams(header_bytes: u32) -> Self {
        Self::with_queue(WriteQueue::with_header(header_bytes))
    }

    /// `sendto()`: what to do with the datagram, [`WritePlan::SendNow`], `Queue` or `Lost`.
    ///
    /// `has_remote`: the transport was made with a remote address. Report a datagram that would
    /// have blocked by [`Stream::handle_datagram_unsent`]; one that was sent, or failed, needs no
    /// report.
    pub fn handle_sendto(&mut self, has_remote: bool) -> WritePlan {
        if self.conn_lost() > 0 && !has_remote {
            return WritePlan::SendNow;
        }
        // A stream asks for the length only to ignore empty writes, and for the turn to collect.
        self.handle_write(1, None)
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

    /// The descriptor is writable, or a send goes on: whether there may be something to do.
    #[must_use]
    pub fn handle_drain(&self) -> bool {
        self.wants_write() && self.conn_lost() == 0
    }

    /// The first `count` datagrams left, or the first one failed.
    pub fn handle_datagrams_sent(&mut self, count: usize, spent: &mut impl Extend<C>) {
        self.queue_mut().advance_chunks(count, spent);
    }

    /// Sends have gone as far as they could, to the end of the queue or until one would have
    /// blocked.
    pub fn handle_drained(&mut self) -> Step {
        // As a send that took nothing more.
        self.handle_sent(0, &mut Vec::new())
    }
}
