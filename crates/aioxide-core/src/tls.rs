//! A TLS connection without io: what asyncio's TLS protocol decides, and nothing else.
//!
//! Duty: hold the state of one connection (handshake, backlog of plaintext, flow control of both
//! sides, ends of stream, shutdown, timers) and answer what to do next. It knows no TLS library, no
//! transport and no protocol: the caller drives those, between two calls.
//!
//! Methods come in three kinds: getters; `handle_*`, which take in a call or an event and return a
//! verdict or a [`Step`]; and [`Tls::poll_action`], which gives out, one at a time, the [`Action`]s
//! of that step until it says `None`. Reports of an action's outcome go into the step that asked
//! for it. An action that calls user code may re-enter with a step of its own; the outer one then
//! continues against the state it finds.
//!
//! ```text
//!   unwrapped ─► handshake ─► wrapped ─► flushing ─► shutdown
//!                                close, end of stream
//!   by abort or loss, from anywhere ─► unwrapped
//!
//!   init ─connection_made─► made ─eof_received─► eof ─connection_lost─► lost
//! ```
//!
//! Invariants:
//! 1. The protocol is told of its connection, the end of the stream and the loss at most once each,
//!    in this order, and of nothing before the first or after the last.
//! 2. Plaintext is encrypted in the order of its writes, a piece at a time, and only while the
//!    transport takes what comes of it: the ciphertext of a write of any size is bounded by one
//!    piece beyond the transport's own limit.
//! 3. A queued byte has a way out: it waits for the handshake, for the transport to resume, or for
//!    the peer (when the library must read before it can write). Closing waits for the backlog.
//! 4. A timer is armed at most once and disarmed by the loss of the connection.
//!
//! *Source*: asyncio `sslproto.SSLProtocol` of 3.14, but for invariant 2.
#![forbid(unsafe_code)]

use crate::buf::WriteQueue;
use crate::flow::{Flow, LimitsError};
use crate::stream::LOST_WRITES_SILENT;

mod advance;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod model;
mod step;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use step::Phase;
pub use step::{Action, Step, WritePlan};

/// High water of unencrypted and unsent bytes. *Source*: asyncio `constants`.
pub const WRITE_HIGH_WATER_BYTES: u32 = 512 * 1024;

/// High water of unread ciphertext. *Source*: asyncio `constants`.
pub const READ_HIGH_WATER_BYTES: u32 = 256 * 1024;

/// Most plaintext that is encrypted at a time: one full TLS record.
///
/// The library's buffers never shrink: they grow to this, where ciphertext moves on each time.
pub const PIECE_BYTES: usize = 16 * 1024;

/// Where the TLS session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not begun, given up, or lost.
    #[default]
    Unwrapped,
    /// The handshake is under way.
    Handshake,
    /// Data flows.
    Wrapped,
    /// Closing: what was written before is on its way out.
    Flushing,
    /// The close notice is on its way, or the peer's is awaited.
    Shutdown,
}

/// What the protocol was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum App {
    /// Nothing.
    #[default]
    Init,
    /// `connection_made()`.
    Made,
    /// `eof_received()`.
    Eof,
    /// `connection_lost()`.
    Lost,
}

/// State of one TLS connection over chunks of plaintext `C`.
#[derive(Debug)]
pub struct Tls<C> {
    state: State,
    app: App,
    backlog: WriteQueue<C>,
    /// Of backlog and outgoing ciphertext; its pause is the protocol's.
    writing: Flow,
    /// Of incoming ciphertext; its pause is the transport's.
    reading: Flow,
    /// `pause_reading()` of the protocol is in force.
    reading_paused: bool,
    /// The transport asked not to be written to.
    transport_paused: bool,
    /// The protocol's pause came from the transport, before the upgrade, and ends with its pause.
    pause_inherited: bool,
    /// The transport reached the end of its stream.
    eof: bool,
    /// That happened while the protocol did not read: it is to read what is left first.
    awaits_reader: bool,
    handshake_armed: bool,
    shutdown_armed: bool,
    /// The transport's `close()` was asked for.
    is_transport_closed: bool,
    /// Ciphertext that waits in the engine, as last reported.
    outgoing_bytes: usize,
    /// One for the lost connection, and one for each write ignored.
    conn_lost: u32,
}

