//! Putting work into the ready queue, the timers and the inbox.
//!
//! May touch: those three. Invariant: what other threads sent before a call comes before what that
//! call adds, so the order across threads is the order of the calls.

#![forbid(unsafe_code)]

use std::time::Duration;

use aioxide_core::backend::Backend;

use super::{Entry, LoopFields, fields};
use crate::ffi::builtin::add;
use crate::ffi::call::float;
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Raised, Ref, gil, park};
use crate::handle::{self, Callback};
use crate::state::state;
use crate::sync::Listener;
use crate::task;

/// Entries after which a thread that sends without a pause lets the loop run: what they need fits
/// the caches.
pub const HAND_OVER_ENTRIES: usize = 8192;

/// Long enough for a thread to wake up and take the GIL. It has work for ten times as long then.
const HAND_OVER_TIME: Duration = Duration::from_micros(50);

impl LoopFields {
    /// Adds an entry at the end of the ready queue.
    #[inline]
    pub fn push(&self, entry: Entry) {
        let mut turn = self.turn.borrow_mut();
        if !self.inbox.is_empty() {
            turn.collect(&self.inbox);
        }
        turn.push(entry);
    }

    /// How much is scheduled, and whether the run is about to end: whoever does several things in
    /// one entry goes on only while this stays the same.
    pub fn scheduled(&self) -> (usize, usize, bool) {
        let turn = self.turn.borrow();
        let ends = self.stopping.get() || !self.inbox.is_empty();
        (turn.ready.len(), turn.timers.len(), ends)
    }

    /// Schedules the next step of a native task.
    #[inline]
    pub fn push_step(&self, task: Ref) -> R<()> {
        self.check_open()?;
        if self.debug.get() {
            self.check_thread()?;
        }
        self.push(Entry::Step(task));
        Ok(())
    }

    /// Schedules telling a native object that a future is done.
    #[inline]
    pub fn push_done(&self, target: Ref, future: Ref, listener: Listener) -> R<()> {
        self.check_open()?;
        if self.debug.get() {
            self.check_thread()?;
        }
        self.push(Entry::Done(target, future, listener));
        Ok(())
    }

    /// Schedules `callback(future)`: a future is done.
    pub fn call_done(&self, callback: Obj<'_>, future: Obj<'_>, context: Obj<'_>) -> R<()> {
        let args = [future];
        let callback = Callback {
            function: callback,
            args: &args,
            context: Some(context),
        };
        self.call_soon(&callback).map(drop)
    }

    /// `loop.call_soon`.
    #[inline]
    pub fn call_soon(&self, callback: &Callback<'_>) -> R<Ref> {
        self.check_open()?;
        if self.debug.get() {
            self.check_thread()?;
            self.check_callback(callback.function, "call_soon")?;
        }
        let handle = if self.hides_handles.get() {
            handle::new_queued(self.object(), callback, &self.handles)?
        } else {
            handle::new(self.object(), callback, None)?
        };
        self.trace_handle(handle.obj())?;
        let mut turn = self.turn.borrow_mut();
        if !self.inbox.is_empty() {
            turn.collect(&self.inbox);
        }
        turn.push(Entry::Call(handle.clone()));
        drop(turn);
        Ok(handle)
    }

    /// A handle, with its origin in debug mode.
    #[inline(always)]
    pub fn new_handle(&self, callback: &Callback<'_>) -> R<Ref> {
        let handle = handle::new(self.object(), callback, None)?;
        self.trace_handle(handle.obj())?;
        Ok(handle)
    }

    /// The handle that asyncio would have for an entry; readiness of transports has none.
    pub fn handle_of(&self, entry: &Entry) -> R<Option<Ref>> {
        let (callback, argument, run_context) = match entry {
            Entry::Call(handle) => return Ok(Some(handle.clone())),
            Entry::Io(..) | Entry::Attempt(_) | Entry::Finished(_) => return Ok(None),
            Entry::Step(task) => {
                let callback = task::step_callback(task.obj())?;
                (callback, None, Some(task::context_of(task.obj())?))
            }
            Entry::Done(target, future, listener) => {
                (listener.callback(target.obj())?, Some(future.obj()), None)
            }
        };
        let callback = Callback {
            function: callback.obj(),
            args: argument.as_slice(),
            context: run_context.as_ref().map(Ref::obj),
        };
        self.new_handle(&callback).map(Some)
    }

    /// Remembers where a handle was created, in debug mode.
    #[inline]
    fn trace_handle(&self, handle: Obj<'_>) -> R<()> {
        if self.debug.get() {
            trace_always(handle)?;
        }
        Ok(())
    }

