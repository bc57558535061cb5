//! Byte stream transport without io: what asyncio's socket transport decides, and nothing else.
//!
//! Duty: hold the state of one stream (reading, closing, write queue, water marks, half-close,
//! lost connection) and answer what to do next. It never sends, receives, schedules or calls a
//! protocol: the caller does, between two calls. TCP, Unix sockets and pipes share it.
//!
//! Methods come in three kinds: getters; `handle_*`, which take in a call or an event and return a
//! verdict or a [`Step`]; and [`Stream::poll_action`], which gives out, one at a time, the
//! [`Action`]s of that step until it says `None`. The step lives with the caller, so an action that
//! calls user code may re-enter with a step of its own, and the outer one then continues against
//! the state it finds: every condition is tested when its action is due, not before.
//!
//! ```text
//!             close, eof            queue empty              connection_lost() returned
//!   open ───────────────► closing ─────────────► losing ──────────────────────► lost
//!     └──────────── abort, fatal error ───────────┘
//! ```
//!
//! Invariants:
//! 1. A queued byte has a way out: the queue is non-empty only while write interest is set, a flush
//!    is due, or an [`Action::Send`] is being carried out.
//! 2. A lost stream is closing, has an empty queue and no interest; `connection_lost` is asked for
//!    (scheduled or at once) exactly once.
//! 3. Bytes leave in the order of their writes. An idle stream's write leaves at once if nothing
//!    else waits to run in the turn; otherwise, and if it wrote in this turn already or in pieces
//!    the last time, its writes are held to the turn's end and leave together. They are not held
//!    for whoever asks for the size, closes, or passes high water or [`HELD_BYTES_MAX`]; nor is a
//!    large answer of a protocol to what it is just told.
//!
//! Pipes differ in details, which [`Rules`] name: closing, end of stream, ignored writes.
//!
//! *Source*: asyncio `selector_events._SelectorSocketTransport`,
//! `unix_events._UnixReadPipeTransport` and `unix_events._UnixWritePipeTransport` of 3.14.
#![forbid(unsafe_code)]

use crate::buf::WriteQueue;
use crate::flow::{Flow, LimitsError};

#[cfg(test)]
mod driver;
mod hold;
#[cfg(test)]
mod model;
mod poll;
mod step;
#[cfg(test)]
mod tests;

pub use hold::HELD_BYTES_MAX;
use step::Phase;
pub use step::{Action, Moment, Rules, Step, WritePlan};

/// Writes to a lost connection that are ignored in silence; later ones earn a warning.
///
/// *Source*: asyncio `constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`.
pub const LOST_WRITES_SILENT: u32 = 5;

/// State of one byte stream over chunks `C`.
///
/// Chunks are moved in by writes and moved out, into the `spent` argument of the methods that have
/// one, when they are sent or given up; the caller drops them after its borrow has ended.
#[derive(Debug)]
pub struct Stream<C> {
    rules: Rules,
    queue: WriteQueue<C>,
    flow: Flow,
    /// `pause_reading()` is in force.
    paused: bool,
    closing: bool,
    /// `write_eof()` was called.
    eof: bool,
    /// Somebody waits for the empty queue.
    watched: bool,
    want_read: bool,
    want_write: bool,
    /// The backend reports writability still, though nothing waits for it.
    disarm_due: bool,
    /// A file has the writing side: its sender waits for room, the queue stays empty.
    sends_file: bool,
    /// A flush at the end of the turn was asked for and is still due.
    flush_due: bool,
    /// `connection_lost` was asked for.
    lost: bool,
    /// See [`Stream::conn_lost`].
    conn_lost: u32,
    /// The last turn that wrote, wrote more than once: the next one likely does, too.
    piecewise: bool,
    /// The turn that wrote last; 0 before the first.
    written_turn: u64,
    /// Queued bytes sent since the kernel last refused any.
    streak_bytes: u32,
}

impl<C> Default for Stream<C> {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            queue: WriteQueue::default(),
            flow: Flow::default(),
            paused: false,
            closing: false,
            eof: false,
            watched: false,
            want_read: false,
            want_write: false,
            disarm_due: false,
            sends_file: false,
            flush_due: false,
            lost: false,
            conn_lost: 0,
            piecewise: false,
            written_turn: 0,
            streak_bytes: 0,
        }
    }
}

impl<C> Stream<C> {
    /// A stream that nothing has happened to.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// A stream over a queue of another kind: see `datagram`.
    pub(crate) fn with_queue(queue: WriteQueue<C>) -> Self {
        Self {
            queue,
            ..Self::default()
        }
    }

    /// The queue, for `datagram`, whose chunks leave whole.
    pub(crate) fn queue_mut(&mut self) -> &mut WriteQueue<C> {
        &mut self.queue
    }
}

/// Getters.
impl<C: AsRef<[u8]>> Stream<C> {
    /// Whether `close()` or `abort()` was called or the connection failed.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether data would be delivered: neither paused nor closing.
    pub fn is_reading(&self) -> bool {
        !self.closing && !self.paused
    }

