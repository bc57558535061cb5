//! The heartbeat of a loop, and the rule that says when it has stalled.
//!
//! May touch: its own memory only; the watcher passes the time. Invariants: only the loop's thread
//! beats, with one plain store a turn and no reading of the clock; a watcher on another thread sees
//! a turn that does not end and measures, with its own clock, for how long.
//!
//! ```text
//!   beat:   turn 1   asleep   turn 2 ................................ asleep
//!   watcher:   .        .        .        .        .        .            .
//!                                begun    |-- limit --|     stall        ok again
//! ```

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// The bit that says the loop sleeps in its backend, or does not run at all.
const ASLEEP: u64 = 1;

/// The beat of one loop; shared with watchers.
#[derive(Debug)]
pub struct Heartbeat {
    /// Twice the turn's number, and `ASLEEP`.
    beat: AtomicU64,
}

/// What a [`Heartbeat`] shows at one instant.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Beat {
    /// Number of turns begun so far.
    pub turn: u64,
    /// True when the loop waits for events, or does not run.
    pub is_asleep: bool,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

impl Heartbeat {
    /// The beat of a loop that has not run yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            beat: AtomicU64::new(ASLEEP),
        }
    }

    /// A turn begins to run entries; the loop's thread.
    #[inline]
    pub fn begin_turn(&self) {
        let beat = self.beat.load(Ordering::Relaxed) & !ASLEEP;
        self.beat.store(beat.wrapping_add(2), Ordering::Release);
    }

    /// The loop goes to sleep, or stops; the loop's thread.
    #[inline]
    pub fn sleep(&self) {
        let beat = self.beat.load(Ordering::Relaxed) | ASLEEP;
        self.beat.store(beat, Ordering::Release);
    }

    /// The beat now; any thread.
    #[must_use]
    pub fn read(&self) -> Beat {
        let beat = self.beat.load(Ordering::Acquire);
        Beat {
            turn: beat >> 1,
            is_asleep: beat & ASLEEP != 0,
        }
    }
}

/// A turn that takes longer than the limit.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Stall {
    /// The turn that does not end.
    pub turn: u64,
    /// For how long it has been seen running, in nanoseconds: less than the truth by at most one
    /// interval between two observations.
    pub duration_ns: u64,
    /// True for the first report of this turn.
    pub is_new: bool,
}

/// Tells from a series of beats whether the loop is stalled; belongs to one watcher.
#[derive(Debug)]
pub struct StallRule {
    stall_ns_max: u64,
    /// The turn last seen running, and when it was first seen.
    running: Option<(u64, u64)>,
    has_reported: bool,
}

impl StallRule {
    /// A rule by which a turn stalls the loop when it is seen running for `stall_ns_max`
    /// nanoseconds or longer.
    #[must_use]
    pub const fn new(stall_ns_max: u64) -> Self {
        Self {
            stall_ns_max,
            running: None,
            has_reported: false,
        }
    }

    /// Takes a beat read at `now_ns` of the watcher's clock; returns the stall that it shows.
    pub fn observe(&mut self, beat: Beat, now_ns: u64) -> Option<Stall> {
        if beat.is_asleep {
            self.running = None;
            self.has_reported = false;
            return None;
        }
        let begun_ns = match self.running {
            Some((turn, begun_ns)) if turn == beat.turn => begun_ns,
            _ => {
                self.running = Some((beat.turn, now_ns));
                self.has_reported = false;
                return None;
            }
        };
        let duration_ns = now_ns.saturating_sub(begun_ns);
        if duration_ns < self.stall_ns_max {
            return None;
        }
        let is_new = !std::mem::replace(&mut self.has_reported, true);
        Some(Stall {
            turn: beat.turn,
            duration_ns,
            is_new,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_count_turns_and_tell_sleep() {
        let heartbeat = Heartbeat::new();
        assert_eq!(
            heartbeat.read(),
            Beat {
                turn: 0,
                is_asleep: true
            }
        );
        heartbeat.begin_turn();
        heartbeat.begin_turn();
        assert_eq!(
            heartbeat.read(),
            Beat {
                turn: 2,
                is_asleep: false
            }
        );
        heartbeat.sleep();
        heartbeat.sleep();
        assert_eq!(
            heartbeat.read(),
            Beat {
                turn: 2,
                is_asleep: true
            }
        );
        heartbeat.begin_turn();
        assert_eq!(
            heartbeat.read(),
            Beat {
                turn: 3,
                is_asleep: false
            }
        );
    }

    #[test]
    fn one_long_turn_is_a_stall_reported_as_new_once() {
        let heartbeat = Heartbeat::new();
        let mut rule = StallRule::new(100);
        heartbeat.begin_turn();
        assert_eq!(rule.observe(heartbeat.read(), 1000), None);
        assert_eq!(rule.observe(heartbeat.read(), 1099), None);
        let first = rule.observe(heartbeat.read(), 1100);
        assert_eq!(
            first,
            Some(Stall {
                turn: 1,
                duration_ns: 100,
                is_new: true
            })
        );
        let second = rule.observe(heartbeat.read(), 1500);
        assert_eq!(
            second,
            Some(Stall {
                turn: 1,
                duration_ns: 500,
                is_new: false
            })
        );
        heartbeat.begin_turn();
        assert_eq!(rule.observe(heartbeat.read(), 1600), None);
        let next = rule.observe(heartbeat.read(), 1700);
        assert!(next.is_some_and(|stall| stall.turn == 2 && stall.is_new));
    }

    #[test]
    fn a_long_sleep_and_many_short_turns_are_no_stall() {
        let heartbeat = Heartbeat::new();
        let mut rule = StallRule::new(100);
        for now_ns in (0..10_000).step_by(99) {
            heartbeat.begin_turn();
            assert_eq!(rule.observe(heartbeat.read(), now_ns), None);
        }
        heartbeat.sleep();
        assert_eq!(rule.observe(heartbeat.read(), 1_000_000), None);
        assert_eq!(rule.observe(heartbeat.read(), 2_000_000), None);
    }
}
