//! The extension module `aioxide._aioxide`: an export list.
//!
//! Rooms: `ffi` (all unsafe Python calls), `state` (what is looked up once), `handle`, `future`,
//! `task` (the hot types), `sync` (primitives), `event_loop` (the loop), `transport` (streams and
//! servers). The crate knows Python; what it decides with, `aioxide-core`, does not.

mod event_loop;
mod ffi;
mod future;
mod future_iter;
mod handle;
mod module;
mod state;
mod sync;
mod task;
mod transport;
