//! What a TLS connection asks of its caller: plans, actions, and the step that gives actions out.
//!
//! Duty: the vocabulary between the state machine and whoever holds engine, transport and protocol.
//! Touches nothing. Invariant: a [`Step`] is a stack of names of tests, not of their outcomes, so
//! that it can be continued after anything happened in between.
#![forbid(unsafe_code)]

/// Phases that one step may have before it at most: proven by the property test and the fuzzer.
const DEPTH_MAX: usize = 32;

/// What to do with data given to `write()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WritePlan {
    /// Drop the data, the connection is closing; log the customary warning if `warn`.
    Lost {
        /// Whether this write is beyond the ones ignored in silence.
        warn: bool,
    },
    /// Queue by `Tls::handle_queued`, then run `Tls::handle_write_end`.
    Queue,
}

/// One thing the caller is to do now, in the order given.
///
/// "Engine" is the TLS library with its two buffers of ciphertext; "transport" is the one below,
/// "protocol" the application's above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Start the handshake timer.
    ArmHandshakeTimer,
    /// Cancel the handshake timer.
    DisarmHandshakeTimer,
    /// Start the shutdown timer.
    ArmShutdownTimer,
    /// Cancel the shutdown timer.
    DisarmShutdownTimer,
    /// Continue the handshake; report by `handle_handshake`, or `handle_handshake_failed`.
    Handshake,
    /// The handshake is done: collect what it found out.
    Complete,
    /// Call the protocol's `connection_made()`.
    ConnectionMade,
    /// Wake who waits for the handshake.
    WakeWaiter,
    /// Decrypt and deliver all there is; report by `handle_read_eof` if it ended in a close notice.
    Read,
    /// Encrypt the front of the backlog, at most a piece; report by `handle_encrypted` or
    /// `handle_encrypt_blocked`.
    Encrypt,
    /// Move all ciphertext from the engine to the transport; report by `handle_outgoing(0)`.
    Send,
    /// Report how much ciphertext the engine holds by `handle_outgoing`.
    MeasureOutgoing,
    /// Report how much ciphertext the engine has yet to read by `handle_incoming`.
    MeasureIncoming,
    /// Call the protocol's `pause_writing()`.
    PauseProtocol,
    /// Call the protocol's `resume_writing()`.
    ResumeProtocol,
    /// Call the transport's `pause_reading()`.
    PauseTransport,
    /// Call the transport's `resume_reading()`.
    ResumeTransport,
    /// Call the protocol's `eof_received()`.
    TellEof,
    /// The transport above counts as closed from now on.
    MarkClosed,
    /// Send or await the close notices; report by `handle_shutdown`, or `handle_shutdown_failed`.
    Shutdown,
    /// Schedule the transport's `close()`.
    CloseTransport,
    /// Force the transport closed, without an error.
    ForceClose,
}

/// Rest of what one `handle_*` call brought about; feed it to `Tls::poll_action`.
#[derive(Debug)]
#[must_use]
pub struct Step {
    phases: [Phase; DEPTH_MAX],
    len: usize,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            phases: [Phase::GuardEnd; DEPTH_MAX],
            len: 0,
        }
    }
}

impl Step {
    /// A step of these phases, first one first.
    pub(super) fn of(phases: &[Phase]) -> Self {
        let mut step = Self::default();
        step.push(phases);
        step
    }

    /// Puts phases before the rest, first one first.
    pub(super) fn push(&mut self, phases: &[Phase]) {
        for &phase in phases.iter().rev() {
            debug_assert!(self.len < DEPTH_MAX, "a step outgrew its bound");
            if let Some(place) = self.phases.get_mut(self.len) {
                *place = phase;
                self.len += 1;
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<Phase> {
        self.len = self.len.checked_sub(1)?;
        self.phases.get(self.len).copied()
    }

    /// An action failed: skips what the failure makes void. True if the step goes on behind it, and
    /// the failure is to be reported as fatal; false if the failure is the caller's, and nothing is
    /// left of the step.
    #[must_use]
    pub fn unwind(&mut self) -> bool {
        while let Some(phase) = self.pop() {
            if phase == Phase::GuardEnd {
                return true;
            }
        }
        false
    }
}

/// Each phase names the test that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A failure above this mark in the stack goes no further.
    GuardEnd,
    ArmHandshake,
    DisarmHandshake,
    ArmShutdown,
    Handshake,
    Complete,
    Made,
    Wake,
    /// Read, then write, then see to the flow: asyncio's `_do_read`.
    DoRead,
    /// Read again: the protocol's buffer was too small.
    ReadMore,
    /// Encrypt the backlog, or at least send what the read produced.
    Written,
    /// Encrypt the backlog if there is one.
    Backlog,
    Encrypt,
    /// Send if the transport takes it, then see to the protocol's flow.
    Send,
    /// The same, whether or not the transport takes it.
    SendAll,
    /// Send if the transport takes it, and no more.
    SendPiece,
    ControlWriting,
    /// The protocol's limits were set: measure, then see to its flow.
    NewLimits,
    ControlLimits,
    ControlReading,
    PauseTransport,
    ResumeTransport,
    TellEof,
    StartShutdown,
    /// Read and write what is left: asyncio's `_do_flush`.
    Flush,
    Flushed,
    Shutdown,
    ShutdownDone,
    CloseTransport,
}
