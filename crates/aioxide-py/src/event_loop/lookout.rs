//! `Lookout`: a thread looks out for the outcome of what it asked a loop for, before it sleeps.
//!
//! ```text
//!   a thread                                      loop thread
//!   run_coroutine_threadsafe: the call into the   looks out, without the GIL, for a moment
//!     inbox, the loop is called ───────────────►  waits for the GIL to be free
//!   result(): lets go of the GIL, looks out ───►  takes it, runs the coroutine,
//!                                                 sets the outcome and then the flag
//!   waits for the GIL to be free ◄──────────────  about to sleep: lets go of the GIL
//! ```
//!
//! Whoever does not see the flag in time sleeps on the lock of the `concurrent.futures.Future`, and
//! is woken by that: the flag only ever ends a look. May touch: the flag, without the GIL; what
//! looks were good for, with it. Invariant: one thread at a time looks out for a loop's answers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use aioxide_core::clock::NS_PER_SECOND;
use aioxide_core::spin::{SPIN_NS_MAX, Spin, Spun, spin_until};
use pyo3_ffi as c;

use super::fields;
use crate::ffi::call::float;
use crate::ffi::class::{Visitor, noargs, onearg};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::values::{self, OFFSET, Values};
use crate::ffi::{Obj, R, Ref, gil, layout, park};
use crate::state::state;

/// What the threads that ask one loop for something share.
#[derive(Default)]
pub struct Askers {
    /// Whether looking out was worthwhile.
    spin: RefCell<Spin>,
    /// A thread looks out.
    is_looking: Cell<bool>,
}

struct Lookout {
    /// The outcome is there.
    is_called: AtomicBool,
    askers: Rc<Askers>,
}

fn lookout_of<'a>(lookout: Obj<'a>) -> &'a Lookout {
    // SAFETY: only instances of this module's final type come here; `create` wrote the fields.
    unsafe { layout::fields(lookout.ptr(), OFFSET) }
}

/// `loop._lookout()`.
pub fn create(event_loop: Obj<'_>) -> R<Ref> {
    let lookout = Lookout {
        is_called: AtomicBool::new(false),
        askers: Rc::clone(&fields(event_loop).askers),
    };
    values::allocate(state().types.lookout.obj(), lookout)
}

/// `lookout.call(future)`: the outcome is there.
fn call(lookout: Obj<'_>, _future: Obj<'_>) -> R<Ref> {
    lookout_of(lookout).is_called.store(true, Ordering::Release);
    Ok(none_ref())
}

/// `lookout.wait(timeout)`: looks out, if that seems worthwhile; returns what is left of the time.
fn wait(lookout: Obj<'_>, timeout: Obj<'_>) -> R<Ref> {
    let this = lookout_of(lookout);
    if this.is_called.load(Ordering::Acquire) || !gil::is_watched() {
        return Ok(timeout.to_ref());
    }
    let has_limit = timeout.is_exact_float() || timeout.is_exact_int();
    let limit = if has_limit {
        timeout.to_f64()?
    } else {
        f64::INFINITY
    };
    let is_short = limit * (NS_PER_SECOND as f64) <= SPIN_NS_MAX as f64;
    if is_short || !(has_limit || timeout.is_none()) || !this.askers.may_look() {
        return Ok(timeout.to_ref());
    }
    // The caller's reference keeps the flag where it is.
    let spun = park::detached(|| {
        spin_until(|| this.is_called.load(Ordering::Acquire) && !gil::is_taken())
    });
    this.askers.learn(spun);
    match spun {
        Spun::Arrived => Ok(timeout.to_ref()),
        Spun::Late { .. } | Spun::Nothing { .. } if !has_limit => Ok(timeout.to_ref()),
        Spun::Late { spent_ns } | Spun::Nothing { spent_ns } => {
            float((limit - spent_ns as f64 / NS_PER_SECOND as f64).max(0.0))
        }
    }
}

/// `lookout.can_wait()`: whether this interpreter shows what has to be seen for it.
fn can_wait(_lookout: Obj<'_>) -> R<Ref> {
    Ok(boolean(gil::is_watched()))
}

impl Askers {
    /// Whether a thread is to look out now. If so, it must `learn` afterwards.
    fn may_look(&self) -> bool {
        let looks = !self.is_looking.get() && self.spin.borrow_mut().should_spin();
        if looks {
            self.is_looking.set(true);
        }
        looks
    }

    fn learn(&self, spun: Spun) {
        self.is_looking.set(false);
        self.spin.borrow_mut().learn(spun);
    }
}

impl Values for Lookout {
    fn visit(&self, _visitor: &mut Visitor) {}

    fn clear(&self) {}
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    values::class::<Lookout>(c"aioxide._aioxide.Lookout")
        .doc(c"Looks out for the outcome of what a thread asked a loop for. Made by loops.")
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .methods([
            onearg!(c"call", call, c"($self, future, /)\nThe outcome is there."),
            noargs!(
                c"can_wait",
                can_wait,
                c"($self, /)\nWhether looking out is possible on this interpreter."
            ),
            onearg!(
                c"wait",
                wait,
                c"($self, timeout, /)\nLooks out for it for a moment; returns the time left."
            ),
        ])
        .build(None)
}

/// The methods of loops that make them.
pub fn methods() -> Vec<c::PyMethodDef> {
    vec![noargs!(
        c"_lookout",
        create,
        c"Makes a lookout for one answer of this loop."
    )]
}
