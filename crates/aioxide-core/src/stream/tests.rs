//! Tests of the byte stream: named rules, then every rule at once against a naive model.
//!
//! Stream and model talk to equal kernels with a bounded socket buffer, and both protocols react
//! alike, so calls, bytes and flags must agree at the end of each turn.
#![forbid(unsafe_code)]

use super::driver::{Driver, agree};
use super::hold::{ANSWER_BYTES_MIN, HELD_BYTES_MAX_IN_STREAK, STREAK_BYTES};
use super::model::{Call, Kernel, Op, Seen};
use super::*;
use proptest::prelude::*;

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => (0usize..40).prop_map(Call::Write),
        3 => (0usize..4, 0usize..20).prop_map(|(count, len)| Call::Lines(count, len)),
        1 => Just(Call::WriteEof),
        1 => Just(Call::Close),
        1 => Just(Call::Abort),
        1 => (-1i64..60, -1i64..40).prop_map(|(high, low)| Call::Limits(high, low)),
        1 => Just(Call::PauseReading),
        1 => Just(Call::ResumeReading),
        1 => Just(Call::Size),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => call().prop_map(Op::Call),
        1 => any::<bool>().prop_map(Op::Eof),
        4 => (0usize..80, prop::bool::weighted(0.05), any::<bool>())
            .prop_map(|(freed, broken, busy)| Op::EndTurn { freed, broken, busy }),
    ]
}

proptest! {
    #[test]
    fn stream_agrees_with_the_model(
        ops in prop::collection::vec(op(), 0..60),
        reactions in prop::collection::vec(call(), 0..6),
        free in 0usize..100,
    ) {
        agree(Rules::Socket, &ops, &reactions, free);
    }

    #[test]
    fn write_pipe_agrees_with_the_model(
        ops in prop::collection::vec(op(), 0..60),
        reactions in prop::collection::vec(call(), 0..6),
        free in 0usize..100,
    ) {
        agree(Rules::WritePipe, &ops, &reactions, free);
    }
}

fn idle(free: usize) -> Driver {
    let mut driver = Driver {
        kernel: Kernel {
            free,
            ..Kernel::default()
        },
        ..Driver::default()
    };
    let step = driver.stream.handle_start();
    driver.run(step);
    driver
}

fn end_turn(driver: &mut Driver, busy: bool) {
    driver.apply(&Op::EndTurn {
        freed: 0,
        broken: false,
        busy,
    });
}

#[test]
fn lone_write_leaves_at_once_and_the_rest_of_the_turn_together() {
    let mut driver = idle(100);
    driver.call(Call::Write(3));
    assert_eq!((driver.kernel.out.len(), driver.flushes), (3, 0));
    driver.call(Call::Write(4));
    driver.call(Call::Write(5));
    assert_eq!((driver.kernel.out.len(), driver.flushes), (3, 1));
    end_turn(&mut driver, false);
    assert_eq!(driver.kernel.out.len(), 12);
    assert!(!driver.stream.wants_write());
}

#[test]
fn who_wrote_in_pieces_is_held_from_the_first_until_it_writes_once() {
    let mut driver = idle(100);
    for held in [false, true, true] {
        let before = driver.kernel.out.len();
        driver.call(Call::Write(1));
        assert_eq!(driver.kernel.out.len() - before, usize::from(!held));
        driver.call(Call::Write(1));
        end_turn(&mut driver, false);
        assert_eq!(driver.kernel.out.len() - before, 2);
    }
    for held in [true, false] {
        let before = driver.kernel.out.len();
        driver.call(Call::Write(1));
        assert_eq!(driver.kernel.out.len() - before, usize::from(!held));
        end_turn(&mut driver, false);
    }
}

#[test]
fn writes_of_a_busy_turn_wait_for_its_end() {
    let mut driver = idle(100);
    end_turn(&mut driver, true);
    driver.call(Call::Write(3));
    driver.call(Call::Lines(2, 4));
    assert_eq!((driver.kernel.out.len(), driver.flushes), (0, 1));
    driver.call(Call::Size);
    assert_eq!(driver.kernel.out.len(), 11);
    driver.call(Call::Write(3));
    assert_eq!((driver.kernel.out.len(), driver.flushes), (11, 2));
    end_turn(&mut driver, false);
    assert_eq!(driver.kernel.out.len(), 14);
}

