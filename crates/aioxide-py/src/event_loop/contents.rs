//! What a loop keeps alive: shown to the collector, and dropped when the loop is closed.
//!
//! May touch: everything of the loop that holds objects. Invariant: nothing is borrowed while
//! something is dropped.

#![forbid(unsafe_code)]

use super::{Entry, LoopFields, Registration};
use crate::ffi::class::Visitor;
use crate::{handle, task};

impl LoopFields {
    /// Shows the collector everything that the loop keeps alive.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.task_factory);
        visitor.slot(&self.current_handle);
        visitor.slot(self.asyncgens.set());
        if let Ok(turn) = self.turn.try_borrow() {
            turn.ready.iter().for_each(|entry| entry.visit(visitor));
            turn.timers
                .iter()
                .for_each(|(_, entry)| entry.visit(visitor));
            for (_, registration) in turn.registrations.iter() {
                match registration {
                    Registration::Native { object, .. } => visitor.visit(object.ptr()),
                    Registration::Watch(watch) => watch.visit(visitor),
                }
            }
        }
        if let Ok(held) = self.held.try_borrow() {
            held.iter().for_each(|task| visitor.visit(task.ptr()));
        }
        if let Ok(unflushed) = self.unflushed.try_borrow() {
            unflushed
                .iter()
                .for_each(|(transport, _)| visitor.visit(transport.ptr()));
        }
    }

    /// Drops entries that left the timers; nothing is borrowed meanwhile.
    pub fn discard(&self, entries: Vec<Entry>) {
        for entry in entries {
            if let Entry::Call(handle) = entry {
                handle::discard(handle, &self.handles);
            }
        }
    }

    /// Shows the collector the handles of the queue and the timers, as turns end.
    pub fn show_handles(&self) {
        let mut turn = self.turn.borrow_mut();
        turn.collect(&self.inbox);
        turn.ready
            .iter()
            .for_each(|entry| entry.show(&self.handles));
        // No more than have to be: there may be many from earlier runs.
        for (_, entry) in turn.timers.iter() {
            if !self.handles.has_hidden_timers() {
                break;
            }
            entry.show(&self.handles);
        }
    }

    /// Drops everything scheduled, registered and held, with nothing borrowed meanwhile.
    pub fn drop_contents(&self) {
        let (ready, timers, registrations) = {
            let mut turn = self.turn.borrow_mut();
            (
                turn.ready.drain(),
                turn.timers.drain(),
                turn.registrations.drain(),
            )
        };
        for entry in ready.iter().chain(&timers) {
            entry.show(&self.handles);
        }
        self.handles.clear();
        let by_fd = std::mem::take(&mut *self.by_fd.borrow_mut());
        let unflushed = std::mem::take(&mut *self.unflushed.borrow_mut());
        let held = self.held.borrow_mut().drain();
        for task in &held {
            task::fields(task.obj()).forget_hold();
        }
        drop((ready, timers, registrations, by_fd, unflushed));
        drop(held);
    }
}