    /// Whether `pause_reading()` is in force.
    pub fn is_reading_paused(&self) -> bool {
        self.paused
    }

    /// Whether `write_eof()` was called.
    pub fn is_eof_written(&self) -> bool {
        self.eof
    }

    /// Whether the protocol was told to pause writing.
    pub fn is_protocol_paused(&self) -> bool {
        self.flow.is_paused()
    }

    /// Zero while connected; then one, plus one for each write ignored since. A pipe counts only
    /// its failed and ignored writes.
    pub fn conn_lost(&self) -> u32 {
        self.conn_lost
    }

    /// Whether readiness to read is wanted.
    pub fn wants_read(&self) -> bool {
        self.want_read
    }

    /// Whether readiness to write is wanted.
    pub fn wants_write(&self) -> bool {
        self.want_write || self.sends_file
    }

    /// Whether queued bytes wait for the end of the turn rather than for the kernel.
    pub fn is_flush_due(&self) -> bool {
        self.flush_due
    }

    /// The unsent bytes.
    pub fn queue(&self) -> &WriteQueue<C> {
        &self.queue
    }

    /// Low and high water in bytes, in this order.
    pub fn limits(&self) -> (usize, usize) {
        self.flow.limits()
    }
}

/// Reading, closing and failing.
impl<C: AsRef<[u8]>> Stream<C> {
    /// The protocol's `connection_made()` was called: starts reading unless paused or closing. What
    /// a write pipe reads is the end of its reader, also while it closes.
    pub fn handle_start(&mut self) -> Step {
        let reads = match self.rules {
            Rules::WritePipe => !self.lost,
            Rules::Socket | Rules::ReadPipe => self.is_reading(),
        };
        self.want(reads, self.want_write)
    }

    /// `pause_reading()`: `None` if there was nothing to pause.
    pub fn handle_pause_reading(&mut self) -> Option<Step> {
        if !self.is_reading() {
            return None;
        }
        self.paused = true;
        Some(self.want(false, self.want_write))
    }

    /// `resume_reading()`: `None` if reading was not paused or the stream is closing.
    ///
    /// As with asyncio, this reads again even after the peer's end of stream was seen.
    pub fn handle_resume_reading(&mut self) -> Option<Step> {
        if self.closing || !self.paused {
            return None;
        }
        self.paused = false;
        Some(self.want(true, self.want_write))
    }

    /// The descriptor is readable: whether to read now, once.
    ///
    /// False for an event that was under way when reading stopped.
    #[must_use]
    pub fn handle_readable(&self) -> bool {
        self.want_read && !self.lost
    }

    /// `eof_received()` answered: a true answer keeps the writing side open, a false one closes.
    pub fn handle_eof_reply(&mut self, keep_open: bool) -> Step {
        if keep_open {
            self.want(false, self.want_write)
        } else {
            self.handle_close()
        }
    }

    /// `close()`: stops reading; the connection is lost once the queue is empty.
    ///
    /// Flush first if [`Stream::is_flush_due`], so that a failure shows as it does with asyncio.
    pub fn handle_close(&mut self) -> Step {
        if self.closing {
            return Step::default();
        }
        self.closing = true;
        if self.queue.is_empty() {
            return self.lose();
        }
        let reads = self.want_read && self.rules == Rules::WritePipe;
        self.want(reads, self.want_write)
    }

    /// `abort()`, or an error that ends the connection: gives up unsent bytes.
    pub fn handle_fatal(&mut self, spent: &mut impl Extend<C>) -> Step {
        if self.lost {
            return Step::default();
        }
        self.queue.clear(spent);
        self.flush_due = false;
        self.closing = true;
        self.lose()
    }

    /// Counts the connection as lost and ends all interest.
    fn lose(&mut self) -> Step {
        self.count_lost();
        let interest = self.handle_file(false).interest;
        let step = self.want(false, false);
        Step {
            lost: true,
            interest: step.interest || interest,
            ..step
        }
    }

    fn count_lost(&mut self) {
        self.lost = true;
        self.conn_lost += u32::from(self.rules == Rules::Socket);
    }

    fn want(&mut self, read: bool, write: bool) -> Step {
        let interest = (self.want_read, self.want_write) != (read, write);
        (self.want_read, self.want_write) = (read, write);
        Step {
            interest,
            ..Step::default()
        }
    }
}

/// Writing.
impl<C: AsRef<[u8]>> Stream<C> {
    /// `write()` with `len` bytes: what to do with them.
    ///
    /// Outside of a turn, with `None`, nothing is held.
    pub fn handle_write(&mut self, len: usize, moment: Option<Moment>) -> WritePlan {
        if self.eof {
            return WritePlan::AfterEof;
        }
        if len == 0 {
            return WritePlan::Nothing;
        }
        if self.refuses() {
            return self.count_lost_write();
        }
        let held = self.holds(len, moment);
        if self.queue.is_empty() && (!held || len > HELD_BYTES_MAX) {
            WritePlan::SendNow
        } else {
            WritePlan::Queue
        }
    }