#[test]
fn writes_outside_a_turn_are_never_held() {
    let mut stream: Stream<Vec<u8>> = Stream::default();
    for _ in 0..3 {
        assert_eq!(stream.handle_write(1, None), WritePlan::SendNow);
    }
}

#[test]
fn much_is_not_held() {
    let mut driver = idle(1 << 20);
    driver.call(Call::Limits(1 << 20, 0));
    end_turn(&mut driver, true);
    driver.call(Call::Write(HELD_BYTES_MAX + 1));
    assert_eq!(driver.kernel.out.len(), HELD_BYTES_MAX + 1);
    driver.call(Call::Write(1));
    assert_eq!(driver.kernel.out.len(), HELD_BYTES_MAX + 1);
    driver.call(Call::Write(HELD_BYTES_MAX));
    assert_eq!(driver.kernel.out.len(), 2 * HELD_BYTES_MAX + 2);
}

/// A stream whose kernel has taken a streak of bytes, with room for `free` more.
fn pouring(free: usize) -> Driver {
    let chunks = STREAK_BYTES as usize / HELD_BYTES_MAX + 1;
    let mut driver = idle(chunks * HELD_BYTES_MAX + free);
    end_turn(&mut driver, true);
    for _ in 0..chunks {
        driver.call(Call::Write(HELD_BYTES_MAX));
    }
    driver.call(Call::Size);
    assert_eq!(driver.kernel.out.len(), chunks * HELD_BYTES_MAX);
    driver.kernel.out.clear();
    driver
}

#[test]
fn who_pours_may_hold_more_and_beyond_high_water() {
    let mut driver = pouring(1 << 20);
    for _ in 0..HELD_BYTES_MAX_IN_STREAK / HELD_BYTES_MAX {
        driver.call(Call::Write(HELD_BYTES_MAX));
    }
    assert_eq!((driver.kernel.out.len(), &driver.seen[..]), (0, &[][..]));
    driver.call(Call::Write(1));
    assert_eq!(driver.kernel.out.len(), HELD_BYTES_MAX_IN_STREAK + 1);
    assert_eq!(driver.seen, []);
}

#[test]
fn lower_limits_hold_for_who_pours_too() {
    let mut driver = pouring(1 << 20);
    driver.call(Call::Limits(10, 0));
    driver.call(Call::Write(11));
    assert_eq!(driver.kernel.out.len(), 11);
}

#[test]
fn first_refusal_pauses_who_poured_and_ends_the_streak() {
    for free in [0, 1] {
        let mut driver = pouring(free);
        driver.call(Call::Write(HELD_BYTES_MAX));
        driver.call(Call::Write(HELD_BYTES_MAX));
        end_turn(&mut driver, true);
        let told = &driver.seen[..];
        assert_eq!((driver.kernel.out.len(), told), (free, &[Seen::Pause][..]));
        driver.apply(&Op::EndTurn {
            freed: 1 << 20,
            broken: false,
            busy: true,
        });
        assert_eq!(driver.seen, [Seen::Pause, Seen::Resume]);
        driver.kernel.out.clear();
        driver.call(Call::Write(HELD_BYTES_MAX));
        driver.call(Call::Write(1));
        assert_eq!(driver.kernel.out.len(), HELD_BYTES_MAX + 1);
    }
}

#[test]
fn a_part_that_stays_ends_the_streak() {
    let mut driver = pouring(1 << 20);
    driver.call(Call::Write(2));
    let step = driver.stream.handle_sent(1, &mut driver.spent);
    assert_eq!(driver.stream.streak_bytes, 0);
    driver.run(step);
    // The same of a write that is tried at once.
    let mut stream: Stream<Vec<u8>> = Stream {
        streak_bytes: STREAK_BYTES,
        ..Stream::default()
    };
    let step = stream.handle_unsent(b"ab".to_vec(), 1);
    assert!(step.is_ok() && stream.streak_bytes == 0);
}

