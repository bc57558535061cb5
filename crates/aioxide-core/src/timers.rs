//! Deadlines: a 4-ary min-heap, first in first out among equal deadlines, with lazy cancelling.
//!
//! May touch: its own memory only; entries are moved in and handed back, never looked at.
//! Invariants: every entry is at or after its parent by (deadline, insertion number); `cancelled`
//! is never less than the number of entries that `note_cancelled` told of and that are still here.
//!
//! A cancelled entry stays until it reaches the head or until more than half of at least
//! `COMPACT_LEN_MIN` entries are cancelled, so cancelling is O(1) and the heap at most doubles.
//! *Source*: the rules of asyncio's `BaseEventLoop._run_once`.
//!
//! Four children share two cache lines, and four-way halves the depth: a pop touches fewer lines
//! than in a binary heap. (Williams 1964; d-ary: Johnson 1975.)

#![forbid(unsafe_code)]

/// Children of a node.
const ARITY: usize = 4;

/// Heaps shorter than this are not worth compacting. *Source*: asyncio's
/// `_MIN_SCHEDULED_TIMER_HANDLES`.
const COMPACT_LEN_MIN: usize = 100;

/// The key of a deadline that is not a number: after every other, infinity included.
const KEY_NAN: u64 = u64::MAX;

/// An order-preserving number of a deadline; both zeros are one.
#[inline]
fn key_of(deadline: f64) -> u64 {
    if deadline.is_nan() {
        return KEY_NAN;
    }
    // Adding positive zero makes negative zero positive and changes nothing else.
    let bits = (deadline + 0.0).to_bits();
    if bits >> 63 == 0 {
        bits | 1 << 63
    } else {
        !bits
    }
}

/// The deadline of a key.
#[inline]
fn deadline_of(key: u64) -> f64 {
    if key == KEY_NAN {
        f64::NAN
    } else if key >> 63 == 1 {
        f64::from_bits(key & !(1 << 63))
    } else {
        f64::from_bits(!key)
    }
}

#[derive(Debug)]
struct Entry<T> {
    key: u64,
    /// Insertion number: orders equal deadlines. 2^64 of them outlast the machine.
    sequence: u64,
    value: T,
}

impl<T> Entry<T> {
    #[inline]
    fn rank(&self) -> (u64, u64) {
        (self.key, self.sequence)
    }
}

/// Values by deadline; one owner thread.
///
/// A deadline that is not a number sorts behind all others. Once nothing stands before it, it is
/// due at once, which is what asyncio's comparison (`when >= end_time` is false) makes of it.
#[derive(Debug)]
pub struct Timers<T> {
    heap: Vec<Entry<T>>,
    sequence: u64,
    /// Upper bound of the number of cancelled entries in the heap.
    cancelled: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Timers<T> {
    /// No timers; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            heap: Vec::new(),
            sequence: 0,
            cancelled: 0,
        }
    }

    /// Number of timers, cancelled ones that have not left yet included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when there is no timer at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Upper bound of the number of cancelled timers that are still here.
    #[inline]
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.cancelled
    }

    /// Adds `value`, due after `deadline` (seconds of the loop's clock). O(log n), O(1) on average.
    pub fn insert(&mut self, deadline: f64, value: T) {
        let sequence = self.sequence;
        self.sequence += 1;
        let index = self.heap.len();
        self.heap.push(Entry {
            key: key_of(deadline),
            sequence,
            value,
        });
        self.sift_up(index);
    }

    /// The earliest deadline in seconds, of a cancelled timer too. O(1).
    ///
    /// Not a number when only timers without a sensible deadline are left.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<f64> {
        self.heap.first().map(|entry| deadline_of(entry.key))
    }

    /// True when [`Timers::pop_due`] would return something. O(1).
    #[inline]
    #[must_use]
    pub fn is_due(&self, now: f64) -> bool {
        match self.heap.first() {
            Some(entry) => entry.key < key_of(now) || entry.key == KEY_NAN,
            None => false,
        }
    }

    /// Takes out the earliest timer whose deadline is before `now` (seconds). O(log n).
    ///
    /// The caller passes its time plus the clock's resolution. Cancelled timers come too: whoever
    /// runs them looks.
    pub fn pop_due(&mut self, now: f64) -> Option<T> {
        if self.is_due(now) { self.pop() } else { None }
    }

    /// Counts one more cancelled timer; it stays until it is swept. O(1).
    #[inline]
    pub fn note_cancelled(&mut self) {
        self.cancelled = (self.cancelled + 1).min(self.heap.len());
    }

    /// Takes out the earliest timer if `is_cancelled` says so. O(log n).
    pub fn pop_cancelled_head(&mut self, is_cancelled: impl FnOnce(&T) -> bool) -> Option<T> {
        if !is_cancelled(&self.heap.first()?.value) {
            return None;
        }
        self.cancelled = self.cancelled.saturating_sub(1);
        self.pop()
    }

    /// True when so many timers are cancelled that [`Timers::compact`] pays. O(1).
    #[inline]
    #[must_use]
    pub fn should_compact(&self) -> bool {
        self.heap.len() >= COMPACT_LEN_MIN && self.cancelled * 2 > self.heap.len()
    }

    /// Takes out all cancelled timers and hands them back, in no order. O(n), no copy of the rest.
    pub fn compact(&mut self, is_cancelled: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::with_capacity(self.cancelled);
        let mut index = 0;
        while let Some(entry) = self.heap.get(index) {
            if is_cancelled(&entry.value) {
                removed.push(self.heap.swap_remove(index).value);
            } else {
                index += 1;
            }
        }
        self.cancelled = 0;
        self.restore_order();
        removed
    }

    /// Every timer with its deadline in seconds, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (f64, &T)> {
        self.heap
            .iter()
            .map(|entry| (deadline_of(entry.key), &entry.value))
    }

    /// Takes out everything, in no order.
    pub fn drain(&mut self) -> Vec<T> {
        self.cancelled = 0;
        std::mem::take(&mut self.heap)
            .into_iter()
            .map(|entry| entry.value)
            .collect()
    }

    /// Takes out the head.
    fn pop(&mut self) -> Option<T> {
        if self.heap.is_empty() {
            return None;
        }
        let head = self.heap.swap_remove(0);
        self.sift_down(0);
        self.cancelled = self.cancelled.min(self.heap.len());
        Some(head.value)
    }

    fn sift_up(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / ARITY;
            if self.heap[parent].rank() <= self.heap[index].rank() {
                break;
            }
            self.heap.swap(parent, index);
            index = parent;
        }
    }

    fn sift_down(&mut self, mut index: usize) {
        loop {
            let first = index * ARITY + 1;
            let last = (first + ARITY).min(self.heap.len());
            let Some(least) = (first..last).min_by_key(|&child| self.heap[child].rank()) else {
                break;
            };
            if self.heap[index].rank() <= self.heap[least].rank() {
                break;
            }
            self.heap.swap(index, least);
            index = least;
        }
    }

    /// Makes any order a heap again, from the last parent up to the root. O(n).
    fn restore_order(&mut self) {
        for index in (0..self.heap.len().div_ceil(ARITY)).rev() {
            self.sift_down(index);
        }
    }
}

#[cfg(test)]
mod tests;
