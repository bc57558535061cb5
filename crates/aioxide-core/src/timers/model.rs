//! The naive model of the timers, which the property test and the fuzz target share.
//!
//! A vector in order of deadline, not-a-number last, equal ones by arrival; every answer is looked
//! for by reading it from the front. May touch: nothing but memory.

use super::Timers;

/// One call.
#[derive(Clone, Debug)]
pub enum Op {
    /// Adds a timer with this deadline.
    Insert(f64),
    /// Takes out everything that is due at this time.
    PopDue(f64),
    /// Cancels one of the timers.
    Cancel(usize),
    /// Settles the fresh ones.
    Settle,
    /// Takes cancelled timers from the head.
    Sweep,
    /// Takes all cancelled timers out.
    Compact,
    /// Takes everything out.
    Drain,
}

#[derive(Default)]
struct Model(Vec<Timer>);

struct Timer {
    deadline: f64,
    id: usize,
    is_cancelled: bool,
}

impl Model {
    fn insert(&mut self, deadline: f64, id: usize) {
        let is_later = |other: f64| other > deadline || other.is_nan() && !deadline.is_nan();
        let index = self.0.iter().position(|timer| is_later(timer.deadline));
        let timer = Timer {
            deadline,
            id,
            is_cancelled: false,
        };
        self.0.insert(index.unwrap_or(self.0.len()), timer);
    }

    fn pop_due(&mut self, now: f64) -> Option<usize> {
        let deadline = self.0.first()?.deadline;
        // asyncio's rule, to the letter: not-a-number is not at or after anything.
        let is_later = deadline >= now;
        (!is_later).then(|| self.0.remove(0).id)
    }

    fn is_cancelled(&self, id: usize) -> bool {
        self.0
            .iter()
            .any(|timer| timer.id == id && timer.is_cancelled)
    }
}

/// Carries out `ops` on timers and model; panics where they disagree.
pub fn agree(near_max: usize, ops: &[Op]) {
    let mut timers = Timers::with_near_max(near_max);
    let mut model = Model::default();
    for (id, op) in ops.iter().enumerate() {
        carry_out(&mut timers, &mut model, id, op);
        assert_eq!(timers.len(), model.0.len());
        assert_eq!(timers.is_empty(), model.0.is_empty());
        assert_eq!(timers.iter().count(), model.0.len());
        let cancelled = model.0.iter().filter(|timer| timer.is_cancelled).count();
        assert!((cancelled..=timers.len()).contains(&timers.cancelled()));
        let expected = model.0.first().map(|timer| timer.deadline);
        match (timers.next_deadline(), expected) {
            (Some(next), Some(expected)) if expected.is_nan() => assert!(next.is_nan()),
            (next, expected) => assert_eq!(next, expected),
        }
    }
    while let Some(id) = model.pop_due(f64::INFINITY) {
        assert_eq!(timers.pop_due(f64::INFINITY), Some(id));
    }
}

fn carry_out(timers: &mut Timers<usize>, model: &mut Model, id: usize, op: &Op) {
    match *op {
        Op::Insert(deadline) => {
            timers.insert(deadline, id);
            model.insert(deadline, id);
        }
        Op::PopDue(now) if now.is_nan() => {}
        Op::PopDue(now) => loop {
            let expected = model.pop_due(now);
            assert_eq!(timers.is_due(now), expected.is_some());
            assert_eq!(timers.pop_due(now), expected);
            if expected.is_none() {
                break;
            }
        },
        Op::Cancel(_) if model.0.is_empty() => {}
        Op::Cancel(which) => {
            let index = which % model.0.len();
            if !std::mem::replace(&mut model.0[index].is_cancelled, true) {
                timers.note_cancelled();
            }
        }
        Op::Settle => {
            let cancelled = timers.cancelled();
            let mut removed = Vec::new();
            timers.settle(|id| model.is_cancelled(*id), &mut removed);
            assert!(removed.iter().all(|id| model.is_cancelled(*id)));
            assert!(removed.len() <= cancelled);
            model.0.retain(|timer| !removed.contains(&timer.id));
        }
        Op::Sweep => {
            while let Some(id) = timers.pop_cancelled_head(|id| model.is_cancelled(*id)) {
                assert_eq!(model.0.remove(0).id, id);
            }
            assert!(model.0.first().is_none_or(|timer| !timer.is_cancelled));
        }
        Op::Compact => {
            let mut removed = timers.compact(|id| model.is_cancelled(*id));
            let (gone, kept) = std::mem::take(&mut model.0)
                .into_iter()
                .partition(|timer: &Timer| timer.is_cancelled);
            model.0 = kept;
            let mut expected: Vec<usize> = gone.iter().map(|timer| timer.id).collect();
            removed.sort_unstable();
            expected.sort_unstable();
            assert_eq!(removed, expected);
        }
        Op::Drain => assert_eq!(timers.drain().len(), std::mem::take(&mut model.0).len()),
    }
}