impl<C: AsRef<[u8]>> Tls<C> {
    /// A connection whose protocol is told of it after the handshake; an upgrade's knows already.
    pub fn new(is_upgrade: bool) -> Self {
        Self {
            state: State::Unwrapped,
            app: if is_upgrade { App::Made } else { App::Init },
            backlog: WriteQueue::default(),
            writing: Flow::reaching(WRITE_HIGH_WATER_BYTES),
            reading: Flow::reaching(READ_HIGH_WATER_BYTES),
            reading_paused: false,
            transport_paused: false,
            pause_inherited: false,
            eof: false,
            awaits_reader: false,
            handshake_armed: false,
            shutdown_armed: false,
            is_transport_closed: false,
            outgoing_bytes: 0,
            conn_lost: 0,
        }
    }
}

/// Getters.
impl<C: AsRef<[u8]>> Tls<C> {
    /// Where the session stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the protocol was told.
    pub fn app(&self) -> App {
        self.app
    }

    /// Plaintext that waits to be encrypted.
    pub fn backlog(&self) -> &WriteQueue<C> {
        &self.backlog
    }

    /// Whether the protocol's `pause_reading()` is in force.
    pub fn is_reading_paused(&self) -> bool {
        self.reading_paused
    }

    /// Whether the protocol was told to pause writing.
    pub fn is_protocol_paused(&self) -> bool {
        self.writing.is_paused()
    }

    /// Whether the transport was told to pause reading.
    pub fn is_transport_reading_paused(&self) -> bool {
        self.reading.is_paused()
    }

    /// Whether the transport asked not to be written to.
    pub fn is_transport_paused(&self) -> bool {
        self.transport_paused
    }

    /// Whether the transport reached the end of its stream.
    pub fn is_eof(&self) -> bool {
        self.eof
    }

    /// One for the lost connection, and one for each write ignored.
    pub fn conn_lost(&self) -> u32 {
        self.conn_lost
    }

    /// Low and high water of writes in bytes.
    pub fn write_limits(&self) -> (usize, usize) {
        self.writing.limits()
    }

    /// Low and high water of unread ciphertext in bytes.
    pub fn read_limits(&self) -> (usize, usize) {
        self.reading.limits()
    }

    /// After the step of [`Tls::handle_eof`]: whether the transport is to stay open for writing,
    /// because the protocol does not read yet or the backlog has not left.
    pub fn keeps_open(&self) -> bool {
        self.state == State::Flushing
    }

    /// Whether the engine's plaintext is to be delivered: nothing comes after the end.
    pub fn is_readable(&self) -> bool {
        !self.reading_paused && self.is_established() && self.app == App::Made
    }

    /// Whether the session can carry data.
    fn is_established(&self) -> bool {
        matches!(self.state, State::Wrapped | State::Flushing)
    }
}

/// What the transport below tells.
impl<C: AsRef<[u8]>> Tls<C> {
    /// `connection_made()`: begins the handshake. `was_paused`: the transport's protocol so far,
    /// now the one above, was told to pause writing.
    ///
    /// # Errors
    /// The state, if it is not [`State::Unwrapped`].
    pub fn handle_connected(&mut self, was_paused: bool) -> Result<Step, State> {
        if self.state != State::Unwrapped {
            return Err(self.state);
        }
        self.state = State::Handshake;
        if was_paused {
            self.transport_paused = true;
            if self.app == App::Made {
                self.writing.inherit_pause();
                self.pause_inherited = true;
            }
        }
        Ok(Step::of(&[Phase::ArmHandshake, Phase::Handshake]))
    }

    /// `connection_made()` of a transport that was lost before: there will be no handshake, and the
    /// protocol has been told.
    pub fn handle_stillborn(&mut self) {
        self.conn_lost = self.conn_lost.saturating_add(1);
        self.app = App::Lost;
    }

    /// Ciphertext came in.
    pub fn handle_received(&mut self) -> Step {
        match self.state {
            State::Unwrapped => Step::default(),
            State::Handshake => Step::of(&[Phase::Handshake]),
            _ => self.handle_resumed(),
        }
    }

