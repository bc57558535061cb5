//! The ready queue: what runs next, in order, and the snapshot that one turn runs.
//!
//! May touch: its own memory only; entries are moved in and handed back, never looked at.
//! Invariants: first in, first out; a turn runs the entries that were there when it began, and
//! what they add waits for the next turn (asyncio's rule: a callback that schedules itself forever
//! does not keep I/O from its turn).

#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Room that a queue keeps, in entries: a burst beyond it gives its memory back.
pub(crate) const IDLE_CAPACITY_MAX: usize = 16_384;

/// A turn of so many times fewer entries than there is room for ends a burst: growing again costs
/// less than a hundredth of what running as many entries does.
const BURST_TIMES: usize = 16;

/// A queue of entries with a per-turn snapshot; one owner thread.
#[derive(Debug)]
pub struct Ready<T> {
    entries: VecDeque<T>,
    /// How many of the first entries still belong to the current turn.
    unread: usize,
}

impl<T> Default for Ready<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Ready<T> {
    /// An empty queue; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            unread: 0,
        }
    }

    /// Appends an entry. O(1) amortised.
    #[inline]
    pub fn push(&mut self, entry: T) {
        if self.entries.len() == self.entries.capacity() {
            self.grow();
        }
        self.entries.push_back(entry);
    }

    /// Makes room for more. Apart, so that the entry need not be in memory before it is queued.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.entries.reserve(1);
    }

    /// Appends all entries of a batch; returns it empty, or other memory in its place. O(1) if the
    /// queue is empty.
    pub fn append(&mut self, mut batch: Vec<T>) -> Vec<T> {
        if self.entries.is_empty() {
            return std::mem::replace(&mut self.entries, batch.into()).into();
        }
        self.entries.extend(batch.drain(..));
        batch
    }

    /// Number of entries, those of the current turn included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is queued.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Begins a turn over the entries that are there now; returns their number.
    #[inline]
    pub fn begin_turn(&mut self) -> usize {
        let len = self.entries.len();
        if self.entries.capacity() > IDLE_CAPACITY_MAX {
            self.end_burst(len);
        }
        self.unread = len;
        len
    }

    /// The next entry of the current turn, or `None` when its snapshot is used up. O(1).
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.unread = self.unread.checked_sub(1)?;
        self.entries.pop_front()
    }

    /// How many entries of the current turn have not been popped.
    #[inline]
    #[must_use]
    pub fn unread(&self) -> usize {
        self.unread
    }

    /// Every queued entry, first in first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter()
    }

    /// Takes out everything, first in first, and ends the current turn.
    pub fn drain(&mut self) -> Vec<T> {
        self.unread = 0;
        std::mem::take(&mut self.entries).into()
    }

    /// Gives the memory of a burst back if a turn of so many entries ends it.
    #[cold]
    #[inline(never)]
    fn end_burst(&mut self, len: usize) {
        if len < self.entries.capacity() / BURST_TIMES {
            self.trim();
        }
    }

    /// Gives memory of a past burst back: also for a loop that is about to sleep.
    #[cold]
    pub(crate) fn trim(&mut self) {
        if self.entries.capacity() > IDLE_CAPACITY_MAX {
            self.entries.shrink_to(IDLE_CAPACITY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_turn_adds_waits_for_the_next() {
        let mut ready = Ready::new();
        ready.push(1);
        ready.push(2);
        assert_eq!(ready.pop(), None, "no turn has begun");
        assert_eq!(ready.begin_turn(), 2);
        assert_eq!(ready.pop(), Some(1));
        ready.push(3);
        assert_eq!((ready.unread(), ready.len()), (1, 2));
        assert_eq!(ready.pop(), Some(2));
        assert_eq!(ready.pop(), None);
        assert_eq!(ready.begin_turn(), 1);
        assert_eq!(ready.pop(), Some(3));
        assert!(ready.is_empty());
    }

    #[test]
    fn a_burst_gives_its_memory_back_and_loses_nothing() {
        let mut ready = Ready::new();
        for number in 0..IDLE_CAPACITY_MAX * 4 {
            ready.push(number);
        }
        ready.trim();
        assert_eq!(ready.len(), IDLE_CAPACITY_MAX * 4);
        ready.begin_turn();
        for number in 0..IDLE_CAPACITY_MAX * 4 - 1 {
            assert_eq!(ready.pop(), Some(number));
        }
        ready.trim();
        assert!(ready.entries.capacity() <= IDLE_CAPACITY_MAX);
        assert_eq!(ready.pop(), Some(IDLE_CAPACITY_MAX * 4 - 1));
    }

    #[test]
    fn a_burst_gives_its_memory_back_in_a_loop_that_never_sleeps() {
        let mut ready = Ready::new();
        for number in 0..IDLE_CAPACITY_MAX * 4 {
            ready.push(number);
        }
        while ready.len() > 1 {
            assert_eq!(ready.begin_turn(), ready.len());
            assert!(ready.entries.capacity() > IDLE_CAPACITY_MAX);
            while ready.unread() > 1 {
                assert!(ready.pop().is_some());
            }
        }
        assert_eq!(ready.begin_turn(), 1);
        assert!(ready.entries.capacity() <= IDLE_CAPACITY_MAX);
        assert_eq!(ready.pop(), Some(IDLE_CAPACITY_MAX * 4 - 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u16),
        Append(Vec<u16>),
        Begin,
        Pop,
        Drain,
        Trim,
    }

    proptest! {
        #[test]
        fn behaves_as_two_queues(steps in vec(
            prop_oneof![
                8 => any::<u16>().prop_map(Step::Push),
                1 => vec(any::<u16>(), 0..4).prop_map(Step::Append),
                2 => Just(Step::Begin),
                8 => Just(Step::Pop),
                1 => Just(Step::Drain),
                1 => Just(Step::Trim),
            ],
            0..300,
        )) {
            let mut ready = Ready::new();
            // The naive model: what this turn still runs, and what waits for the next.
            let (mut now, mut later) = (VecDeque::new(), VecDeque::new());
            for step in steps {
                match step {
                    Step::Push(value) => {
                        ready.push(value);
                        later.push_back(value);
                    }
                    Step::Append(batch) => {
                        later.extend(&batch);
                        prop_assert!(ready.append(batch).is_empty());
                    }
                    Step::Begin => {
                        now.append(&mut later);
                        prop_assert_eq!(ready.begin_turn(), now.len());
                    }
                    Step::Pop => prop_assert_eq!(ready.pop(), now.pop_front()),
                    Step::Drain => {
                        now.append(&mut later);
                        prop_assert_eq!(ready.drain(), Vec::from(std::mem::take(&mut now)));
                    }
                    Step::Trim => ready.trim(),
                }
                prop_assert_eq!(ready.len(), now.len() + later.len());
                prop_assert_eq!(ready.unread(), now.len());
                prop_assert!(ready.iter().eq(now.iter().chain(&later)));
            }
        }
    }
}
