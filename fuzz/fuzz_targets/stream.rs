//! Fuzz target: the byte stream against asyncio's transport told plainly.
//!
//! Input: two bytes for the kernel's room (the highest bit makes it a pipe), one for the number of
//! reactions, then three bytes per reaction and per operation. Panics where stream and model
//! disagree.
#![no_main]

use aioxide_core::stream::{Action, Moment, Rules, Step, Stream, WritePlan};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/aioxide-core/src/stream/driver.rs"]
mod driver;
#[path = "../../crates/aioxide-core/src/stream/model.rs"]
mod model;

use driver::agree;
use model::{Call, Op};

/// Operations in one run at most: longer ones only repeat what shorter ones show.
const OPS_MAX: usize = 256;

fn call([kind, first, second]: [u8; 3]) -> Call {
    let (small, other) = (usize::from(first), usize::from(second));
    match kind % 12 {
        0..=3 => Call::Write(small),
        4 | 5 => Call::Lines(small % 4, other % 64),
        6 => Call::WriteEof,
        7 => Call::Close,
        8 => Call::Abort,
        9 => Call::Limits(i64::from(first) - 1, i64::from(second) - 1),
        10 if first % 2 == 0 => Call::PauseReading,
        10 => Call::ResumeReading,
        _ => Call::Size,
    }
}

fn op(bytes: [u8; 3]) -> Op {
    let [kind, first, second] = bytes;
    match kind {
        224.. => Op::EndTurn {
            freed: usize::from(first),
            broken: second > 250,
            busy: second % 2 == 0,
        },
        216..=223 => Op::Eof(first % 2 == 0),
        _ => Op::Call(call(bytes)),
    }
}

fuzz_target!(|data: &[u8]| {
    let &[low, high, reactions, ref rest @ ..] = data else {
        return;
    };
    let free = usize::from(low) + usize::from(high % 4) * 256;
    let (triples, _) = rest.as_chunks::<3>();
    let (reactions, ops) = triples.split_at((usize::from(reactions) % 8).min(triples.len()));
    let reactions: Vec<Call> = reactions.iter().copied().map(call).collect();
    let ops: Vec<Op> = ops.iter().take(OPS_MAX).copied().map(op).collect();
    let rules = match high {
        128.. => Rules::WritePipe,
        _ => Rules::Socket,
    };
    agree(rules, &ops, &reactions, free);
});
