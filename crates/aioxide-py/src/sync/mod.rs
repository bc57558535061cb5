//! asyncio's primitives, without a Python frame: what its `async def` functions return is a native
//! coroutine here.
//!
//! Rooms: `coroutine` (the object and how it is driven), `function` (callables that return one),
//! then one file for each primitive.

pub mod coroutine;
pub mod function;
mod sleep;

use crate::ffi::{Obj, R};

/// Adds to the module what it exports of this room.
pub fn export(module: Obj<'_>) -> R<()> {
    function::export(module, &[&sleep::SLEEP])
}