    /// RuntimeError in debug mode when another thread than the loop's calls. *Source*:
    /// `BaseEventLoop._check_thread`.
    #[cold]
    pub fn check_thread(&self) -> R<()> {
        state()
            .asyncio
            .check_thread
            .obj()
            .call1(self.object())
            .map(drop)
    }

    #[cold]
    fn check_callback(&self, callback: Obj<'_>, method: &str) -> R<()> {
        let method = crate::ffi::call::string(method)?;
        let args = [self.object(), callback, method.obj()];
        state().asyncio.check_callback.obj().call(&args).map(drop)
    }

    /// `loop.call_at`.
    pub fn call_at(&self, when: f64, callback: &Callback<'_>) -> R<Ref> {
        self.check_open()?;
        if self.debug.get() {
            self.check_thread()?;
            self.check_callback(callback.function, "call_at")?;
        }
        let handle = if self.hides_handles.get() {
            handle::new_timed(self.object(), callback, when, &self.handles)?
        } else {
            handle::new(self.object(), callback, Some(when))?
        };
        self.trace_handle(handle.obj())?;
        handle::fields(handle.obj()).set_scheduled(true);
        let entry = Entry::Call(handle.clone());
        if self.turn.borrow_mut().timers.insert(when, entry) {
            self.settle_timers();
        }
        Ok(handle)
    }

    /// Puts an entry into the inbox and calls the loop if it waits; any thread.
    pub fn send(&self, entry: Entry) -> R<()> {
        match self.inbox.push_quietly(entry) {
            Ok(None) => {
                if self.inbox.len() % HAND_OVER_ENTRIES == 0 {
                    self.hand_over();
                }
                Ok(())
            }
            Ok(Some(owner)) => {
                self.was_called.set(true);
                if owner.call() {
                    self.wake()?;
                }
                // Looked for here, once: the loop, about to sleep, must not.
                gil::is_watched();
                Ok(())
            }
            // Closed since the caller looked. asyncio's queue would take it, for nobody.
            Err(entry) => {
                drop(entry);
                Ok(())
            }
        }
    }

    /// Lets go of the GIL for a moment, so that the loop, which waits for it in another thread,
    /// gets it now and not only when the interpreter says so, after milliseconds.
    #[cold]
    fn hand_over(&self) {
        let thread = self.thread_id.get();
        if thread != 0 && thread != handle::this_thread() as u64 {
            park::detached(|| std::thread::sleep(HAND_OVER_TIME));
        }
    }

    /// Gives fresh timers their places, and drops those that are cancelled.
    #[cold]
    fn settle_timers(&self) {
        let discarded = self.turn.borrow_mut().settle(Entry::is_cancelled);
        self.discard(discarded);
    }

    /// Wakes the loop if it sleeps.
    pub fn wake(&self) -> R<()> {
        let backend = self.backend.borrow().clone();
        if let Some(backend) = backend {
            backend.wake().map_err(|error| Raised::os_error(&error))?;
        }
        Ok(())
    }
}

#[cold]
fn trace_always(handle: Obj<'_>) -> R<()> {
    let stack = state().asyncio.extract_stack.obj().call0()?;
    handle::fields(handle).set_source_traceback(stack);
    Ok(())
}

/// `(callback, *args, context=None)`.
#[inline]
fn callback_of<'a>(args: &Args<'a>, method: &str) -> R<Callback<'a>> {
    if let ([function, rest @ ..], false) = (args.positional(), args.has_named()) {
        return Ok(Callback {
            function: *function,
            args: rest,
            context: None,
        });
    }
    named_callback(args, [method, "callback", "callback"], &[]).map(|(_, callback)| callback)
}

/// `(when, callback, *args, context=None)`, the first parameter named `when`.
#[inline]
fn timed_callback_of<'a>(args: &Args<'a>, method: &str, when: &str) -> R<(Obj<'a>, Callback<'a>)> {
    if let ([first, function, rest @ ..], false) = (args.positional(), args.has_named()) {
        return Ok((
            *first,
            Callback {
                function: *function,
                args: rest,
                context: None,
            },
        ));
    }
    let (first, callback) = named_callback(args, [method, when, "callback"], &[when])?;
    first
        .map(|first| (first, callback))
        .ok_or_else(|| missing(method, &[when, "callback"]))
}

