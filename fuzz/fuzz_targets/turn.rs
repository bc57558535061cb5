//! Fuzz target: whole loops with inbox, timers and events over the simulated kernel.
//!
//! Input: nine bytes for the kernel's seed and faults, then one byte per choice that the program
//! makes; it ends when they do. Panics when a promise about order, timers, polling or loss is
//! broken.
#![no_main]

use aioxide_core::backend::sim::Faults;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/aioxide-core/tests/program/mod.rs"]
mod program;

use program::Program;

/// Choices in one run at most.
const CHOICES_MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((seed, [kind, choices @ ..])) = data.split_first_chunk::<8>() else {
        return;
    };
    let faults = if kind % 2 == 0 {
        Faults::default()
    } else {
        Faults::FREQUENT
    };
    let choices: Vec<u8> = choices.iter().copied().take(CHOICES_MAX).collect();
    let budget = choices.len() as u32;
    let mut choices = choices.into_iter();
    // Without a choice left it is zero, by which the program starts nothing more.
    let choose = move |limit| u64::from(choices.next().unwrap_or(0)) % limit;
    Program::new(u64::from_le_bytes(*seed), faults, budget, Box::new(choose)).run_to_the_end();
});
