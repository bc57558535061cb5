//! Tests of the datagram transport: named rules, then every rule at once against a naive model.
#![forbid(unsafe_code)]

use super::driver::{Driver, agree};
use super::model::{BAD_LEN, Call, HEADER_BYTES, Kernel, Op, Seen};
use proptest::prelude::*;

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        10 => (0usize..40).prop_map(Call::Send),
        1 => Just(Call::Close),
        1 => Just(Call::Abort),
        1 => (-1i64..90, -1i64..60).prop_map(|(high, low)| Call::Limits(high, low)),
        1 => Just(Call::PauseReading),
        1 => Just(Call::ResumeReading),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => call().prop_map(Op::Call),
        4 => (0usize..120).prop_map(|freed| Op::Ready { freed }),
    ]
}

proptest! {
    #[test]
    fn datagrams_agree_with_the_model(
        ops in prop::collection::vec(op(), 0..60),
        reactions in prop::collection::vec(call(), 0..6),
        free in 0usize..150,
        has_remote in any::<bool>(),
    ) {
        agree(&ops, &reactions, free, has_remote);
    }
}

fn idle(free: usize, has_remote: bool) -> Driver {
    let kernel = Kernel {
        free,
        out: Vec::new(),
    };
    Driver::new(kernel, has_remote, Vec::new())
}

fn lens(driver: &Driver) -> Vec<usize> {
    driver.kernel.out.iter().map(Vec::len).collect()
}

#[test]
fn every_one_is_tried_at_once() {
    let mut driver = idle(1000, true);
    for len in [3, 0, BAD_LEN, 5, BAD_LEN] {
        driver.call(Call::Send(len));
    }
    assert_eq!(lens(&driver), [3, 0, 5]);
    assert_eq!(driver.seen, [Seen::Error, Seen::Error]);
    assert!(!driver.stream.wants_write() && !driver.stream.is_closing());
}

#[test]
fn a_failed_one_that_waited_leaves_the_rest_to_the_next_readiness() {
    let mut driver = idle(0, true);
    for len in [BAD_LEN - 1, BAD_LEN, 2] {
        driver.call(Call::Send(len));
    }
    driver.apply(&Op::Ready { freed: 100 });
    assert_eq!(lens(&driver), [BAD_LEN - 1]);
    assert!(driver.stream.wants_write());
    driver.apply(&Op::Ready { freed: 0 });
    assert_eq!(lens(&driver), [BAD_LEN - 1, 2]);
    assert!(!driver.stream.wants_write());
}

#[test]
fn nothing_waits_behind_a_failure_that_was_the_last() {
    let mut driver = idle(0, true);
    driver.call(Call::Send(BAD_LEN - 1));
    driver.call(Call::Send(BAD_LEN));
    driver.apply(&Op::Ready { freed: 100 });
    driver.call(Call::Send(1));
    driver.call(Call::Send(2));
    assert_eq!(lens(&driver), [BAD_LEN - 1, 1, 2]);
}

#[test]
fn closing_after_a_last_failure_still_ends() {
    let mut driver = idle(0, true);
    driver.call(Call::Send(BAD_LEN - 1));
    driver.call(Call::Send(BAD_LEN));
    driver.call(Call::Close);
    driver.apply(&Op::Ready { freed: 100 });
    assert_eq!(driver.seen, [Seen::Error]);
    driver.apply(&Op::Ready { freed: 0 });
    assert_eq!(driver.seen, [Seen::Error, Seen::LostNow]);
}

#[test]
fn headers_count() {
    let mut driver = idle(0, true);
    driver.call(Call::Send(0));
    driver.call(Call::Send(1));
    assert_eq!(driver.stream.queue().size_bytes(), 2 * HEADER_BYTES + 1);
}

#[test]
fn ignored_writes_count_only_with_a_remote_address() {
    let mut driver = idle(1000, true);
    driver.call(Call::Abort);
    for _ in 0..6 {
        driver.call(Call::Send(1));
    }
    assert_eq!(driver.seen, [Seen::LostSoon, Seen::Warn, Seen::Warn]);
    let mut driver = idle(12, false);
    driver.call(Call::Close);
    for _ in 0..6 {
        driver.call(Call::Send(1));
    }
    assert_eq!(driver.seen, [Seen::LostSoon]);
    // Sent while there was room; what would have blocked is not kept.
    assert_eq!(lens(&driver), [1; 6]);
    driver.call(Call::Send(1));
    assert!(driver.stream.queue().is_empty());
}