/// As above with arguments by name: `leading` are the parameters before `callback`.
#[cold]
fn named_callback<'a>(
    args: &Args<'a>,
    [method, when, callback]: [&str; 3],
    leading: &[&str],
) -> R<(Option<Obj<'a>>, Callback<'a>)> {
    let ([context, first, function], rest) = args.keyword(["context", when, callback])?;
    if let Some((name, _)) = rest.first() {
        return Err(crate::ffi::args::unexpected_keyword(method, *name));
    }
    let mut positional = args.positional();
    let mut take = |named: Option<Obj<'a>>| match (named, positional) {
        (Some(value), _) => Some(value),
        (None, [value, rest @ ..]) => {
            positional = rest;
            Some(*value)
        }
        (None, []) => None,
    };
    let function = if leading.is_empty() {
        first.or(function)
    } else {
        function
    };
    let first = if leading.is_empty() {
        None
    } else {
        take(first)
    };
    match (take(function), first) {
        (Some(function), first) => Ok((
            first,
            Callback {
                function,
                args: positional,
                context,
            },
        )),
        (None, Some(_)) => Err(missing(method, &[callback])),
        (None, None) => Err(missing(method, &[leading, &[callback]].concat())),
    }
}

#[cold]
fn missing(method: &str, names: &[&str]) -> Raised {
    let plural = if names.len() == 1 { "" } else { "s" };
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    Raised::type_error(&format!(
        "{method}() missing {} required positional argument{plural}: {}",
        names.len(),
        quoted.join(" and ")
    ))
}

/// `loop.call_soon(callback, *args, context=None)`.
pub fn call_soon(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    fields(event_loop).call_soon(&callback_of(&args, "call_soon")?)
}

/// `loop.call_later(delay, callback, *args, context=None)`.
pub fn call_later(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let (delay, callback) = timed_callback_of(&args, "call_later", "delay")?;
    if delay.is_none() {
        return Err(Raised::type_error("delay must not be None"));
    }
    let this = fields(event_loop);
    let when = if delay.is_exact_float() || delay.is_exact_int() {
        this.time()? + delay.to_f64()?
    } else {
        add(float(this.time()?)?.obj(), delay)?.obj().to_f64()?
    };
    this.call_at(when, &callback)
}

/// `loop.call_at(when, callback, *args, context=None)`.
pub fn call_at(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let (when, callback) = timed_callback_of(&args, "call_at", "when")?;
    if when.is_none() {
        return Err(Raised::type_error("when cannot be None"));
    }
    let handle = fields(event_loop).call_at(when.to_f64()?, &callback)?;
    handle::fields(handle.obj()).keep_when(when);
    Ok(handle)
}

/// `loop.call_soon_threadsafe(callback, *args, context=None)`: from any thread.
pub fn call_soon_threadsafe(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let this = fields(event_loop);
    let callback = callback_of(&args, "call_soon_threadsafe")?;
    this.check_open()?;
    if this.debug.get() {
        this.check_callback(callback.function, "call_soon_threadsafe")?;
    }
    let handle = if this.hides_handles.get() {
        handle::new_queued_thread_safe(event_loop, &callback, &this.handles)?
    } else {
        handle::new_thread_safe(event_loop, &callback)?
    };
    this.trace_handle(handle.obj())?;
    this.send(Entry::Call(handle.clone()))?;
    Ok(handle)
}

/// `loop.time()`: monotonic seconds.
pub fn time(event_loop: Obj<'_>) -> R<Ref> {
    float(fields(event_loop).clock.now())
}

/// `loop._write_to_self()`: wakes the loop; from any thread.
pub fn write_to_self(event_loop: Obj<'_>) -> R<Ref> {
    fields(event_loop).wake().map(|()| none_ref())
}

/// `loop._timer_handle_cancelled(handle)`: what handles of a foreign class call.
pub fn timer_handle_cancelled(event_loop: Obj<'_>, _handle: Obj<'_>) -> R<Ref> {
    super::timer_cancelled(event_loop);
    Ok(none_ref())
}

/// `loop.call_soon(callback, [arg], context=context)` of any loop.
pub fn foreign_call_soon(
    event_loop: Obj<'_>,
    callback: Obj<'_>,
    arg: Option<Obj<'_>>,
    context: Obj<'_>,
) -> R<()> {
    let state = state();
    let name = state.names.call_soon.obj();
    let kwnames = state.kw_context.obj();
    match arg {
        Some(arg) => {
            event_loop.call_method_kw(name, &[event_loop, callback, arg, context], kwnames)
        }
        None => event_loop.call_method_kw(name, &[event_loop, callback, context], kwnames),
    }
    .map(drop)
}
