//! Running: turn after turn until `stop()`.
//!
//! May touch: everything of the loop. Invariants: no borrow is held while an entry runs, while the
//! GIL is released or while something is dropped; entries that an exception left unrun stay in the
//! queue. *Source*: `BaseEventLoop._run_once`.

use std::time::Duration;

use aioxide_core::backend::Events;
use aioxide_core::turn::Poll;
use pyo3_ffi as c;

use super::watched::Watcher;
use super::{Entry, LoopFields, Registration, fields};
use crate::ffi::call::float;
use crate::ffi::class::noargs;
use crate::ffi::error::check;
use crate::ffi::exception::while_handling;
use crate::ffi::object::{none, none_ref};
use crate::ffi::stage::is_shared;
use crate::ffi::{Obj, R, Raised, Ref};
use crate::state::state;
use crate::{handle, task};

/// Polls in a row that may report a descriptor which nobody watches. One may be late by a race with
/// another thread; more mean that it was closed while a duplicate lives, and will report for ever.
const STALE_POLLS_MAX: u32 = 8;

/// `loop._run()`: runs turns until `stop()`. The package has set the running loop and thread.
fn run(event_loop: Obj<'_>) -> R<Ref> {
    let this = fields(event_loop);
    let mut events = Events::new();
    let own_turns = this.overrides(&state().names._run_once)?;
    this.turn.borrow_mut().request_poll();
    let was_hiding = this.hides_handles.replace(true);
    let ran = loop {
        let ran = if own_turns {
            let turn = event_loop.call_method0(state().names._run_once.obj());
            turn.map(drop)
        } else {
            this.run_once(&mut events)
        };
        if this.stopping.replace(false) || ran.is_err() {
            break ran.and(this.handles.leave_context());
        }
    };
    this.hides_handles.set(was_hiding);
    if !was_hiding {
        this.show_handles();
    }
    for worker in std::mem::take(&mut *this.announced.borrow_mut()) {
        worker.call();
    }
    // Also when an exception leaves the loop: what was written must not stay behind.
    let interrupted = ran.err().map(Raised::take);
    let flushed = this.flush();
    match interrupted {
        None => flushed.map(|()| none_ref()),
        Some(exc) => {
            flushed.unwrap_or_else(|raised| drop(raised.take()));
            Err(Raised::throw(exc))
        }
    }
}

/// `loop._run_once()`: one turn, which asks the backend. For run loops of others' making; `run`
/// asks a class or an instance that replaces it.
fn run_once(event_loop: Obj<'_>) -> R<Ref> {
    let this = fields(event_loop);
    this.check_open()?;
    this.turn.borrow_mut().request_poll();
    let ran = this.run_once(&mut Events::new());
    ran.and(this.handles.leave_context())?;
    this.flush().map(|()| none_ref())
}

/// `loop.stop()`: the current turn is the last.
fn stop(event_loop: Obj<'_>) -> R<Ref> {
    fields(event_loop).stopping.set(true);
    Ok(none_ref())
}

/// The methods of the type that run it.
pub fn methods() -> Vec<c::PyMethodDef> {
    vec![
        noargs!(c"_run", run, c"Runs turns until stop()."),
        noargs!(c"_run_once", run_once, c"Runs one turn."),
        noargs!(
            c"stop",
            stop,
            c"Makes the current turn the last; not for other threads."
        ),
    ]
}

impl LoopFields {
    #[inline]
    fn run_once(&self, events: &mut Events) -> R<()> {
        let mut left = match self.begin_at_once() {
            Some(left) => left,
            None => self.begin_turn(events)?,
        };
        self.turn_number.set(self.turn_number.get() + 1);
        while left > 0 {
            let entry = self.turn.borrow_mut().pop();
            left -= 1;
            match entry {
                Some(Entry::Call(handle)) if !self.debug.get() => {
                    self.begin_entry(false, left);
                    handle::run_queued(handle, &self.handles)?;
                }
                Some(Entry::Step(task)) if !self.debug.get() => {
                    self.begin_entry(false, left);
                    self.run_step(task)?;
                }
                Some(entry) => self.run_other(entry, left)?,
                None => break,
            }
            if self.held_since_ns.get() != 0 && left > 0 {
                self.flush_overdue()?;
            }
        }
        Ok(())
    }

    /// Begins a turn before which there is nothing to do, and returns the number of its entries.
    #[inline]
    fn begin_at_once(&self) -> Option<usize> {
        if self.held_since_ns.get() != 0 || self.stopping.get() || self.has_own_time() {
            return None;
        }
        self.turn.borrow_mut().begin_at_once(&self.inbox)
    }

