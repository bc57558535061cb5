//! The backend of Linux: one epoll instance, level-triggered, and an eventfd to wake it.
//!
//! May touch: `sys`. Invariants: the waker's eventfd is registered under `Token::RESERVED` from
//! construction to drop and its events never leave this file; every failure that only says "you
//! and the kernel disagree about this number" is repaired here, because descriptors are closed
//! behind a loop's back all the time (a closed descriptor leaves epoll by itself, a duplicated one
//! stays, a reused number is a new registration). *Source*: `epoll(7)`, questions and answers.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::sys::{self, EpollChange};
use super::{Backend, Event, Events, Interest, Readiness};
use crate::slab::Token;
use crate::spin::{IO_SPIN_NS_MAX, Spun, spin_for};

/// A sleep that is no longer than this is not preceded by a wait awake.
const AWAKE_MAX: Duration = Duration::from_nanos(IO_SPIN_NS_MAX);

/// Looks for events between two looks at the clock, which is cheaper than they are.
const LOOKS_PER_CLOCK: u32 = 1;

/// An epoll instance with its waker; owns both descriptors.
#[derive(Debug)]
pub struct Epoll {
    epoll: OwnedFd,
    waker: OwnedFd,
    /// False once the kernel has refused nanosecond timeouts (before 5.11, or a filter).
    has_ns_timeout: AtomicBool,
}

