//! What is to run, for those who look: `_ready`, `_scheduled`, `_watched`.
//!
//! asyncio keeps handles in two public-by-habit lists; monitoring code counts them and tests wait
//! until they are empty. Here they are copies, made when asked for. May touch: the queue and the
//! timers, to read. Invariant: nothing is borrowed while a handle is made. *Source*:
//! `BaseEventLoop._ready`, `BaseEventLoop._scheduled`.

#![forbid(unsafe_code)]

use super::watched::Watcher;
use super::{Entry, Registration, fields};
use crate::ffi::call::{int, list, tuple};
use crate::ffi::object::none;
use crate::ffi::{Obj, R, Ref};

/// `loop._ready`: the handles that are to run. A native entry has one made for it.
pub fn ready(event_loop: Obj<'_>) -> R<Ref> {
    let this = fields(event_loop);
    let entries: Vec<Entry> = {
        let turn = this.turn.borrow();
        turn.ready.iter().cloned().collect()
    };
    let mut handles = Vec::with_capacity(entries.len());
    for entry in &entries {
        handles.extend(this.handle_of(entry)?);
    }
    list(&handles)
}

/// `loop._scheduled`: the timer handles that wait, in no particular order, cancelled ones too.
pub fn scheduled(event_loop: Obj<'_>) -> R<Ref> {
    let handles: Vec<Ref> = {
        let turn = fields(event_loop).turn.borrow();
        let shown = |entry: &Entry| match entry {
            Entry::Call(handle) => Some(handle.clone()),
            Entry::Step(_)
            | Entry::Done(..)
            | Entry::Io(..)
            | Entry::Attempt(_)
            | Entry::Finished(_) => None,
        };
        turn.timers
            .iter()
            .filter_map(|(_, entry)| shown(entry))
            .collect()
    };
    list(&handles)
}

/// `loop._watched`: for each descriptor that is watched its number, what for (1: reading, 2:
/// writing, as in `selectors`), and its reader and writer: the handle, the future of an operation,
/// or None.
pub fn watched(event_loop: Obj<'_>) -> R<Ref> {
    let found: Vec<_> = {
        let turn = fields(event_loop).turn.borrow();
        let shown = |registration: &Registration| match registration {
            Registration::Watch(watch) => {
                let seen =
                    |place: &Option<Watcher>| place.as_ref().map(|found| found.object().to_ref());
                let watchers = [seen(&watch.reader), seen(&watch.writer)];
                (watch.fd, watch.wanted(), watchers)
            }
            Registration::Native { fd, interest, .. } => (*fd, *interest, [None, None]),
        };
        let registrations = turn.registrations.iter();
        registrations
            .map(|(_, registration)| shown(registration))
            .filter(|(_, interest, _)| !interest.is_none())
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
