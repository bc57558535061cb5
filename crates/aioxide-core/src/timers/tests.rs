//! Tests of the timers, by example and against a sorted vector.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Op, agree};
use super::*;

fn drain_in_order(timers: &mut Timers<u32>) -> Vec<u32> {
    std::iter::from_fn(|| timers.pop_due(f64::INFINITY)).collect()
}

#[test]
fn keys_keep_the_order_of_deadlines() {
    let sorted = [
        f64::NEG_INFINITY,
        f64::MIN,
        -1.5,
        -f64::MIN_POSITIVE,
        0.0,
        5e-324,
        f64::MIN_POSITIVE,
        1.0,
        1.0 + f64::EPSILON,
        f64::MAX,
        f64::INFINITY,
    ];
    for pair in sorted.windows(2) {
        assert!(key_of(pair[0]) < key_of(pair[1]), "{pair:?}");
    }
    for deadline in sorted {
        assert_eq!(deadline_of(key_of(deadline)), deadline);
    }
    assert_eq!(key_of(-0.0), key_of(0.0));
    assert!(key_of(f64::INFINITY) < key_of(f64::NAN));
    assert_eq!(key_of(f64::NAN), key_of(-f64::NAN));
    assert!(deadline_of(KEY_NAN).is_nan());
}

#[test]
fn equal_deadlines_leave_in_the_order_of_their_arrival() {
    let mut timers = Timers::new();
    for number in 0..100 {
        timers.insert(if number % 2 == 0 { 1.0 } else { 0.5 }, number);
    }
    let odd_then_even: Vec<u32> = (1..100).step_by(2).chain((0..100).step_by(2)).collect();
    assert_eq!(drain_in_order(&mut timers), odd_then_even);
}

#[test]
fn due_means_strictly_before() {
    let mut timers = Timers::new();
    timers.insert(2.0, 0);
    assert_eq!(timers.pop_due(2.0), None);
    assert_eq!(timers.next_deadline(), Some(2.0));
    assert_eq!(timers.pop_due(2.0 + 1e-9), Some(0));
    assert_eq!(timers.next_deadline(), None);
}

#[test]
fn a_deadline_that_is_no_number_stands_last_and_then_is_due() {
    let mut timers = Timers::new();
    timers.insert(f64::NAN, 9);
    timers.insert(1.0, 1);
    timers.insert(f64::NAN, 10);
    timers.insert(-1.0, 0);
    assert_eq!(timers.pop_due(0.0), Some(0));
    assert_eq!(timers.pop_due(0.0), None);
    assert_eq!(timers.pop_due(2.0), Some(1));
    assert!(timers.next_deadline().is_some_and(f64::is_nan));
    assert_eq!(timers.pop_due(0.0), Some(9));
    timers.note_cancelled();
    assert_eq!(timers.pop_cancelled_head(|_| true), Some(10));
    assert!(timers.is_empty());
}

#[test]
fn compacts_only_when_it_pays() {
    let mut timers = Timers::new();
    for number in 0..200 {
        timers.insert(f64::from(number), number);
    }
    for _ in 0..100 {
        timers.note_cancelled();
    }
    assert!(!timers.should_compact());
    timers.note_cancelled();
    assert!(timers.should_compact());
    let mut removed = timers.compact(|number| number % 2 == 0);
    removed.sort_unstable();
    assert!(removed.into_iter().eq((0..200).step_by(2)));
    assert_eq!((timers.cancelled(), timers.len()), (0, 100));
    assert!(
        drain_in_order(&mut timers)
            .into_iter()
            .eq((1..200).step_by(2))
    );
}

#[test]
fn the_count_of_cancelled_timers_never_exceeds_the_timers() {
    let mut timers = Timers::new();
    timers.note_cancelled();
    assert_eq!(timers.cancelled(), 0);
    timers.insert(0.0, 0);
    timers.note_cancelled();
    timers.note_cancelled();
    assert_eq!(timers.cancelled(), 1);
    assert_eq!(timers.pop_due(1.0), Some(0));
    assert_eq!(timers.cancelled(), 0);
}

