//! Deadlines: the fresh ones as they came, a small 4-ary min-heap of the nearest, and ever farther
//! batches of the rest; first in first out among equal deadlines, with lazy cancelling.
//!
//! May touch: its own memory only; entries are moved in and handed back, never looked at.
//! Invariants, where `rank` is (deadline, insertion number):
//! - every entry of the heap is at or after its parent;
//! - everything in the heap ranks before everything in the last (nearest) batch, which ranks before
//!   everything in the batch under it, and so on; a batch has no order within and is never empty;
//! - the heap is empty only when there is no batch;
//! - fresh entries have no order; `fresh_first` is the least of their ranks;
//! - `cancelled` is never less than the number of entries that `note_cancelled` told of and that
//!   are still here.
//!
//! ```text
//!   batches[0]  >  batches[1]  >  ...  >  heap        > by rank
//!    farthest                    nearest   next
//!   insert: append to the fresh ones
//!   settle: fresh ones that are cancelled leave; if many are left, each is appended to its batch,
//!           or goes into the heap; a heap of more than `near_max` entries lets its far part go as
//!           a new nearest batch
//!   pop:    from the heap; an empty heap takes the nearest batch, halved until it is small
//! ```
//!
//! Why fresh ones: most timers guard something against taking too long, and are cancelled soon. One
//! that is cancelled before it has a place leaves at the next look, however many others there are,
//! and its memory is used again while it is still in a cache. So a few may stay fresh for long.
//!
//! Why not one heap: with a million timers each step of a pop is a cache miss, a dozen times the
//! cost with a thousand. Here a pop works in a heap that fits the nearest cache, a far timer costs
//! an append, and halving reads memory in sequence, about ten times in the life of an entry.
//! (Heaps with four children: Johnson 1975. Splitting only as far as needed: the incremental
//! quicksort of Paredes and Navarro 2006.)
//!
//! A settled entry that is cancelled stays until it reaches the head or until more than half of at
//! least `COMPACT_LEN_MIN` entries are cancelled, so cancelling is O(1) and memory at most doubles.
//! *Source*: the rules of asyncio's `BaseEventLoop._run_once`.

#![forbid(unsafe_code)]

/// Children of a node.
const ARITY: usize = 4;

/// Heaps shorter than this are not worth compacting. *Source*: asyncio's
/// `_MIN_SCHEDULED_TIMER_HANDLES`.
const COMPACT_LEN_MIN: usize = 100;

/// Entries that the heap holds before it lets its far part go: 64 KiB of 32-byte entries, which
/// stay in a core's own caches.
const NEAR_MAX: usize = 2048;

/// Fresh entries after which it is time to settle them: as many handles fit the nearest cache.
const FRESH_MAX: usize = 256;

/// Fresh entries that may stay so when they are settled: to look through so many takes about as
/// long as to give one a place.
const FRESH_KEPT_MAX: usize = 32;

/// After every other rank.
const RANK_NONE: (u64, u64) = (u64::MAX, u64::MAX);

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

/// Entries far from now, in no order.
#[derive(Debug)]
struct Batch<T> {
    /// No entry ranks before this.
    low: (u64, u64),
    entries: Vec<Entry<T>>,
}

