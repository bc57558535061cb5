//! The sole reader of time: the kernel's monotonic clock, or a virtual one that tests move.
//!
//! May touch: `backend::sys` for the one system call. Nobody else in this crate asks for the time.
//! Invariants: time never runs backwards; [`Clock::now`] of a monotonic clock is the number that
//! Python's `time.monotonic()` would give for the same instant, bit for bit.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::sys;

/// Nanoseconds in a second.
pub const NS_PER_SECOND: u64 = 1_000_000_000;

/// The resolution of the clock in seconds.
///
/// asyncio adds it to the current time when it looks for due timers.
/// *Source*: `time.get_clock_info("monotonic").resolution` on Linux.
pub const RESOLUTION_SECONDS: f64 = 1e-9;

/// A clock; clones of a virtual clock share their time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Monotonic,
    /// Nanoseconds, shared by every clone.
    Virtual(Arc<AtomicU64>),
}

impl Clock {
    /// The kernel's monotonic clock. *Source*: `clock_gettime(2)`, `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn monotonic() -> Self {
        Self(Source::Monotonic)
    }

    /// A clock that shows `ns` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn virtual_at(ns: u64) -> Self {
        Self(Source::Virtual(Arc::new(AtomicU64::new(ns))))
    }

    /// True for a clock made by [`Clock::virtual_at`].
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        matches!(self.0, Source::Virtual(_))
    }

    /// The time in nanoseconds since an arbitrary, fixed start. Any thread.
    #[inline]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        match &self.0 {
            Source::Monotonic => sys::monotonic_ns(),
            Source::Virtual(ns) => ns.load(Ordering::Acquire),
        }
    }

    /// The time in seconds, as Python's `time.monotonic()` gives it. Any thread.
    #[inline]
    #[must_use]
    pub fn now(&self) -> f64 {
        seconds(self.now_ns())
    }

    /// Moves a virtual clock forward by `ns` (stopping at the largest `u64`). Any thread.
    ///
    /// Returns false, and does nothing, for the monotonic clock: nobody moves that one.
    pub fn advance(&self, ns: u64) -> bool {
        let Source::Virtual(time_ns) = &self.0 else {
            return false;
        };
        let mut seen = time_ns.load(Ordering::Acquire);
        loop {
            let next = seen.saturating_add(ns);
            match time_ns.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(current) => seen = current,
            }
        }
    }
}

/// Nanoseconds as seconds, rounded as CPython rounds them.
///
/// Whole seconds convert exactly, which a division of the rounded number would not do after 104
/// days of uptime. *Source*: the rule of CPython's `time.monotonic()`.
#[inline]
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    if ns % NS_PER_SECOND == 0 {
        (ns / NS_PER_SECOND) as f64
    } else {
        ns as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_never_runs_backwards() {
        let clock = Clock::monotonic();
        let mut last_ns = clock.now_ns();
        for _ in 0..1000 {
            let now_ns = clock.now_ns();
            assert!(now_ns >= last_ns);
            last_ns = now_ns;
        }
        assert!(!clock.is_virtual());
    }

    #[test]
    fn nobody_moves_the_monotonic_clock() {
        assert!(!Clock::monotonic().advance(1));
    }

    #[test]
    fn virtual_time_moves_only_when_told_and_for_every_clone() {
        let clock = Clock::virtual_at(5);
        let same = clock.clone();
        assert_eq!(clock.now_ns(), 5);
        assert!(same.advance(1_500_000_000 - 5));
        assert_eq!(clock.now_ns(), 1_500_000_000);
        assert_eq!(clock.now(), 1.5);
        assert!(clock.advance(u64::MAX));
        assert_eq!(same.now_ns(), u64::MAX);
    }

    #[test]
    fn seconds_round_as_cpython_does() {
        assert_eq!(seconds(0), 0.0);
        assert_eq!(seconds(1), 1e-9);
        // 2^53 + 1 ns is not a double: the division rounds once more than the whole-second rule.
        let whole = 9_007_200_000_000_000_000_u64;
        assert_eq!(seconds(whole), 9_007_200_000.0);
        assert_eq!(seconds(1_234_567_891), 1_234_567_891_f64 / 1e9);
    }
}
