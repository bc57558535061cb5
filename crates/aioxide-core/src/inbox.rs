//! What other threads send to the loop, and whether it must be woken for it.
//!
//! May touch: its own lock, held for a few instructions and never while an entry is dropped or
//! foreign code runs, so no order of locks can go wrong with Python's. Whoever has threads that
//! fork takes care that nobody holds it then: the binding touches it with the GIL held only.
//! Invariants: entries arrive in the order of their pushes; each accepted entry is drained once or
//! handed back by `close`; of all that push into one sleep, exactly one is told to wake the loop:
//! no wake-up is lost, none is doubled.
//!
//! ```text
//!            prepare_sleep (empty)                push -> Ok(true)
//!   awake  ------------------------->  asleep  ---------------------->  awake, wake-up under way
//!     ^                                  |
//!     +------------- awake --------------+
//! ```
//!
//! Who would rather wake the loop after it has let go of something (the GIL) leaves the entry with
//! `push_quietly` and calls the [`Doze`] that this returns. The lock orders everything; the flag
//! `pending` beside it only spares the owner the lock in turns when nothing came. The loom tests
//! below explore every interleaving.

#![forbid(unsafe_code)]

#[cfg(loom)]
use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use crate::doze::Doze;

/// Room that a drained inbox keeps for its next batch, in entries.
const SPARE_CAPACITY_MAX: usize = 4096;

/// A queue into the loop from any thread.
#[derive(Debug)]
pub struct Inbox<T: Send> {
    /// True when the queue holds something; written under the lock, read without it.
    pending: AtomicBool,
    state: Mutex<State<T>>,
    /// How the owner waits; it begins to under the lock.
    doze: Arc<Doze>,
}

#[derive(Debug)]
struct State<T> {
    entries: Vec<T>,
    /// Empty; its memory serves the next batch.
    spare: Vec<T>,
    closed: bool,
}

