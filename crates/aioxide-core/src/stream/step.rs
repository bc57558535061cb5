//! What a stream asks of its caller: plans, actions, and the step that gives actions out.
//!
//! Duty: the vocabulary between the state machine and whoever does its io. Touches nothing.
//! Invariant: a [`Step`] holds no condition, only the name of the test that is due next, so that
//! it can be continued after anything happened in between.
#![forbid(unsafe_code)]

/// Which of asyncio's transports a stream follows, where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// A connected socket: two directions, half-close, writes until all is sent.
    #[default]
    Socket,
    /// The reading end of a pipe: never written to.
    ReadPipe,
    /// The writing end of a pipe: closing ends its writes at once, `write_eof()` closes. What it
    /// reads is whether the reader has gone.
    WritePipe,
}

/// When a write happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The number of the loop's turn, counted from 1.
    pub turn: u64,
    /// Whether more is to run in this turn, or others' writes are held already: a write that left
    /// at once would overtake them.
    pub is_busy: bool,
    /// Whether a protocol answers what it is just told: nothing runs between two such answers.
    pub is_answer: bool,
}

/// What to do with data given to `write()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WritePlan {
    /// Refuse: the writing side was shut down by `write_eof()`.
    AfterEof,
    /// Nothing to write.
    Nothing,
    /// Drop the data, the connection is lost; log the customary warning if `warn`.
    Lost {
        /// Whether this write is beyond `LOST_WRITES_SILENT`.
        warn: bool,
    },
    /// Send now; report by `Stream::handle_unsent` or `Stream::handle_fatal` unless all left.
    SendNow,
    /// Queue by `Stream::handle_queued`.
    Queue,
}

/// One thing the caller is to do now, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Bring the registration in line with `Stream::wants_read` and `Stream::wants_write`.
    Interest,
    /// Call `Stream::handle_flush` before the loop sleeps, at the end of this turn or earlier.
    FlushLater,
    /// Send the queue's slices now and report by `handle_sent`, `handle_blocked` or
    /// `handle_send_failed`. Always the last action of a step.
    Send,
    /// Call the protocol's `pause_writing()`.
    PauseProtocol,
    /// Call the protocol's `resume_writing()`.
    ResumeProtocol,
    /// The queue ran empty and somebody waits for that (`Stream::watch_empty`).
    Emptied,
    /// Shut down the writing side of the socket.
    ShutdownWrite,
    /// Schedule the protocol's `connection_lost()`, then close the descriptor.
    ScheduleLost,
    /// The same at once: the last queued byte left a closing stream.
    LoseNow,
}

/// Rest of what one `handle_*` call brought about; feed it to `Stream::poll_action`.
#[derive(Debug, Default)]
#[must_use]
pub struct Step {
    /// Interest changed.
    pub(super) interest: bool,
    /// `connection_lost` is to be scheduled.
    pub(super) lost: bool,
    pub(super) phase: Phase,
}

impl Step {
    pub(super) fn at(phase: Phase) -> Self {
        Self {
            phase,
            ..Self::default()
        }
    }

    /// Whether no action is left.
    pub fn is_done(&self) -> bool {
        !self.interest && !self.lost && self.phase == Phase::Done
    }
}

/// Where a step stands after its interest change; each phase names the test that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Done,
    /// Bytes joined the queue: see to their way out.
    Queued,
    /// The queue may have passed high water.
    Grown,
    /// The queue may have reached low water.
    Sent,
    /// The queue may be empty.
    Drained,
    /// The queue is empty: what waited for that?
    Empty,
    /// The queue is to be sent whether or not a flush was due.
    Flush,
    /// The writing side is to be shut down.
    Shutdown,
}
