//! Tests of single steps of a turn, on a virtual clock; `tests/turn_over_sim.rs` has whole loops.

use super::*;

type Loop = Turn<u32, ()>;

fn new_loop() -> (Loop, Inbox<u32>, Clock) {
    let clock = Clock::virtual_at(clock::NS_PER_SECOND);
    (Turn::new(clock.clone()), Inbox::new(), clock)
}

/// Entries above a thousand count as cancelled.
fn prepare(turn: &mut Loop, inbox: &Inbox<u32>) -> Poll {
    turn.prepare(inbox, false, |entry| *entry > 1000, &mut Vec::new())
}

/// Runs one turn without asking anybody; returns what ran.
fn run(turn: &mut Loop) -> Vec<u32> {
    turn.expire();
    turn.begin();
    std::iter::from_fn(|| turn.pop()).collect()
}

#[test]
fn a_busy_loop_polls_first_and_then_in_every_64th_turn() {
    let (mut turn, inbox, _) = new_loop();
    let mut polled = Vec::new();
    for number in 0..200 {
        turn.push(number);
        if prepare(&mut turn, &inbox) == Poll::Now {
            polled.push(number);
        }
        assert_eq!(run(&mut turn), [number]);
    }
    assert_eq!(polled, [0, 64, 128, 192]);
    assert_eq!(turn.stats.snapshot().polls, 4);
    assert_eq!(turn.stats.snapshot().entries, 200);
}

#[test]
fn long_turns_poll_in_the_fourth_at_the_latest() {
    for has_timer in [false, true] {
        let (mut turn, inbox, clock) = new_loop();
        if has_timer {
            turn.timers.insert(1e9, 7);
        }
        let mut since_poll = 0;
        for number in 0..100 {
            turn.push(number);
            let poll = prepare(&mut turn, &inbox);
            since_poll = if poll == Poll::Now { 0 } else { since_poll + 1 };
            assert!(since_poll < CLOCK_TURNS);
            assert!(
                !has_timer || poll == Poll::Now,
                "with a timer the clock is read anyway"
            );
            run(&mut turn);
            clock.advance(POLL_GAP_NS_MAX);
        }
    }
}

#[test]
fn turns_are_never_late_by_more_than_had_passed_in_time() {
    // In the 4th, 8th, 16th and 32nd turn the clock is read, so the gap shows in the next of them.
    for (gap_at, polls_at) in [
        (1, 4),
        (4, 8),
        (7, 8),
        (8, 16),
        (20, 32),
        (32, 64),
        (63, 64),
    ] {
        let (mut turn, inbox, clock) = new_loop();
        let mut polled = Vec::new();
        for number in 0..=64 {
            turn.push(number);
            if prepare(&mut turn, &inbox) == Poll::Now {
                polled.push(number);
            }
            run(&mut turn);
            if number == gap_at {
                clock.advance(POLL_GAP_NS_MAX);
            }
        }
        assert_eq!(polled[..2], [0, polls_at], "gap after turn {gap_at}");
    }
}

#[test]
fn a_busy_loop_after_a_sleep_polls_in_the_fourth_turn() {
    let (mut turn, inbox, _) = new_loop();
    assert_eq!(prepare(&mut turn, &inbox), Poll::Wait(None));
    let polls: Vec<Poll> = (0..5)
        .map(|number| {
            turn.push(number);
            let poll = prepare(&mut turn, &inbox);
            run(&mut turn);
            poll
        })
        .collect();
    let (skip, now) = (Poll::Skip, Poll::Now);
    assert_eq!(polls, [skip, skip, skip, now, skip]);
}

#[test]
fn a_request_and_a_stop_poll_at_once_without_sleeping() {
    let (mut turn, inbox, _) = new_loop();
    for _ in 0..3 {
        turn.push(1);
        turn.request_poll();
        assert_eq!(prepare(&mut turn, &inbox), Poll::Now);
        turn.push(2);
        assert_eq!(prepare(&mut turn, &inbox), Poll::Skip);
        assert_eq!(run(&mut turn), [1, 2]);
    }
    let stopping = turn.prepare(&inbox, true, |_| false, &mut Vec::new());
    assert_eq!(stopping, Poll::Now);
}