impl<T: Send> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send> Inbox<T> {
    /// An empty, open inbox whose owner is awake.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pending: AtomicBool::new(false),
            state: Mutex::new(State {
                entries: Vec::new(),
                spare: Vec::new(),
                closed: false,
            }),
            doze: Arc::new(Doze::new()),
        }
    }

    /// Appends an entry; any thread. True: the caller must wake the loop, nobody else will.
    ///
    /// # Errors
    /// The entry comes back when the inbox is closed.
    pub fn push(&self, entry: T) -> Result<bool, T> {
        drop(self.append(entry)?);
        Ok(self.doze.call())
    }

    /// Appends an entry; any thread. If the owner waits, the caller must call what this returns, as
    /// soon as it suits it, and wake the loop if that says so.
    ///
    /// # Errors
    /// The entry comes back when the inbox is closed.
    pub fn push_quietly(&self, entry: T) -> Result<Option<Arc<Doze>>, T> {
        let state = self.append(entry)?;
        let owner = (!self.doze.is_awake()).then(|| Arc::clone(&self.doze));
        drop(state);
        Ok(owner)
    }

    fn append(&self, entry: T) -> Result<MutexGuard<'_, State<T>>, T> {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return Err(entry);
        }
        state.entries.push(entry);
        self.pending.store(true, Ordering::Release);
        Ok(state)
    }

    /// True when nothing has arrived; any thread. One load: what arrives meanwhile is seen next
    /// time.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.pending.load(Ordering::Acquire)
    }

    /// Hands every entry to `take`, in order; owner thread. `take` runs with the inbox unlocked and
    /// may push.
    pub fn drain_into(&self, mut take: impl FnMut(T)) {
        let mut batch = {
            let mut state = self.lock();
            self.pending.store(false, Ordering::Release);
            let spare = std::mem::take(&mut state.spare);
            std::mem::replace(&mut state.entries, spare)
        };
        for entry in batch.drain(..) {
            take(entry);
        }
        if batch.capacity() <= SPARE_CAPACITY_MAX {
            self.lock().spare = batch;
        }
    }

    /// Announces that the owner is about to sleep. True: it may, and the next push wakes it. False:
    /// something has arrived, look first.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.prepare(false).is_some()
    }

    /// As `prepare_sleep`; with `looks`, for an owner that looks at its [`Doze`] for a while before
    /// it falls asleep.
    #[must_use]
    pub fn prepare(&self, looks: bool) -> Option<&Doze> {
        let state = self.lock();
        if !state.entries.is_empty() {
            return None;
        }
        // Under the lock: a push comes before, and is seen above, or after, and sees this.
        self.doze.begin(looks);
        Some(&self.doze)
    }

    /// Announces that the owner is awake; owner thread, after each sleep.
    pub fn awake(&self) {
        self.doze.end();
    }

    /// Refuses every later push and hands back what has not been drained; any thread, any number of
    /// times.
    pub fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        self.doze.end();
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut state.entries)
    }

    /// A panic never leaves the state half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn entries_arrive_in_order_and_once() {
        let inbox = Inbox::new();
        assert!(inbox.is_empty());
        for number in 0..10 {
            assert_eq!(inbox.push(number), Ok(false), "the owner is awake");
        }
        assert!(!inbox.is_empty());
        let mut drained = Vec::new();
        inbox.drain_into(|number| drained.push(number));
        assert!(drained.into_iter().eq(0..10));
        assert!(inbox.is_empty());
        inbox.drain_into(|_| unreachable!("everything has been drained"));
    }

    #[test]
    fn only_the_first_push_into_a_sleep_wakes() {
        let inbox = Inbox::new();
        assert!(inbox.prepare_sleep());
        assert_eq!(inbox.push(1), Ok(true));
        assert_eq!(inbox.push(2), Ok(false));
        inbox.awake();
        assert!(!inbox.prepare_sleep(), "something has arrived");
        assert_eq!(inbox.push(3), Ok(false), "so the owner is awake");
        inbox.drain_into(drop);
        assert!(inbox.prepare_sleep());
        inbox.awake();
        assert_eq!(inbox.push(4), Ok(false));
    }

    #[test]
    fn what_is_pushed_while_draining_stays_for_the_next_time() {
        let inbox = Inbox::new();
        assert_eq!(inbox.push(3), Ok(false));
        let mut drained = Vec::new();
        while !inbox.is_empty() {
            inbox.drain_into(|number| {
                drained.push(number);
                if number > 0 {
                    assert_eq!(inbox.push(number - 1), Ok(false));
                }
            });
        }
        assert_eq!(drained, [3, 2, 1, 0]);
    }

    #[test]
    fn a_closed_inbox_hands_everything_back() {
        let inbox = Inbox::new();
        assert_eq!(inbox.push("kept"), Ok(false));
        assert_eq!(inbox.close(), ["kept"]);
        assert_eq!(inbox.push("late"), Err("late"));
        assert!(inbox.is_empty());
        assert!(inbox.close().is_empty());
    }

    #[test]
    fn a_quiet_push_leaves_the_waking_to_a_call() {
        let inbox = Inbox::new();
        assert!(matches!(inbox.push_quietly(1), Ok(None)), "awake");
        inbox.drain_into(drop);
        assert!(inbox.prepare_sleep());
        let Ok(Some(owner)) = inbox.push_quietly(2) else {
            panic!("asleep");
        };
        assert_eq!(inbox.push(3), Ok(true), "whoever calls first");
        assert!(!owner.call());
        inbox.awake();
        assert!(inbox.prepare(true).is_none());
        inbox.drain_into(drop);
        assert!(inbox.prepare(true).is_some_and(|doze| !doze.is_called()));
        assert_eq!(inbox.push(4), Ok(false), "the owner looks");
        assert!(owner.is_called());
        assert_eq!(inbox.close(), [4]);
        assert!(matches!(inbox.push_quietly(5), Err(5)));
    }

    #[test]
    fn a_panic_while_draining_leaves_the_inbox_usable() {
        let inbox = Inbox::new();
        assert_eq!(inbox.push(1), Ok(false));
        let drain = std::panic::AssertUnwindSafe(|| {
            inbox.drain_into(|_| std::panic::resume_unwind(Box::new("on purpose")));
        });
        assert!(std::panic::catch_unwind(drain).is_err());
        assert_eq!(inbox.push(2), Ok(false));
        let mut drained = Vec::new();
        inbox.drain_into(|number| drained.push(number));
        assert_eq!(drained, [2]);
    }

    #[test]
    fn real_threads_lose_nothing_and_keep_their_order() {
        const THREADS: u32 = 4;
        const EACH: u32 = 2000;
        let inbox = Arc::new(Inbox::new());
        let senders: Vec<_> = (0..THREADS)
            .map(|thread| {
                let inbox = Arc::clone(&inbox);
                std::thread::spawn(move || {
                    (0..EACH).for_each(|number| {
                        inbox.push((thread, number)).expect("nobody closes it");
                    });
                })
            })
            .collect();
        let mut next = [0; THREADS as usize];
        let mut take = |(thread, number): (u32, u32)| {
            assert_eq!(number, next[thread as usize]);
            next[thread as usize] += 1;
        };
        while !senders.iter().all(std::thread::JoinHandle::is_finished) {
            inbox.drain_into(&mut take);
            std::thread::yield_now();
        }
        inbox.drain_into(&mut take);
        assert_eq!(next, [EACH; THREADS as usize]);
    }
}

