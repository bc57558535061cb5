//! Fuzz target: the slab against a map whose keys are never given out twice.
//!
//! Input: three bytes per operation. Panics where slab and map disagree.
#![no_main]

use aioxide_core::slab::{Slab, Token};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/aioxide-core/src/slab/model.rs"]
mod model;

use model::{Op, agree};

/// Operations in one run at most: the model looks at every token ever given after each of them.
const OPS_MAX: usize = 200;

fn op([kind, first, second]: [u8; 3]) -> Op {
    let (which, value) = (usize::from(first), u16::from(second));
    match kind % 32 {
        0..=12 => Op::Insert(value),
        13..=24 => Op::Remove(which),
        25..=28 => Op::Change(which, value),
        29 | 30 => Op::Look(u64::from(first % 8) << 32 | u64::from(second % 8)),
        _ => Op::Drain,
    }
}

fuzz_target!(|data: &[u8]| {
    let (triples, _) = data.as_chunks::<3>();
    let ops: Vec<Op> = triples.iter().take(OPS_MAX).copied().map(op).collect();
    agree(&ops);
});
