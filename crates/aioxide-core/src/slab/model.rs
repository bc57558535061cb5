//! The naive model of the slab, which the property test and the fuzz target share.
//!
//! A map whose keys are all tokens ever given out, none twice. May touch: nothing but memory.

use std::collections::HashMap;

use super::{Slab, Token};

/// One call; tokens are chosen among all ever given out, stale ones included.
#[derive(Clone, Debug)]
pub enum Op {
    /// Keeps a value.
    Insert(u16),
    /// Takes out the value of a token.
    Remove(usize),
    /// Changes the value of a token.
    Change(usize, u16),
    /// Looks up a token made of any number, as a confused kernel might report it.
    Look(u64),
    /// Takes everything out.
    Drain,
}

/// Carries out `ops` on slab and model; panics where they disagree.
pub fn agree(ops: &[Op]) {
    let mut slab = Slab::new();
    let mut model: HashMap<Token, u16> = HashMap::new();
    let mut given: Vec<Token> = Vec::new();
    for op in ops {
        match *op {
            Op::Insert(value) => {
                let token = slab.insert(value);
                assert!(!given.contains(&token), "{token:?} was given out twice");
                given.push(token);
                model.insert(token, value);
            }
            Op::Remove(which) if !given.is_empty() => {
                let token = given[which % given.len()];
                assert_eq!(slab.remove(token), model.remove(&token));
            }
            Op::Change(which, value) if !given.is_empty() => {
                let token = given[which % given.len()];
                let changed = slab
                    .get_mut(token)
                    .map(|place| std::mem::replace(place, value));
                assert_eq!(changed, model.get(&token).copied());
                model.entry(token).and_modify(|place| *place = value);
            }
            Op::Look(number) => {
                let token = Token::from_u64(number);
                assert_eq!(slab.get(token), model.get(&token));
            }
            Op::Drain => {
                let mut drained = slab.drain();
                let mut expected: Vec<u16> = model.drain().map(|(_, value)| value).collect();
                drained.sort_unstable();
                expected.sort_unstable();
                assert_eq!(drained, expected);
            }
            Op::Remove(_) | Op::Change(..) => {}
        }
        assert_eq!(
            (slab.len(), slab.is_empty()),
            (model.len(), model.is_empty())
        );
        for token in &given {
            assert_eq!(slab.get(*token), model.get(token));
        }
        let listed: HashMap<Token, u16> =
            slab.iter().map(|(token, value)| (token, *value)).collect();
        assert_eq!(listed, model);
    }
}