/// Values by deadline; one owner thread.
///
/// A deadline that is not a number sorts behind all others. Once nothing stands before it, it is
/// due at once, which is what asyncio's comparison (`when >= end_time` is false) makes of it.
#[derive(Debug)]
pub struct Timers<T> {
    /// The entries that came last, in order of arrival.
    fresh: Vec<Entry<T>>,
    /// The least rank of these.
    fresh_first: (u64, u64),
    /// One of them may be cancelled.
    fresh_cancelled: bool,
    /// The nearest entries, a heap.
    heap: Vec<Entry<T>>,
    /// The others, farthest first.
    batches: Vec<Batch<T>>,
    /// Number of entries, wherever they are.
    len: usize,
    sequence: u64,
    /// Upper bound of the number of cancelled entries.
    cancelled: usize,
    /// Length of the heap beyond which it lets its far part go.
    near_max: usize,
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
        Self::with_near_max(NEAR_MAX)
    }

    /// No timers, and a heap that keeps `near_max` of them near: tests choose few, so that some are
    /// far. Raised to 4.
    #[must_use]
    pub const fn with_near_max(near_max: usize) -> Self {
        Self {
            fresh: Vec::new(),
            fresh_first: RANK_NONE,
            fresh_cancelled: false,
            heap: Vec::new(),
            batches: Vec::new(),
            len: 0,
            sequence: 0,
            cancelled: 0,
            near_max: if near_max < 4 { 4 } else { near_max },
        }
    }

    /// Number of timers, cancelled ones that have not left yet included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no timer at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Upper bound of the number of cancelled timers that are still here.
    #[inline]
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.cancelled
    }

    /// Adds `value`, due after `deadline` (seconds of the loop's clock). O(1) amortised.
    ///
    /// True when so many are fresh that it is time for [`Timers::settle`].
    #[inline]
    pub fn insert(&mut self, deadline: f64, value: T) -> bool {
        let entry = Entry {
            key: key_of(deadline),
            sequence: self.sequence,
            value,
        };
        self.sequence += 1;
        self.len += 1;
        self.fresh_first = self.fresh_first.min(entry.rank());
        self.fresh.push(entry);
        self.fresh.len() % FRESH_MAX == 0
    }

    /// Moves fresh timers that are cancelled into `removed`, in no order, and gives the others
    /// their places if they are more than a few. O(1) for each that is far, and on average; O(log)
    /// of the heap for a near one.
    pub fn settle(&mut self, is_cancelled: impl Fn(&T) -> bool, removed: &mut Vec<T>) {
        if self.fresh_cancelled {
            self.fresh_cancelled = false;
            let before = self.fresh.len();
            remove_from(&mut self.fresh, &is_cancelled, removed);
            let count = before - self.fresh.len();
            self.len -= count;
            self.cancelled = self.cancelled.saturating_sub(count).min(self.len);
            let ranks = self.fresh.iter().map(Entry::rank);
            self.fresh_first = ranks.min().unwrap_or(RANK_NONE);
        }
        if self.fresh.len() > FRESH_KEPT_MAX.min(self.near_max) {
            self.place_fresh();
        }
    }

    /// Gives all fresh timers their places.
    fn place_fresh(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        self.fresh_first = RANK_NONE;
        self.fresh_cancelled = false;
        for entry in fresh.drain(..) {
            self.place(entry);
        }
        if fresh.capacity() <= 4 * FRESH_MAX {
            self.fresh = fresh;
        }
    }

    fn place(&mut self, entry: Entry<T>) {
        let rank = entry.rank();
        if self.batches.last().is_none_or(|nearest| rank < nearest.low) {
            let index = self.heap.len();
            self.heap.push(entry);
            self.sift_up(index);
            if self.heap.len() > self.near_max {
                self.spill();
            }
            return;
        }
        // Deadlines mostly rise, so the farthest batch is asked first.
        let index = match self.batches.first() {
            Some(farthest) if rank < farthest.low => {
                self.batches.partition_point(|batch| rank < batch.low)
            }
            _ => 0,
        };
        self.batches[index].entries.push(entry);
    }

    /// The earliest deadline in seconds, of a cancelled timer too. O(1).
    ///
    /// Not a number when only timers without a sensible deadline are left.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<f64> {
        self.first_key().map(deadline_of)
    }

    /// The least key of all.
    #[inline]
    fn first_key(&self) -> Option<u64> {
        let settled = self.heap.first().map(|entry| entry.key);
        let fresh = (!self.fresh.is_empty()).then_some(self.fresh_first.0);
        match (settled, fresh) {
            (Some(settled), Some(fresh)) => Some(settled.min(fresh)),
            (settled, fresh) => settled.or(fresh),
        }
    }

    /// True when [`Timers::pop_due`] would return something. O(1).
    #[inline]
    #[must_use]
    pub fn is_due(&self, now: f64) -> bool {
        self.first_key()
            .is_some_and(|key| key < key_of(now) || key == KEY_NAN)
    }

    /// Takes out the earliest timer whose deadline is before `now` (seconds). O(log n) amortised.
    ///
    /// The caller passes its time plus the clock's resolution. Cancelled timers come too: whoever
    /// runs them looks.
    pub fn pop_due(&mut self, now: f64) -> Option<T> {
        if !self.is_due(now) {
            return None;
        }
        // As long as a settled one is first, the fresh ones can wait.
        if self
            .heap
            .first()
            .is_none_or(|first| self.fresh_first < first.rank())
        {
            self.place_fresh();
        }
        self.pop()
    }

    /// Counts one more cancelled timer; it stays until it is swept. O(1).
    #[inline]
    pub fn note_cancelled(&mut self) {
        self.cancelled = (self.cancelled + 1).min(self.len);
        self.fresh_cancelled = !self.fresh.is_empty();
    }

    /// Takes out the earliest timer if `is_cancelled` says so. O(log n) amortised.
    pub fn pop_cancelled_head(&mut self, is_cancelled: impl FnOnce(&T) -> bool) -> Option<T> {
        let settled_first = self.heap.first().map_or(RANK_NONE, Entry::rank);
        if self.fresh_first < settled_first {
            if !self.fresh_cancelled {
                return None;
            }
            self.place_fresh();
        }
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
        self.len >= COMPACT_LEN_MIN && self.cancelled * 2 > self.len
    }

    /// Takes out all cancelled timers and hands them back, in no order. O(n).
    pub fn compact(&mut self, is_cancelled: impl Fn(&T) -> bool) -> Vec<T> {
        self.place_fresh();
        let mut removed = Vec::with_capacity(self.cancelled);
        remove_from(&mut self.heap, &is_cancelled, &mut removed);
        for batch in &mut self.batches {
            remove_from(&mut batch.entries, &is_cancelled, &mut removed);
        }
        self.batches.retain(|batch| !batch.entries.is_empty());
        self.len -= removed.len();
        self.cancelled = 0;
        self.restore_order();
        if self.heap.is_empty() {
            self.refill();
        }
        removed
    }

    /// Every timer with its deadline in seconds, in no order; those that came last are among the
    /// first as a rule.
    pub fn iter(&self) -> impl Iterator<Item = (f64, &T)> {
        let batches = self.batches.iter();
        let far = batches.flat_map(|batch| batch.entries.iter().rev());
        self.fresh
            .iter()
            .chain(&self.heap)
            .chain(far)
            .map(|entry| (deadline_of(entry.key), &entry.value))
    }

    /// Takes out everything, in no order.
    pub fn drain(&mut self) -> Vec<T> {
        self.len = 0;
        self.cancelled = 0;
        self.fresh_first = RANK_NONE;
        self.fresh_cancelled = false;
        let far = std::mem::take(&mut self.batches);
        std::mem::take(&mut self.fresh)
            .into_iter()
            .chain(std::mem::take(&mut self.heap))
            .chain(far.into_iter().flat_map(|batch| batch.entries))
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
        self.len -= 1;
        self.cancelled = self.cancelled.min(self.len);
        if self.heap.is_empty() {
            self.refill();
        }
        Some(head.value)
    }

    /// Lets all but the nearest quarter of the heap go as the new nearest batch.
    #[cold]
    fn spill(&mut self) {
        let keep = self.near_max / 4;
        let batch = split_at_rank(&mut self.heap, keep);
        self.batches.push(batch);
        self.restore_order();
    }

    /// Makes the nearest batch the heap, or as much of its near end as a heap should hold.
    #[cold]
    fn refill(&mut self) {
        let Some(Batch { mut entries, .. }) = self.batches.pop() else {
            return;
        };
        while entries.len() > self.near_max / 2 {
            let middle = entries.len() / 2;
            self.batches.push(split_at_rank(&mut entries, middle));
        }
        self.heap = entries;
        self.restore_order();
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

    /// Makes any order a heap again, from the last parent up to the root. O(length of the heap).
    fn restore_order(&mut self) {
        for index in (0..self.heap.len().div_ceil(ARITY)).rev() {
            self.sift_down(index);
        }
    }
}

/// Leaves the first `keep` entries by rank in `entries` and returns the others, which must be some.
fn split_at_rank<T>(entries: &mut Vec<Entry<T>>, keep: usize) -> Batch<T> {
    let (_, least, _) = entries.select_nth_unstable_by_key(keep, Entry::rank);
    Batch {
        low: least.rank(),
        entries: entries.split_off(keep),
    }
}

/// Moves the cancelled ones of `entries` into `removed`; the order of the others is lost.
fn remove_from<T>(
    entries: &mut Vec<Entry<T>>,
    is_cancelled: impl Fn(&T) -> bool,
    removed: &mut Vec<T>,
) {
    let mut index = 0;
    while let Some(entry) = entries.get(index) {
        if is_cancelled(&entry.value) {
            removed.push(entries.swap_remove(index).value);
        } else {
            index += 1;
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