fn deadline() -> impl Strategy<Value = f64> {
    // Few values, so that many are equal; the odd ones now and then.
    prop_oneof![
        16 => (0..20_i32).prop_map(f64::from),
        4 => -1e9..1e9,
        1 => prop::num::f64::ANY,
        1 => Just(f64::NAN),
        1 => Just(-0.0),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => deadline().prop_map(Op::Insert),
        4 => deadline().prop_map(Op::PopDue),
        6 => any::<usize>().prop_map(Op::Cancel),
        2 => Just(Op::Settle),
        2 => Just(Op::Sweep),
        1 => Just(Op::Compact),
        1 => Just(Op::Drain),
    ]
}

fn settled(timers: &mut Timers<u32>, is_cancelled: impl Fn(&u32) -> bool) -> Vec<u32> {
    let mut removed = Vec::new();
    timers.settle(is_cancelled, &mut removed);
    removed
}

#[test]
fn who_is_cancelled_while_fresh_leaves_however_many_others_there_are() {
    let mut timers = Timers::new();
    for number in 0..10_000 {
        timers.insert(f64::from(number), 0);
    }
    assert!(settled(&mut timers, |_| false).is_empty());
    let mut asked = 0;
    for number in 0..10_000_u32 {
        let is_time = timers.insert(1e6, 1);
        timers.note_cancelled();
        assert_eq!(is_time, (number + 1) as usize % FRESH_MAX == 0);
        if is_time {
            assert_eq!(settled(&mut timers, |value| *value == 1).len(), FRESH_MAX);
            asked += 1;
        }
    }
    assert_eq!(asked, 10_000 / FRESH_MAX);
    assert_eq!(
        settled(&mut timers, |value| *value == 1).len(),
        10_000 % FRESH_MAX
    );
    assert_eq!((timers.len(), timers.cancelled()), (10_000, 0));
}

#[test]
fn a_few_stay_fresh_so_that_they_can_leave_when_they_are_cancelled() {
    let mut timers = Timers::new();
    for number in 0..10_000 {
        timers.insert(f64::from(number), 0);
    }
    assert!(settled(&mut timers, |_| false).is_empty());
    // One after the other, each cancelled when the next is there: what a timeout() around an await
    // does, turn by turn.
    for number in 1..1000_u32 {
        timers.insert(1e6, number);
        let removed = settled(&mut timers, |other| *other != 0 && *other < number);
        assert_eq!(removed.len(), usize::from(number > 1));
        timers.note_cancelled();
    }
    assert_eq!((timers.len(), timers.cancelled()), (10_001, 1));
    let mut many = Timers::new();
    for number in 0..FRESH_KEPT_MAX as u32 {
        many.insert(f64::from(number), number);
    }
    assert!(settled(&mut many, |_| false).is_empty());
    assert!(many.heap.is_empty() && many.fresh.len() == FRESH_KEPT_MAX);
    many.insert(0.0, 7);
    assert!(settled(&mut many, |_| false).is_empty());
    assert!(many.fresh.is_empty(), "there are more than a few");
}

#[test]
fn a_fresh_timer_is_the_next_one_if_it_is_first() {
    let mut timers = Timers::new();
    timers.insert(2.0, 2);
    assert!(settled(&mut timers, |_| false).is_empty());
    timers.insert(1.0, 1);
    assert_eq!(timers.next_deadline(), Some(1.0));
    assert!(timers.is_due(1.5));
    timers.insert(2.0, 3);
    assert_eq!(timers.pop_due(1.5), Some(1));
    assert_eq!(timers.next_deadline(), Some(2.0));
    assert_eq!(drain_in_order(&mut timers), [2, 3]);
}

proptest! {
    #[test]
    fn behaves_as_a_sorted_vector(near_max in 0..40_usize, ops in vec(op(), 0..400)) {
        agree(near_max, &ops);
    }
}

#[test]
fn many_timers_leave_in_order_whatever_their_order_of_arrival() {
    const COUNT: u32 = 50_000;
    let orders: [fn(u32) -> u32; 4] = [
        |number| number,
        |number| COUNT - number,
        |number| number.wrapping_mul(2_654_435_761) % 10_007,
        |_| 7,
    ];
    for order in orders {
        let mut timers = Timers::new();
        let mut expected: Vec<u32> = (0..COUNT).collect();
        expected.sort_by_key(|number| order(*number));
        for number in 0..COUNT {
            timers.insert(f64::from(order(number)), number);
        }
        assert!(
            settled(&mut timers, |_| true).is_empty(),
            "none was cancelled"
        );
        assert!(!timers.batches.is_empty(), "some are far");
        assert_eq!(drain_in_order(&mut timers), expected);
    }
}
