//! Who is told when a future is done, in the order in which they came.
//!
//! May touch: one future's list of waiters. Invariant: a waiter is a callable with its context, a
//! native task that waits, or a native object that listens; the first lies in the future itself.

#![forbid(unsafe_code)]

use super::FutureFields;
use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Ref, context};
use crate::sync::Listener;
use crate::task;

/// Somebody to tell when the future is done.
#[derive(Clone)]
pub struct Waiter {
    /// A callable, a native task or a native object.
    pub target: Ref,
    /// How to tell it.
    pub how: How,
}

/// How a waiter is told. Each way is one entry of the ready queue.
#[derive(Clone)]
pub enum How {
    /// A native task: by its next step.
    Step,
    /// A callable: `target(future)` in this context, of which there may be only the variables.
    Call(Ref),
    /// A native object: by its kind's own function, without a Handle.
    Tell(Listener),
}

/// `first_kind` of callables and tasks; listeners have their own numbers, from 1 on.
pub(super) const PLAIN: u8 = 0;

impl Waiter {
    /// What Python code is shown of this waiter: a callable and its context.
    pub fn callable(&self) -> R<(Ref, Ref)> {
        Ok(match &self.how {
            How::Call(held) => (self.target.clone(), context::made_real(held.clone())?),
            How::Step => {
                let task = self.target.obj();
                let run_context = task::context_of(task)?;
                (task::wakeup_callback(task)?, run_context)
            }
            How::Tell(listener) => (
                listener.callback(self.target.obj())?,
                context::copy_current()?,
            ),
        })
    }

    fn is_same(&self, other: &Waiter) -> bool {
        self.target.obj().is(other.target.obj())
            && match (&self.how, &other.how) {
                (How::Call(one), How::Call(two)) => one.obj().is(two.obj()),
                (How::Tell(one), How::Tell(two)) => one == two,
                (How::Step, How::Step) => true,
                _ => false,
            }
    }

    /// Visits its references.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.visit(self.target.ptr());
        if let How::Call(run_context) = &self.how {
            visitor.visit(run_context.ptr());
        }
    }
}

impl FutureFields {
    /// Adds someone to tell. The caller has seen that the future is pending.
    #[inline]
    pub fn add_waiter(&self, waiter: Waiter) {
        debug_assert!(self.is_pending());
        let mut more = self.more.take();
        if self.waiter().is_empty() && more.is_none() {
            self.put_first(waiter);
        } else {
            more.get_or_insert_default().push(waiter);
            self.more.set(more);
        }
    }

    /// As `add_waiter`, for a native task.
    #[inline(always)]
    pub fn add_task(&self, task: Ref) {
        let more = self.more.take();
        if self.waiter().is_empty() && more.is_none() {
            self.waiter().fill(Some(task));
        } else {
            self.more.set(more);
            self.add_waiter(Waiter {
                target: task,
                how: How::Step,
            });
        }
    }

    /// The native task that waits, if nobody else does; it no longer does.
    #[inline(always)]
    pub(super) fn take_only_task(&self) -> Option<Ref> {
        let more = self.more.take();
        if more.is_some() || self.first_kind.get() != PLAIN || !self.waiter_context().is_empty() {
            self.more.set(more);
            return None;
        }
        self.waiter().take()
    }

    #[inline]
    fn put_first(&self, waiter: Waiter) {
        debug_assert!(self.first_kind.get() == PLAIN && self.waiter_context().is_empty());
        self.waiter().set(Some(waiter.target));
        match waiter.how {
            How::Step => {}
            How::Call(run_context) => self.waiter_context().set(Some(run_context)),
            How::Tell(listener) => self.first_kind.set(listener.number()),
        }
    }

