//! What is to run, for those who look: `_ready` and `_scheduled`.
//!
//! asyncio keeps handles in two public-by-habit lists; monitoring code counts them and tests wait
//! until they are empty. Here they are copies, made when asked for. May touch: the queue and the
//! timers, to read. Invariant: nothing is borrowed while a handle is made. *Source*:
//! `BaseEventLoop._ready`, `BaseEventLoop._scheduled`.

#![forbid(unsafe_code)]

use super::{Entry, fields};
use crate::ffi::call::list;
use crate::ffi::{Obj, R, Ref};
use crate::handle::Callback;
use crate::task;

/// `loop._ready`: the handles that are to run. A task's next step has one made for it.
pub fn ready(event_loop: Obj<'_>) -> R<Ref> {
    let this = fields(event_loop);
    let entries: Vec<(Ref, bool)> = {
        let turn = this.turn.borrow();
        let shown = |entry: &Entry| match entry {
            Entry::Call(handle) => Some((handle.clone(), false)),
            Entry::Step(task) => Some((task.clone(), true)),
            Entry::Io(..) => None,
        };
        turn.ready.iter().filter_map(shown).collect()
    };
    let mut handles = Vec::with_capacity(entries.len());
    for (object, is_task) in entries {
        if !is_task {
            handles.push(object);
            continue;
        }
        let step = task::step_callback(object.obj())?;
        let context = task::fields(object.obj()).context.get();
        let callback = Callback {
            function: step.obj(),
            args: &[],
            context: context.as_ref().map(Ref::obj),
        };
        handles.push(this.new_handle(&callback, None)?);
    }
    list(&handles)
}

/// `loop._scheduled`: the timer handles that wait, in no particular order, cancelled ones too.
pub fn scheduled(event_loop: Obj<'_>) -> R<Ref> {
    let handles: Vec<Ref> = {
        let turn = fields(event_loop).turn.borrow();
        let shown = |entry: &Entry| match entry {
            Entry::Call(handle) => Some(handle.clone()),
            Entry::Step(_) | Entry::Io(..) => None,
        };
        turn.timers
            .iter()
            .filter_map(|(_, entry)| shown(entry))
            .collect()
    };
    list(&handles)
}
