//! The extension module `aioxide._aioxide`: an export list.
//!
//! Rooms: `ffi` (all unsafe Python calls), `state` (what is looked up once), `handle`, `future`,
//! `task` (the hot types), `sync` (primitives), `streams` (readers and writers), `event_loop` (the
//! loop), `transport` (connections and servers). The crate knows Python; what it decides with,
//! `aioxide-core`, does not.

mod event_loop;
mod ffi;
mod future;
mod future_iter;
mod handle;
mod module;
mod state;
mod streams;
mod sync;
mod task;
mod transport;
