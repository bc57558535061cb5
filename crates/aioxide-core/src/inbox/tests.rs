//! Entries, batches and calls, one after the other; and real threads.

use std::sync::Mutex;

use super::*;

fn drain<T>(inbox: &Inbox<T>, mut take: impl FnMut(T)) {
    let mut batch = inbox.take();
    batch.drain(..).for_each(&mut take);
    inbox.give_back(batch);
}

#[test]
fn entries_arrive_in_order_and_once() {
    let inbox = Inbox::new();
    assert!(inbox.is_empty());
    for number in 0..10 {
        assert_eq!(inbox.push(number), Ok(false), "the owner is awake");
    }
    assert!(!inbox.is_empty());
    let mut drained = Vec::new();
    drain(&inbox, |number| drained.push(number));
    assert!(drained.into_iter().eq(0..10));
    assert!(inbox.is_empty());
    drain(&inbox, |_| unreachable!("everything has been drained"));
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
    drain(&inbox, drop);
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
        drain(&inbox, |number| {
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
    drain(&inbox, drop);
    assert!(inbox.prepare_sleep());
    let Ok(Some(owner)) = inbox.push_quietly(2) else {
        panic!("asleep");
    };
    assert_eq!(inbox.push(3), Ok(true), "whoever calls first");
    assert!(!owner.call());
    inbox.awake();
    assert!(inbox.prepare(true).is_none());
    drain(&inbox, drop);
    assert!(inbox.prepare(true).is_some_and(|doze| !doze.is_called()));
    assert_eq!(inbox.push(4), Ok(false), "the owner looks");
    assert!(owner.is_called());
    assert_eq!(inbox.close(), [4]);
    assert!(matches!(inbox.push_quietly(5), Err(5)));
}

#[test]
fn batches_in_a_row_use_their_memory_again_and_a_burst_gives_it_back() {
    let inbox = Inbox::new();
    for (count, kept) in [(1000, true), (IDLE_CAPACITY_MAX + 1, false), (1000, true)] {
        for number in 0..count {
            assert_eq!(inbox.len(), number);
            assert_eq!(inbox.push(number), Ok(false));
        }
        drain(&inbox, drop);
        assert_eq!(inbox.entries.borrow().capacity() >= count, kept);
    }
}

#[test]
fn memory_comes_back_behind_what_has_arrived_meanwhile() {
    let inbox = Inbox::new();
    assert_eq!(inbox.push(1), Ok(false));
    let mut batch = inbox.take();
    assert_eq!(inbox.push(2), Ok(false));
    assert!(batch.drain(..).eq([1]));
    inbox.give_back(batch);
    assert!(!inbox.is_empty());
    assert_eq!(inbox.take(), [2]);
}

#[test]
fn real_threads_lose_nothing_and_keep_their_order() {
    const THREADS: u32 = 4;
    const EACH: u32 = 2000;
    let inbox = Arc::new(Mutex::new(Inbox::new()));
    let senders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || {
                (0..EACH).for_each(|number| {
                    let inbox = inbox.lock().expect("nobody panics");
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
        drain(&inbox.lock().expect("nobody panics"), &mut take);
        std::thread::yield_now();
    }
    drain(&inbox.lock().expect("nobody panics"), &mut take);
    assert_eq!(next, [EACH; THREADS as usize]);
}
