//! Who waited longest is told first: the order in which the events of one wait are handed on.
//!
//! Level-triggered epoll keeps what it has just reported at the head of its list, and looks there
//! first. So what becomes ready a moment after a wait stands behind everything that the wait had
//! reported, though all of that becomes ready again only later. With fifty busy connections the one
//! that is answered last in each turn misses the next wait by microseconds, is last once more in
//! the one after that, and pays two turns for each answer, for good: its latency is the p99.
//!
//! Duty: put what the last wait did not report first, in the kernel's order, which is the order of
//! arrival; the others in the order in which they were told then, which is that of their waiting.
//! Touches nothing but its own fields. Invariant: no event is lost or added.
//!
//! *Source*: `ep_send_events` in Linux's `fs/eventpoll.c`.
#![forbid(unsafe_code)]

use super::Event;

/// What the last wait told, and when.
#[derive(Debug, Default)]
pub(super) struct Fair {
    /// The number of the event that a slot of the registrations was told last, by slot.
    told: Vec<u32>,
    /// The number of the event that was told last; wraps around.
    last: u32,
    /// How many events the last wait told.
    count: u32,
    /// Place in the last wait and in this one, of each event; kept to save the allocation.
    places: Vec<(u32, u32)>,
    /// The events as the kernel gave them; kept for the same reason.
    given: Vec<Event>,
}

impl Fair {
    /// Orders the events of one wait, and remembers them for the next.
    pub(super) fn arrange(&mut self, events: &mut [Event]) {
        if self.count != 0 {
            self.sort(events);
        }
        let before = self.last;
        for event in events.iter() {
            let slot = event.token.slot();
            if self.told.len() <= slot {
                // Those between have not been told in this wait.
                self.told.resize(slot + 1, before);
            }
            self.last = self.last.wrapping_add(1);
            self.told[slot] = self.last;
        }
        self.count = events.len() as u32;
    }

    /// The place of an event in the last wait, from 1; 0 if that did not report it.
    fn place(&self, event: &Event) -> u32 {
        let told = self.told.get(event.token.slot()).copied();
        let age = told.map_or(self.count, |told| self.last.wrapping_sub(told));
        self.count.saturating_sub(age)
    }

    fn sort(&mut self, events: &mut [Event]) {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        let asked = events.iter().zip(0..);
        places.extend(asked.map(|(event, at)| (self.place(event), at)));
        if !places.is_sorted() {
            places.sort_unstable();
            self.given.clear();
            self.given.extend_from_slice(events);
            for (event, &(_, at)) in events.iter_mut().zip(&places) {
                *event = self.given[at as usize];
            }
        }
        self.places = places;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Readiness;
    use crate::slab::Token;

    fn arranged(fair: &mut Fair, slots: &[u64]) -> Vec<u64> {
        let event = |&slot: &u64| Event {
            token: Token::from_u64(slot),
            readiness: Readiness::READABLE,
        };
        let mut events: Vec<Event> = slots.iter().map(event).collect();
        fair.arrange(&mut events);
        events.iter().map(|event| event.token.to_u64()).collect()
    }

    #[test]
    fn who_was_not_told_comes_first_in_the_order_of_arrival() {
        let mut fair = Fair::default();
        assert_eq!(arranged(&mut fair, &[3, 1, 2]), [3, 1, 2]);
        assert_eq!(arranged(&mut fair, &[3, 1, 9, 4]), [9, 4, 3, 1]);
        // Now the kernel's list begins with what was told last, in its own order.
        assert_eq!(arranged(&mut fair, &[3, 1, 9, 4, 2]), [2, 9, 4, 3, 1]);
    }

    #[test]
    fn who_is_always_ready_takes_turns_with_itself_only() {
        let mut fair = Fair::default();
        for _ in 0..3 {
            assert_eq!(arranged(&mut fair, &[1, 2, 3]), [1, 2, 3]);
        }
        assert_eq!(arranged(&mut fair, &[]), []);
        // The kernel has looked at all of its list meanwhile: what it gives is as it came.
        assert_eq!(arranged(&mut fair, &[2, 5, 1]), [2, 5, 1]);
    }

    #[test]
    fn numbers_wrap_around() {
        let mut fair = Fair {
            last: u32::MAX - 1,
            ..Fair::default()
        };
        assert_eq!(arranged(&mut fair, &[7, 8, 9]), [7, 8, 9]);
        assert_eq!(arranged(&mut fair, &[8, 7, 1, 9]), [1, 7, 8, 9]);
        assert_eq!(arranged(&mut fair, &[9, 8]), [8, 9]);
    }

    #[test]
    fn who_was_never_told_comes_before_who_was() {
        let mut fair = Fair::default();
        assert_eq!(arranged(&mut fair, &[1, 2, 9]), [1, 2, 9]);
        // Seen for the first time, with a number between.
        assert_eq!(arranged(&mut fair, &[1, 5, 2]), [5, 1, 2]);
    }

    #[test]
    fn nothing_is_lost() {
        let mut fair = Fair::default();
        let mut seed = 7_u64;
        for _ in 0..200 {
            let mut slots: Vec<u64> = (0..40).collect();
            for at in (1..slots.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                slots.swap(at, (seed >> 33) as usize % (at + 1));
            }
            slots.truncate((seed >> 40) as usize % 41);
            let mut came = arranged(&mut fair, &slots);
            came.sort_unstable();
            slots.sort_unstable();
            assert_eq!(came, slots);
        }
    }
}
