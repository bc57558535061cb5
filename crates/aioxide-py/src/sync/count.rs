//! A number that is an `int` in every program, and may be anything that behaves like one.
//!
//! `Semaphore(math.inf)` and `Queue(maxsize=2.5)` work with asyncio because its code only adds and
//! compares. May touch: its own fields. Invariant: `other` holds something exactly while the number
//! is not a small `int`.

#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::ffi::builtin::{Comparison, add, compare, small_int};
use crate::ffi::call::int;
use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Ref, Slot};

/// Beyond this a number is handled as an object, so that no step overflows.
const SMALL_MAX: i64 = 1 << 62;

/// A number as Python code would hold it in an attribute.
pub struct Count {
    small: Cell<i64>,
    other: Slot,
}

impl Count {
    /// A small number.
    pub fn new(value: i64) -> Count {
        Count {
            small: Cell::new(value),
            other: Slot::empty(),
        }
    }

    /// Becomes `value`.
    pub fn set(&self, value: Obj<'_>) {
        match small_int(value).filter(|small| small.abs() < SMALL_MAX) {
            Some(small) => {
                self.small.set(small);
                self.other.clear();
            }
            None => self.other.set(Some(value.to_ref())),
        }
    }

    /// The number as Python sees it.
    pub fn get(&self) -> R<Ref> {
        match self.other.get() {
            None => int(self.small.get()),
            Some(other) => Ok(other),
        }
    }

    /// Adds `step`.
    #[inline]
    pub fn add(&self, step: i64) -> R<()> {
        let sum = self.small.get() + step;
        if self.other.is_empty() && sum.abs() < SMALL_MAX {
            self.small.set(sum);
            return Ok(());
        }
        self.add_slowly(step)
    }

    #[cold]
    fn add_slowly(&self, step: i64) -> R<()> {
        let sum = add(self.get()?.obj(), int(step)?.obj())?;
        self.set(sum.obj());
        Ok(())
    }

    /// The truth of `number <comparison> value`.
    #[inline(always)]
    pub fn is(&self, comparison: Comparison, value: i64) -> R<bool> {
        if !self.other.is_empty() {
            return self.is_slowly(comparison, value);
        }
        let small = self.small.get();
        Ok(match comparison {
            Comparison::Less => small < value,
            Comparison::AtMost => small <= value,
            Comparison::Equal => small == value,
            Comparison::Greater => small > value,
            Comparison::AtLeast => small >= value,
        })
    }

    #[cold]
    fn is_slowly(&self, comparison: Comparison, value: i64) -> R<bool> {
        compare(self.get()?.obj(), comparison, int(value)?.obj())
    }

    /// The truth of `number <comparison> other`.
    pub fn is_to(&self, comparison: Comparison, other: &Count) -> R<bool> {
        if other.other.is_empty() {
            return self.is(comparison, other.small.get());
        }
        compare(self.get()?.obj(), comparison, other.get()?.obj())
    }

    /// For `tp_traverse`.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.other);
    }

    /// For `tp_clear`.
    pub fn clear(&self) {
        self.other.clear();
    }
}
