//! Those who wait, in order: the futures that a primitive will resolve.
//!
//! asyncio keeps them in a `collections.deque` that anyone may read and change (`lock._waiters`).
//! Here they are in a native queue until somebody asks for the deque; then a real one is made, and
//! from then on it is the truth. May touch: the futures in it. Invariant: no borrow of the native
//! queue is held while Python may run, a reference count going down included.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::ffi::builtin::{self, len, to_list};
use crate::ffi::class::Visitor;
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Raised, Ref, Slot};
use crate::future;
use crate::state::state;

#[derive(Copy, Clone, PartialEq, Eq)]
enum Shape {
    /// `None`: nobody has waited yet. Locks and semaphores begin so.
    Absent,
    /// In the native queue.
    Native,
    /// In the Python object that was shown or assigned.
    Shown,
}

/// A queue of futures. Errors come only from a shown object and from futures that are not native.
pub struct Line {
    shape: Cell<Shape>,
    futures: RefCell<VecDeque<Ref>>,
    shown: Slot,
}

impl Line {
    /// As `self._waiters = None`.
    pub fn absent() -> Line {
        Line {
            shape: Cell::new(Shape::Absent),
            futures: RefCell::default(),
            shown: Slot::empty(),
        }
    }

    /// As `self._waiters = collections.deque()`.
    pub fn empty() -> Line {
        let line = Line::absent();
        line.shape.set(Shape::Native);
        line
    }

    /// Drops all and begins anew, as `empty`.
    pub fn reset(&self) {
        self.clear();
        self.shape.set(Shape::Native);
    }

    /// Begins anew, as `absent`.
    pub fn forget(&self) {
        self.clear();
        self.shape.set(Shape::Absent);
    }

    fn shown(&self) -> Option<Ref> {
        if self.shape.get() == Shape::Shown {
            self.shown.get()
        } else {
            None
        }
    }

    /// Adds a future at the end.
    #[inline]
    pub fn push(&self, future: &Ref) -> R<()> {
        match self.shown() {
            None => {
                self.shape.set(Shape::Native);
                self.futures.borrow_mut().push_back(future.clone());
                Ok(())
            }
            Some(shown) => {
                let append = state().names.append.obj();
                shown.obj().call_method1(append, future.obj()).map(drop)
            }
        }
    }

    /// Removes a future; ValueError if it is not there.
    #[inline]
    pub fn remove(&self, future: Obj<'_>) -> R<()> {
        if let Some(shown) = self.shown() {
            let remove = state().names.remove.obj();
            return shown.obj().call_method1(remove, future).map(drop);
        }
        let removed = {
            let mut futures = self.futures.borrow_mut();
            let place = futures.iter().position(|other| other.obj().is(future));
            place.and_then(|place| futures.remove(place))
        };
        match removed {
            Some(_) => Ok(()),
            None => Err(Raised::value_error("deque.remove(x): x not in deque")),
        }
    }

    /// Removes a future if it is there.
    pub fn discard(&self, future: Obj<'_>) -> R<()> {
        match self.remove(future) {
            Err(raised) if raised.matches(builtin::value_error().ptr()) => {
                raised.clear();
                Ok(())
            }
            other => other,
        }
    }

    /// How many there are.
    pub fn len(&self) -> R<usize> {
        match self.shown() {
            None => Ok(self.futures.borrow().len()),
            Some(shown) if shown.obj().is_none() => Ok(0),
            Some(shown) => len(shown.obj()),
        }
    }

    /// Whether nobody waits; as `not self._waiters`.
    #[inline]
    pub fn is_empty(&self) -> R<bool> {
        match self.shown() {
            None => Ok(self.futures.borrow().is_empty()),
            Some(shown) => shown.obj().is_true().map(|some| !some),
        }
    }

    /// The future at `index`, or nothing behind the end. Others may come and go between calls.
    #[inline]
    fn at(&self, index: usize) -> Option<Ref> {
        self.futures.borrow().get(index).cloned()
    }

