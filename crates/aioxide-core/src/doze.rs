//! A thread that waits, and who must wake it: looking for a moment, then asleep.
//!
//! To wake a thread that sleeps costs the waker a system call and the sleeper tens of microseconds.
//! One that still looks is called with a store. May touch: one atomic word, so nothing here can be
//! left locked by a fork, and calls may come from any thread at any time.
//!
//! ```text
//!            begin(looks)               fall_asleep
//!   AWAKE ----------------> LOOKING ------------------> ASLEEP
//!     ^                     |     |                       |
//!     |       announce      |     | call: false           | call: true, the caller wakes it
//!     |  ANNOUNCED <--------+     |                       |
//!     |      | call: false        |                       |
//!     +------+--------------------+-----------------------+
//! ```
//!
//! Invariants: of all calls into one sleep, exactly one returns true, and its caller wakes the
//! sleeper by means of its own; a thread that was called or announced never falls asleep. A call
//! that comes late, when its sleep is over, ends the next one early: the owner looks at what it
//! waits for whenever it wakes. The loom tests explore every interleaving.

#![forbid(unsafe_code)]

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
/// The owner looks at this word again and again.
const LOOKING: u8 = 1;
/// As LOOKING; a call will follow, so it is not worth to fall asleep.
const ANNOUNCED: u8 = 2;
const ASLEEP: u8 = 3;

/// The state of one thread that waits.
#[derive(Debug)]
pub struct Doze {
    state: AtomicU8,
}

impl Default for Doze {
    fn default() -> Self {
        Self::new()
    }
}

impl Doze {
    /// Its owner is awake.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: AtomicU8::new(AWAKE),
        }
    }

    /// The owner begins to wait, looking at first or not. Whoever would have to call must be unable
    /// to bring something between the owner's last look for it and this.
    pub fn begin(&self, looks: bool) {
        let state = if looks { LOOKING } else { ASLEEP };
        self.change(state);
    }

    /// Whether somebody called; the owner, while it waits.
    #[inline]
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.is_awake()
    }

    /// The owner has looked for long enough. True: it may sleep, the next call wakes it. False: it
    /// was called or announced.
    #[must_use]
    pub fn fall_asleep(&self) -> bool {
        self.change_from_looking(ASLEEP)
    }

    /// The owner is awake, for whatever reason.
    pub fn end(&self) {
        self.change(AWAKE);
    }

    /// Whether its owner is awake and will look by itself before it waits; any thread.
    #[inline]
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.state.load(Ordering::Acquire) == AWAKE
    }

    /// Whether its owner looked out a moment ago; any thread.
    #[inline]
    #[must_use]
    pub fn is_looking(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOOKING
    }

    /// A call will follow soon; any thread. True if the owner is looking out for it. False: there
    /// is nothing to gain by waiting, call now.
    #[must_use]
    pub fn announce(&self) -> bool {
        self.change_from_looking(ANNOUNCED)
    }

    /// There is something to do; any thread. True: the owner sleeps, and this caller, nobody else,
    /// must wake it.
    #[must_use]
    pub fn call(&self) -> bool {
        !self.is_awake() && self.change(AWAKE) == ASLEEP
    }

    /// Every change reads what it replaces, so that all of them are in one order that everybody
    /// agrees upon: who has seen a change can't read an earlier state.
    fn change(&self, state: u8) -> u8 {
        self.state.swap(state, Ordering::AcqRel)
    }

    fn change_from_looking(&self, state: u8) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state
            .compare_exchange(LOOKING, state, success, failure)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_into_a_sleep_wakes() {
        let doze = Doze::new();
        assert!(!doze.call(), "awake");
        doze.begin(false);
        assert!(!doze.is_awake());
        assert_eq!([doze.call(), doze.call()], [true, false]);
        doze.begin(true);
        assert!(doze.fall_asleep());
        assert!(doze.call());
        doze.end();
        assert!(doze.is_awake());
    }

    #[test]
    fn who_looks_is_called_without_being_woken() {
        let doze = Doze::new();
        doze.begin(true);
        assert!(!doze.is_called());
        assert!(!doze.call(), "it sees it");
        assert!(doze.is_called());
        assert!(!doze.fall_asleep());
    }

    #[test]
    fn who_was_announced_stays_awake() {
        let doze = Doze::new();
        assert!(!doze.announce(), "awake");
        doze.begin(true);
        assert!(doze.announce());
        assert!(!doze.is_called() && !doze.fall_asleep());
        assert!(!doze.call());
        assert!(doze.is_called());
        doze.begin(false);
        assert!(!doze.announce(), "asleep: call now");
        assert!(doze.call());
    }
}

