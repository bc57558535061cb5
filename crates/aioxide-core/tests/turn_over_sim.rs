//! Property tests of whole loops over the simulated kernel: random programs, seeded faults.
//!
//! `program` says what must hold. May touch: nothing but memory; proptest's report has the seed.

use aioxide_core::backend::sim::Faults;
use program::{Choose, Program};
use proptest::prelude::*;

mod program;

/// Xorshift: independent of the simulated kernel's numbers.
fn choices(seed: u64) -> Choose {
    let mut state = seed | 1;
    Box::new(move |limit| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_calm_kernel(seed in any::<u64>(), budget in 0..3000_u32) {
        Program::new(seed, Faults::default(), budget, choices(seed)).run_to_the_end();
    }

    #[test]
    fn a_malicious_kernel(seed in any::<u64>(), budget in 0..3000_u32) {
        Program::new(seed, Faults::FREQUENT, budget, choices(seed)).run_to_the_end();
    }
}
