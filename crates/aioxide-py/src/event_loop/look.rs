//! What is to run, for those who look: `_ready`, `_scheduled`, `_watched`.
//!
//! asyncio keeps handles in two public-by-habit lists; monitoring code counts them and tests wait
//! until they are empty. Here they are copies, made when asked for. May touch: the queue and the
//! timers, to read. Invariant: nothing is borrowed while a handle is made. *Source*:
//! `BaseEventLoop._ready`, `BaseEventLoop._scheduled`.

#![forbid(unsafe_code)]

use super::{Entry, Registration, fields};
use crate::ffi::call::{int, list, tuple};
use crate::ffi::object::none;
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

/// `loop._watched`: for each descriptor that is watched its number, what for (1: reading, 2:
/// writing, as in `selectors`), and the handles of its reader and writer, or None.
pub fn watched(event_loop: Obj<'_>) -> R<Ref> {
    let found: Vec<_> = {
        let turn = fields(event_loop).turn.borrow();
        let shown = |registration: &Registration| {
            let interest = registration.interest();
            let handles = match registration {
                Registration::Watch { reader, writer, .. } => [reader.clone(), writer.clone()],
                Registration::Native { .. } => [None, None],
            };
            (registration.fd(), interest, handles)
        };
        let registrations = turn.registrations.iter();
        registrations
            .map(|(_, registration)| shown(registration))
            .collect()
    };
    let mut rows = Vec::with_capacity(found.len());
    for (fd, interest, [reader, writer]) in found {
        let events = i64::from(interest.is_readable()) + 2 * i64::from(interest.is_writable());
        let (fd, events) = (int(fd.into())?, int(events)?);
        let [reader, writer] =
            [&reader, &writer].map(|handle| handle.as_ref().map_or_else(none, Ref::obj));
        rows.push(tuple(&[fd.obj(), events.obj(), reader, writer])?);
    }
    list(&rows)
}

/// `loop._native_transports`: the native transports with their descriptors, as a list of pairs.
pub fn transports(event_loop: Obj<'_>) -> R<Ref> {
    let mut rows = Vec::new();
    for (fd, transport) in fields(event_loop).transports().all() {
        rows.push(tuple(&[int(fd.into())?.obj(), transport.obj()])?);
    }
    list(&rows)
}
