//! Putting work into the ready queue, the timers and the inbox.
//!
//! May touch: those three. Invariant: what other threads sent before a call comes before what that
//! call adds, so the order across threads is the order of the calls.

#![forbid(unsafe_code)]

use aioxide_core::backend::Backend;

use super::{Entry, LoopFields, fields};
use crate::ffi::call::float;
use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, R, Raised, Ref};
use crate::handle::{self, Callback};
use crate::state::state;

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

    /// Schedules `callback(future)`: a future is done.
    pub fn call_done(&self, callback: Obj<'_>, future: Obj<'_>, context: Obj<'_>) -> R<()> {
        let args = [future];
        let callback = Callback { function: callback, args: &args, context: Some(context) };
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
        let handle = self.new_handle(callback, None)?;
        self.push(Entry::Call(handle.clone()));
        Ok(handle)
    }

    /// A handle, with its origin in debug mode.
    pub fn new_handle(&self, callback: &Callback<'_>, when: Option<f64>) -> R<Ref> {
        let handle = handle::new(self.object(), callback, when)?;
        if self.debug.get() {
            let stack = state().asyncio.extract_stack.obj().call0()?;
            handle::fields(handle.obj()).set_source_traceback(stack);
        }
        Ok(handle)
    }

    /// RuntimeError in debug mode when another thread than the loop's calls. *Source*:
    /// `BaseEventLoop._check_thread`.
    #[cold]
    pub fn check_thread(&self) -> R<()> {
        state().asyncio.check_thread.obj().call1(self.object()).map(drop)
    }

    #[cold]
    fn check_callback(&self, callback: Obj<'_>, method: &str) -> R<()> {
        let method = crate::ffi::call::string(method)?;
        let args = [self.object(), callback, method.obj()];
        state().asyncio.check_callback.obj().call(&args).map(drop)
    }

    fn call_at(&self, when: f64, callback: &Callback<'_>, method: &str) -> R<Ref> {
        self.check_open()?;
        if self.debug.get() {
            self.check_thread()?;
            self.check_callback(callback.function, method)?;
        }
        let handle = self.new_handle(callback, Some(when))?;
        handle::fields(handle.obj()).set_scheduled(true);
        self.turn.borrow_mut().timers.insert(when, Entry::Call(handle.clone()));
        Ok(handle)
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

/// `(callback, *args, context=None)` after `skip` leading arguments.
fn callback_of<'a>(args: &Args<'a>, method: &str, skip: usize) -> R<Callback<'a>> {
    let positional = args.positional();
    let context = match args.has_named() {
        false => None,
        true => {
            let ([context], rest) = args.keyword(["context"])?;
            if let Some((name, _)) = rest.first() {
                return Err(crate::ffi::args::unexpected_keyword(method, *name));
            }
            context
        }
    };
    match positional.get(skip) {
        Some(function) => {
            Ok(Callback { function: *function, args: &positional[skip + 1..], context })
        }
        None => Err(missing(method, positional.len(), skip)),
    }
}

#[cold]
fn missing(method: &str, given: usize, skip: usize) -> Raised {
    let names = ["delay", "callback"];
    let absent: Vec<String> =
        names[(1 - skip + given).min(1)..].iter().map(|name| format!("'{name}'")).collect();
    let plural = if absent.len() == 1 { "" } else { "s" };
    Raised::type_error(&format!(
        "{method}() missing {} required positional argument{plural}: {}",
        absent.len(),
        absent.join(" and ")
    ))
}

/// `loop.call_soon(callback, *args, context=None)`.
pub fn call_soon(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    fields(event_loop).call_soon(&callback_of(&args, "call_soon", 0)?)
}

/// `loop.call_later(delay, callback, *args, context=None)`.
pub fn call_later(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let callback = callback_of(&args, "call_later", 1)?;
    let delay = args.positional()[0];
    if delay.is_none() {
        return Err(Raised::type_error("delay must not be None"));
    }
    let this = fields(event_loop);
    let when = this.time() + delay.to_f64()?;
    this.call_at(when, &callback, "call_later")
}

/// `loop.call_at(when, callback, *args, context=None)`.
pub fn call_at(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let callback = callback_of(&args, "call_at", 1)?;
    let when = args.positional()[0];
    if when.is_none() {
        return Err(Raised::type_error("when cannot be None"));
    }
    fields(event_loop).call_at(when.to_f64()?, &callback, "call_at")
}

/// `loop.call_soon_threadsafe(callback, *args, context=None)`: from any thread.
pub fn call_soon_threadsafe(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let this = fields(event_loop);
    let callback = callback_of(&args, "call_soon_threadsafe", 0)?;
    this.check_open()?;
    if this.debug.get() {
        this.check_callback(callback.function, "call_soon_threadsafe")?;
    }
    let handle = this.new_handle(&callback, None)?;
    match this.inbox.push(Entry::Call(handle.clone())) {
        Ok(true) => this.wake()?,
        Ok(false) => {}
        Err(entry) => {
            drop(entry);
            return Err(Raised::runtime("Event loop is closed"));
        }
    }
    Ok(handle)
}

/// `loop.time()`: monotonic seconds.
pub fn time(event_loop: Obj<'_>) -> R<Ref> {
    float(fields(event_loop).time())
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
        Some(arg) => event_loop.call_method_kw(name, &[event_loop, callback, arg, context], kwnames),
        None => event_loop.call_method_kw(name, &[event_loop, callback, context], kwnames),
    }
    .map(drop)
}
