//! One turn of the loop: what to run, and whether to ask the kernel first.
//!
//! May touch: the ready queue, timers, registrations and clock that it holds, and the inbox that it
//! is given. It never calls the backend: its caller does, between two steps, because sleeping means
//! letting go of what the caller holds. The order of one turn:
//!
//! ```text
//!   prepare -> Skip -------------------------------------------+
//!           -> Now ---> wait(0) ----------+                     v
//!           -> Wait --> wait(timeout) ----+--> collect, events --> expire --> begin --> pop ...
//! ```
//!
//! `begin_at_once` is the way to `begin` for a turn in which all of that comes to nothing.
//!
//! Invariants: entries run in asyncio's order: what was ready, then what other threads sent, then
//! I/O, then due timers, and only what was there when the turn began.
//!
//! The polling bound: while entries are ready, the backend is asked at the latest in the 64th turn
//! ([`POLL_TURNS_MAX`]) after it was last asked; before, in the 4th ([`CLOCK_TURNS`]), 8th, 16th or
//! 32nd, the first of these in which 50 us ([`POLL_GAP_NS_MAX`]) have passed since. So it is asked
//! before twice as many turns, and four more, have passed as had in these 50 us. With timers each
//! turn looks whether they have. With nothing ready it is asked in each turn.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Clock};
use crate::inbox::Inbox;
use crate::ready::Ready;
use crate::slab::Slab;
use crate::stats::Stats;
use crate::timers::Timers;

/// Turns with ready entries that may pass before the backend is asked: a poll that finds nothing
/// costs about as much as two turns.
pub const POLL_TURNS_MAX: u32 = 64;

/// Nanoseconds after which the backend is asked whatever the count: when turns are long, polling is
/// cheap beside them.
pub const POLL_GAP_NS_MAX: u64 = 50_000;

/// Turns from a poll to the first look at the clock, when no timer makes each turn look; the next
/// ones come after twice as many each.
pub const CLOCK_TURNS: u32 = 4;

/// The longest sleep, in nanoseconds: a day. *Source*: asyncio's `MAXIMUM_SELECT_TIMEOUT`.
pub const SLEEP_NS_MAX: u64 = 24 * 3600 * clock::NS_PER_SECOND;

/// Whether and how to ask the backend in this turn.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[must_use]
pub enum Poll {
    /// Not in this turn.
    Skip,
    /// Yes, without sleeping.
    Now,
    /// Yes, sleeping until something happens or, if given, for this long.
    Wait(Option<Duration>),
}

/// The loop's state that one thread owns: entries `E`, registrations `R`.
#[derive(Debug)]
pub struct Turn<E, R> {
    /// What runs next.
    pub ready: Ready<E>,
    /// What runs later.
    pub timers: Timers<E>,
    /// What events are for.
    pub registrations: Slab<R>,
    /// What has happened so far; other threads read it.
    pub stats: Arc<Stats>,
    clock: Clock,
    /// Turns prepared since the backend was last asked.
    turns_since_poll: u32,
    /// When the backend was last asked; `None` when nobody has looked at the clock since.
    polled_ns: Option<u64>,
    /// The time that `prepare` read in this turn, if nothing slept since.
    turn_ns: Option<u64>,
}

