//! Tests of the slab, by example and against a map.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Op, agree};
use super::*;

#[test]
fn a_token_survives_being_a_number() {
    let token = Token {
        index: 7,
        generation: 0xdead_beef,
    };
    assert_eq!(Token::from_u64(token.to_u64()), token);
    assert_eq!(Token::RESERVED.to_u64(), u64::MAX);
}

#[test]
fn a_reused_slot_refuses_the_old_token() {
    let mut slab = Slab::new();
    let old = slab.insert("old");
    assert_eq!(slab.remove(old), Some("old"));
    let new = slab.insert("new");
    assert_eq!(new.index, old.index, "the free slot is used first");
    assert_eq!(slab.get(old), None);
    assert_eq!(slab.remove(old), None);
    assert_eq!(slab.get(new), Some(&"new"));
    assert_eq!(slab.len(), 1);
}

#[test]
fn a_slot_with_no_generation_left_is_retired() {
    let mut slab = Slab::new();
    let first = slab.insert(1);
    slab.slots[0].generation = GENERATION_LAST - 1;
    let last = Token {
        generation: GENERATION_LAST - 1,
        ..first
    };
    assert_eq!(slab.remove(last), Some(1));
    let next = slab.insert(2);
    assert_ne!(next.index, first.index);
    assert_eq!(slab.drain(), [2]);
    assert_eq!(slab.insert(3).index, next.index);
    assert!(slab.get(last).is_none());
}

#[test]
fn no_number_of_the_kernels_panics() {
    let mut slab = Slab::new();
    slab.insert(());
    for number in [0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32] {
        let token = Token::from_u64(number);
        assert_eq!(slab.get(token).is_some(), slab.get_mut(token).is_some());
    }
    assert_eq!(slab.remove(Token::RESERVED), None);
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => any::<u16>().prop_map(Op::Insert),
        8 => any::<usize>().prop_map(Op::Remove),
        4 => (any::<usize>(), any::<u16>()).prop_map(|(which, value)| Op::Change(which, value)),
        1 => any::<u64>().prop_map(Op::Look),
        1 => Just(Op::Drain),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_map_whose_keys_are_never_reused(ops in vec(op(), 0..200)) {
        agree(&ops);
    }
}