    /// Calls `look` for each future, in order, until it answers with something.
    #[inline]
    pub fn find<T>(&self, mut look: impl FnMut(Obj<'_>) -> R<Option<T>>) -> R<Option<T>> {
        if let Some(shown) = self.shown() {
            let list = to_list(shown.obj())?;
            let iterator = builtin::iter(list.obj())?;
            while let Some(future) = builtin::next(iterator.obj())? {
                if let Some(found) = look(future.obj())? {
                    return Ok(Some(found));
                }
            }
            return Ok(None);
        }
        let mut index = 0;
        while let Some(future) = self.at(index) {
            if let Some(found) = look(future.obj())? {
                return Ok(Some(found));
            }
            index += 1;
        }
        Ok(None)
    }

    /// Whether nobody waits, where no Python object has to be asked.
    #[inline]
    pub fn is_surely_empty(&self) -> bool {
        self.shape.get() != Shape::Shown && self.futures.borrow().is_empty()
    }

    /// The first of those who wait.
    #[inline]
    pub fn first(&self) -> R<Option<Ref>> {
        if self.is_surely_empty() || self.is_empty()? {
            return Ok(None);
        }
        self.find(|future| Ok(Some(future.to_ref())))
    }

    /// Takes the first out.
    #[inline]
    pub fn pop(&self) -> R<Option<Ref>> {
        if self.is_surely_empty() {
            return Ok(None);
        }
        match self.shown() {
            None => Ok(self.futures.borrow_mut().pop_front()),
            Some(_) if self.is_empty()? => Ok(None),
            Some(shown) => {
                let popleft = state().names.popleft.obj();
                shown.obj().call_method0(popleft).map(Some)
            }
        }
    }

    /// Whether anybody waits who was not cancelled.
    #[inline]
    pub fn has_live(&self) -> R<bool> {
        if self.is_surely_empty() || self.is_empty()? {
            return Ok(false);
        }
        let live = self.find(|future| Ok((!is_cancelled(future)?).then_some(())))?;
        Ok(live.is_some())
    }

    /// The attribute: `None`, or the deque, which is what counts from now on.
    pub fn show(&self) -> R<Ref> {
        if self.shape.get() == Shape::Absent {
            return Ok(none_ref());
        }
        if let Some(shown) = self.shown() {
            return Ok(shown);
        }
        let deque = state().asyncio.deque.obj().call0()?;
        // Calls of a deque's own methods run no other Python: nothing joins meanwhile.
        while let Some(future) = self.pop()? {
            let append = state().names.append.obj();
            deque.obj().call_method1(append, future.obj())?;
        }
        self.shown.set(Some(deque.clone()));
        self.shape.set(Shape::Shown);
        Ok(deque)
    }

    /// The attribute is set.
    pub fn assign(&self, value: Obj<'_>) {
        self.clear();
        if value.is_none() {
            self.shape.set(Shape::Absent);
        } else {
            self.shown.set(Some(value.to_ref()));
            self.shape.set(Shape::Shown);
        }
    }

    /// For `tp_traverse`.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.shown);
        for future in self.futures.borrow().iter() {
            visitor.visit(future.ptr());
        }
    }

    /// Drops everything.
    pub fn clear(&self) {
        let futures = self.futures.take();
        self.shown.clear();
        if self.shape.get() == Shape::Shown {
            self.shape.set(Shape::Native);
        }
        drop(futures);
    }
}

/// `future.done()`.
#[inline]
pub fn is_done(waiter: Obj<'_>) -> R<bool> {
    if future::is_native(waiter) {
        return Ok(!future::fields(waiter).is_pending());
    }
    waiter
        .call_method0(state().names.done.obj())?
        .obj()
        .is_true()
}

/// `future.cancelled()`.
#[inline]
pub fn is_cancelled(waiter: Obj<'_>) -> R<bool> {
    if future::is_native(waiter) {
        return Ok(future::fields(waiter).phase() == future::Phase::Cancelled);
    }
    let cancelled = waiter.call_method0(state().names.cancelled.obj())?;
    cancelled.obj().is_true()
}

/// `future.set_result(value)`.
#[inline]
pub fn resolve(waiter: Obj<'_>, value: Ref) -> R<()> {
    if future::is_native(waiter) {
        return future::set_result(waiter, value);
    }
    let set_result = state().names.set_result.obj();
    waiter.call_method1(set_result, value.obj()).map(drop)
}

/// `future.cancel()`.
pub fn cancel(waiter: Obj<'_>) -> R<()> {
    if waiter.type_ptr() == state().future_type {
        return future::cancel_future(waiter, None).map(drop);
    }
    waiter.call_method0(state().names.cancel.obj()).map(drop)
}
