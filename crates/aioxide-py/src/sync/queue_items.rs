//! What is in a queue: natively, or in the Python object that asyncio keeps in `_queue`.
//!
//! A first-in-first-out queue is a native one until somebody asks for `_queue`; then a real deque
//! is made, and from then on it is the truth. The other two keep a real list. May touch: the items.
//! Invariant: no borrow is held while Python may run.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::ffi::builtin::{len, type_name};
use crate::ffi::call::list;
use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Raised, Ref, Slot, heap};
use crate::state::state;

/// Which item a queue gives first.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Order {
    /// The one that came first.
    First,
    /// The one that came last.
    Last,
    /// The least one.
    Least,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Shape {
    /// `_init()` has not run.
    Absent,
    Native,
    /// In `shown`.
    Object,
}

/// The items of a queue; what a subclass's `_put` and `_get` do is not decided here.
pub struct Items {
    order: Order,
    shape: Cell<Shape>,
    native: RefCell<VecDeque<Ref>>,
    shown: Slot,
}

impl Items {
    /// Nothing, before `_init()`.
    pub fn absent(order: Order) -> Items {
        Items {
            order,
            shape: Cell::new(Shape::Absent),
            native: RefCell::default(),
            shown: Slot::empty(),
        }
    }

    /// Which comes first.
    #[inline]
    pub fn order(&self) -> Order {
        self.order
    }

    /// `_init()`.
    pub fn init(&self) -> R<()> {
        self.clear();
        if self.order == Order::First {
            self.shape.set(Shape::Native);
        } else {
            self.assign(list(&[])?.obj());
        }
        Ok(())
    }

    /// `len(self._queue)`.
    #[inline]
    pub fn len(&self, queue: Obj<'_>) -> R<usize> {
        match self.shape.get() {
            Shape::Native => Ok(self.native.borrow().len()),
            _ => {
                let object = self.object(queue)?;
                if heap::is_list(object.obj()) {
                    return Ok(heap::len(object.obj()) as usize);
                }
                len(object.obj())
            }
        }
    }

    /// `not self._queue`.
    #[inline]
    pub fn is_empty(&self, queue: Obj<'_>) -> R<bool> {
        match self.shape.get() {
            Shape::Native => Ok(self.native.borrow().is_empty()),
            _ => {
                let object = self.object(queue)?;
                if heap::is_list(object.obj()) {
                    return Ok(heap::len(object.obj()) == 0);
                }
                object.obj().is_true().map(|some| !some)
            }
        }
    }

    fn object(&self, queue: Obj<'_>) -> R<Ref> {
        match self.shape.get() {
            Shape::Absent => Err(no_attribute(queue)),
            _ => Ok(self.shown.get_or_none()),
        }
    }

    /// asyncio's `_put()`.
    #[inline]
    pub fn put(&self, queue: Obj<'_>, item: Obj<'_>) -> R<()> {
        if self.shape.get() == Shape::Native {
            self.native.borrow_mut().push_back(item.to_ref());
            return Ok(());
        }
        let object = self.object(queue)?;
        let state = state();
        if self.order == Order::Least {
            if state.sync.queue_errors.native_heap && heap::is_list(object.obj()) {
                return heap::push(object.obj(), item);
            }
            let heappush = state.sync.queue_errors.heappush.obj();
            return heappush.call(&[object.obj(), item]).map(drop);
        }
        let append = state.names.append.obj();
        object.obj().call_method1(append, item).map(drop)
    }

    /// asyncio's `_get()`.
    #[inline]
    pub fn get(&self, queue: Obj<'_>) -> R<Ref> {
        if self.shape.get() == Shape::Native {
            let item = self.native.borrow_mut().pop_front();
            return item.ok_or_else(pop_from_empty);
        }
        let object = self.object(queue)?;
        let state = state();
        match self.order {
            Order::First => object.obj().call_method0(state.names.popleft.obj()),
            Order::Last => object.obj().call_method0(state.names.pop.obj()),
            Order::Least => {
                if state.sync.queue_errors.native_heap && heap::is_list(object.obj()) {
                    return heap::pop(object.obj());
                }
                let heappop = state.sync.queue_errors.heappop.obj();
                heappop.call1(object.obj())
            }
        }
    }

    /// The attribute `_queue`: an object, which is what counts from now on.
    pub fn show(&self, queue: Obj<'_>) -> R<Ref> {
        if self.shape.get() == Shape::Native {
            let items = list(&self.copies())?;
            let deque = state().asyncio.deque.obj().call1(items.obj())?;
            self.assign(deque.obj());
        }
        self.object(queue)
    }

    /// `list(self._queue)` for a repr; nothing where there are no items.
    pub fn listed(&self) -> R<Option<Ref>> {
        match self.shape.get() {
            Shape::Absent => Ok(None),
            Shape::Native if self.native.borrow().is_empty() => Ok(None),
            Shape::Native => list(&self.copies()).map(Some),
            Shape::Object => {
                let shown = self.shown.get_or_none();
                if !shown.obj().is_true()? {
                    return Ok(None);
                }
                crate::ffi::builtin::to_list(shown.obj()).map(Some)
            }
        }
    }

    fn copies(&self) -> Vec<Ref> {
        self.native.borrow().iter().cloned().collect()
    }

    /// `_queue` is set.
    pub fn assign(&self, value: Obj<'_>) {
        let before = self.native.take();
        self.shape.set(Shape::Object);
        self.shown.set(Some(value.to_ref()));
        drop(before);
    }

    /// For `tp_traverse`.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.shown);
        for item in self.native.borrow().iter() {
            visitor.visit(item.ptr());
        }
    }

    /// Drops everything, as before `_init()`.
    pub fn clear(&self) {
        let before = self.native.take();
        self.shape.set(Shape::Absent);
        self.shown.clear();
        drop(before);
    }
}

#[cold]
fn pop_from_empty() -> Raised {
    Raised::new(
        crate::ffi::builtin::index_error(),
        "pop from an empty deque",
    )
}

#[cold]
fn no_attribute(queue: Obj<'_>) -> Raised {
    match type_name(queue) {
        Ok(name) => Raised::new(
            crate::ffi::builtin::attribute_error(),
            &format!("'{name}' object has no attribute '_queue'"),
        ),
        Err(raised) => raised,
    }
}
