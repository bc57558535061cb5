//! Who is inside a handle that other threads may cancel: `call_soon_threadsafe` from 3.14 on.
//!
//! asyncio gives such a handle a `threading.RLock`, held while the callback runs and by `cancel()`,
//! so that a cancellation waits for a callback that runs meanwhile. Nearly always nobody waits, so
//! here it is one word, and only who has to wait makes a lock to wait on. May touch: its own two
//! fields. Invariants: they are touched with the GIL held, which makes each look and change of them
//! one step; a gate in the field is held by whoever is inside, and released when it leaves.
//! *Source*: `asyncio.events._ThreadSafeHandle`.

use std::cell::Cell;

use crate::ffi::class::Visitor;
use crate::ffi::{R, Raised, Ref, Slot};
use crate::state::state;

/// Anybody may do anything at any time: what all-zero memory means.
const NONE: usize = 0;
/// Nobody is inside.
const FREE: usize = 1;

/// Lets one thread in at a time, the same one as often as it likes.
#[derive(Default)]
pub struct Guard {
    /// The thread that is inside, or one of the above, which no thread is called.
    inside: Cell<usize>,
    /// A lock that those who wait try to acquire.
    gate: Slot,
}

/// The calling thread: a number that no other living thread has.
pub fn this_thread() -> usize {
    // SAFETY: no precondition. It is the address of the thread's descriptor.
    (unsafe { libc::pthread_self() }) as usize
}

impl Guard {
    /// One thread at a time.
    pub fn up() -> Guard {
        Guard {
            inside: Cell::new(FREE),
            gate: Slot::empty(),
        }
    }

    /// From now on one thread at a time.
    pub fn put_up(&self) {
        self.inside.set(FREE);
    }

    /// Runs `body` inside. Fails without running it if a signal's handler raises while this waits.
    #[inline]
    pub fn within<T>(&self, body: impl FnOnce() -> R<T>) -> R<T> {
        if self.inside.get() == NONE {
            return body();
        }
        let this_thread = this_thread();
        if self.inside.get() == this_thread {
            return body();
        }
        while self.inside.get() != FREE {
            self.wait()?;
        }
        self.inside.set(this_thread);
        let result = body();
        self.inside.set(FREE);
        match self.gate.take() {
            None => result,
            Some(gate) => open(&gate, result),
        }
    }

    /// Waits, without the GIL, until the thread that is inside leaves.
    #[cold]
    fn wait(&self) -> R<()> {
        let names = &state().names;
        let gate = match self.gate.get() {
            Some(gate) => gate,
            None => {
                let gate = state().asyncio.new_lock.obj().call0()?;
                drop(gate.obj().call_method0(names.acquire.obj())?);
                // Making it may have let others run.
                if self.inside.get() == FREE || !self.gate.is_empty() {
                    return Ok(());
                }
                self.gate.set(Some(gate.clone()));
                gate
            }
        };
        drop(gate.obj().call_method0(names.acquire.obj())?);
        // For the next of those who wait: all of them try again.
        drop(gate.obj().call_method0(names.release.obj())?);
        Ok(())
    }

    /// Drops the lock; nobody waits any more.
    pub fn clear(&self) {
        self.gate.clear();
    }

    /// Shows the collector what it holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.gate);
    }
}

/// Lets those who wait try again; `result` comes back as it is.
#[cold]
fn open<T>(gate: &Ref, result: R<T>) -> R<T> {
    let result = result.map_err(Raised::take);
    drop(gate.obj().call_method0(state().names.release.obj())?);
    result.map_err(Raised::throw)
}