    /// `writelines()` with any bytes: never `SendNow`, its chunks leave by one vectored send.
    ///
    /// Push them by [`Stream::handle_line`], then poll [`Stream::handle_lines_end`].
    pub fn handle_writelines(&mut self) -> WritePlan {
        if self.eof {
            return WritePlan::AfterEof;
        }
        if self.refuses() {
            return self.count_lost_write();
        }
        WritePlan::Queue
    }

    /// Whether writes are ignored. A socket takes them until its queue has left.
    fn refuses(&self) -> bool {
        self.lost || (self.closing && self.rules != Rules::Socket)
    }

    fn count_lost_write(&mut self) -> WritePlan {
        let warn = self.conn_lost >= LOST_WRITES_SILENT;
        self.conn_lost = self.conn_lost.saturating_add(1);
        WritePlan::Lost { warn }
    }

    /// A [`WritePlan::SendNow`] sent only the first `sent` bytes of `chunk`, perhaps none.
    ///
    /// # Errors
    /// Gives the chunk back if nothing of it is left.
    pub fn handle_unsent(&mut self, chunk: C, sent: usize) -> Result<Step, C> {
        self.queue.push(chunk, sent)?;
        self.streak_bytes = 0;
        let step = self.want(self.want_read, true);
        Ok(Step {
            phase: Phase::Grown,
            ..step
        })
    }

    /// Data of a [`WritePlan::Queue`].
    ///
    /// # Errors
    /// Gives an empty chunk back.
    pub fn handle_queued(&mut self, chunk: C) -> Result<Step, C> {
        self.queue.push(chunk, 0)?;
        Ok(Step::at(Phase::Queued))
    }

    /// One chunk of `writelines()`.
    ///
    /// # Errors
    /// Gives an empty chunk back.
    pub fn handle_line(&mut self, chunk: C) -> Result<(), C> {
        self.queue.push(chunk, 0)
    }

    /// The last chunk of `writelines()` is queued: sends the queue, at once unless it is held.
    pub fn handle_lines_end(&mut self, moment: Option<Moment>) -> Step {
        if self.queue.is_empty() {
            return Step::default();
        }
        if self.holds(self.queue.size_bytes(), moment) {
            return Step::at(Phase::Queued);
        }
        Step::at(Phase::Flush)
    }

    /// The descriptor is writable: whether to send the queue now.
    #[must_use]
    pub fn handle_writable(&self) -> bool {
        self.want_write && !self.lost && !self.queue.is_empty()
    }

    /// A file's sender waits for room from now on, or no longer. Nothing happens on a lost
    /// connection; losing it ends the wait.
    pub fn handle_file(&mut self, waits: bool) -> Step {
        let wanted = self.wants_write();
        self.sends_file = waits && !self.lost;
        Step {
            interest: wanted != self.wants_write(),
            ..Step::default()
        }
    }

    /// The descriptor is writable: whether the file's sender may go on.
    #[must_use]
    pub fn handle_writable_for_file(&self) -> bool {
        self.sends_file && self.queue.is_empty()
    }

    /// A send took the first `len` unsent bytes.
    pub fn handle_sent(&mut self, len: usize, spent: &mut impl Extend<C>) -> Step {
        self.flush_due = false;
        self.queue.advance(len, spent);
        self.note_streak(len);
        Step::at(Phase::Sent)
    }

    /// A send would have blocked.
    pub fn handle_blocked(&mut self) -> Step {
        self.flush_due = false;
        self.streak_bytes = 0;
        Step::at(Phase::Drained)
    }

    /// A send of queued bytes failed: gives them up. Report the error and call
    /// [`Stream::handle_fatal`] when the step is done. A pipe calls this for any failed write.
    pub fn handle_send_failed(&mut self, spent: &mut impl Extend<C>) -> Step {
        self.flush_due = false;
        self.conn_lost += u32::from(self.rules != Rules::Socket);
        self.queue.clear(spent);
        self.want(self.want_read, false)
    }

    /// `write_eof()`: shuts the writing side down once the queue is empty; a pipe has no other side
    /// and closes.
    ///
    /// Flush first if [`Stream::is_flush_due`].
    pub fn handle_write_eof(&mut self) -> Step {
        if self.rules != Rules::Socket {
            return self.handle_close();
        }
        if self.closing || self.eof {
            return Step::default();
        }
        self.eof = true;
        Step::at(if self.queue.is_empty() {
            Phase::Shutdown
        } else {
            Phase::Done
        })
    }

    /// Sets the limits in bytes, as [`Flow::set_limits`], and pauses the protocol if need be.
    ///
    /// # Errors
    /// [`LimitsError`] unless `high >= low >= 0`; nothing changes then.
    pub fn handle_limits(
        &mut self,
        high: Option<i64>,
        low: Option<i64>,
    ) -> Result<Step, LimitsError> {
        self.flow.set_limits(high, low)?;
        Ok(Step::at(Phase::Grown))
    }

    /// From now on (or no longer) the empty queue is announced by [`Action::Emptied`].
    pub fn watch_empty(&mut self, watch: bool) {
        self.watched = watch;
    }
}
