//! asyncio's primitives, without a Python frame: what its `async def` functions return is a native
//! coroutine here.
//!
//! Rooms: `coroutine` (the object and how it is driven), `function` (callables that return one),
//! `listener` (native objects that are told when a future is done), `child` (futures and tasks of
//! any make), then one file for each primitive; `gathering` is the future that `gather` returns.
//! Invariant: whoever wakes somebody does so by an entry of the ready queue where asyncio has one,
//! so the order of wake-ups is asyncio's.

pub mod child;
pub mod coroutine;
pub mod function;
pub mod gather;
pub mod gathering;
mod listener;
mod sleep;

pub use listener::Listener;

use crate::ffi::{Obj, R};

/// Adds to the module what it exports of this room.
pub fn export(module: Obj<'_>) -> R<()> {
    function::export(module, &[&sleep::SLEEP])
}