    /// Does what comes before a turn's entries, and returns their number. Never a part of the loop
    /// over turns, whose code then fits fewer lines of the processor's cache.
    #[inline(never)]
    fn begin_turn(&self, events: &mut Events) -> R<usize> {
        self.flush()?;
        if self.has_own_time() {
            self.handles.leave_context()?;
            self.follow_time()?;
        }
        // What dies with the context may schedule something: before a sleep is planned.
        if self.turn.borrow().ready.is_empty() {
            self.handles.leave_context()?;
        }
        let mut discarded = Vec::new();
        let stopping = self.stopping.get();
        let mut poll = self.turn.borrow_mut().prepare(
            &self.inbox,
            stopping,
            Entry::is_cancelled,
            &mut discarded,
        );
        if !discarded.is_empty() || poll != Poll::Skip {
            self.handles.leave_context()?;
        }
        if !discarded.is_empty() {
            poll = self.discard_before(poll, discarded);
        }
        match poll {
            Poll::Skip => {}
            Poll::Now => self.poll(events, Some(Duration::ZERO), false)?,
            Poll::Wait(timeout) => self.poll(events, timeout, true)?,
        }
        if self.has_own_time() {
            self.follow_time()?;
        }
        let mut turn = self.turn.borrow_mut();
        turn.expire();
        Ok(turn.begin())
    }

    /// Drops what left the timers, which may run anything. No sleep is begun that was planned
    /// without what that scheduled.
    #[cold]
    fn discard_before(&self, poll: Poll, discarded: Vec<Entry>) -> Poll {
        let plan = || {
            let turn = self.turn.borrow();
            let deadline = turn.timers.next_deadline();
            (turn.ready.len(), deadline, self.stopping.get())
        };
        let before = plan();
        self.discard(discarded);
        match poll {
            Poll::Wait(_) if plan() != before => Poll::Now,
            poll => poll,
        }
    }

    /// Runs the handlers of signals that have arrived, in the main thread.
    pub(super) fn check_signals(&self) -> R<()> {
        // SAFETY: attached; a failing handler's exception is in the indicator.
        check(unsafe { c::PyErr_CheckSignals() })
    }

    pub(super) fn queue_events(&self, events: &Events) -> R<()> {
        let mut is_stale = false;
        for event in events.iter() {
            let mut cancelled = [None, None];
            let mut is_unwanted = false;
            {
                let mut turn = self.turn.borrow_mut();
                let turn = &mut *turn;
                match turn.registrations.get(event.token) {
                    None => is_stale = true,
                    Some(Registration::Native { .. }) => {
                        turn.ready.push(Entry::Io(event.token, event.readiness));
                    }
                    Some(Registration::Watch(watch)) => {
                        let woken = watch.woken(event.readiness);
                        for (watcher, cancelled) in woken.into_iter().zip(&mut cancelled) {
                            match watcher {
                                None => {}
                                Some(Watcher::Handle(handle)) => {
                                    if handle::fields(handle.obj()).is_cancelled() {
                                        *cancelled = Some(watch.fd);
                                    } else {
                                        turn.ready.push(Entry::Call(handle.clone()));
                                    }
                                }
                                Some(Watcher::Operation(operation)) => {
                                    turn.ready.push(Entry::Attempt(operation.clone()));
                                }
                            }
                        }
                        is_unwanted = watch.is_unwanted(event.readiness);
                    }
                }
            }
            for (fd, reads) in cancelled.into_iter().zip([true, false]) {
                if let Some(fd) = fd {
                    self.unwatch(fd, reads)?;
                }
            }
            if is_unwanted {
                self.settle(event.token)?;
            }
        }
        let stale_polls = if is_stale {
            self.stale_polls.get() + 1
        } else {
            0
        };
        self.stale_polls.set(stale_polls);
        if stale_polls >= STALE_POLLS_MAX {
            self.renew_backend()?;
        }
        Ok(())
    }

    /// Rids the backend of descriptors that nobody watches and nobody can name.
    #[cold]
    pub(super) fn renew_backend(&self) -> R<()> {
        self.stale_polls.set(0);
        self.forget_unwanted();
        let live: Vec<_> = {
            let turn = self.turn.borrow();
            let shown = turn.registrations.iter();
            shown
                .map(|(token, watched)| (watched.fd(), token, watched.interest()))
                .collect()
        };
        // Without descriptors or memory for it, it is tried again after as many polls.
        self.backend()?.renew(live.into_iter()).unwrap_or_default();
        Ok(())
    }

    /// Runs a task's step, and drops it.
    #[inline(always)]
    fn run_step(&self, task: Ref) -> R<()> {
        match task::run_step_on(task.obj(), self.handles.stage()) {
            Ok(()) => {
                if !is_shared(task.obj()) {
                    self.handles.leave_context()?;
                }
                Ok(())
            }
            Err(raised) => self.fail_entry(&Entry::Step(task), raised),
        }
    }

    /// Runs what is neither a call nor a step, or anything in debug mode.
    #[inline(never)]
    fn run_other(&self, entry: Entry, left: usize) -> R<()> {
        self.begin_entry(matches!(entry, Entry::Io(..)), left);
        self.handles.leave_context()?;
        if self.debug.get() {
            return self.run_timed(entry);
        }
        self.dispatch(&entry)
    }

    /// What an entry has raised goes on, or is reported.
    #[cold]
    #[inline(never)]
    fn fail_entry(&self, entry: &Entry, raised: Raised) -> R<()> {
        if raised.is_exit() {
            return Err(raised);
        }
        self.report_entry(entry, raised)
    }