#[test]
fn sleeps_until_the_next_deadline_and_no_longer_than_a_day() {
    let (mut turn, inbox, clock) = new_loop();
    let wait = |ns| Poll::Wait(Some(Duration::from_nanos(ns)));
    turn.timers.insert(f64::INFINITY, 4);
    assert_eq!(prepare(&mut turn, &inbox), wait(SLEEP_NS_MAX));
    turn.timers.insert(1.25, 3);
    assert_eq!(prepare(&mut turn, &inbox), wait(250_000_000));
    turn.timers.insert(1.000_000_000_5, 1);
    assert_eq!(
        prepare(&mut turn, &inbox),
        Poll::Now,
        "due within the resolution"
    );
    assert_eq!(run(&mut turn), [1]);
    turn.timers.insert(1.000_000_003_5, 2);
    assert_eq!(prepare(&mut turn, &inbox), wait(4), "rounded up");
    clock.advance(4);
    assert_eq!(run(&mut turn), [2]);
    turn.timers.insert(f64::NEG_INFINITY, 0);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Now);
    assert_eq!(run(&mut turn), [0]);
}

#[test]
fn a_deadline_that_is_no_number_does_not_sleep() {
    let (mut turn, inbox, _) = new_loop();
    turn.timers.insert(f64::NAN, 1);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Now);
    assert_eq!(run(&mut turn), [1]);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Wait(None));
}

#[test]
fn a_timer_is_due_after_its_sleep_however_long_the_machine_is_up() {
    // At four years of uptime a double tells time in steps of 15 ns.
    for days in [0, 1, 50, 100, 400, 1500] {
        let clock = Clock::virtual_at(days * 24 * 3600 * clock::NS_PER_SECOND + 123_456_789);
        let mut turn = Turn::<u32, ()>::new(clock.clone());
        let inbox = Inbox::new();
        for step in 0..1000_u32 {
            let deadline = turn.clock().now() + f64::from(step) * 1.7e-9;
            turn.timers.insert(deadline, step);
            let mut waits = 0;
            while let Poll::Wait(Some(limit)) = prepare(&mut turn, &inbox) {
                waits += 1;
                assert!(waits <= 20, "spins {days} days in");
                clock.advance(limit.as_nanos() as u64);
                if !run(&mut turn).is_empty() {
                    break;
                }
            }
            assert!(days > 50 || waits <= 1, "one sleep is enough");
            turn.timers.drain();
            clock.advance(1);
        }
    }
}

#[test]
fn cancelled_timers_are_handed_back_and_not_waited_for() {
    let (mut turn, inbox, _) = new_loop();
    turn.timers.insert(2.0, 2001);
    turn.timers.insert(3.0, 3);
    turn.timers.note_cancelled();
    let mut discarded = Vec::new();
    let poll = turn.prepare(&inbox, false, |entry| *entry > 1000, &mut discarded);
    assert_eq!(poll, Poll::Wait(Some(Duration::from_secs(2))));
    assert_eq!(discarded, [2001]);

    for number in 0..200 {
        turn.timers.insert(4.0, 4000 + number);
        turn.timers.note_cancelled();
    }
    discarded.clear();
    let poll = turn.prepare(&inbox, false, |entry| *entry > 1000, &mut discarded);
    assert_eq!(poll, Poll::Wait(Some(Duration::from_secs(2))));
    assert_eq!(
        (discarded.len(), turn.timers.len()),
        (200, 1),
        "though not at the head"
    );
    assert_eq!(turn.stats.snapshot().timers_discarded, 201);
}

#[test]
fn a_loop_that_has_work_looks_for_cancelled_timers_now_and_then() {
    let (mut turn, inbox, _) = new_loop();
    let mut discarded = Vec::new();
    let mut after = |turn: &mut Loop| {
        turn.push(1);
        let mut turns = 0;
        discarded.clear();
        while discarded.is_empty() {
            turns += 1;
            let _ = turn.prepare(&inbox, false, |entry| *entry > 1000, &mut discarded);
        }
        turns
    };
    turn.timers.insert(2.0, 2001);
    turn.timers.note_cancelled();
    assert_eq!(after(&mut turn), 1, "the first turn asks");
    turn.timers.insert(2.0, 2002);
    turn.timers.note_cancelled();
    assert_eq!(after(&mut turn), POLL_TURNS_MAX);
    for number in 0..100 {
        turn.timers.insert(2.0, 3000 + number);
        turn.timers.note_cancelled();
    }
    assert_eq!(after(&mut turn), 1, "so many");
    assert!(turn.timers.is_empty());
}

