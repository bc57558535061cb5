//! Fuzz target: the datagram transport against asyncio's told plainly.
//!
//! Input: one byte for the kernel's room, one for flags and the number of reactions, then three
//! bytes per reaction and per operation. Panics where transport and model disagree.
#![no_main]

use aioxide_core::stream::{Action, Step, Stream, WritePlan};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/aioxide-core/src/datagram/driver.rs"]
mod driver;
#[path = "../../crates/aioxide-core/src/datagram/model.rs"]
mod model;

use driver::agree;
use model::{Call, Op};

/// Operations in one run at most: longer ones only repeat what shorter ones show.
const OPS_MAX: usize = 256;

fn call([kind, first, second]: [u8; 3]) -> Call {
    match kind % 11 {
        0..=5 => Call::Send(usize::from(first) % 48),
        6 => Call::Close,
        7 => Call::Abort,
        8 | 9 => Call::Limits(i64::from(first) - 1, i64::from(second) - 1),
        10 if first % 2 == 0 => Call::PauseReading,
        _ => Call::ResumeReading,
    }
}

fn op(bytes: [u8; 3]) -> Op {
    let [kind, first, _] = bytes;
    if kind >= 200 {
        Op::Ready {
            freed: usize::from(first),
        }
    } else {
        Op::Call(call(bytes))
    }
}

fuzz_target!(|data: &[u8]| {
    let &[free, flags, ref rest @ ..] = data else {
        return;
    };
    let (triples, _) = rest.as_chunks::<3>();
    let (reactions, ops) = triples.split_at((usize::from(flags) % 8).min(triples.len()));
    let reactions: Vec<Call> = reactions.iter().copied().map(call).collect();
    let ops: Vec<Op> = ops.iter().take(OPS_MAX).copied().map(op).collect();
    agree(&ops, &reactions, usize::from(free), flags >= 128);
});
