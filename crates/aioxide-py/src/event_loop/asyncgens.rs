//! The async generators that were begun on a loop: remembered weakly, for `shutdown_asyncgens`.
//!
//! asyncio has a `WeakSet`, whose `add` and whose callback for each that ends are Python code. Here
//! they are weak references without callbacks, by the address of what they refer to. A reference
//! whose generator has ended is used for the next generator in the same place, as a rule its
//! successor in a loop, or dropped when as many generators have been remembered as there are
//! references. Who looks at `_asyncgens` gets the set, which from then on is the loop's own.
//!
//! May touch: these. Invariant: nothing is borrowed while a reference is made or dropped.
//! *Source*: `BaseEventLoop._asyncgens`, `BaseEventLoop._asyncgen_firstiter_hook`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pyo3_ffi as c;

use super::fields;
use crate::ffi::call::{import, list_of};
use crate::ffi::class::{attribute, noargs, onearg};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::weak::{dereference, is_dead, revive, weak_reference};
use crate::ffi::{Obj, R, Ref, Slot};
use crate::future;

/// So few references are not worth looking for dead ones.
const FEW: usize = 64;

/// Where an object is, as its own hash: the product spreads the address over all bits.
#[derive(Default)]
pub struct Address(u64);

impl Hasher for Address {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, address: usize) {
        // 2^64 over the golden ratio, made odd: the usual multiplier.
        let spread = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// The generators of a loop.
#[derive(Default)]
pub struct AsyncGens {
    known: RefCell<HashMap<usize, Ref, BuildHasherDefault<Address>>>,
    /// How many are to be remembered before dead references are looked for.
    room: Cell<usize>,
    /// The set, once somebody has looked at it: then nothing is in `known`.
    set: Slot,
    /// Whether `shutdown_asyncgens` was called.
    is_shut_down: Cell<bool>,
}

impl AsyncGens {
    /// The set, for the collector.
    pub fn set(&self) -> &Slot {
        &self.set
    }

    fn remember(&self, generator: Obj<'_>) -> R<()> {
        let place = generator.ptr() as usize;
        let revived = |reference: &Ref| revive(reference, generator);
        if self.known.borrow().get(&place).is_some_and(revived) {
            return Ok(());
        }
        let reference = weak_reference(generator)?;
        let before = self.known.borrow_mut().insert(place, reference);
        drop(before);
        match self.room.get().checked_sub(1) {
            Some(left) => self.room.set(left),
            None => self.drop_dead(),
        }
        Ok(())
    }

    #[cold]
    fn drop_dead(&self) {
        let mut dead = Vec::new();
        {
            let mut known = self.known.borrow_mut();
            let places: Vec<usize> = known
                .iter()
                .filter(|(_, reference)| is_dead(reference))
                .map(|(place, _)| *place)
                .collect();
            dead.extend(places.iter().filter_map(|place| known.remove(place)));
            let few = known.len().max(FEW);
            known.shrink_to(2 * few);
            self.room.set(few);
        }
        drop(dead);
    }

    /// Hands over those that are alive, and forgets them.
    fn take(&self) -> Vec<Ref> {
        let references = std::mem::take(&mut *self.known.borrow_mut());
        let alive = references.values();
        alive
            .filter_map(|reference| dereference(reference.obj()))
            .collect()
    }
}

/// `loop._asyncgen_firstiter_hook(agen)`: remembers it for `shutdown_asyncgens`.
fn first_iterated(event_loop: Obj<'_>, generator: Obj<'_>) -> R<Ref> {
    let this = &fields(event_loop).asyncgens;
    if this.is_shut_down.get() {
        let warn = event_loop.getattr_str(c"_warn_of_late_asyncgen")?;
        warn.obj().call1(generator)?;
    }
    match this.set.get() {
        None => this.remember(generator)?,
        Some(set) => drop(set.obj().getattr_str(c"add")?.obj().call1(generator)?),
    }
    Ok(none_ref())
}

/// `loop._asyncgens.discard(agen)`.
fn forget(event_loop: Obj<'_>, generator: Obj<'_>) -> R<Ref> {
    let this = &fields(event_loop).asyncgens;
    if let Some(set) = this.set.get() {
        return set.obj().getattr_str(c"discard")?.obj().call1(generator);
    }
    let place = generator.ptr() as usize;
    let reference = this.known.borrow_mut().remove(&place);
    drop(reference);
    Ok(none_ref())
}

/// `list(loop._asyncgens)`, and then `clear()`.
fn take(event_loop: Obj<'_>) -> R<Ref> {
    let this = &fields(event_loop).asyncgens;
    let Some(set) = this.set.get() else {
        return list_of(this.take());
    };
    // SAFETY: a static type.
    let list = unsafe { Obj::from_ptr((&raw mut c::PyList_Type).cast()) };
    let taken = list.call1(set.obj())?;
    set.obj().getattr_str(c"clear")?.obj().call0()?;
    Ok(taken)
}

fn get_set(event_loop: Obj<'_>) -> R<Ref> {
    let this = &fields(event_loop).asyncgens;
    if let Some(set) = this.set.get() {
        return Ok(set);
    }
    let set = import(c"weakref")?
        .obj()
        .getattr_str(c"WeakSet")?
        .obj()
        .call0()?;
    let add = set.obj().getattr_str(c"add")?;
    for generator in this.take() {
        add.obj().call1(generator.obj())?;
    }
    this.set.set(Some(set.clone()));
    Ok(set)
}

fn set_set(event_loop: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?;
    let this = &fields(event_loop).asyncgens;
    this.set.set(Some(value.to_ref()));
    drop(this.take());
    Ok(())
}

fn get_is_shut_down(event_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(event_loop).asyncgens.is_shut_down.get()))
}

fn set_is_shut_down(event_loop: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = future::required(value)?.is_true()?;
    fields(event_loop).asyncgens.is_shut_down.set(value);
    Ok(())
}

/// Methods of the loop.
pub fn methods() -> Vec<c::PyMethodDef> {
    vec![
        onearg!(
            c"_asyncgen_firstiter_hook",
            first_iterated,
            c"Remembers an async generator that is iterated for the first time."
        ),
        onearg!(
            c"_forget_asyncgen",
            forget,
            c"Takes an async generator out of those that shutdown_asyncgens closes."
        ),
        noargs!(
            c"_take_asyncgens",
            take,
            c"Takes all out that were begun and live, as a list."
        ),
    ]
}

/// Attributes of the loop.
pub fn attributes() -> Vec<c::PyGetSetDef> {
    vec![
        attribute!(
            c"_asyncgens",
            get_set,
            set_set,
            c"The async generators that were begun and live, as a WeakSet."
        ),
        attribute!(
            c"_asyncgens_shutdown_called",
            get_is_shut_down,
            set_is_shut_down,
            c"Whether shutdown_asyncgens() was called."
        ),
    ]
}