    /// `eof_received()`, outside of the handshake: ends the session. See [`Tls::keeps_open`].
    pub fn handle_eof(&mut self) -> Step {
        self.eof = true;
        match self.state {
            State::Wrapped => {
                self.state = State::Flushing;
                self.awaits_reader = self.reading_paused;
                if self.awaits_reader {
                    return Step::default();
                }
                Step::of(&[Phase::Flush])
            }
            State::Flushing => Step::of(&[Phase::Backlog, Phase::Flushed]),
            State::Shutdown => Step::of(&[Phase::Shutdown]),
            State::Unwrapped | State::Handshake => Step::default(),
        }
    }

    /// `connection_lost()`: gives everything up. True if the protocol is to be told.
    pub fn handle_lost(&mut self, spent: &mut impl Extend<C>) -> bool {
        self.backlog.clear(spent);
        self.outgoing_bytes = 0;
        self.conn_lost = self.conn_lost.saturating_add(1);
        let tell = self.state != State::Handshake && matches!(self.app, App::Made | App::Eof);
        if tell {
            self.app = App::Lost;
        }
        self.state = State::Unwrapped;
        (self.handshake_armed, self.shutdown_armed) = (false, false);
        tell
    }

    /// `pause_writing()`.
    pub fn handle_pause_writing(&mut self) {
        self.transport_paused = true;
    }

    /// `resume_writing()`: what waited moves on.
    pub fn handle_resume_writing(&mut self) -> Step {
        if !std::mem::take(&mut self.transport_paused) && self.app == App::Made {
            // No pause of ours: it was the protocol's, told before the upgrade.
            self.writing.inherit_pause();
        }
        self.pause_inherited = false;
        match self.state {
            State::Wrapped => Step::of(&[Phase::Written, Phase::GuardEnd]),
            State::Flushing if self.awaits_reader => Step::of(&[Phase::Written, Phase::GuardEnd]),
            State::Flushing => Step::of(&[Phase::Written, Phase::GuardEnd, Phase::Flushed]),
            _ => Step::of(&[Phase::Send]),
        }
    }
}

/// What the transport above is asked.
impl<C: AsRef<[u8]>> Tls<C> {
    /// `write()`: whether to queue the data.
    pub fn handle_write(&mut self) -> WritePlan {
        match self.state {
            State::Handshake | State::Wrapped => WritePlan::Queue,
            _ => {
                let warn = self.conn_lost >= LOST_WRITES_SILENT;
                self.conn_lost = self.conn_lost.saturating_add(1);
                WritePlan::Lost { warn }
            }
        }
    }

    /// One chunk of a write.
    ///
    /// # Errors
    /// Gives an empty chunk back.
    pub fn handle_queued(&mut self, chunk: C) -> Result<(), C> {
        self.backlog.push(chunk, 0)
    }

    /// The last chunk of a write is queued: encrypts, if the session is there.
    pub fn handle_write_end(&mut self) -> Step {
        if self.state == State::Wrapped {
            Step::of(&[Phase::Encrypt, Phase::GuardEnd])
        } else {
            Step::default()
        }
    }

    /// `close()`.
    pub fn handle_close(&mut self) -> Step {
        Step::of(&[Phase::StartShutdown])
    }

    /// `abort()`: the caller forces the transport closed.
    pub fn handle_abort(&mut self) {
        self.state = State::Unwrapped;
    }

    /// `pause_reading()`.
    pub fn handle_pause_reading(&mut self) {
        self.reading_paused = true;
    }

    /// `resume_reading()`: whether to schedule [`Tls::handle_resumed`].
    #[must_use]
    pub fn handle_resume_reading(&mut self) -> bool {
        std::mem::take(&mut self.reading_paused)
    }

    /// Looks at what the engine holds: after a pause, or when a full buffer was delivered.
    pub fn handle_resumed(&mut self) -> Step {
        self.awaits_reader &= self.reading_paused;
        Step::of(match self.state {
            State::Wrapped => &[Phase::DoRead],
            State::Flushing => &[Phase::Flush],
            State::Shutdown => &[Phase::Shutdown],
            State::Unwrapped | State::Handshake => &[],
        })
    }

    /// What [`Tls::handle_read_full`] had scheduled. *Source*: asyncio `_do_read`.
    pub fn handle_read_on(&mut self) -> Step {
        Step::of(&[Phase::DoRead])
    }