#[test]
fn resumed_writer_is_held_and_still_hears_of_room() {
    let mut stream: Stream<Vec<u8>> = Stream::default();
    let told = |stream: &mut Stream<Vec<u8>>, mut step: Step| {
        std::iter::from_fn(|| stream.poll_action(&mut step)).collect::<Vec<_>>()
    };
    let step = stream.handle_start();
    assert_eq!(told(&mut stream, step), [Action::Interest]);
    let step = stream.handle_limits(Some(1), Some(0)).expect("in order");
    assert_eq!(told(&mut stream, step), []);
    let step = stream.handle_unsent(b"abc".to_vec(), 1).expect("two left");
    assert_eq!(
        told(&mut stream, step),
        [Action::Interest, Action::PauseProtocol]
    );
    let mut outer = stream.handle_sent(2, &mut Vec::new());
    assert_eq!(stream.poll_action(&mut outer), Some(Action::ResumeProtocol));
    // In `resume_writing()`: the backend is asked for less than before, then something is written.
    let step = stream.handle_pause_reading().expect("it was reading");
    assert_eq!(told(&mut stream, step), [Action::Interest]);
    assert!(!stream.wants_write());
    let moment = Moment {
        turn: 1,
        is_busy: true,
        is_answer: false,
    };
    assert_eq!(stream.handle_write(1, Some(moment)), WritePlan::Queue);
    assert_eq!(stream.handle_held(b"d".to_vec()), Ok(true));
    assert_eq!(told(&mut stream, outer), []);
    assert!(stream.handle_flush());
    let step = stream.handle_blocked();
    assert_eq!(told(&mut stream, step), [Action::Interest]);
    assert!(stream.wants_write());
}

#[test]
fn large_answers_are_not_held() {
    let mut stream: Stream<Vec<u8>> = Stream::default();
    let moment = |turn, is_busy, is_answer| {
        Some(Moment {
            turn,
            is_busy,
            is_answer,
        })
    };
    let answer = moment(1, false, true);
    assert_eq!(stream.handle_write(9, answer), WritePlan::SendNow);
    assert_eq!(
        stream.handle_write(ANSWER_BYTES_MIN, answer),
        WritePlan::SendNow
    );
    // Small ones are, in the turn in which something was written and, in pieces, in the next.
    assert_eq!(
        stream.handle_write(ANSWER_BYTES_MIN - 1, answer),
        WritePlan::Queue
    );
    for (turn, is_busy, is_answer, plan) in [
        (2, false, true, WritePlan::SendNow),
        (2, true, true, WritePlan::Queue),
        (2, false, false, WritePlan::Queue),
        (3, false, false, WritePlan::Queue),
    ] {
        let moment = moment(turn, is_busy, is_answer);
        assert_eq!(stream.handle_write(ANSWER_BYTES_MIN, moment), plan);
    }
}

#[test]
fn lost_while_resumed_disarms() {
    let mut driver = idle(1);
    driver.call(Call::Limits(1, 0));
    driver.call(Call::PauseReading);
    driver.call(Call::Write(4));
    driver.reactions = vec![Call::Abort];
    driver.apply(&Op::EndTurn {
        freed: 9,
        broken: false,
        busy: false,
    });
    assert_eq!(driver.seen, [Seen::Pause, Seen::Resume, Seen::LostSoon]);
    assert_eq!(driver.interest, (false, false));
}

#[test]
fn deferred_bytes_do_not_pause_what_the_kernel_would_take() {
    let mut driver = idle(1 << 20);
    driver.call(Call::Write(1));
    driver.call(Call::Write(70_000));
    assert_eq!(driver.seen, []);
    assert_eq!(driver.kernel.out.len(), 70_001);
}

#[test]
fn warnings_begin_with_the_fifth_lost_write() {
    let mut driver = idle(9);
    driver.call(Call::Abort);
    for _ in 0..6 {
        driver.call(Call::Write(1));
    }
    assert_eq!(driver.seen, [Seen::LostSoon, Seen::Warn, Seen::Warn]);
}

