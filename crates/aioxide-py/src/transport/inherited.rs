//! A method that asyncio's transports inherit and ours have themselves: who replaces the inherited
//! one, as tests do, is asked.
//!
//! May touch: the versions of types. Invariant: what costs a look through the bases is done once
//! for each type and each change of it or of a base.
#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::ffi::class::type_version;
use crate::ffi::{Obj, R, Ref, builtin};

/// The types of transports: of streams, datagrams, and both ends of pipes.
const TYPES: usize = 4;

/// The inherited method, as asyncio has it.
pub struct Inherited {
    name: Ref,
    stock: Ref,
    /// Versions of types that inherit just that.
    seen: [Cell<u32>; TYPES],
    /// Which of them is overwritten next.
    next: Cell<usize>,
}

impl Inherited {
    /// The method `name` of asyncio's class `base`.
    pub fn of(base: Obj<'_>, name: Ref) -> R<Inherited> {
        Ok(Inherited {
            stock: base.getattr(name.obj())?,
            name,
            seen: Default::default(),
            next: Cell::new(0),
        })
    }

    /// What a program put in its place, bound to `object` as an attribute is.
    #[inline]
    pub fn replaced(&self, object: Obj<'_>) -> R<Option<Ref>> {
        let version = type_version(object);
        let is_known = self.seen.iter().any(|seen| seen.get() == version);
        if is_known && version != 0 {
            return Ok(None);
        }
        self.look(object)
    }

    #[cold]
    fn look(&self, object: Obj<'_>) -> R<Option<Ref>> {
        let found = builtin::super_of(object)?.obj().getattr(self.name.obj())?;
        let function = found
            .obj()
            .getattr_opt(crate::ffi::call::interned(c"__func__")?.obj())?;
        if !function.is_some_and(|function| function.obj().is(self.stock.obj())) {
            return Ok(Some(found));
        }
        self.seen[self.next.get()].set(type_version(object));
        self.next.set((self.next.get() + 1) % TYPES);
        Ok(None)
    }
}
