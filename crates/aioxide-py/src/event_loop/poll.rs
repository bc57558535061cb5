//! Asking the backend, and waiting: without the GIL, at first looking out for other threads' calls.
//!
//! May touch: the inbox's word of how this thread waits, the backend, the workers that wait for the
//! GIL. Invariants: the inbox is touched with the GIL only; without it, nothing is locked and no
//! object is touched. What may happen meanwhile: `docs/design/hand-offs.md`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use aioxide_core::backend::epoll::Epoll;
use aioxide_core::backend::{Backend, Events};
use aioxide_core::doze::Doze;
use aioxide_core::spin::{SPIN_NS_MAX, Spin, Spun, spin_until};

use super::LoopFields;
use crate::ffi::{R, Raised, gil, park};

/// A sleep that is no longer than this is not preceded by looking out.
const SPIN_MAX: Duration = Duration::from_nanos(SPIN_NS_MAX);

/// Looks for a call between two looks for events, which are dearer.
const LOOKS_PER_POLL: u32 = 32;

/// What looking out for a call was good for.
enum Looked {
    /// A thread called.
    Called,
    /// The backend has something to report, or failed.
    Found(io::Result<()>),
    /// Nothing came, and the owner is now taken to be asleep.
    Nothing { spent: Duration },
}

/// Looks for a call and, now and then, for events; says also how worthwhile that was. Who called
/// and still has the GIL is waited for, too: to ask it for the GIL would be to sleep. Runs without
/// the GIL.
fn look_out(backend: &Epoll, events: &mut Events, doze: &Doze) -> (Looked, Spun) {
    let mut found = None;
    let mut looks = 0_u32;
    let spun = spin_until(|| {
        // First of all, so that threads which call all the time do not keep events waiting.
        if looks % LOOKS_PER_POLL == 0 {
            let waited = backend.wait(events, Some(Duration::ZERO));
            let is_news = !events.is_empty() || events.woken() || events.interrupted();
            if waited.is_err() || is_news {
                found = Some(waited);
                return true;
            }
        }
        looks += 1;
        doze.is_called() && !gil::is_taken()
    });
    match (found, spun) {
        // Events wake a sleeper as well: to look out for them is no gain.
        (Some(waited), _) => (Looked::Found(waited), Spun::Nothing { spent_ns: 0 }),
        (None, Spun::Nothing { spent_ns }) if doze.fall_asleep() => {
            let spent = Duration::from_nanos(spent_ns);
            (Looked::Nothing { spent }, spun)
        }
        _ => (Looked::Called, spun),
    }
}

impl LoopFields {
    /// Asks the backend and queues what it reports.
    pub(super) fn poll(
        &self,
        events: &mut Events,
        timeout: Option<Duration>,
        may_sleep: bool,
    ) -> R<()> {
        let backend = self.backend()?;
        let is_idle = self.turn.borrow().ready.is_empty();
        events.note_kept(self.transports.take_kept_bytes(), is_idle);
        let timeout = self.trusting_sleep(timeout);
        let looks = if may_sleep {
            self.why_look(timeout)
        } else {
            None
        };
        let prepare = || self.inbox.prepare(looks.is_some());
        let doze = may_sleep.then(prepare).flatten();
        let (waited, came) = match doze {
            Some(doze) => self.sleep(&backend, events, timeout, (doze, looks)),
            None => (self.poll_now(&backend, events), false),
        };
        let sleeps = doze.is_some();
        waited.map_err(|error| Raised::os_error(&error))?;
        if sleeps || events.interrupted() {
            // Those that arrived while we slept.
            self.check_signals()?;
        }
        self.turn.borrow_mut().collect(&self.inbox);
        self.queue_events(events)?;
        self.after_poll(sleeps && !came && events.is_empty() && !events.woken())
    }

    /// Whether to look out before falling asleep, for the outcomes of jobs or, if a thread's call
    /// ended the last sleep, for its next one: then, what remembers how worthwhile that was. Runs
    /// no Python code: the sleep was planned without what that might schedule.
    fn why_look(&self, timeout: Option<Duration>) -> Option<&RefCell<Spin>> {
        let was_called = self.was_called.take();
        let spin = match (self.jobs.get() > 0, was_called) {
            (false, false) => return None,
            // Who calls by itself has the GIL: not worthwhile if that can't be seen.
            (false, true) if !gil::was_found() => return None,
            (false, true) => &self.call_spin,
            (true, _) => &self.spin,
        };
        let may_look = self.inbox.is_empty() && timeout.is_none_or(|timeout| timeout > SPIN_MAX);
        (may_look && spin.borrow_mut().should_spin()).then_some(spin)
    }

    /// Polls without waiting; lets go of the GIL only for workers that look out for it.
    fn poll_now(&self, backend: &Epoll, events: &mut Events) -> io::Result<()> {
        let announced = std::mem::take(&mut *self.announced.borrow_mut());
        if announced.is_empty() {
            return backend.wait(events, Some(Duration::ZERO));
        }
        park::detached(|| {
            announced.iter().for_each(|worker| worker.call());
            backend.wait(events, Some(Duration::ZERO))
        })
    }

    /// Waits without the GIL; at first awake, where something `looks`, because a thread may call
    /// any moment. True: that is what ended it.
    fn sleep(
        &self,
        backend: &Epoll,
        events: &mut Events,
        timeout: Option<Duration>,
        (doze, looks): (&Doze, Option<&RefCell<Spin>>),
    ) -> (io::Result<()>, bool) {
        let announced = std::mem::take(&mut *self.announced.borrow_mut());
        let (waited, came, spun) = park::detached(|| {
            announced.iter().for_each(|worker| worker.call());
            let (looked, spun) = looks.map(|_| look_out(backend, events, doze)).unzip();
            let (waited, came) = match looked {
                Some(Looked::Called) => (Ok(()), true),
                Some(Looked::Found(waited)) => (waited, false),
                Some(Looked::Nothing { spent }) => {
                    let rest = timeout.map(|timeout| timeout.saturating_sub(spent));
                    (backend.wait(events, rest), false)
                }
                None => (backend.wait_awake(events, timeout), false),
            };
            // Not later: who sends something while this thread waits for the GIL need not wake it.
            doze.end();
            (waited, came, spun)
        });
        if let (Some(spin), Some(spun)) = (looks, spun) {
            spin.borrow_mut().learn(spun);
        }
        (waited, came)
    }
}
