//! Fuzz target: the TLS machine against asyncio's protocol told plainly.
//!
//! Input: one byte for the beginning, one for the number of reactions, then three bytes per
//! reaction and per operation. Panics where machine and model disagree.
#![no_main]

use aioxide_core::tls::{Action, App, State, Step, Tls, WritePlan};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/aioxide-core/src/tls/driver.rs"]
mod driver;
#[path = "../../crates/aioxide-core/src/tls/model.rs"]
mod model;
#[path = "../../crates/aioxide-core/src/tls/world.rs"]
mod world;

use driver::{Start, agree};
use model::{Call, Op};
use world::Record;

/// Operations in one run at most: longer ones only repeat what shorter ones show.
const OPS_MAX: usize = 256;

fn call([kind, first, second]: [u8; 3]) -> Call {
    match kind % 12 {
        0..=4 => Call::Write(usize::from(first % 80)),
        5 => Call::Close,
        6 => Call::Abort,
        7 | 8 if first % 2 == 0 => Call::PauseReading,
        7 | 8 => Call::ResumeReading,
        9 | 10 => Call::WriteLimits(i64::from(first % 80) - 1, i64::from(second % 80) - 1),
        _ => Call::ReadLimits(i64::from(first % 40) - 1, i64::from(second % 40) - 1),
    }
}

fn op(bytes: [u8; 3]) -> Op {
    let [kind, first, second] = bytes;
    match kind {
        0..=79 => Op::Call(call([first, second, kind])),
        80..=119 => Op::Receive(Record::Flight),
        120..=169 => Op::Receive(Record::Data(1 + usize::from(first % 16))),
        170..=174 => Op::Receive(Record::Bye),
        175..=177 => Op::Receive(Record::Garbage),
        178..=184 => Op::Eof,
        185..=219 => Op::Drain(usize::from(first)),
        220..=224 => Op::Block,
        225..=247 => Op::Turn,
        248..=250 => Op::HandshakeTimeout,
        251..=253 => Op::ShutdownTimeout,
        _ => Op::Lost,
    }
}

fuzz_target!(|data: &[u8]| {
    let &[begin, reactions, ref rest @ ..] = data else {
        return;
    };
    let start = Start {
        is_upgrade: begin & 1 != 0,
        was_paused: begin & 2 != 0,
        flights: usize::from(begin >> 2 & 3),
    };
    let (triples, _) = rest.as_chunks::<3>();
    let (reactions, ops) = triples.split_at((usize::from(reactions) % 8).min(triples.len()));
    let reactions: Vec<Call> = reactions.iter().copied().map(call).collect();
    let ops: Vec<Op> = ops.iter().take(OPS_MAX).copied().map(op).collect();
    agree(start, &ops, &reactions);
});