/// Every interleaving of a few threads, explored: nobody sleeps on, and nobody is woken twice.
#[cfg(all(test, loom))]
mod tests {
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// Three threads have too many interleavings to try all; bugs show with few preemptions.
    fn model(body: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(body);
    }

    /// What a thread waits for: work behind a lock (the GIL), and a token to sleep on.
    #[derive(Default)]
    struct Post {
        work: Mutex<Vec<usize>>,
        doze: Doze,
        token: Mutex<bool>,
        condition: Condvar,
        wakes: AtomicUsize,
    }

    impl Post {
        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            *self.token.lock().unwrap() = true;
            self.condition.notify_one();
        }

        /// Loom reports a deadlock if nobody ever wakes a sleeper.
        fn sleep(&self) {
            let mut token = self.token.lock().unwrap();
            while !*token {
                token = self.condition.wait(token).unwrap();
            }
            *token = false;
        }

        /// Waits for `count` entries, looking once before each sleep; returns the sleeps.
        fn receive(&self, count: usize, looks: bool) -> usize {
            let (mut received, mut sleeps) = (0, 0);
            while received < count {
                let mut work = self.work.lock().unwrap();
                received += work.drain(..).count();
                if received == count {
                    break;
                }
                self.doze.begin(looks);
                drop(work);
                if !looks || (!self.doze.is_called() && self.doze.fall_asleep()) {
                    sleeps += 1;
                    self.sleep();
                }
                self.doze.end();
            }
            sleeps
        }

        /// Leaves an entry under the lock, and calls when the lock is free again.
        fn send(&self, entry: usize) {
            let mut work = self.work.lock().unwrap();
            work.push(entry);
            let must_call = !self.doze.is_awake();
            drop(work);
            if must_call && self.doze.call() {
                self.wake();
            }
        }

        /// As `send`, from one who lets go of the lock only after a while.
        fn announce(&self, entry: usize) {
            let mut work = self.work.lock().unwrap();
            work.push(entry);
            let later = self.doze.announce();
            if !later && self.doze.call() {
                self.wake();
            }
            drop(work);
            if later && self.doze.call() {
                self.wake();
            }
        }
    }

    /// Who calls before it lets go of the lock: the receiver, awake, finds the lock taken.
    #[test]
    fn a_call_from_within_the_lock_is_no_less_heard() {
        for looks in [false, true] {
            model(move || {
                let post = Arc::new(Post::default());
                let inside = {
                    let post = Arc::clone(&post);
                    thread::spawn(move || {
                        let mut work = post.work.lock().unwrap();
                        work.push(1);
                        if !post.doze.is_awake() && post.doze.call() {
                            post.wake();
                        }
                        drop(work);
                    })
                };
                let outside = {
                    let post = Arc::clone(&post);
                    thread::spawn(move || post.send(2))
                };
                let sleeps = post.receive(2, looks);
                inside.join().unwrap();
                outside.join().unwrap();
                assert!(post.wakes.load(Ordering::Relaxed) <= sleeps);
            });
        }
    }

    #[test]
    fn nobody_sleeps_on() {
        for looks in [false, true] {
            model(move || {
                let post = Arc::new(Post::default());
                let senders: Vec<_> = [1, 2]
                    .into_iter()
                    .map(|entry| {
                        let post = Arc::clone(&post);
                        thread::spawn(move || post.send(entry))
                    })
                    .collect();
                let sleeps = post.receive(2, looks);
                for sender in senders {
                    sender.join().unwrap();
                }
                assert!(post.wakes.load(Ordering::Relaxed) <= sleeps);
            });
        }
    }

    #[test]
    fn an_announced_one_is_called() {
        loom::model(|| {
            let post = Arc::new(Post::default());
            let sender = {
                let post = Arc::clone(&post);
                thread::spawn(move || post.announce(1))
            };
            post.receive(1, true);
            sender.join().unwrap();
        });
    }

    #[test]
    fn announcements_and_calls_of_two_mix() {
        model(|| {
            let post = Arc::new(Post::default());
            let announcer = {
                let post = Arc::clone(&post);
                thread::spawn(move || post.announce(1))
            };
            let sender = {
                let post = Arc::clone(&post);
                thread::spawn(move || post.send(2))
            };
            post.receive(2, true);
            announcer.join().unwrap();
            sender.join().unwrap();
        });
    }
}