    #[inline]
    fn dispatch(&self, entry: &Entry) -> R<()> {
        match entry {
            Entry::Finished(finished) => match finished.deliver() {
                Ok(()) => Ok(()),
                Err(raised) if raised.is_exit() => Err(raised),
                Err(raised) => self.report_job(finished, raised),
            },
            Entry::Step(task) => match task::run_step(task.obj()) {
                Ok(()) => Ok(()),
                Err(raised) => self.fail_entry(entry, raised),
            },
            Entry::Call(handle) => {
                // A cancelled one has nothing to call.
                handle::fields(handle.obj()).set_scheduled(false);
                handle::run(handle.obj())
            }
            Entry::Done(target, future, listener) => {
                match listener.tell(target.obj(), future.obj()) {
                    Ok(()) => Ok(()),
                    Err(raised) => self.fail_entry(entry, raised),
                }
            }
            Entry::Attempt(operation) => match self.attempt(operation) {
                Ok(()) => Ok(()),
                Err(raised) if raised.is_exit() => Err(raised),
                Err(raised) => self.report_attempt(operation.future.obj(), raised),
            },
            Entry::Io(token, readiness) => {
                let target = match self.turn.borrow().registrations.get(*token) {
                    Some(Registration::Native {
                        object, on_ready, ..
                    }) => Some((object.clone(), *on_ready)),
                    _ => None,
                };
                match target {
                    Some((object, on_ready)) => on_ready(object.obj(), *readiness),
                    None => Ok(()),
                }
            }
        }
    }

    /// A step that could not even run, or a listener that failed: reported as asyncio reports a
    /// failing callback.
    #[cold]
    fn report_entry(&self, entry: &Entry, raised: Raised) -> R<()> {
        let error = raised.take();
        match self.handle_of(entry)? {
            Some(handle) => handle::report(handle.obj(), error),
            None => Err(Raised::throw(error)),
        }
    }

    /// An outcome that could not be told: reported as asyncio reports a failing callback.
    #[cold]
    fn report_attempt(&self, future: Obj<'_>, raised: Raised) -> R<()> {
        let names = &state().names;
        let error = raised.take();
        let context = crate::ffi::call::dict()?;
        let message = crate::ffi::call::string("Exception in callback of a socket operation")?;
        for (key, value) in [
            (&names.message, message.obj()),
            (&names.exception, error.obj()),
            (&names.future, future),
        ] {
            crate::ffi::call::dict_set(context.obj(), key.obj(), value)?;
        }
        let handler = names.call_exception_handler.obj();
        let tell = || self.object().call_method1(handler, context.obj());
        while_handling(error.obj(), tell).map(drop)
    }

    /// Debug mode: warns about an entry that takes `slow_callback_duration` or longer.
    #[cold]
    fn run_timed(&self, entry: Entry) -> R<()> {
        let begin = self.clock.now();
        entry.show(&self.handles);
        if let Entry::Call(handle) = &entry {
            self.current_handle.set(Some(handle.clone()));
        }
        let result = self.dispatch(&entry);
        self.current_handle.clear();
        let seconds = self.clock.now() - begin;
        if result.is_err() || seconds < self.slow_callback_seconds.get() {
            return result;
        }
        let asyncio = &state().asyncio;
        let what = match &entry {
            Entry::Step(task) => task
                .obj()
                .repr()
                .and_then(|text| crate::ffi::call::string(&text)),
            Entry::Call(handle) => asyncio.format_handle.obj().call1(handle.obj()),
            Entry::Done(..) => {
                let handle = self.handle_of(&entry)?;
                let handle = handle.as_ref().map_or_else(none, Ref::obj);
                asyncio.format_handle.obj().call1(handle)
            }
            Entry::Io(token, _) => self.describe_io(*token),
            Entry::Attempt(operation) => crate::ffi::call::string(&operation.future.obj().repr()?),
            Entry::Finished(finished) => finished
                .future()
                .repr()
                .and_then(|text| crate::ffi::call::string(&text)),
        }?;
        let format = crate::ffi::call::string("Executing %s took %.3f seconds")?;
        // Looked up at each use: programs and tests replace it there.
        let logger = asyncio.base_events.obj().getattr_str(c"logger")?;
        let args = [
            logger.obj(),
            format.obj(),
            what.obj(),
            float(seconds)?.obj(),
        ]
        .map(|arg| arg.to_ref());
        let args: Vec<Obj<'_>> = args.iter().map(Ref::obj).collect();
        logger
            .obj()
            .call_method(state().names.warning.obj(), &args)
            .map(drop)
    }

    fn describe_io(&self, token: aioxide_core::slab::Token) -> R<Ref> {
        let object = match self.turn.borrow().registrations.get(token) {
            Some(Registration::Native { object, .. }) => Some(object.clone()),
            _ => None,
        };
        match object {
            Some(object) => crate::ffi::call::string(&object.obj().repr()?),
            None => crate::ffi::call::string("<closed transport>"),
        }
    }
}
