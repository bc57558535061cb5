//! Every interleaving of a few threads, explored: no entry and no wake-up is lost. The lock around
//! the inbox stands for the GIL.

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;

/// A loop as other threads see it.
struct Post {
    inbox: Mutex<Inbox<usize>>,
    /// Stands for the eventfd: stays set until the sleeper takes it.
    is_set: Mutex<bool>,
    condition: Condvar,
    wakes: AtomicUsize,
}

impl Post {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inbox: Mutex::new(Inbox::new()),
            is_set: Mutex::new(false),
            condition: Condvar::new(),
            wakes: AtomicUsize::new(0),
        })
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

    /// As `call_soon_threadsafe`: wakes the loop before it lets go of the lock, or after.
    fn send(&self, entry: usize, wakes_inside: bool) {
        let inbox = self.inbox.lock().unwrap();
        let must_wake = inbox.push(entry).expect("nobody closes it");
        if must_wake && wakes_inside {
            self.wake();
        }
        drop(inbox);
        if must_wake && !wakes_inside {
            self.wake();
        }
    }

    /// As a worker's outcome: calls the loop when the lock is free.
    fn send_quietly(&self, entry: usize) {
        let pushed = self.inbox.lock().unwrap().push_quietly(entry);
        let owner = pushed.expect("nobody closes it");
        if owner.is_some_and(|owner| owner.call()) {
            self.wake();
        }
    }

    /// The loop's side, as in a turn: takes what is there, else sleeps, looking once before that or
    /// not. Returns what came, and the number of sleeps.
    fn receive(&self, count: usize, looks: bool) -> (Vec<usize>, usize) {
        let (mut received, mut sleeps) = (Vec::new(), 0);
        while received.len() < count {
            let inbox = self.inbox.lock().unwrap();
            if !inbox.is_empty() {
                let mut batch = inbox.take();
                received.append(&mut batch);
                inbox.give_back(batch);
                continue;
            }
            assert!(inbox.prepare(looks).is_some());
            let doze = Arc::clone(&inbox.doze);
            drop(inbox);
            if !looks || (!doze.is_called() && doze.fall_asleep()) {
                sleeps += 1;
                self.sleep();
            }
            // Without the lock: what comes from here on is found when it is taken again.
            doze.end();
        }
        (received, sleeps)
    }
}

/// Three threads have too many interleavings to try all; bugs show with few preemptions.
fn model_three(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

fn spawn(post: &Arc<Post>, act: impl Fn(&Post) + Send + 'static) -> thread::JoinHandle<()> {
    let post = Arc::clone(post);
    thread::spawn(move || act(&post))
}

#[test]
fn a_sleeper_is_woken_for_every_entry() {
    for wakes_inside in [false, true] {
        model_three(move || {
            let post = Post::new();
            let senders =
                [10, 20].map(|entry| spawn(&post, move |post| post.send(entry, wakes_inside)));
            let (mut received, sleeps) = post.receive(2, false);
            for sender in senders {
                sender.join().unwrap();
            }
            received.sort_unstable();
            assert_eq!(received, [10, 20]);
            assert!(post.inbox.lock().unwrap().is_empty());
            assert!(post.wakes.load(Ordering::Relaxed) <= sleeps);
        });
    }
}

#[test]
fn one_sender_keeps_its_order_and_wakes_once_a_sleep() {
    loom::model(|| {
        let post = Post::new();
        let sender = spawn(&post, |post| {
            (0..3).for_each(|entry| post.send(entry, false))
        });
        let (received, sleeps) = post.receive(3, false);
        sender.join().unwrap();
        assert_eq!(received, [0, 1, 2]);
        assert!(post.wakes.load(Ordering::Relaxed) <= sleeps);
    });
}

#[test]
fn who_looks_first_is_called_or_woken() {
    model_three(|| {
        let post = Post::new();
        let quiet = spawn(&post, |post| post.send_quietly(10));
        let plain = spawn(&post, |post| post.send(20, true));
        let (mut received, _) = post.receive(2, true);
        quiet.join().unwrap();
        plain.join().unwrap();
        received.sort_unstable();
        assert_eq!(received, [10, 20]);
    });
}

#[test]
fn an_entry_is_received_or_handed_back_when_the_inbox_closes() {
    loom::model(|| {
        let inbox = Arc::new(Mutex::new(Inbox::new()));
        let senders = [1, 2].map(|entry| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.lock().unwrap().push(entry).err())
        });
        let mut seen = inbox.lock().unwrap().take();
        seen.extend(inbox.lock().unwrap().close());
        for sender in senders {
            seen.extend(sender.join().unwrap());
        }
        assert!(inbox.lock().unwrap().close().is_empty());
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    });
}
