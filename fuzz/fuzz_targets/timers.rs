//! Fuzz target: the timers against a sorted vector.
//!
//! Input: one byte for the heap's size, then three bytes per operation. Panics where they disagree.
#![no_main]

use aioxide_core::timers::Timers;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/aioxide-core/src/timers/model.rs"]
mod model;

use model::{Op, agree};

/// Operations in one run at most: the model is slow, and longer runs show no more.
const OPS_MAX: usize = 300;

/// Few deadlines, so that many are equal, and the odd ones.
fn deadline(high: u8, low: u8) -> f64 {
    match high {
        250 => f64::NAN,
        251 => f64::INFINITY,
        252 => f64::NEG_INFINITY,
        253 => -0.0,
        254 => f64::from_bits(u64::from(low)),
        255 => -f64::from(low),
        _ => f64::from(high % 4) + f64::from(low) / 16.0,
    }
}

fn op([kind, high, low]: [u8; 3]) -> Op {
    match kind % 32 {
        0..=15 => Op::Insert(deadline(high, low)),
        16..=20 => Op::PopDue(deadline(high, low)),
        21..=27 => Op::Cancel(usize::from(high) << 8 | usize::from(low)),
        28 => Op::Settle,
        29 => Op::Sweep,
        30 => Op::Compact,
        _ => Op::Drain,
    }
}

fuzz_target!(|data: &[u8]| {
    let &[near_max, ref rest @ ..] = data else {
        return;
    };
    let (triples, _) = rest.as_chunks::<3>();
    let ops: Vec<Op> = triples.iter().take(OPS_MAX).copied().map(op).collect();
    agree(usize::from(near_max % 64), &ops);
});
