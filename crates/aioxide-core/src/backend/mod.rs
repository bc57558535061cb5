//! Readiness, in one contract: the words that backends and transports share.
//!
//! A backend
//! 1. reports, for each registered descriptor, that reading or writing would not block (or would
//!    fail at once) as long as that is so: level-triggered, so an event that nobody acts upon comes
//!    again, and one cut off by a full buffer is not lost;
//! 2. knows tokens, not what they name: an event may be late, and whoever resolves its token drops
//!    it as stale; it reports error and hangup whether or not they were asked for;
//! 3. takes descriptors as plain numbers: it neither owns nor keeps them open. A user may close a
//!    number behind the loop's back and the kernel may give it out again, so every call makes the
//!    best of a number it does not know any more;
//! 4. may be called by any thread: one thread waits, others may register and wake meanwhile;
//! 5. returns from `wait` with what it has when a signal arrives, so that its caller can run signal
//!    handlers.
//!
//! `epoll` is the kernel's on Linux; `sim` is seeded and needs no kernel. kqueue fits in beside
//! them. This file may touch no system call; `sys` holds them all.

#![deny(unsafe_code)]

pub mod epoll;
mod fair;
pub mod sim;
#[allow(unsafe_code, reason = "the room of the system calls")]
pub mod sys;

use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::RawFd;
use std::time::Duration;

use crate::slab::Token;
use crate::spin::Spin;

/// Events that one wait reports at first; a full buffer doubles.
const EVENTS_MIN: usize = 256;

/// Events that one wait reports at most: the rest come with the next wait, as level-triggered ones
/// do, so a turn stays bounded.
const EVENTS_MAX: usize = 16_384;

/// What the events of one wait are to bring at most, of bytes that somebody keeps: until the turn
/// ends they should be in the processor's own cache, for those who read them, not in memory.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// Events that may bring any number of bytes: a wait should be worth its system call.
const LARGE_EVENTS_MIN: usize = 4;

/// Bytes that whoever handles an event goes through beside what it brought: the kernel's and our
/// part of a connection, a task and its frames. Roughly.
const EVENT_OWN_BYTES: usize = 2 * 1024;

/// What a registration wants to hear of.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Default)]
pub struct Interest(u8);

impl Interest {
    /// Errors and hangups only.
    pub const NONE: Self = Self(0);
    /// Reading, or accepting, would not block.
    pub const READABLE: Self = Self(1);
    /// Writing would not block, or connecting is done.
    pub const WRITABLE: Self = Self(2);
    /// Both directions.
    pub const BOTH: Self = Self(3);

    /// True when reading is of interest.
    #[inline]
    #[must_use]
    pub const fn is_readable(self) -> bool {
        self.0 & Self::READABLE.0 != 0
    }

    /// True when writing is of interest.
    #[inline]
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE.0 != 0
    }

    /// True when neither direction is of interest.
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// This interest and `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This interest without `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

/// What the kernel says of a descriptor.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Default)]
pub struct Readiness(u8);

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Reading would not block.
    pub const READABLE: Self = Self(1);
    /// Writing would not block.
    pub const WRITABLE: Self = Self(2);
    /// The descriptor has an error pending.
    pub const ERROR: Self = Self(4);
    /// Both directions are shut.
    pub const HANGUP: Self = Self(8);

    /// This readiness and `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when nothing is reported.
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// True when reading would not block.
    #[inline]
    #[must_use]
    pub const fn is_readable(self) -> bool {
        self.0 & Self::READABLE.0 != 0
    }

    /// True when writing would not block.
    #[inline]
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE.0 != 0
    }

    /// True when an error is pending.
    #[inline]
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR.0 != 0
    }

    /// True when both directions are shut.
    #[inline]
    #[must_use]
    pub const fn is_hangup(self) -> bool {
        self.0 & Self::HANGUP.0 != 0
    }

    /// True when a reader should run: it can read, or will learn why it can't.
    ///
    /// *Source*: `selectors.EpollSelector.select`: all but "writable" means "read".
    #[inline]
    #[must_use]
    pub const fn wakes_reader(self) -> bool {
        self.0 & !Self::WRITABLE.0 != 0
    }

    /// True when a writer should run: it can write, or will learn why it can't.
    ///
    /// *Source*: `selectors.EpollSelector.select`: all but "readable" means "write".
    #[inline]
    #[must_use]
    pub const fn wakes_writer(self) -> bool {
        self.0 & !Self::READABLE.0 != 0
    }
}

/// One report of a backend.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Event {
    /// The token of the registration, which may be gone.
    pub token: Token,
    /// What the descriptor is ready for.
    pub readiness: Readiness,
}

