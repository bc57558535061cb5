//! Tests of the timers, by example and against a sorted vector.

use proptest::collection::vec;
use proptest::prelude::*;

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

#[derive(Clone, Debug)]
enum Step {
    Insert(f64),
    PopDue(f64),
    Cancel(prop::sample::Index),
    Sweep,
    Compact,
    Drain,
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => deadline().prop_map(Step::Insert),
        4 => deadline().prop_filter("a time", |now| !now.is_nan()).prop_map(Step::PopDue),
        6 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        2 => Just(Step::Sweep),
        1 => Just(Step::Compact),
        1 => Just(Step::Drain),
    ]
}

/// The naive model: a vector in order of deadline, not-a-number last, equal ones by arrival.
#[derive(Default)]
struct Model(Vec<(f64, u32, bool)>);

impl Model {
    fn insert(&mut self, deadline: f64, id: u32) {
        let is_later = |other: f64| other > deadline || other.is_nan() && !deadline.is_nan();
        let index = self
            .0
            .iter()
            .position(|(other, ..)| is_later(*other))
            .unwrap_or(self.0.len());
        self.0.insert(index, (deadline, id, false));
    }

    fn pop_due(&mut self, now: f64) -> Option<u32> {
        let (deadline, id, _) = *self.0.first()?;
        // asyncio's rule, to the letter: not-a-number is not at or after anything.
        let is_later = deadline >= now;
        if is_later {
            return None;
        }
        self.0.remove(0);
        Some(id)
    }

    fn is_cancelled(&self, id: u32) -> bool {
        self.0.iter().any(|(_, other, gone)| *other == id && *gone)
    }
}

proptest! {
    #[test]
    fn behaves_as_a_sorted_vector(steps in vec(step(), 0..400)) {
        let mut timers = Timers::new();
        let mut model = Model::default();
        for (step, id) in steps.into_iter().zip(0_u32..) {
            match step {
                Step::Insert(deadline) => {
                    timers.insert(deadline, id);
                    model.insert(deadline, id);
                }
                Step::PopDue(now) => loop {
                    let expected = model.pop_due(now);
                    prop_assert_eq!(timers.is_due(now), expected.is_some());
                    prop_assert_eq!(timers.pop_due(now), expected);
                    if expected.is_none() {
                        break;
                    }
                },
                Step::Cancel(which) if !model.0.is_empty() => {
                    let index = which.index(model.0.len());
                    if !std::mem::replace(&mut model.0[index].2, true) {
                        timers.note_cancelled();
                    }
                }
                Step::Sweep => {
                    while let Some(id) = timers.pop_cancelled_head(|id| model.is_cancelled(*id)) {
                        prop_assert_eq!(model.0.remove(0).1, id);
                    }
                    prop_assert!(model.0.first().is_none_or(|(.., gone)| !gone));
                }
                Step::Compact => {
                    let mut removed = timers.compact(|id| model.is_cancelled(*id));
                    let is_gone = |timer: &mut (f64, u32, bool)| timer.2;
                    let mut expected: Vec<u32> =
                        model.0.iter().filter(|timer| timer.2).map(|timer| timer.1).collect();
                    model.0.retain_mut(|timer| !is_gone(timer));
                    removed.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(removed, expected);
                }
                Step::Drain => prop_assert_eq!(timers.drain().len(), std::mem::take(&mut model.0).len()),
                Step::Cancel(_) => {}
            }
            prop_assert_eq!(timers.len(), model.0.len());
            let gone = model.0.iter().filter(|(.., gone)| *gone).count();
            prop_assert!(timers.cancelled() >= gone && timers.cancelled() <= timers.len());
            let next = timers.next_deadline().map(f64::to_bits);
            let expected = model.0.first().map(|(deadline, ..)| deadline + 0.0);
            prop_assert!(next == expected.map(f64::to_bits) || expected.is_some_and(f64::is_nan));
            prop_assert_eq!(timers.iter().count(), model.0.len());
        }
    }
}