    /// Takes a native object out of the waiters; false if it is not among them.
    pub fn remove_listener(&self, target: Obj<'_>, listener: Listener) -> bool {
        let is_it = |waiter: &Waiter| {
            waiter.target.obj().is(target)
                && matches!(waiter.how, How::Tell(other) if other == listener)
        };
        let (first, more) = self.take_waiters();
        let (found, kept): (Vec<Waiter>, Vec<Waiter>) = first
            .into_iter()
            .chain(more.into_iter().flat_map(|more| *more))
            .partition(is_it);
        self.put_waiters(kept);
        !found.is_empty()
    }

    /// Takes all waiters, in the order in which they came.
    #[allow(clippy::box_collection)]
    pub(super) fn take_waiters(&self) -> (Option<Waiter>, Option<Box<Vec<Waiter>>>) {
        let first = self.waiter().take().map(|target| {
            let how = match self.waiter_context().take() {
                Some(run_context) => How::Call(run_context),
                None => self.first_how(),
            };
            Waiter { target, how }
        });
        self.first_kind.set(PLAIN);
        (first, self.more.take())
    }

    /// How the first waiter is told, if that is not a callable.
    #[inline]
    fn first_how(&self) -> How {
        match Listener::from_number(self.first_kind.get()) {
            Some(listener) => How::Tell(listener),
            None => How::Step,
        }
    }

    /// The waiter at `index`, or nothing behind the end. Others may come and go between calls.
    pub(super) fn waiter_at(&self, index: usize) -> Option<Waiter> {
        let mut later = index;
        if let Some(target) = self.waiter().get() {
            if index == 0 {
                let how = match self.waiter_context().get() {
                    Some(run_context) => How::Call(run_context),
                    None => self.first_how(),
                };
                return Some(Waiter { target, how });
            }
            later = index - 1;
        }
        let more = self.more.take();
        let found = more.as_ref().and_then(|more| more.get(later)).cloned();
        self.more.set(more);
        found
    }

    /// As `waiter_at`, for showing: a callable that had only variables has the context from now on
    /// in which it will run.
    pub(super) fn shown_waiter_at(&self, index: usize) -> R<Option<Waiter>> {
        let waiter = self.waiter_at(index);
        let Some(How::Call(held)) = waiter.as_ref().map(|waiter| &waiter.how) else {
            return Ok(waiter);
        };
        let real = context::made_real(held.clone())?;
        if !real.obj().is(held.obj()) {
            self.replace_context(index, held, real);
        }
        Ok(self.waiter_at(index))
    }

    /// Replaces the context of the callable at `index`, if that has not changed meanwhile.
    fn replace_context(&self, index: usize, held: &Ref, real: Ref) {
        let mut later = index;
        if !self.waiter().is_empty() {
            if index == 0 {
                if self.waiter_context().ptr() == held.ptr() {
                    self.waiter_context().set(Some(real));
                }
                return;
            }
            later = index - 1;
        }
        let mut more = self.more.take();
        let waiter = more.as_mut().and_then(|more| more.get_mut(later));
        let replaced = match waiter.map(|waiter| &mut waiter.how) {
            Some(How::Call(there)) if there.obj().is(held.obj()) => std::mem::replace(there, real),
            _ => real,
        };
        self.more.set(more);
        drop(replaced);
    }

    /// Takes out those that `unwanted` names, once for each time that it does.
    pub(super) fn remove_waiters(&self, mut unwanted: Vec<Waiter>) {
        let (first, more) = self.take_waiters();
        let (mut kept, mut removed) = (Vec::new(), Vec::new());
        for waiter in first
            .into_iter()
            .chain(more.into_iter().flat_map(|more| *more))
        {
            match unwanted.iter().position(|other| other.is_same(&waiter)) {
                Some(found) => removed.extend([unwanted.swap_remove(found), waiter]),
                None => kept.push(waiter),
            }
        }
        self.put_waiters(kept);
        drop(removed);
    }

    fn put_waiters(&self, waiters: Vec<Waiter>) {
        let mut waiters = waiters.into_iter();
        if let Some(first) = waiters.next() {
            self.put_first(first);
        }
        let rest: Vec<Waiter> = waiters.collect();
        self.more.set((!rest.is_empty()).then(|| Box::new(rest)));
    }
}