    /// Sets the limits of writes in bytes, and pauses or resumes the protocol if need be.
    ///
    /// # Errors
    /// [`LimitsError`] unless `high >= low >= 0`; nothing changes then.
    pub fn handle_write_limits(
        &mut self,
        high: Option<i64>,
        low: Option<i64>,
    ) -> Result<Step, LimitsError> {
        self.writing.set_limits(high, low)?;
        Ok(Step::of(&[Phase::NewLimits]))
    }

    /// Sets the limits of unread ciphertext in bytes, and pauses or resumes the transport.
    ///
    /// # Errors
    /// [`LimitsError`] unless `high >= low >= 0`; nothing changes then.
    pub fn handle_read_limits(
        &mut self,
        high: Option<i64>,
        low: Option<i64>,
    ) -> Result<Step, LimitsError> {
        self.reading.set_limits(high, low)?;
        Ok(Step::of(&[Phase::ControlReading]))
    }
}

/// Reports of actions.
impl<C: AsRef<[u8]>> Tls<C> {
    /// Of [`Action::Handshake`]: it is done, or (false) needs more from the peer.
    pub fn handle_handshake(&mut self, step: &mut Step, is_done: bool) {
        if !is_done {
            return step.push(&[Phase::Send]);
        }
        if self.state == State::Handshake {
            self.state = State::Wrapped;
            step.push(&[
                Phase::DisarmHandshake,
                Phase::Complete,
                Phase::Made,
                Phase::Wake,
                Phase::DoRead,
            ]);
        }
    }

    /// The handshake failed, or what comes with its end did: tell the log and the waiter after this
    /// step.
    pub fn handle_handshake_failed(&mut self) -> Step {
        self.state = State::Unwrapped;
        Step::of(&[Phase::DisarmHandshake])
    }

    /// Of [`Action::Read`]: the peer's close notice came.
    pub fn handle_read_eof(&mut self, step: &mut Step) {
        step.push(&[Phase::TellEof, Phase::StartShutdown]);
    }

    /// Of [`Action::Read`]: the protocol's buffer was full, and more may be there. True if
    /// [`Tls::handle_read_on`] is to be scheduled; a session that ends reads on at once.
    #[must_use]
    pub fn handle_read_full(&mut self, step: &mut Step) -> bool {
        if self.state == State::Flushing {
            step.push(&[Phase::ReadMore]);
            return false;
        }
        true
    }

    /// Of [`Action::Encrypt`]: the first `len` bytes of the backlog are encrypted. `has_room`: the
    /// ciphertext need not move on before the next piece.
    pub fn handle_encrypted(
        &mut self,
        step: &mut Step,
        len: usize,
        has_room: bool,
        spent: &mut impl Extend<C>,
    ) {
        self.backlog.advance(len, spent);
        if self.backlog.is_empty() {
            step.push(&[Phase::Send]);
        } else if has_room {
            step.push(&[Phase::Encrypt]);
        } else {
            step.push(&[Phase::SendPiece, Phase::Encrypt]);
        }
    }

    /// Of [`Action::Encrypt`]: the library must read before it can write.
    pub fn handle_encrypt_blocked(&mut self, step: &mut Step) {
        step.push(&[Phase::Send]);
    }

    /// Of [`Action::Send`] and [`Action::MeasureOutgoing`]: ciphertext left in the engine.
    pub fn handle_outgoing(&mut self, len: usize) {
        self.outgoing_bytes = len;
    }

    /// Of [`Action::MeasureIncoming`]: ciphertext that the engine has not read.
    pub fn handle_incoming(&mut self, step: &mut Step, len: usize) {
        if self.reading.should_pause(len) {
            step.push(&[Phase::PauseTransport]);
        } else if self.reading.should_resume(len) {
            step.push(&[Phase::ResumeTransport]);
        }
    }

    /// Of [`Action::Shutdown`]: both close notices are there, or (false) the peer's is not.
    pub fn handle_shutdown(&mut self, step: &mut Step, is_done: bool) {
        if is_done {
            step.push(&[Phase::SendAll, Phase::TellEof, Phase::ShutdownDone]);
        } else {
            step.push(&[Phase::Send]);
        }
    }

    /// Of [`Action::Shutdown`]: the library failed. True if the shutdown timer is to be cancelled.
    #[must_use]
    pub fn handle_shutdown_failed(&mut self) -> bool {
        std::mem::take(&mut self.shutdown_armed)
    }
}
