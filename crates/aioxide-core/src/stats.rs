//! Counters of what a loop has done: one thread counts, any thread reads.
//!
//! May touch: its own memory only. Invariants: only the loop's thread counts, so counting is a
//! plain load and store, without a locked instruction; readers see each counter whole, but not all
//! of them at one instant.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`; the owner's thread only (two at once would lose one of the additions).
    #[inline]
    pub fn add(&self, count: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(count);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// The number; any thread.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a loop counts while it runs.
#[derive(Debug, Default)]
pub struct Stats {
    /// Turns begun.
    pub turns: Counter,
    /// Entries that were ready when a turn began.
    pub entries: Counter,
    /// Times the backend was asked, sleeping or not.
    pub polls: Counter,
    /// Of these, times the loop was willing to sleep.
    pub sleeps: Counter,
    /// Timers that came due.
    pub timers_fired: Counter,
    /// Cancelled timers that were swept or compacted away.
    pub timers_discarded: Counter,
    /// Entries that came from other threads.
    pub inbox_entries: Counter,
}

/// The counters at (about) one instant.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct StatsSnapshot {
    /// See [`Stats::turns`].
    pub turns: u64,
    /// See [`Stats::entries`].
    pub entries: u64,
    /// See [`Stats::polls`].
    pub polls: u64,
    /// See [`Stats::sleeps`].
    pub sleeps: u64,
    /// See [`Stats::timers_fired`].
    pub timers_fired: u64,
    /// See [`Stats::timers_discarded`].
    pub timers_discarded: u64,
    /// See [`Stats::inbox_entries`].
    pub inbox_entries: u64,
}

impl Stats {
    /// Reads every counter; any thread.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            turns: self.turns.get(),
            entries: self.entries.get(),
            polls: self.polls.get(),
            sleeps: self.sleeps.get(),
            timers_fired: self.timers_fired.get(),
            timers_discarded: self.timers_discarded.get(),
            inbox_entries: self.inbox_entries.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_was_counted() {
        let stats = Stats::default();
        assert_eq!(stats.snapshot(), StatsSnapshot::default());
        stats.turns.add(1);
        stats.turns.add(2);
        stats.polls.add(4);
        stats.sleeps.add(5);
        stats.entries.add(6);
        stats.timers_fired.add(7);
        stats.timers_discarded.add(8);
        stats.inbox_entries.add(9);
        let expected = StatsSnapshot {
            turns: 3,
            entries: 6,
            polls: 4,
            sleeps: 5,
            timers_fired: 7,
            timers_discarded: 8,
            inbox_entries: 9,
        };
        assert_eq!(stats.snapshot(), expected);
    }

    #[test]
    fn a_counter_wraps_rather_than_panics() {
        let counter = Counter::default();
        counter.add(u64::MAX);
        counter.add(2);
        assert_eq!(counter.get(), 1);
    }
}