impl<E, R> Turn<E, R> {
    /// A loop with nothing to run, on `clock`; its first turn asks the backend.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            ready: Ready::new(),
            timers: Timers::new(),
            registrations: Slab::new(),
            stats: Arc::default(),
            clock,
            turns_since_poll: POLL_TURNS_MAX,
            polled_ns: None,
            turn_ns: None,
        }
    }

    /// The loop's clock.
    #[inline]
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Goes by another clock from now on: timers keep their deadlines.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        self.polled_ns = None;
        self.turn_ns = None;
    }

    /// Makes `entry` ready.
    #[inline]
    pub fn push(&mut self, entry: E) {
        self.ready.push(entry);
    }

    /// Makes the next turn ask the backend, whatever the count.
    ///
    /// For the first turn of each run: `stop()` and `run_forever()` in a row see I/O, as asyncio's.
    /// And for the turn after one that sent: it may have sent to its own loop.
    #[inline]
    pub fn request_poll(&mut self) {
        self.turns_since_poll = POLL_TURNS_MAX;
    }

    /// First step of a turn: takes in what other threads sent, puts cancelled timers into
    /// `discarded` (for the caller to drop when nothing is borrowed), and decides about the
    /// backend.
    ///
    /// `stopping` is true when this turn is the run's last: it does not sleep.
    #[inline]
    pub fn prepare(
        &mut self,
        inbox: &Inbox<E>,
        stopping: bool,
        is_cancelled: impl Fn(&E) -> bool,
        discarded: &mut Vec<E>,
    ) -> Poll {
        if !inbox.is_empty() {
            self.collect(inbox);
        }
        if self.timers.cancelled() != 0 && self.should_sweep() {
            self.sweep(is_cancelled, discarded);
        }
        self.turn_ns = None;
        if stopping {
            return self.poll_now();
        }
        if self.ready.is_empty() {
            return self.plan_wait();
        }
        self.turns_since_poll += 1;
        if self.turns_since_poll >= POLL_TURNS_MAX || self.has_gap_passed() {
            return self.poll_now();
        }
        Poll::Skip
    }

    /// All that there is to do before a turn's entries, if that is nothing but beginning it: work
    /// is ready, nothing else is known, and neither count nor clock have to be asked about a poll.
    /// Returns the number of entries. `None`: nothing was done, `prepare` decides.
    #[inline]
    pub fn begin_at_once(&mut self, inbox: &Inbox<E>) -> Option<usize> {
        let turns = self.turns_since_poll + 1;
        if self.ready.is_empty()
            || !self.timers.is_empty()
            || !inbox.is_empty()
            || turns >= POLL_TURNS_MAX
            || looks_at_clock(turns)
        {
            return None;
        }
        self.turns_since_poll = turns;
        self.turn_ns = None;
        Some(self.begin())
    }

    /// Takes in what other threads sent; after a sleep, before its events.
    pub fn collect(&mut self, inbox: &Inbox<E>) {
        if inbox.is_empty() {
            return;
        }
        let batch = inbox.take();
        self.stats.inbox_entries.add(batch.len() as u64);
        inbox.give_back(self.ready.append(batch));
    }

    /// Makes due timers ready, after the events of this turn; returns their number.
    ///
    /// Due is what lies before the time plus the clock's resolution, as in asyncio. Reads the clock
    /// only when there are timers.
    #[inline]
    pub fn expire(&mut self) -> usize {
        if self.timers.is_empty() {
            return 0;
        }
        let now_ns = match self.turn_ns.take() {
            Some(now_ns) => now_ns,
            None => self.clock.now_ns(),
        };
        if self.polled_ns.is_none() {
            self.polled_ns = Some(now_ns);
        }
        let end = clock::seconds(now_ns) + clock::RESOLUTION_SECONDS;
        let mut count = 0;
        while let Some(entry) = self.timers.pop_due(end) {
            self.ready.push(entry);
            count += 1;
        }
        if count != 0 {
            self.stats.timers_fired.add(count as u64);
        }
        count
    }

    /// Begins to run: the turn's entries are those that are ready now; returns their number.
    #[inline]
    pub fn begin(&mut self) -> usize {
        let count = self.ready.begin_turn();
        self.stats.turns.add(1);
        self.stats.entries.add(count as u64);
        count
    }

    /// The next entry of this turn, or `None` at its end.
    #[inline]
    pub fn pop(&mut self) -> Option<E> {
        self.ready.pop()
    }

    /// Gives fresh timers their places and hands back those that are cancelled.
    pub fn settle(&mut self, is_cancelled: impl Fn(&E) -> bool) -> Vec<E> {
        let mut discarded = Vec::new();
        self.timers.settle(is_cancelled, &mut discarded);
        self.stats.timers_discarded.add(discarded.len() as u64);
        discarded
    }

    /// Whether to look for cancelled timers: before each sleep, but in a loop that has work only
    /// now and then, as many at once are cheaper.
    fn should_sweep(&self) -> bool {
        self.ready.is_empty()
            || self.turns_since_poll + 1 >= POLL_TURNS_MAX
            || self.timers.should_compact()
    }

    /// Takes cancelled timers out: fresh ones, from the head or, when they are too many, all.
    #[cold]
    fn sweep(&mut self, is_cancelled: impl Fn(&E) -> bool, discarded: &mut Vec<E>) {
        let before = discarded.len();
        self.timers.settle(&is_cancelled, discarded);
        if self.timers.should_compact() {
            discarded.extend(self.timers.compact(&is_cancelled));
        }
        while self.timers.cancelled() != 0 {
            let Some(entry) = self.timers.pop_cancelled_head(&is_cancelled) else {
                break;
            };
            discarded.push(entry);
        }
        let count = discarded.len() - before;
        self.stats.timers_discarded.add(count as u64);
    }

    /// True when so much time has passed since the last poll that the count does not matter.
    ///
    /// With timers each turn reads the clock, here rather than in `expire`.
    #[inline]
    fn has_gap_passed(&mut self) -> bool {
        let has_timers = !self.timers.is_empty();
        if !has_timers && !looks_at_clock(self.turns_since_poll) {
            return false;
        }
        let now_ns = self.clock.now_ns();
        self.turn_ns = Some(now_ns);
        // A sleep of unknown length came before: who knows how long ago that was.
        let polled_ns = self.polled_ns.unwrap_or(0);
        now_ns.saturating_sub(polled_ns) >= POLL_GAP_NS_MAX
    }

    /// Decides for a poll that does not sleep.
    fn poll_now(&mut self) -> Poll {
        let now_ns = self.turn_ns.take().unwrap_or_else(|| self.clock.now_ns());
        self.note_poll(Some(now_ns));
        Poll::Now
    }

    /// Decides for how long to sleep, with nothing ready.
    fn plan_wait(&mut self) -> Poll {
        self.ready.trim();
        let Some(deadline) = self.timers.next_deadline() else {
            self.note_poll(None);
            self.stats.sleeps.add(1);
            return Poll::Wait(None);
        };
        let now_ns = self.clock.now_ns();
        let now = clock::seconds(now_ns);
        if self.timers.is_due(now + clock::RESOLUTION_SECONDS) {
            self.note_poll(Some(now_ns));
            return Poll::Now;
        }
        self.note_poll(None);
        self.stats.sleeps.add(1);
        Poll::Wait(Some(sleep_time(deadline - now)))
    }

    fn note_poll(&mut self, polled_ns: Option<u64>) {
        self.turns_since_poll = 0;
        self.polled_ns = polled_ns;
        self.stats.polls.add(1);
    }
}

/// Whether the clock is read in a turn that is this number after a poll, for want of timers.
#[inline]
fn looks_at_clock(turns: u32) -> bool {
    turns.is_power_of_two() && turns >= CLOCK_TURNS
}

/// A sleep of `delay` seconds in whole nanoseconds, upwards: at its end the timer is due. At least
/// one, so that a clock too coarse to tell "now" from "due" still moves on.
fn sleep_time(delay: f64) -> Duration {
    // A float cast saturates, so infinity is a long sleep.
    let ns = (delay * 1e9).ceil() as u64;
    Duration::from_nanos(ns.clamp(1, SLEEP_NS_MAX))
}

#[cfg(all(test, not(loom)))]
mod tests;