#[test]
fn a_turn_runs_ready_then_remote_then_io_then_timers() {
    let (mut turn, inbox, clock) = new_loop();
    turn.timers.insert(1.5, 6);
    turn.timers.insert(1.5, 7);
    turn.timers.insert(1.4, 5);
    assert_eq!(inbox.push(1), Ok(false));
    assert_eq!(prepare(&mut turn, &inbox), Poll::Now, "the first turn asks");
    assert_eq!(inbox.push(2), Ok(false));
    clock.advance(clock::NS_PER_SECOND);
    turn.collect(&inbox);
    turn.push(3);
    assert_eq!(turn.expire(), 3);
    assert_eq!(turn.begin(), 6);
    turn.push(8);
    let ran: Vec<u32> = std::iter::from_fn(|| turn.pop()).collect();
    assert_eq!(ran, [1, 2, 3, 5, 6, 7]);
    assert_eq!(run(&mut turn), [8]);
    let stats = turn.stats.snapshot();
    assert_eq!(
        (stats.inbox_entries, stats.timers_fired, stats.turns),
        (2, 3, 2)
    );
}

#[test]
fn a_timer_fires_in_the_first_turn_in_which_it_is_due_even_without_a_poll() {
    let (mut turn, inbox, clock) = new_loop();
    turn.push(1);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Now);
    run(&mut turn);
    turn.push(2);
    turn.timers.insert(turn.clock().now(), 3);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Skip);
    assert_eq!(run(&mut turn), [2, 3], "a delay of zero is due at once");
    turn.push(4);
    turn.timers.insert(turn.clock().now() + 1e-5, 5);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Skip);
    assert_eq!(run(&mut turn), [4]);
    clock.advance(10_000);
    turn.push(6);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Skip);
    assert_eq!(run(&mut turn), [6, 5]);
}

#[test]
fn a_timer_that_comes_due_during_a_poll_fires_after_it() {
    let (mut turn, inbox, clock) = new_loop();
    turn.timers.insert(1.5, 2);
    assert_eq!(
        prepare(&mut turn, &inbox),
        Poll::Wait(Some(Duration::from_millis(500)))
    );
    run(&mut turn);
    turn.push(1);
    clock.advance(POLL_GAP_NS_MAX);
    assert_eq!(prepare(&mut turn, &inbox), Poll::Now, "time has passed");
    clock.advance(clock::NS_PER_SECOND);
    assert_eq!(run(&mut turn), [1, 2]);
}

#[test]
fn beginning_at_once_polls_in_the_same_turns() {
    let (clock, inbox) = (Clock::virtual_at(0), Inbox::new());
    let mut plain = Turn::new(clock.clone());
    let mut quick = Turn::new(clock.clone());
    let mut shortcuts = 0;
    for turn in 0..2000_u64 {
        for each in [&mut plain, &mut quick] {
            each.push(1);
            match turn % 97 {
                0 => each.request_poll(),
                1 => assert!(!each.timers.insert(1e9, 2)),
                20 => drop(each.timers.drain()),
                _ => {}
            }
        }
        let expected = prepare(&mut plain, &inbox);
        plain.expire();
        plain.begin();
        assert_ne!(plain.pop(), None);
        let got = match quick.begin_at_once(&inbox) {
            Some(count) => {
                assert_eq!(count, 1);
                shortcuts += 1;
                Poll::Skip
            }
            None => {
                let poll = prepare(&mut quick, &inbox);
                quick.expire();
                quick.begin();
                poll
            }
        };
        assert_ne!(quick.pop(), None);
        assert_eq!(got, expected, "turn {turn}");
        clock.advance(turn % 13 * 1000);
    }
    assert!(shortcuts > 1000, "{shortcuts}");
    assert_eq!(inbox.push(3), Ok(false));
    quick.push(4);
    assert_eq!(quick.begin_at_once(&inbox), None, "something has arrived");
    quick.collect(&inbox);
    assert_eq!(quick.ready.drain(), [4, 3]);
    assert_eq!(quick.begin_at_once(&inbox), None, "nothing is ready");
}
