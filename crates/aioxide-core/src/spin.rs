//! Whether to wait for another thread awake, for a moment, before going to sleep.
//!
//! To wake a thread that sleeps costs the waker a system call and the sleeper tens of microseconds;
//! a short job in another thread is done long before. So whoever expects an answer soon looks for
//! it for [`SPIN_NS_MAX`] first, as long as that is worth it: each time in vain doubles the number
//! of sleeps that go by without, each success halves it. What came only because somebody took the
//! processor away for a while is no success. May touch: nothing but its own counters.
//!
//! *Source*: the spinning threads of Go's scheduler; adaptive mutexes.

#![forbid(unsafe_code)]

use crate::clock::Clock;

/// The longest wait awake, in nanoseconds: about what waking a sleeping thread costs twice, there
/// and back.
pub const SPIN_NS_MAX: u64 = 50_000;

/// Most sleeps in a row that go by without a wait awake.
const SKIPPED_MAX: u32 = 64;

/// The same of waits for the kernel's events. If those who send need this very processor, each wait
/// awake delays them: of fewer than one in a hundred messages, so that not even the p99 shows it.
const IO_SKIPPED_MAX: u32 = 256;

/// What such turns of others on the processor may cost a sleep on average, in nanoseconds: so many
/// sleeps go by without after one. A fraction of what a sleep costs anyway.
const LATE_NS_PER_SLEEP: u64 = 2_500;

/// The longest wait awake for the kernel's events, in nanoseconds: what it costs both sides to send
/// a thread to sleep and to wake it, where processors are virtual.
pub const IO_SPIN_NS_MAX: u64 = 20_000;

/// Looks between two looks at the clock: both are cheap, the clock less so.
const LOOKS: u32 = 16;

/// Remembers how worthwhile waiting awake was; one owner.
#[derive(Debug)]
pub struct Spin {
    /// Whether there is a second processor for the other thread to run on; `None` until needed,
    /// because the answer takes reading files.
    allowed: Option<bool>,
    /// Sleeps that still go by without.
    skip: u32,
    /// Sleeps that went by without after the last time in vain; doubled by the next.
    penalty: u32,
    /// Most of them.
    penalty_max: u32,
}

impl Default for Spin {
    fn default() -> Self {
        Self {
            allowed: None,
            skip: 0,
            penalty: 0,
            penalty_max: SKIPPED_MAX,
        }
    }
}

impl Spin {
    /// Allowed where the process may use `processors`, two or more, at once. The default asks its
    /// affinity mask and control group at the first use.
    #[must_use]
    pub fn new(processors: usize) -> Self {
        Self {
            allowed: Some(is_worthwhile_with(processors)),
            ..Self::default()
        }
    }

    /// For the kernel's events: whatever this process may use, for who sends them may be anywhere.
    #[must_use]
    pub(crate) fn for_events() -> Self {
        Self {
            allowed: Some(true),
            penalty_max: IO_SKIPPED_MAX,
            ..Self::default()
        }
    }

    /// About to sleep: whether to wait awake first. If true, tell the outcome to [`Spin::learn`].
    #[must_use]
    pub fn should_spin(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        *self.allowed.get_or_insert_with(|| {
            std::thread::available_parallelism().is_ok_and(|count| is_worthwhile_with(count.get()))
        })
    }

    /// How a wait awake ended.
    pub fn learn(&mut self, outcome: Spun) {
        self.penalty = match outcome {
            Spun::Arrived => self.penalty / 2,
            Spun::Nothing { .. } => (self.penalty * 2).clamp(1, self.penalty_max),
            Spun::Late { .. } => self.penalty_max,
        };
        self.skip = match outcome {
            Spun::Late { spent_ns } => {
                let sleeps = u32::try_from(spent_ns / LATE_NS_PER_SLEEP).unwrap_or(u32::MAX);
                sleeps.max(self.penalty)
            }
            _ => self.penalty,
        };
    }
}

/// Whether another thread can run meanwhile.
fn is_worthwhile_with(processors: usize) -> bool {
    processors > 1
}

/// How a wait awake ended.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Spun {
    /// What was waited for came.
    Arrived,
    /// It came, but others had the processor for longer than a wait may last: a sleeper would have
    /// been preferred to them.
    Late {
        /// How long that took.
        spent_ns: u64,
    },
    /// It did not come.
    Nothing {
        /// How long that took.
        spent_ns: u64,
    },
}