#[test]
fn stale_events_are_ignored() {
    let mut driver = idle(0);
    driver.call(Call::Write(2));
    assert!(driver.stream.handle_writable());
    assert!(driver.stream.handle_readable());
    driver.call(Call::PauseReading);
    assert!(!driver.stream.handle_readable());
    driver.call(Call::Abort);
    assert!(!driver.stream.handle_writable());
    assert!(!driver.stream.handle_flush());
}

#[test]
fn emptied_is_told_once() {
    let mut stream: Stream<Vec<u8>> = Stream::default();
    let mut spent = Vec::new();
    stream.watch_empty(true);
    let mut step = stream
        .handle_unsent(b"ab".to_vec(), 1)
        .expect("a byte is left");
    assert_eq!(stream.poll_action(&mut step), Some(Action::Interest));
    assert_eq!(stream.poll_action(&mut step), None);
    let mut step = stream.handle_sent(1, &mut spent);
    assert_eq!(stream.poll_action(&mut step), Some(Action::Interest));
    assert_eq!(stream.poll_action(&mut step), Some(Action::Emptied));
    assert_eq!(stream.poll_action(&mut step), None);
}

fn pipe(rules: Rules, free: usize) -> Driver {
    let mut driver = Driver {
        rules,
        stream: Stream::new(rules),
        ..idle(free)
    };
    let step = driver.stream.handle_start();
    driver.run(step);
    driver
}

#[test]
fn closing_write_pipe_refuses_writes_and_still_watches_its_reader() {
    let mut driver = pipe(Rules::WritePipe, 1);
    driver.call(Call::Write(2));
    driver.call(Call::WriteEof);
    driver.call(Call::Write(5));
    assert_eq!(driver.interest, (true, true));
    assert_eq!(driver.stream.conn_lost(), 1);
    driver.apply(&Op::EndTurn {
        freed: 9,
        broken: false,
        busy: false,
    });
    assert_eq!(driver.kernel.out.len(), 2);
    assert_eq!(driver.seen, [Seen::LostNow]);
    assert_eq!(driver.interest, (false, false));
}

#[test]
fn pipes_warn_from_the_sixth_write_after_close() {
    let mut driver = pipe(Rules::WritePipe, 99);
    driver.call(Call::Close);
    for _ in 0..6 {
        driver.call(Call::Write(1));
    }
    assert_eq!(driver.seen, [Seen::LostSoon, Seen::Warn]);
}

#[test]
fn read_pipe_reads_no_more_once_closing() {
    let mut driver = pipe(Rules::ReadPipe, 0);
    assert!(driver.stream.handle_readable());
    driver.call(Call::Close);
    assert_eq!(driver.seen, [Seen::LostSoon]);
    assert!(!driver.stream.handle_readable());
    let step = driver.stream.handle_start();
    driver.run(step);
    assert_eq!(driver.interest, (false, false));
}

#[test]
fn a_file_waits_for_room_until_it_is_sent_or_the_stream_lost() {
    let mut stream: Stream<Vec<u8>> = Stream::default();
    let mut step = stream.handle_file(true);
    assert_eq!(stream.poll_action(&mut step), Some(Action::Interest));
    assert!(stream.wants_write() && stream.handle_writable_for_file());
    assert!(!stream.handle_writable(), "nothing is queued");
    let mut step = stream.handle_file(true);
    assert_eq!(stream.poll_action(&mut step), None);
    let mut step = stream.handle_file(false);
    assert_eq!(stream.poll_action(&mut step), Some(Action::Interest));
    assert!(!stream.wants_write() && !stream.handle_writable_for_file());
    let mut step = stream.handle_file(true);
    assert_eq!(stream.poll_action(&mut step), Some(Action::Interest));
    let mut step = stream.handle_close();
    assert_eq!(stream.poll_action(&mut step), Some(Action::Interest));
    assert_eq!(stream.poll_action(&mut step), Some(Action::ScheduleLost));
    assert!(!stream.wants_write() && !stream.handle_writable_for_file());
    let mut step = stream.handle_file(true);
    assert_eq!(stream.poll_action(&mut step), None);
    assert!(!stream.wants_write(), "lost for good");
}