/// Every interleaving of a few threads, explored: no entry and no wake-up is lost.
#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// Stands for the eventfd: stays set until the sleeper takes it.
    #[derive(Default)]
    struct Waker {
        is_set: Mutex<bool>,
        condition: Condvar,
        wakes: AtomicUsize,
    }

    impl Waker {
        fn new() -> Self {
            Self {
                is_set: Mutex::new(false),
                condition: Condvar::new(),
                wakes: AtomicUsize::new(0),
            }
        }

        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            *self.is_set.lock().unwrap() = true;
            self.condition.notify_one();
        }

        /// Loom reports a deadlock if nobody ever wakes a sleeper.
        fn sleep(&self) {
            let mut is_set = self.is_set.lock().unwrap();
            while !*is_set {
                is_set = self.condition.wait(is_set).unwrap();
            }
            *is_set = false;
        }
    }

    /// Three threads have too many interleavings to try all; bugs show with few preemptions.
    fn model_three(body: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(body);
    }

    /// The loop's side, as in a turn: drain if something is there, else sleep.
    fn receive(inbox: &Inbox<usize>, waker: &Waker, count: usize) -> Vec<usize> {
        let mut received = Vec::new();
        while received.len() < count {
            if !inbox.is_empty() {
                inbox.drain_into(|entry| received.push(entry));
            } else if inbox.prepare_sleep() {
                waker.sleep();
                inbox.awake();
            }
        }
        received
    }

    #[test]
    fn a_sleeper_is_woken_for_every_entry() {
        model_three(|| {
            let inbox = Arc::new(Inbox::new());
            let waker = Arc::new(Waker::new());
            let senders: Vec<_> = [10, 20]
                .into_iter()
                .map(|entry| {
                    let (inbox, waker) = (Arc::clone(&inbox), Arc::clone(&waker));
                    thread::spawn(move || {
                        if inbox.push(entry).expect("nobody closes it") {
                            waker.wake();
                        }
                    })
                })
                .collect();
            let mut received = receive(&inbox, &waker, 2);
            for sender in senders {
                sender.join().unwrap();
            }
            received.sort_unstable();
            assert_eq!(received, [10, 20]);
            assert!(inbox.is_empty());
        });
    }

    #[test]
    fn one_sender_keeps_its_order_and_wakes_once_a_sleep() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::new());
            let waker = Arc::new(Waker::new());
            let sleeps = AtomicUsize::new(0);
            let sender = {
                let (inbox, waker) = (Arc::clone(&inbox), Arc::clone(&waker));
                thread::spawn(move || {
                    for entry in 0..3 {
                        if inbox.push(entry).expect("nobody closes it") {
                            waker.wake();
                        }
                    }
                })
            };
            let mut received = Vec::new();
            while received.len() < 3 {
                if !inbox.is_empty() {
                    inbox.drain_into(|entry| received.push(entry));
                } else if inbox.prepare_sleep() {
                    sleeps.fetch_add(1, Ordering::Relaxed);
                    waker.sleep();
                    inbox.awake();
                }
            }
            sender.join().unwrap();
            assert_eq!(received, [0, 1, 2]);
            assert!(waker.wakes.load(Ordering::Relaxed) <= sleeps.load(Ordering::Relaxed));
        });
    }

    /// The loop's side with a look before each sleep; a quiet push and a plain one.
    #[test]
    fn who_looks_first_is_called_or_woken() {
        model_three(|| {
            let inbox = Arc::new(Inbox::new());
            let waker = Arc::new(Waker::new());
            let quiet = {
                let (inbox, waker) = (Arc::clone(&inbox), Arc::clone(&waker));
                thread::spawn(move || {
                    let owner = inbox.push_quietly(10).expect("nobody closes it");
                    if owner.is_some_and(|owner| owner.call()) {
                        waker.wake();
                    }
                })
            };
            let plain = {
                let (inbox, waker) = (Arc::clone(&inbox), Arc::clone(&waker));
                thread::spawn(move || {
                    if inbox.push(20).expect("nobody closes it") {
                        waker.wake();
                    }
                })
            };
            let mut received = Vec::new();
            while received.len() < 2 {
                if !inbox.is_empty() {
                    inbox.drain_into(|entry| received.push(entry));
                } else if let Some(doze) = inbox.prepare(true) {
                    if !doze.is_called() && doze.fall_asleep() {
                        waker.sleep();
                    }
                    inbox.awake();
                }
            }
            quiet.join().unwrap();
            plain.join().unwrap();
            received.sort_unstable();
            assert_eq!(received, [10, 20]);
        });
    }

    #[test]
    fn an_entry_is_received_or_handed_back_when_the_inbox_closes() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::new());
            let senders: Vec<_> = [1, 2]
                .into_iter()
                .map(|entry| {
                    let inbox = Arc::clone(&inbox);
                    thread::spawn(move || inbox.push(entry).map_err(|entry| vec![entry]))
                })
                .collect();
            let mut seen = Vec::new();
            inbox.drain_into(|entry| seen.push(entry));
            seen.extend(inbox.close());
            for sender in senders {
                if let Err(refused) = sender.join().unwrap() {
                    seen.extend(refused);
                }
            }
            seen.extend(inbox.close());
            seen.sort_unstable();
            assert_eq!(seen, [1, 2]);
        });
    }
}
