//! The table of tasks that a loop keeps alive.
//!
//! May touch: nothing but the table. Dropping what `remove` and `drain` return is the caller's: it
//! may run Python code, and the table is borrowed while its methods run.

#![forbid(unsafe_code)]

use crate::ffi::Ref;

/// Places that hold a task, and a list of the free ones.
#[derive(Default)]
pub struct Held {
    places: Vec<Option<Ref>>,
    free: Vec<u32>,
}

impl Held {
    /// Keeps `task` and returns its place.
    pub fn insert(&mut self, task: Ref) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(task);
            return place;
        }
        self.places.push(Some(task));
        (self.places.len() - 1) as u32
    }

    /// Gives the task at `place` back, if it is still there.
    pub fn remove(&mut self, place: u32) -> Option<Ref> {
        let task = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(task)
    }

    /// All tasks, for the collector.
    pub fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.places.iter().flatten()
    }

    /// Empties the table.
    pub fn drain(&mut self) -> Vec<Ref> {
        self.free.clear();
        std::mem::take(&mut self.places)
            .into_iter()
            .flatten()
            .collect()
    }
}
