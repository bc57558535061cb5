//! How jobs ended, on the way from their thread to their loop.
//!
//! The outcome is left in the inbox with the GIL held. When the thread has let go of it, the loop
//! is called, and woken if it sleeps, by a [`Notice`] that holds nothing of the loop but what that
//! takes. May touch: the inbox, the futures. *Source*: `asyncio.futures._copy_future_state`.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;

use aioxide_core::backend::Backend;
use aioxide_core::backend::epoll::Epoll;
use aioxide_core::doze::Doze;

use super::{Entry, LoopFields};
use crate::ffi::call::import;
use crate::ffi::class::Visitor;
use crate::ffi::exception::while_handling;
use crate::ffi::{Obj, R, Raised, Ref};
use crate::future;
use crate::state::state;

/// How a job ended.
pub enum Outcome {
    /// It returned this.
    Result(Ref),
    /// It raised this.
    Exception(Ref),
    /// It never ran.
    Cancelled,
}

/// A job's outcome, as it travels through the loop's inbox.
pub struct Finished {
    future: Ref,
    outcome: Outcome,
}

/// What is left to do when an outcome is in the inbox of a loop that waits: calling it. Done by
/// dropping this, so that it is never forgotten; with or without the GIL.
pub struct Notice {
    owner: Arc<Doze>,
    backend: Arc<Epoll>,
}

impl Drop for Notice {
    fn drop(&mut self) {
        if self.owner.call() {
            // An eventfd that counts up cannot fail; if it did, the loop would sleep on, as it
            // does when asyncio's self-pipe fails.
            self.backend.wake().unwrap_or_default();
        }
    }
}

/// Whether the interpreter is past running jobs in pools of threads. Runs no Python code.
pub fn are_pools_shut() -> R<bool> {
    let state = state();
    let known = &state.asyncio.thread_pools;
    let pools = match known.get() {
        Some(pools) => pools.obj(),
        // Whoever has a pool has imported this.
        None => {
            let found = import(c"concurrent.futures.thread")?;
            known.get_or_init(|| found).obj()
        }
    };
    pools.getattr(state.names._shutdown.obj())?.obj().is_true()
}

/// A job of the loop ends without an outcome.
pub fn forget(event_loop: Obj<'_>) {
    let jobs = &super::fields(event_loop).jobs;
    jobs.set(jobs.get().saturating_sub(1));
}

/// Leaves the outcome of a job of a native loop in the loop's inbox. A loop that was closed
/// meanwhile takes nothing; a future that is done needs nothing.
pub fn send(event_loop: Ref, future: Ref, outcome: Outcome) -> Option<Notice> {
    forget(event_loop.obj());
    if !future::fields(future.obj()).is_pending() {
        return None;
    }
    let native = super::fields(event_loop.obj());
    let backend = native.backend.borrow().clone()?;
    let finished = Rc::new(Finished { future, outcome });
    // What does not get in is dropped here, with the GIL and nothing borrowed.
    let owner = native
        .inbox
        .push_quietly(Entry::Finished(finished))
        .ok()
        .flatten()?;
    Some(Notice { owner, backend })
}

impl Finished {
    /// Tells the future, in the loop's thread, unless it is done.
    pub fn deliver(&self) -> R<()> {
        let future = self.future.obj();
        if !future::fields(future).is_pending() {
            return Ok(());
        }
        match &self.outcome {
            Outcome::Result(result) => future::set_result(future, result.clone()),
            Outcome::Exception(exception) => {
                // `concurrent.futures` has exceptions of its own for what asyncio has, too.
                let convert = state().asyncio.convert_future_exc.obj();
                future::set_exception(future, convert.call1(exception.obj())?.obj())
            }
            Outcome::Cancelled => future::cancel_future(future, None).map(drop),
        }
    }

    /// The future, for messages.
    pub fn future(&self) -> Obj<'_> {
        self.future.obj()
    }

    /// Shows the collector what it holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.visit(self.future.ptr());
        match &self.outcome {
            Outcome::Result(object) | Outcome::Exception(object) => visitor.visit(object.ptr()),
            Outcome::Cancelled => {}
        }
    }
}

impl LoopFields {
    /// An outcome that its future refused: reported as asyncio reports a failing callback.
    #[cold]
    pub fn report_job(&self, finished: &Finished, raised: Raised) -> R<()> {
        let names = &state().names;
        let error = raised.take();
        let context = crate::ffi::call::dict()?;
        let message = crate::ffi::call::string("Exception in callback of a job in a thread")?;
        for (key, value) in [
            (&names.message, message.obj()),
            (&names.exception, error.obj()),
            (&names.future, finished.future()),
        ] {
            crate::ffi::call::dict_set(context.obj(), key.obj(), value)?;
        }
        let handler = names.call_exception_handler.obj();
        let tell = || self.object().call_method1(handler, context.obj());
        while_handling(error.obj(), tell).map(drop)
    }
}