/// Asks `arrived` again and again, for about [`SPIN_NS_MAX`].
pub fn spin_until(arrived: impl FnMut() -> bool) -> Spun {
    spin_for(SPIN_NS_MAX, LOOKS, arrived)
}

/// Asks `arrived` again and again, for about `limit_ns`, and the clock after so many `looks`.
pub(crate) fn spin_for(limit_ns: u64, looks: u32, mut arrived: impl FnMut() -> bool) -> Spun {
    let clock = Clock::monotonic();
    let begin_ns = clock.now_ns();
    let passed_ns = || clock.now_ns().saturating_sub(begin_ns);
    loop {
        for _ in 0..looks {
            if arrived() {
                let spent_ns = passed_ns();
                let is_late = spent_ns >= limit_ns;
                return if is_late {
                    Spun::Late { spent_ns }
                } else {
                    Spun::Arrived
                };
            }
            std::hint::spin_loop();
        }
        let spent_ns = passed_ns();
        if spent_ns >= limit_ns {
            return Spun::Nothing { spent_ns };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const NOTHING: Spun = Spun::Nothing { spent_ns: 1 };

    /// The sleeps, out of `count`, before which a spin in vain took place.
    fn in_vain(spin: &mut Spin, count: u32) -> Vec<u32> {
        (0..count)
            .filter(|_| {
                let spins = spin.should_spin();
                if spins {
                    spin.learn(NOTHING);
                }
                spins
            })
            .collect()
    }

    #[test]
    fn failures_make_it_rarer_and_success_forgives_them() {
        let mut spin = Spin::new(2);
        assert_eq!(in_vain(&mut spin, 40), [0, 2, 5, 10, 19, 36]);
        // Each success halves what the failures have built up.
        let gaps: Vec<u32> = (0..6)
            .map(|_| {
                let gap = (0..).find(|_| spin.should_spin());
                spin.learn(Spun::Arrived);
                gap.unwrap_or(u32::MAX)
            })
            .collect();
        assert_eq!(gaps, [29, 16, 8, 4, 2, 1]);
        assert!(spin.should_spin(), "all is forgiven");
    }

    #[test]
    fn rarer_has_an_end() {
        let mut spin = Spin::new(2);
        in_vain(&mut spin, 10_000);
        assert!((0..=SKIPPED_MAX).any(|_| spin.should_spin()));
    }

    #[test]
    fn for_events_it_becomes_rarer_than_one_in_a_hundred() {
        let mut spin = Spin::for_events();
        in_vain(&mut spin, 1_000);
        assert!(in_vain(&mut spin, 10_000).len() < 50);
        assert!((0..=IO_SKIPPED_MAX).any(|_| spin.should_spin()));
    }

    #[test]
    fn one_processor_never_spins() {
        let mut spin = Spin::new(1);
        assert!((0..100).all(|_| !spin.should_spin()));
    }

    #[test]
    fn spinning_ends_with_the_answer_or_with_the_time() {
        let mut looks = 0;
        let found = spin_until(|| {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
        assert_ne!(found, NOTHING);
        let Spun::Nothing { spent_ns } = spin_until(|| false) else {
            panic!("nothing came");
        };
        assert!(spent_ns >= SPIN_NS_MAX);
    }

    #[test]
    fn an_answer_after_the_time_is_late() {
        let begin = std::time::Instant::now();
        let mut looks = 0;
        let found = spin_until(|| {
            looks += 1;
            while begin.elapsed().as_nanos() < u128::from(2 * SPIN_NS_MAX) {
                std::hint::spin_loop();
            }
            looks == 2
        });
        assert!(matches!(found, Spun::Late { spent_ns } if spent_ns >= SPIN_NS_MAX));
        assert_eq!(looks, 2);
    }

    #[test]
    fn what_comes_late_counts_most() {
        let mut spin = Spin::new(2);
        assert!(spin.should_spin());
        let sleeps = 1000;
        spin.learn(Spun::Late {
            spent_ns: sleeps * LATE_NS_PER_SLEEP,
        });
        assert!((0..sleeps).all(|_| !spin.should_spin()));
        assert!(spin.should_spin());
        // However short it was, no failure costs more.
        spin.learn(Spun::Arrived);
        assert!((0..=SKIPPED_MAX).any(|_| spin.should_spin()));
        spin.learn(Spun::Late { spent_ns: 0 });
        assert!((0..SKIPPED_MAX).all(|_| !spin.should_spin()));
        assert!(spin.should_spin());
    }
}