/// Where one wait puts its events; kept from wait to wait, so that waiting allocates nothing.
#[derive(Debug)]
pub struct Events {
    list: Vec<Event>,
    /// How many events the next wait may report.
    capacity: usize,
    /// How many it may report in view of what the last ones brought.
    limit: usize,
    /// What each of the last ones brought, on the average, of bytes that somebody keeps.
    kept_bytes_each: usize,
    interrupted: bool,
    woken: bool,
    /// The kernel's form of the events.
    raw: sys::EpollBuffer,
    /// In which order epoll's are handed on.
    fair: fair::Fair,
    /// Whether to wait for them awake.
    spin: Spin,
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl Events {
    /// An empty buffer that grows with the load, up to 16,384 events a wait.
    #[must_use]
    pub fn new() -> Self {
        Self {
            list: Vec::with_capacity(EVENTS_MIN),
            capacity: EVENTS_MIN,
            limit: EVENTS_MAX,
            kept_bytes_each: 0,
            interrupted: false,
            woken: false,
            raw: sys::EpollBuffer::new(),
            fair: fair::Fair::default(),
            spin: Spin::for_events(),
        }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.list.iter().copied()
    }

    /// The event at `index` of the last wait: for a caller that can't keep this borrowed while it
    /// handles one.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Event> {
        self.list.get(index).copied()
    }

    /// Number of events of the last wait, the waker's not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when the last wait reported nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True when a signal ended the last wait.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// True when [`Backend::wake`] ended the last wait.
    #[must_use]
    pub fn woken(&self) -> bool {
        self.woken
    }

    /// The events of the last wait brought `bytes` that somebody keeps, all together: where they
    /// are many, the next wait reports fewer events, if the loop `is_idle` but for them. The kernel
    /// tells the others first then.
    #[inline]
    pub fn note_kept(&mut self, bytes: usize, is_idle: bool) {
        if let Some(each) = bytes.checked_div(self.list.len()) {
            self.kept_bytes_each = each;
        }
        self.limit = match self.kept_bytes_each {
            each @ 1.. if is_idle => {
                (KEPT_BYTES_MAX / (each + EVENT_OWN_BYTES)).max(LARGE_EVENTS_MIN)
            }
            _ => EVENTS_MAX,
        };
    }

    /// Forgets the last wait, and doubles the room if that wait had filled it.
    fn begin_wait(&mut self) {
        if self.list.len() >= self.capacity {
            self.capacity = (self.capacity * 2).min(EVENTS_MAX);
        }
        self.list.clear();
        self.interrupted = false;
        self.woken = false;
    }
}

/// A source of readiness; see the contract in the head of this module.
pub trait Backend {
    /// Reports `fd` under `token` from now on; a number that is known already is changed instead.
    ///
    /// # Errors
    /// The kernel's: `EBADF` for a closed number, `EPERM` for a regular file, `ENOSPC`, `ENOMEM`.
    fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Changes token and interest of `fd`; a number that is not known (any more) is registered.
    ///
    /// # Errors
    /// As [`Backend::register`].
    fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Forgets `fd`; a number that is closed or not known is forgotten already.
    ///
    /// # Errors
    /// Only such as tell of a mistake in this crate or of a kernel out of memory.
    fn deregister(&self, fd: RawFd) -> io::Result<()>;

    /// Fills `events`, waiting until there is one, a wake-up, a signal, or `timeout` has passed
    /// (`None`: no limit; zero: does not block). Never returns before the timeout without a reason.
    ///
    /// # Errors
    /// The kernel's, but not `EINTR`: that is an empty [`Events`] with `interrupted` set.
    fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()>;

    /// Ends the current wait, or the next one if none is under way; any thread, async-signal-safe.
    ///
    /// # Errors
    /// The kernel's; a waker that is set already is no error.
    fn wake(&self) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interests_combine() {
        let both = Interest::READABLE | Interest::WRITABLE;
        assert_eq!(both, Interest::BOTH);
        assert_eq!(both.without(Interest::READABLE), Interest::WRITABLE);
        assert!(both.is_readable() && both.is_writable());
        let mut interest = Interest::NONE;
        assert!(interest.is_none());
        interest |= Interest::READABLE;
        assert!(interest.is_readable() && !interest.is_writable() && !interest.is_none());
    }

    #[test]
    fn error_and_hangup_wake_both_sides_as_selectors_do() {
        for readiness in [Readiness::ERROR, Readiness::HANGUP] {
            assert!(readiness.wakes_reader() && readiness.wakes_writer());
        }
        assert!(Readiness::READABLE.wakes_reader() && !Readiness::READABLE.wakes_writer());
        assert!(Readiness::WRITABLE.wakes_writer() && !Readiness::WRITABLE.wakes_reader());
        assert!(!Readiness::NONE.wakes_reader() && !Readiness::NONE.wakes_writer());
    }
}