impl Epoll {
    /// A new instance.
    ///
    /// # Errors
    /// The kernel's: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        let epoll = sys::epoll_create()?;
        let waker = sys::eventfd()?;
        sys::epoll_change(
            epoll.as_fd(),
            EpollChange::Add,
            waker.as_raw_fd(),
            sys::EPOLL_READABLE,
            Token::RESERVED.to_u64(),
        )?;
        Ok(Self {
            epoll,
            waker,
            has_ns_timeout: AtomicBool::new(true),
        })
    }

    /// The number of the epoll descriptor itself, which stays this backend's.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Starts anew with the registrations `live`, under the same number.
    ///
    /// A descriptor that was closed while a duplicate of it lives stays in the instance, reports
    /// for ever, and cannot be named any more: only a new instance is rid of it. Numbers that are
    /// refused (closed meanwhile) are left out.
    ///
    /// # Errors
    /// The kernel's: `EMFILE`, `ENFILE`, `ENOMEM`; the old instance is still in force then.
    pub fn renew(&self, live: impl Iterator<Item = (RawFd, Token, Interest)>) -> io::Result<()> {
        let fresh = sys::epoll_create()?;
        let waker = (self.waker.as_raw_fd(), sys::EPOLL_READABLE, Token::RESERVED);
        let live = live.map(|(fd, token, interest)| (fd, mask_of(interest), token));
        for (fd, mask, token) in std::iter::once(waker).chain(live) {
            let change = EpollChange::Add;
            match sys::epoll_change(fresh.as_fd(), change, fd, mask, token.to_u64()) {
                Err(error) if !sys::is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        sys::replace(self.epoll.as_fd(), fresh.as_fd())
    }

    /// Changes token and interest of `fd`, which must be known still.
    ///
    /// # Errors
    /// `ENOENT` if it is not: the number was closed, and is another file's now; `EBADF` if it is
    /// nobody's.
    pub fn confirm(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.change(EpollChange::Modify, fd, token, interest)
    }

    fn change(
        &self,
        change: EpollChange,
        fd: RawFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let mask = mask_of(interest);
        sys::epoll_change(self.epoll.as_fd(), change, fd, mask, token.to_u64())
    }

    /// As `wait`, and awake at first as long as that is worthwhile: what comes within microseconds
    /// would find this thread on its way to sleep, and waking it costs both sides more than that.
    ///
    /// # Errors
    /// As `wait`.
    pub fn wait_awake(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let is_short = timeout.is_some_and(|timeout| timeout <= AWAKE_MAX);
        if is_short || !events.spin.should_spin() {
            return self.wait(events, timeout);
        }
        let mut waited = Ok(());
        let spun = spin_for(IO_SPIN_NS_MAX, LOOKS_PER_CLOCK, || {
            waited = self.wait(events, Some(Duration::ZERO));
            waited.is_err() || !events.is_empty() || events.woken() || events.interrupted()
        });
        events.spin.learn(spun);
        match spun {
            Spun::Nothing { spent_ns } => self.wait(events, rest_of(timeout, spent_ns)),
            Spun::Arrived | Spun::Late { .. } => waited,
        }
    }

    /// One wait of the kernel's; the finer timeout where the kernel has it.
    fn wait_kernel(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let capacity = events.capacity.min(events.limit);
        let (epoll, raw) = (self.epoll.as_fd(), &mut events.raw);
        let Some(limit) = timeout.filter(|limit| !limit.is_zero()) else {
            let timeout_ms = if timeout.is_some() { 0 } else { -1 };
            return sys::epoll_wait_ms(epoll, raw, capacity, timeout_ms);
        };
        if self.has_ns_timeout.load(Ordering::Relaxed) {
            match sys::epoll_wait_ns(epoll, raw, capacity, limit) {
                Err(error) if sys::is_unsupported(&error) => {
                    self.has_ns_timeout.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        sys::epoll_wait_ms(epoll, raw, capacity, round_up_ms(limit))
    }
}

impl Backend for Epoll {
    fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        match self.change(EpollChange::Add, fd, token, interest) {
            Err(error) if sys::is_already_registered(&error) => {
                self.change(EpollChange::Modify, fd, token, interest)
            }
            result => result,
        }
    }

    fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        match self.change(EpollChange::Modify, fd, token, interest) {
            Err(error) if sys::is_not_registered(&error) => {
                self.change(EpollChange::Add, fd, token, interest)
            }
            result => result,
        }
    }

    fn deregister(&self, fd: RawFd) -> io::Result<()> {
        match self.change(EpollChange::Delete, fd, Token::RESERVED, Interest::NONE) {
            Err(error) if sys::is_gone(&error) => Ok(()),
            result => result,
        }
    }

    fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.begin_wait();
        if let Err(error) = self.wait_kernel(events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            events.interrupted = true;
            return Ok(());
        }
        for (mask, data) in events.raw.iter() {
            let token = Token::from_u64(data);
            if token == Token::RESERVED {
                events.woken = true;
            } else {
                let readiness = readiness_of(mask);
                events.list.push(Event { token, readiness });
            }
        }
        events.fair.arrange(&mut events.list);
        if events.woken {
            sys::eventfd_reset(self.waker.as_fd())?;
        }
        Ok(())
    }

    fn wake(&self) -> io::Result<()> {
        sys::eventfd_set(self.waker.as_fd())
    }
}

/// What is left of a timeout.
fn rest_of(timeout: Option<Duration>, spent_ns: u64) -> Option<Duration> {
    timeout.map(|timeout| timeout.saturating_sub(Duration::from_nanos(spent_ns)))
}

/// The kernel's mask of an interest.
fn mask_of(interest: Interest) -> u32 {
    let mut mask = 0;
    if interest.is_readable() {
        mask |= sys::EPOLL_READABLE;
    }
    if interest.is_writable() {
        mask |= sys::EPOLL_WRITABLE;
    }
    mask
}

/// The readiness that a mask of the kernel's tells.
fn readiness_of(mask: u32) -> Readiness {
    [
        (sys::EPOLL_READABLE, Readiness::READABLE),
        (sys::EPOLL_WRITABLE, Readiness::WRITABLE),
        (sys::EPOLL_ERROR, Readiness::ERROR),
        (sys::EPOLL_HANGUP, Readiness::HANGUP),
    ]
    .into_iter()
    .filter(|(bit, _)| mask & bit != 0)
    .fold(Readiness::NONE, |all, (_, readiness)| all.with(readiness))
}

/// Whole milliseconds, upwards: a wait that ended early would find its timer not due and spin.
fn round_up_ms(limit: Duration) -> i32 {
    let ms = limit.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms).unwrap_or(i32::MAX)
}

#[cfg(all(test, not(miri)))]
mod tests;
